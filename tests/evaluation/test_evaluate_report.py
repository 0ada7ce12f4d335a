"""Metrics by hand, tables, the page, and the command."""

import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from evaluations import cell
from PIL import Image
from sklearn.datasets import load_digits

from unlearnable_transforms import CUDAPoison, Key
from unlearnable_transforms.cli.main import main
from unlearnable_transforms.evaluation.cells import write
from unlearnable_transforms.evaluation.charts import confusion, curves
from unlearnable_transforms.evaluation.data import Pictures
from unlearnable_transforms.evaluation.metrics import (
    macro_recall,
    protection,
    recovery,
    sd,
    t_interval,
    t_quantile,
    wilson,
    worst_defense,
)
from unlearnable_transforms.evaluation.pictures import looks, quality
from unlearnable_transforms.evaluation.report import Report
from unlearnable_transforms.evaluation.sets import TrainingSet, change_of, noise_of_psnr, training_sets
from unlearnable_transforms.pixels import psnr

EVIL = "<script>alert('x')</script> & \"quotes\""

# ---- metrics


def test_protection_and_recovery():
    assert protection(0.9, 0.25) == pytest.approx(0.65)
    assert recovery(protected=0.5, clean=0.8, undefended=0.2) == pytest.approx(0.5)
    assert recovery(0.2, 0.8, 0.2) == 0
    assert recovery(0.8, 0.8, 0.2) == 1
    assert recovery(0.9, 0.8, 0.8) is None
    assert worst_defense({"erm": 0.2, "jpeg": 0.7, "coin": 0.6}) == ("jpeg", 0.7)


def test_intervals_are_the_textbooks():
    assert sd([1.0]) is None
    assert t_interval([1.0]) is None
    assert sd([1.0, 2.0, 3.0]) == pytest.approx(1)
    low, high = t_interval([1.0, 2.0, 3.0])
    assert (low, high) == pytest.approx((2 - 4.303 / math.sqrt(3), 2 + 4.303 / math.sqrt(3)))
    # The figures of the protocol for 10,000 test pictures.
    for share, ends in ((0.1, (9.4, 10.6)), (0.5, (49.0, 51.0)), (0.9, (89.4, 90.6))):
        assert tuple(round(100 * end, 1) for end in wilson(share, 10_000)) == ends
    assert wilson(0.0, 10)[0] == pytest.approx(0, abs=1e-9)
    assert wilson(0.0, 10)[1] == pytest.approx(0.2775, abs=1e-4)


@pytest.mark.parametrize("freedom", [1, 4, 30, 31, 60, 1000])
def test_t_quantiles(freedom):
    stats = pytest.importorskip("scipy.stats")
    assert t_quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), abs=6e-4)


def test_macro_recall_counts_classes_alike():
    assert macro_recall([[9, 1], [1, 0]]) == pytest.approx(0.45)
    assert macro_recall([[2, 0, 0], [0, 0, 0], [1, 0, 1]]) == pytest.approx(0.75)  # a class without pictures


# ---- tables


def some_cells() -> list[dict]:
    return [
        cell("clean", "erm", 0.9, role="clean"),
        cell("clean", "jpeg", 0.8, role="clean"),
        cell("mine", "erm", 0.2),
        cell("mine", "erm", 0.3, seed=1),
        cell("mine", "jpeg", 0.6),
    ]


def test_tables_by_hand():
    report = Report(some_cells(), {})
    (table,) = report.tables
    assert [row[0] for row in table.rows] == ["clean", "mine"]
    assert table.columns == ["erm", "jpeg"]
    erm, jpeg = (table.entries[("mine", "mine"), column] for column in ("erm", "jpeg"))
    assert (erm.last, erm.last5, erm.best) == pytest.approx((0.25, 0.2, 0.3))
    assert erm.sd == pytest.approx(math.sqrt(0.005))
    assert erm.protection == pytest.approx(0.65)
    assert erm.recovery is None  # it is what the others are compared with
    assert (jpeg.clean, jpeg.protection) == pytest.approx((0.8, 0.2))
    assert jpeg.recovery == pytest.approx((0.6 - 0.25) / (0.8 - 0.25))
    (headline,) = table.headlines
    assert (headline.defense, headline.entry.last, headline.defenses) == ("jpeg", 0.6, 2)
    assert report.accuracy("mine", "erm") == pytest.approx(0.25)
    with pytest.raises(KeyError, match="coin"):
        report.accuracy("mine", "coin")
    text = str(report)
    assert "25.0 ±7.1" in text
    assert "mine: at most 60.0 %, under jpeg (of 2 tried)" in text
    assert "protection 20.0 points, recovery 64 %" in text


def test_cells_that_must_not_be_compared_are_apart():
    other = cell("mine", "erm", 0.5)
    other["data"] = {**other["data"], "test": "another"}
    later = cell("mine", "erm", 0.5, victim="resnet18", seed=3)
    assert len(Report([*some_cells(), other, later], {}).tables) == 3


def test_trainings_that_diverged_are_left_out_of_means_and_counted():
    lost = cell("mine", "erm", 0.0, seed=2, status="diverged", reason="epoch 1")
    lost["result"] = {"test_accuracy": [], "train_accuracy": [], "train_loss": [], "batches": 0,
                      "forward_images": 0, "backward_images": 0, "seconds": 1.0}  # fmt: skip
    report = Report([*some_cells(), lost], {})
    entry = report.tables[0].entries[("mine", "mine"), "erm"]
    assert entry.last == pytest.approx(0.25)
    assert entry.diverged == 1
    assert "1 of 3 diverged" in report.html()


def test_wide_tables_are_broken_into_blocks():
    cells = [cell(f"poison number {n}", "erm", 0.5) for n in range(20)]
    assert max(map(len, str(Report(cells, {})).splitlines()[3:-21])) <= 118


# ---- the page


class Tags(HTMLParser):
    """Counts tags, collects addresses and text, and checks that tags are closed in order."""

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.links, self.text = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "srcset", "data")]
        if tag not in ("meta", "img", "br", "line"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_is_whole_and_text_is_escaped():
    cells = [cell("clean", EVIL, 0.9, role="clean"), cell(EVIL, EVIL, 0.4)]
    for made in cells:
        made["data"]["classes"] = [EVIL, "b"]
        made["machine"]["processor"] = EVIL
        made["set"]["config"] = {"method": EVIL}
    sets = {EVIL: {"label": EVIL, "config": {"method": EVIL}, "samples": [],
                   "quality": {"psnr": 20.0, "gain_fitted_psnr": None, "ssim": None, "linf": 3, "pictures": 2,
                               "unchanged": 1}}}  # fmt: skip
    html = Report(cells, sets).html()
    tags = Tags()
    tags.feed(html)
    assert tags.open == []
    assert "script" not in tags.seen
    assert "".join(tags.text).count(EVIL) >= 8
    assert tags.links
    assert all(link.startswith("data:image/png;base64,") for link in tags.links)
    assert not re.search(r"https?://|@import|url\(", html)
    assert "PSNR 20.0 dB, largest difference 3 of 255; mean over 2 pictures, of which 1 did not change" in html


def test_charts():
    svg = curves({"a": [0.0, 1.0], "b": [0.5, 0.5]}, {"a": "#000", "b": "#111"})
    a, b = re.findall(r'points="([^"]*)"', svg)
    (x0, y0), (x1, y1) = (map(float, point.split(",")) for point in a.split())
    assert x0 < x1
    assert y0 > y1  # 0 % lies below 100 %
    assert {point.split(",")[1] for point in b.split()} == {f"{(y0 + y1) / 2:.1f}"}
    import base64
    import io

    image = np.asarray(Image.open(io.BytesIO(base64.b64decode(confusion([[4, 0], [1, 3]])))))
    assert image.shape == (2, 2, 3)
    assert image[0, 0].sum() < image[1, 1].sum() < image[1, 0].sum() < image[0, 1].sum()


def test_load_needs_nothing_but_the_files(tmp_path):
    for number, made in enumerate(some_cells()):
        write(made, tmp_path / f"{number}.json")
    (tmp_path / "notes.json").write_text("{}")
    report = Report.load(tmp_path)
    page = report.save(tmp_path)
    assert page.read_text() == Report.load(tmp_path).html()  # report.json beside the cells is no cell
    assert json.loads((tmp_path / "report.json").read_text())["tables"][0]["headlines"][0]["worst_defense"] == "jpeg"
    with pytest.raises(ValueError, match="no cells"):
        Report.load(tmp_path / "sets")


# ---- training sets and how they look


@pytest.fixture
def pictures() -> Pictures:
    loaded = load_digits()
    images = [np.rint(image * (255 / 16)).astype(np.uint8)[..., None] for image in loaded.images[:40]]
    return Pictures(images, loaded.target[:40].tolist())


def test_the_control_of_cuda_filters_all_classes_alike(pictures):
    poison = CUDAPoison(key=Key.public("control"))
    sets = list(training_sets(pictures, None, {"mine": poison}, controls=True, fractions=[]))
    assert [s.role for s in sets] == ["clean", "poison", "control"]
    one = poison.kernels([0], 8)[0]
    alike = CUDAPoison(kernels=dict.fromkeys(range(10), one)).protect_arrays(pictures.images, ["i:0"] * 40)
    for got, wanted in zip(sets[2].change(list(pictures.images), range(40)), alike, strict=True):
        assert np.array_equal(got, wanted)


def test_noise_control_is_as_strong_as_the_protection_and_fixed():
    rng = np.random.default_rng(0)
    clean = rng.integers(20, 236, (32, 32, 3), dtype=np.uint8)
    changed = np.clip(clean.astype(int) + rng.choice([-8, 8], clean.shape), 0, 255).astype(np.uint8)
    wanted = psnr(clean, changed)
    noisy = noise_of_psnr(clean, wanted, 5)
    assert psnr(clean, noisy) == pytest.approx(psnr(clean, changed), abs=0.05)
    assert np.array_equal(noisy, noise_of_psnr(clean, wanted, 5))
    assert not np.array_equal(noisy, noise_of_psnr(clean, wanted, 6))
    assert np.array_equal(noise_of_psnr(clean, float("inf"), 5), clean)


def test_quality_by_hand():
    clean = np.full((16, 16, 3), 100, np.uint8)
    brighter, same = clean + np.uint8(10), clean.copy()
    found = quality([(clean, brighter), (clean, same)])
    assert found["psnr"] == pytest.approx(20 * math.log10(25.5))
    assert found["gain_fitted_psnr"] is None  # a gain undoes it
    assert (found["pictures"], found["unchanged"], found["linf"]) == (2, 1, 10)
    assert 0.9 < found["ssim"] < 1
    assert quality([(clean, same)])["psnr"] is None


def test_samples_are_of_different_classes(pictures):
    poison = CUDAPoison(key=Key.public("control"))
    made = TrainingSet("mine", "poison", {}, pictures, change_of(poison, pictures))
    found = looks(made, pictures, 4)
    assert [sample["label"] for sample in found["samples"]] == [0, 1, 2, 3]
    assert found["quality"]["ssim"] is None  # 8 pixels: smaller than its window
    assert looks(made, pictures, 0)["samples"] == []


# ---- the command


@pytest.fixture
def tree(tmp_path):
    """Folders of digits to train and test on."""
    loaded = load_digits()
    for split, rows in (("train", range(80)), ("test", range(80, 120))):
        for row in rows:
            folder = tmp_path / split / str(loaded.target[row])
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.rint(loaded.images[row] * 15.9).astype(np.uint8)).save(folder / f"{row}.png")
    return tmp_path


def test_command_evaluates_and_draws_again(tree, capsys):
    Key.generate().save(tree / "my.key")
    out = tree / "out"
    command = ["evaluate", str(out), "--clean", str(tree / "train"), "--test", str(tree / "test"), "--recipe", "digits",
               "--key", str(tree / "my.key"), "--defense", "erm", "--workers", "1", "--samples", "2"]  # fmt: skip
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "smallcnn, recipe digits, 80 training rows of 8 px, 40 test rows, seeds 0" in shown
    assert "at most" in shown
    before = (out / "report.html").read_text()
    (out / "report.html").unlink()
    assert main(["evaluate", "--report", str(out)]) == 0
    assert (out / "report.html").read_text() == before
    assert capsys.readouterr().out == shown


def test_command_errors_are_one_line(tree, capsys):
    assert main(["evaluate", str(tree / "out"), "--clean", str(tree / "train")]) == 2
    assert main(["evaluate", "--report", str(tree / "train")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "--test" in lines[0]
    assert "no cells" in lines[1]


def test_torch_threads_are_given_back(pictures):
    threads = torch.get_num_threads()
    from unlearnable_transforms.evaluation.evaluate import evaluate
    from unlearnable_transforms.training.loop import Recipe

    sets = (np.stack([image[..., 0] for image in pictures.images]), pictures.labels)
    recipe = Recipe(epochs=1, batch_size=20, max_lr=0.01)
    state = torch.get_rng_state()
    evaluate(clean=sets, test=sets, defenses=["erm"], victims=["smallcnn"], recipe=recipe, progress=False)
    assert torch.get_num_threads() == threads
    assert torch.get_rng_state().equal(state)
