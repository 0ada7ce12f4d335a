"""`ut.audit`: signs in pictures that were made here, so that it is known what is in them."""

import json
from functools import cache

import numpy as np
import pytest
import torch
from conftest import decode, encode, error_of
from PIL import Image
from sklearn.datasets import load_digits

import unlearnable_transforms as ut
from unlearnable_transforms.auditing import signs
from unlearnable_transforms.auditing.audit import HARDLY, NONE, NOT, ON_THE_LINE, PROTECTED, SIGNS, WEAKLY, judge
from unlearnable_transforms.auditing.measure import Measured, measure
from unlearnable_transforms.evaluation.data import read_pictures

COUNT = 1200
SEEN = {"cuda": "texture", "ar": "texture", "lsp": "pattern", "ops": "pattern"}


@cache
def pictures() -> tuple[np.ndarray, list[int]]:
    """Large, soft digits before clouds: uint8 (COUNT, 32, 32, 3). The coarse picture tells them, whatever the place."""
    random, digits = np.random.default_rng(0), load_digits()
    coarse = torch.from_numpy(random.normal(size=(COUNT, 3, 9, 9)))
    clouds = torch.nn.functional.interpolate(coarse, size=32, mode="bicubic").permute(0, 2, 3, 1).numpy()
    small = torch.from_numpy(digits.images[:COUNT])[:, None]
    large = torch.nn.functional.interpolate(small, size=26, mode="bicubic").numpy()[:, 0]
    result = 110 + 30 * clouds + 4 * random.normal(size=clouds.shape)
    for row, (top, left) in enumerate(random.integers(0, 7, (COUNT, 2))):
        result[row, top : top + 26, left : left + 26] += 6 * large[row][..., None]
    return np.clip(np.rint(result), 0, 255).astype(np.uint8), digits.target[:COUNT].tolist()


@cache
def changed(method: str) -> np.ndarray:
    images, labels = pictures()
    poison = ut.get_poison(method)(key=ut.Key.public("audit-tests"))
    return poison.fit((images, labels)).apply(images, labels)


def found(images: np.ndarray, labels: list[int] | None = None) -> tuple[str, set[str]]:
    result = ut.audit((images, labels or pictures()[1]))
    return result.verdict, {sign.name for sign in result.signs if sign.found}


# ---- signs ----


def test_clean_pictures_have_none():
    assert found(pictures()[0]) == (NONE, set())


@pytest.mark.parametrize("method", SEEN)
def test_methods_are_seen_by_what_they_leave(method):
    verdict, names = found(changed(method))
    assert verdict == SIGNS
    assert SEEN[method] in names


def test_noise_without_regard_to_the_class_is_none():
    images = pictures()[0].astype(int)
    noisy = images + np.random.default_rng(1).choice([-8, 8], images.shape)
    one = images + np.random.default_rng(2).choice([-8, 8], images.shape[1:])
    for kind in (noisy, one):
        assert found(np.clip(kind, 0, 255).astype(np.uint8)) == (NONE, set())


def test_classes_of_different_contrast_are_told_by_that():
    """Steps between neighbours that cancel in the coarse picture and are larger in some classes; else only noise."""
    random, labels = np.random.default_rng(4), np.array(pictures()[1])
    signs_of = random.choice([-1, 1], (COUNT, 16, 16, 1)).repeat(2, 1).repeat(2, 2)
    steps = signs_of * np.where(np.indices((32, 32)).sum(0) % 2, 1, -1)[..., None]
    images = (128 + random.normal(0, 4, (COUNT, 32, 32, 3)) + steps * (5 + 3 * labels.reshape(-1, 1, 1, 1))).round()
    result = ut.audit((images.astype(np.uint8), labels.tolist()))
    assert {sign.name: sign.found for sign in result.signs}["brightness"]
    for label, told in enumerate(result.per_class):
        assert told["brightness"] == pytest.approx(128, abs=1)
        assert told["contrast"] == pytest.approx(np.hypot(4, 5 + 3 * label), rel=0.05)
    assert "brightness" not in found(images.astype(np.uint8), random.permutation(labels).tolist())[1]


def test_content_at_its_place_is_no_pattern():
    """Digits in the middle: a shift costs fine detail much, and yet leaves most of it."""
    digits = load_digits()
    small = [Image.fromarray(np.rint(image * 255 / 16).astype(np.uint8)) for image in digits.images]
    large = np.stack([np.asarray(image.resize((16, 16), Image.Resampling.BICUBIC)) for image in small])
    result = ut.audit((large, digits.target.tolist()))
    lost = next(sign for sign in result.signs if sign.name == "pattern")
    assert lost.value - lost.reference > lost.margin
    assert (result.verdict, lost.found) == (NONE, False)


def test_with_labels_that_say_nothing_nothing_is_seen():
    shuffled = np.random.default_rng(3).permutation(pictures()[1]).tolist()
    assert found(changed("lsp"), shuffled) == (NONE, set())


@pytest.mark.parametrize("method", ["lsp", "ops"])
def test_half_a_set_has_about_half_the_share(method):
    half = np.where(np.arange(COUNT)[:, None, None, None] % 2 == 0, changed(method), pictures()[0])
    whole, part = (ut.audit((images, pictures()[1])) for images in (changed(method), half))
    assert part.verdict == SIGNS
    assert 0.2 < part.share < 0.65 < whole.share <= 1


def test_the_same_set_gives_the_same_answer_and_grey_is_read():
    images, labels = pictures()
    assert (
        ut.audit((images, labels)).to_dict()
        == ut.audit((torch.from_numpy(images).permute(0, 3, 1, 2), labels)).to_dict()
    )
    assert ut.audit((images[..., :1], labels)).verdict == NONE


@pytest.mark.slow
def test_large_pictures_are_also_looked_at_at_their_own_resolution():
    images, labels = pictures()
    wide = [Image.fromarray(image).resize((96, 96), Image.Resampling.BICUBIC) for image in images[:600]]
    large = np.stack([np.asarray(image) for image in wide])
    clean = ut.audit((large, labels[:600]))
    assert clean.verdict == NONE
    assert clean.side == 64
    poison = ut.ARPoison(key=ut.Key.public("audit-tests"), classes=list(range(10)), eps=6.0)
    names = {sign.name for sign in ut.audit((poison.apply(large, labels[:600]), labels[:600])).signs if sign.found}
    assert "texture, crop" in names


# ---- parts ----


def test_a_classifier_is_right_by_what_it_has_seen_and_only_then():
    labels = torch.arange(400) // 2 % 4  # both halves have all classes
    shuffled = labels[torch.randperm(400, generator=torch.Generator().manual_seed(0))]
    told = torch.nn.functional.one_hot(labels, 4).float()
    for gaussian in (False, True):
        (right, wrong), chance = signs.held_out([told, told.roll(1, 1)], labels, shuffled, gaussian=gaussian)
        assert (right, wrong) == (1, 0)
        assert chance < 0.4


def test_what_is_learnt_is_tested_on_the_other_half_only():
    labels = torch.arange(400) // 2 % 4
    own_row = torch.eye(400)  # tells every row that was seen, and no other
    (accuracy,), _ = signs.held_out([own_row], labels, labels)
    assert accuracy < 0.4


def test_a_pattern_is_what_a_shift_loses():
    images, labels = (torch.from_numpy(np.asarray(part)) for part in pictures())
    images, shuffled = images.permute(0, 3, 1, 2), labels.flip(0)
    random = torch.Generator().manual_seed(0)
    per_class = torch.randint(-6, 7, (10, 3, 32, 32), generator=random)
    fixed = (images.int() + per_class[labels]).clamp(0, 255).byte()
    places = torch.randint(0, 32, (len(labels), 2), generator=random).tolist()
    moving = torch.stack([per_class[label].roll(place, (1, 2)) for label, place in zip(labels, places, strict=True)])
    moving = (images.int() + moving).clamp(0, 255).byte()
    assert signs.pattern("pattern", fixed, labels, shuffled).found
    assert not signs.pattern("pattern", moving, labels, shuffled).found


def test_what_all_pictures_share_is_no_detail():
    images = torch.from_numpy(pictures()[0]).permute(0, 3, 1, 2).clamp(60, 190)
    mark = torch.randint(-40, 41, images.shape[1:], generator=torch.Generator().manual_seed(0))
    marked = (images.int() + mark).byte()
    for shift in (0, 1):
        before, after = (signs.detail(kind.roll((shift, shift), (2, 3))) for kind in (images, marked))
        assert torch.allclose(before, after, atol=1e-4)


def test_what_borders_tell_is_no_detail():
    """A filter sees black beyond the picture: how dark a border is then tells what is there, in all classes alike."""
    images = torch.from_numpy(pictures()[0]).permute(0, 3, 1, 2)
    for border in ((..., 0), (..., -1), (..., 0, slice(None)), (..., -1, slice(None))):
        framed = images.clone()
        framed[border] //= 2
        assert torch.equal(signs.detail(framed), signs.detail(images))
    framed = images.clone()
    framed[..., 2, 2] //= 2
    assert not torch.equal(signs.detail(framed), signs.detail(images))


def test_a_pattern_of_most_of_the_pictures_is_not_taken_for_what_all_share():
    """About nine of ten pictures are of one class, and a mark is on these alone, or on all others."""
    images = torch.from_numpy(pictures()[0]).permute(0, 3, 1, 2).int()
    random = torch.Generator().manual_seed(0)
    labels = (torch.rand(len(images), generator=random) < 0.1).long()
    shuffled = labels[torch.randperm(len(labels), generator=random)]
    mark = torch.randint(-6, 7, images.shape[1:], generator=random)
    for label in (0, 1):
        marked = (images + mark * (labels == label).view(-1, 1, 1, 1)).clamp(0, 255).byte()
        assert signs.pattern("pattern", marked, labels, shuffled).found


def test_texture_is_the_autocorrelation_of_the_residual():
    images = torch.from_numpy(pictures()[0][:3]).permute(0, 3, 1, 2)
    values = signs.texture(images)
    assert values.shape == (3, 147)
    fine = signs.residual(images)[1].double().numpy()
    fine /= np.sqrt((fine**2).mean((1, 2), keepdims=True)) + 0.5
    by_hand = (fine[0, 2:, :-1] * fine[1, :-2, 1:]).mean()  # two down, one to the left, red with green
    assert torch.isclose(values[1].double(), torch.tensor(by_hand), atol=1e-5).any()


def test_the_grid_is_that_of_jpeg():
    images = pictures()[0][:50]
    washed = np.stack([np.asarray(decode(encode(image, "JPEG", quality=10))) for image in images])
    plain, strong, beside = (
        signs.grid(torch.from_numpy(kind).permute(0, 3, 1, 2)) for kind in (images, washed, np.roll(washed, 4, (1, 2)))
    )
    assert strong > 1.3 > plain
    assert beside < strong
    assert signs.grid(torch.zeros(2, 3, 8, 8, dtype=torch.uint8)) is None


def test_numbers_of_each_class():
    images = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    images[1] = 100
    told = signs.per_class(images, signs.brightness(images), torch.tensor([0, 2, 0, 0]))
    assert told == [
        {"class": 0, "brightness": 0.0, "contrast": 0.0, "fine": 0.0},
        {"class": 2, "brightness": 100.0, "contrast": 0.0, "fine": 0.0},
    ]


# ---- measured ----


@pytest.mark.parametrize(
    ("plain", "best", "verdict", "without"),
    [
        (0.9, 0.9, HARDLY, NOT),
        (0.2, 0.3, PROTECTED, PROTECTED),
        (0.2, 0.8, WEAKLY, WEAKLY),
        (0.2, 0.54, ON_THE_LINE, ON_THE_LINE),
        (0.2, 0.56, ON_THE_LINE, ON_THE_LINE),
        (0.87, 0.87, HARDLY, NOT),
    ],
)
def test_a_measurement_decides(plain, best, verdict, without):
    measured = Measured(0.9, {"erm": plain, "rsk-ff": best}, 1000, 1000, 0.05)
    sign = signs.Sign("texture", True, 0.9, 0.1, 0.05, 0.8, 0.1, "")
    assert judge([sign], measured) == verdict
    assert judge([], measured) == without
    assert judge([sign], None) == SIGNS


def test_half_of_few_test_pictures_is_on_the_line_and_its_interval_that_of_the_textbook():
    few = Measured(0.413, {"erm": 0.183, "rsk-ff": 0.296}, 222, 334, 0.05)
    assert judge([], few) == ON_THE_LINE  # 51 % are left, between 25 % and 77 %
    assert few.kept_interval == pytest.approx((0.251, 0.766), abs=1e-3)
    draws = np.random.default_rng(0).binomial(334, [[0.413, 0.183, 0.296]] * 20_000) / 334
    shares = (draws[:, 0] - draws[:, 2]) / (draws[:, 0] - draws[:, 1])
    assert np.percentile(shares, (2.5, 97.5)) == pytest.approx(few.kept_interval, abs=0.05)


@pytest.mark.slow
def test_victims_tell_protected_digits_from_clean_ones(monkeypatch):
    monkeypatch.setattr("unlearnable_transforms.auditing.measure.DEFENSES", ("erm", "grayscale"))
    digits = load_digits()
    images = np.repeat(np.rint(digits.images * 255 / 16).astype(np.uint8)[..., None], 3, 3)
    labels = digits.target.tolist()
    learnt, rest = (images[:900], labels[:900]), (images[900:], labels[900:])
    poison = ut.OPSPoison(key=ut.Key.public("audit-tests"), data=learnt)
    clean, protected = ut.audit(learnt, rest), ut.audit((poison.apply(*learnt), learnt[1]), rest)
    assert (clean.verdict, clean.exit_code) == (NOT, 0)
    assert protected.verdict in (WEAKLY, PROTECTED)
    assert protected.measured.accuracies["erm"] < clean.measured.accuracies["erm"] - 0.2
    assert protected.measured.reference == clean.measured.reference
    assert set(protected.measured.accuracies) == {"erm", "grayscale"}
    assert f"{protected.measured.reference:.1%}" in str(protected)


# ---- what comes out, what is refused ----


def test_text_and_json_say_the_same():
    result = ut.audit((changed("lsp"), pictures()[1]))
    told = json.loads(json.dumps(result.to_dict()))
    text = str(result)
    assert text.startswith(told["verdict"] + "\n")
    assert (told["rows"], told["looked_at"], told["exit_code"], told["measured"]) == (COUNT, COUNT, 1, None)
    for sign in told["signs"]:
        assert f"{'SIGN' if sign['found'] else 'no'}: {sign['name']}: {sign['what']}" in text
    assert f"roughly {told['share']:.0%}" in text
    assert "clean test set" in text


def test_fewer_rows_are_spread_over_a_sorted_set():
    images, labels = pictures()
    order = np.argsort(labels, kind="stable")
    result = ut.audit((images[order], np.array(labels)[order].tolist()), rows=500)
    assert result.looked_at == 500
    assert {entry["class"] for entry in result.per_class} == set(range(10))


def test_what_is_too_little_is_refused():
    images, labels = pictures()
    assert "200 pictures" in str(error_of(lambda: ut.audit((images[:50], labels[:50])), ValueError))
    assert "two classes" in str(error_of(lambda: ut.audit((images[:300], [1] * 300)), ValueError))
    few = read_pictures((images[:300], labels[:300]), what="test")
    many = read_pictures((images, labels), what="audited")
    assert "test pictures" in str(error_of(lambda: measure(many, few, 32, 0), ValueError))
