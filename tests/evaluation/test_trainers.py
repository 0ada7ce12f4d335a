"""The overview over trainers: several victims of the same data, and the one that gets furthest."""

import pytest
from evaluations import cell

from unlearnable_transforms.evaluation.report import Report
from unlearnable_transforms.evaluation.trainers import Trainer, split

LITE = "efficientnet_lite0:weights=imagenet"
QUALITY = {"psnr": 25.1, "gain_fitted_psnr": 26.0, "ssim": 0.885, "linf": 40, "pictures": 8, "unchanged": 0}


def _cells() -> list[dict]:
    accuracies = {
        ("resnet9-screen", "erm"): (0.76, 0.16),
        (LITE, "erm"): (0.82, 0.65),
        (LITE, "last-layer"): (0.81, 0.70),
        (LITE, "jpeg quality=75 + last-layer"): (0.79, 0.72),
        ("resnet9-screen", "simclr epochs=60"): (0.5, 0.2),
    }
    return [
        cell(label, defense, last, role=role, victim=victim)
        for (victim, defense), both in accuracies.items()
        for label, role, last in zip(("clean", "cuda"), ("clean", "poison"), both, strict=True)
    ]


def test_the_headline_is_the_highest_over_trainers_and_defenses():
    cells = _cells()
    (overview,) = Report(cells, {}).overviews
    assert overview.worst == (Trainer(LITE, "linear probe"), "jpeg quality=75")
    assert overview.headline.last == 0.72
    assert overview.headline.protection == pytest.approx(0.07)
    assert {str(trainer) for trainer in overview.trainers} == {
        "resnet9-screen, from nothing",
        "resnet9-screen, without labels, then a probe",
        "efficientnet_lite0 from imagenet weights, all layers fine-tuned",
        "efficientnet_lite0 from imagenet weights, linear probe",
    }
    assert overview.defenses == ["erm", "jpeg quality=75"]
    assert len(overview.entries) == 5


def test_console_page_and_numbers_say_it():
    cells = _cells()
    train = next(cell["data"]["train"] for cell in cells if cell["set"]["label"] == "cuda")
    about = {"label": "cuda", "config": {}, "samples": [], "quality": QUALITY}
    report = Report(cells, {train: about})
    for text in (str(report), report.html()):
        assert "cuda, 8 px: at most 72.0 %" in text
        assert "clean data gives the same 79.0 %: protection 7.0 points" in text
        assert "SSIM 0.885, PSNR 25.1 dB" in text
    assert "16.0 (76.0)" in str(report)
    (numbers,) = report.to_dict()["overviews"]
    assert numbers["accuracy"] == 0.72
    assert numbers["combinations_tried"] == 5


def test_one_trainer_needs_no_overview():
    cells = [cell for cell in _cells() if cell["victim"] == LITE and cell["defense"]["label"] == "erm"]
    assert Report(cells, {}).overviews == []


@pytest.mark.parametrize(
    ("victim", "label", "how", "defense"),
    [
        ("resnet18", "erm", "from nothing", "erm"),
        ("resnet18:weights=sha256-0123456789abcdef", "jpeg + rsk-ff", "all layers fine-tuned", "jpeg + rsk-ff"),
        (LITE, "grayscale + last-layer decay=0.5", "linear probe", "grayscale"),
        ("resnet18", "simclr", "without labels, then a probe", "erm"),
    ],
)
def test_a_trainer_is_what_the_victim_and_the_last_defense_say(victim, label, how, defense):
    assert split(victim, label) == (Trainer(victim, how), defense)
