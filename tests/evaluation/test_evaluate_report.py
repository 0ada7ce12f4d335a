"""Metrics by hand, tables, the page, and the command."""

import base64
import io
import json
import math
import re
from collections.abc import Sequence
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
from unlearnable_transforms.evaluation.charts import confusion, curves, line_styles
from unlearnable_transforms.evaluation.data import chunks, read_pictures
from unlearnable_transforms.evaluation.metrics import (
    macro_recall,
    recovery,
    sd,
    t_interval,
    t_quantile,
    wilson,
    worst_defense,
)
from unlearnable_transforms.evaluation.pictures import describe, quality
from unlearnable_transforms.evaluation.report import Report
from unlearnable_transforms.evaluation.sets import TrainingSet, change_of, noise_of_psnr, training_sets
from unlearnable_transforms.pixels import psnr, ssim

EVIL = "<script>alert('x')</script> & \"quotes\""

# ---- metrics


def test_recovery_and_the_worst_defense():
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


def changed(made: dict, name: str, **change) -> dict:
    return {**made, name: {**made[name], **change}}


@pytest.mark.parametrize(
    "other",
    [
        changed(cell("mine", "erm", 0.5), "data", test="another"),
        changed(cell("mine", "erm", 0.5), "data", clean="another"),
        changed(cell("mine", "erm", 0.5), "data", image_size=16),
        changed(cell("mine", "erm", 0.5), "data", classes=["a", "b", "c"]),
        cell("mine", "erm", 0.5, victim="resnet18", seed=3),
        cell("mine", "erm", 0.5, seed=3, init="uniform"),
        cell("mine", "erm", 0.5, seed=3, plain={"epochs": 7}, recipe={"name": "screen", "epochs": 7}),
    ],
)
def test_cells_that_must_not_be_compared_have_tables_of_their_own(other):
    report = Report([*some_cells(), other], {})
    assert len(report.tables) == 2
    assert sorted(len(table.entries) for table in report.tables) == [1, 4]


@pytest.mark.parametrize(
    ("other", "label"),
    [
        (changed(cell("mine", "jpeg", 0.1, seed=1), "defense", version=2), "jpeg (version 2)"),
        (changed(cell("mine", "jpeg", 0.1, seed=1), "defense", arguments={"q": 9}), "jpeg (argument q 9)"),
        (changed(cell("mine", "jpeg", 0.1, seed=1), "defense", arguments={"q": None}), "jpeg (argument q None)"),
        (changed(cell("mine", "jpeg", 0.1, seed=1), "recipe", epochs=7), "jpeg (recipe's epochs 7)"),
        (changed(cell("mine", "jpeg", 0.1, seed=1), "data", spare="s"), "jpeg (clean images s)"),
    ],
)
def test_what_differs_in_more_than_the_seed_is_never_averaged(other, label):
    (table,) = Report([*some_cells(), other], {}).tables
    assert label in table.columns
    assert table.entries[("mine", "mine"), label].last == 0.1
    assert not any("±" in line for line in str(Report([some_cells()[-1], other], {})).splitlines()[2:])
    assert len(table.columns) == 3


def test_sets_of_one_name_and_other_pixels_are_rows_of_their_own():
    report = Report([*some_cells(), changed(cell("mine", "erm", 0.5, seed=1), "data", train="others")], {})
    assert sorted(report.tables[0].names.values()) == ["clean", "mine (mine)", "mine (others)"]


def test_one_training_under_two_configurations_counts_once():
    again = changed(cell("mine", "jpeg", 0.6), "set", config={"method": "cuda", "version": 9})
    entry = Report([*some_cells(), again], {}).tables[0].entries[("mine", "mine"), "jpeg"]
    assert len(entry.cells) == 1
    assert entry.sd is None


def test_a_cell_in_a_copied_file_is_read_once(tmp_path):
    for name in ("a.json", "a copy.json"):
        write(cell("mine", "erm", 0.2), tmp_path / name)
    assert len(Report.load(tmp_path).cells) == 1


def test_cells_of_format_1_are_read_as_what_they_are(tmp_path):
    """By their name recipes of one's own were all alike, and the victims started in another way."""
    for number, epochs in enumerate((1, 6)):
        old = cell("mine", "erm", 0.2 + number / 10, recipe={"name": "own", "epochs": epochs})
        old = {name: value for name, value in old.items() if name not in ("init", "plain")}
        write({**old, "format": 1, "id": f"old {number}"}, tmp_path / f"{number}.json")
    old = {name: value for name, value in cell("mine", "erm", 0.7).items() if name not in ("init", "plain")}
    write({**old, "format": 1, "id": "old 2"}, tmp_path / "2.json")
    write(cell("mine", "erm", 0.8), tmp_path / "3.json")
    report = Report.load(tmp_path)
    assert sorted(entry.last for table in report.tables for entry in table.entries.values()) == pytest.approx(
        [0.2, 0.3, 0.7, 0.8]
    )
    assert all(len(table.entries) == 1 for table in report.tables)
    assert str(report).count("initialised as by earlier versions") == 3
    write({**cell("mine", "erm", 0.8), "format": 3, "id": "later"}, tmp_path / "4.json")
    with pytest.raises(ValueError, match="format 3"):
        Report.load(tmp_path)


def test_trainings_that_diverged_are_left_out_of_means_and_counted():
    lost = cell("mine", "erm", 0.0, seed=2, status="diverged", reason="epoch 1")
    lost["result"] = {"test_accuracy": [], "train_accuracy": [], "train_loss": [], "batches": 0,
                      "forward_images": 0, "backward_images": 0, "seconds": 1.0}  # fmt: skip
    report = Report([*some_cells(), lost], {})
    entry = report.tables[0].entries[("mine", "mine"), "erm"]
    assert entry.last == pytest.approx(0.25)
    assert entry.diverged == 1
    assert "1 of 3 diverged" in report.html()


def test_many_sets_go_down_and_wide_tables_are_broken_into_blocks():
    cells = [cell(f"poison number {n}", f"defense {m}", 0.5) for n in range(20) for m in range(10)]
    lines = str(Report(cells, {})).splitlines()[3:-21]
    assert max(map(len, lines)) <= 118
    assert sum(line.startswith("poison number 7 ") for line in lines) == 2
    (few,) = Report(cells[:30], {}).tables
    assert few.grid().heads == ["poison number 0", "poison number 1", "poison number 2"]


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


def test_curves_use_the_height_and_keep_their_order():
    drawn = curves({"a": [0.0, 0.2], "b": [0.1, 0.1]})
    a, b = ([tuple(map(float, point.split(","))) for point in points.split()] for points in drawn["lines"].values())
    assert a[0][0] == b[0][0] < a[1][0] == b[1][0]
    assert a[0][1] > b[0][1] > a[1][1]  # 0 % lies at the bottom
    assert b[0][1] == pytest.approx((a[0][1] + a[1][1]) / 2)
    assert [text for _, text in drawn["grid"]] == ["0", "5", "10", "15", "20"]  # not to 100, which nothing reaches
    assert drawn["grid"][-1][0] == a[1][1]


def test_no_two_lines_look_alike():
    names = ["clean", *(f"set {number}" for number in range(32))]
    styles = line_styles(names, "clean")
    assert list(styles) == names
    assert len(set(styles.values())) == len(names)
    more = line_styles([*names, "one more", "another"], "clean")
    assert more["one more"] == more["another"] not in styles.values()  # grey, none of the others'


def test_a_confusion_matrix_darkens_with_the_share():
    image = np.asarray(Image.open(io.BytesIO(base64.b64decode(confusion([[4, 0], [1, 3]])))))
    assert image.shape == (2, 2, 3)
    assert image[0, 0].sum() < image[1, 1].sum() < image[1, 0].sum() < image[0, 1].sum()


def test_a_weak_victim_is_remarked_upon_and_a_good_one_is_not():
    weak = [cell("clean", "erm", 0.6, role="clean"), cell("mine", "erm", 0.5)]  # of two classes
    for text in (str(Report(weak, {})), Report(weak, {}).html()):
        assert "The victim itself is weak: 60.0 % on clean pictures" in text
        assert "guessing gives 50.0 %" in text
    for text in (str(Report(some_cells(), {})), Report(some_cells(), {}).html()):
        assert "weak:" not in text


@pytest.mark.parametrize(
    ("last", "text"), [(0.1, "recovery none"), (0.25, "recovery 0 %"), (0.8, "recovery 100 %"), (0.9, "recovery full")]
)
def test_recovery_is_no_figure_beyond_none_and_all(last, text):
    cells = [made for made in some_cells() if (made["set"]["label"], made["defense"]["label"]) != ("mine", "jpeg")]
    html = Report([*cells, cell("mine", "jpeg", last)], {}).html()
    assert f"<small>{text}</small>" in html
    assert "recovery -" not in html


def test_the_headline_says_what_is_beyond_the_control():
    control = cell("mine, one filter", "jpeg", 0.75, role="control")
    control["set"] = {**control["set"], "of": "mine"}
    report = Report([*some_cells(), control], {})
    assert report.tables[0].headlines[0].beyond == pytest.approx(0.15)
    assert "protection 20.0 points, 15.0 beyond its control" in str(report)


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
def pictures():
    loaded = load_digits()
    images = [np.rint(image * (255 / 16)).astype(np.uint8)[..., None] for image in loaded.images[:40]]
    return read_pictures((images, loaded.target[:40].tolist()), what="clean")


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


def test_large_pictures_are_measured_in_the_middle():
    clean = np.random.default_rng(0).integers(0, 256, (1100, 300, 3), dtype=np.uint8)
    edge, both = clean.copy(), clean.copy()
    edge[0, 0] ^= 128
    both[:, ::2] ^= 8
    outside = quality([(clean, edge)])
    assert (outside["psnr"], outside["unchanged"], outside["linf"]) == (None, 0, 128)
    middle = slice(38, 38 + 1024)
    measured = quality([(clean, both)])
    assert measured["psnr"] == psnr(clean[middle], both[middle])
    assert measured["ssim"] == pytest.approx(ssim(clean[middle], both[middle]), abs=1e-12)


def test_few_large_pictures_are_open_at_a_time():
    """What is open together has a bounded number of pixels, whatever the number of pictures."""
    opened: list[int] = []

    class Counted(Sequence):
        def __len__(self) -> int:
            return 5

        def __getitem__(self, row):
            opened.append(row)
            return np.zeros((1100, 1000, 3), np.uint8)

    for rows, images in chunks(Counted(), range(5)):
        assert len(rows) == len(images) == 1
        assert opened[-1] <= rows[0] + 1  # the next one is read to see whether it fits


def test_samples_are_of_different_classes(pictures):
    poison = CUDAPoison(key=Key.public("control"))
    made = TrainingSet("mine", "poison", {}, pictures, change_of(poison, pictures))
    found = describe(made, pictures, 4)
    assert [sample["label"] for sample in found["samples"]] == [0, 1, 2, 3]
    assert found["quality"]["ssim"] is None  # 8 pixels: smaller than its window
    assert describe(made, pictures, 0)["samples"] == []


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
