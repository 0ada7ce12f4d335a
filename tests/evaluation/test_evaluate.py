"""ut.evaluate on handwritten digits: cells, resumption, processes, defenses by name."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, error_of
from evaluations import KEY, NEEDED, PARTS, PLAN

import unlearnable_transforms as ut
from unlearnable_transforms import CUDAPoison, Key
from unlearnable_transforms.defenses.base import Defense
from unlearnable_transforms.evaluation import cells as cells_module
from unlearnable_transforms.evaluation.columns import defense_label, make_defense
from unlearnable_transforms.evaluation.evaluate import evaluate
from unlearnable_transforms.evaluation.recipes import get_plan
from unlearnable_transforms.poisons.fraction import is_chosen
from unlearnable_transforms.sample import sample_id
from unlearnable_transforms.training.loop import DIGITS, train
from unlearnable_transforms.victims import build_victim

NOT_NUMBERS = ("date", "machine", "versions")


def numbers_of(folder: Path) -> dict[str, dict]:
    """The cells of a folder without what differs from run to run."""
    found = {}
    for path in folder.glob("*.json"):
        cell = json.loads(path.read_text())
        del cell["result"]["seconds"]
        found[path.name] = {name: value for name, value in cell.items() if name not in NOT_NUMBERS}
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Cells of clean, CUDA and its control, with and without JPEG, two seeds."""
    out = tmp_path_factory.mktemp("cells")
    evaluate(**NEEDED, poisons=[CUDAPoison(key=KEY)], defenses=["erm", "jpeg"], seeds=[0, 1], out=out)
    return out


# ---- cells


def test_every_combination_is_one_file(folder):
    cells = [json.loads(path.read_text()) for path in folder.glob("*.json")]
    places = {(c["set"]["label"], c["defense"]["label"], c["seed"]) for c in cells}
    label = "cuda (public:evaluate)"
    assert places == set(itertools.product(["clean", label, f"{label}, one filter"], ["erm", "jpeg"], [0, 1]))
    assert len({c["id"] for c in cells}) == len(cells) == 12
    assert not list(folder.glob(".*"))  # no temporary file is left
    for cell in cells:
        result = cell["result"]
        assert cell["status"] == "done"
        assert len(result["test_accuracy"]) == len(result["train_accuracy"]) == 2
        assert result["last"] == pytest.approx(result["test_accuracy"][-1], abs=1e-6)
        assert result["best"] == pytest.approx(max(result["test_accuracy"]), abs=1e-6)
        matrix = np.array(result["confusion"])
        assert matrix.sum() == 80
        assert matrix.trace() / 80 == pytest.approx(result["last"])
        assert result["forward_images"] == result["backward_images"] == 2 * 150
        assert result["seconds"] > 0
        assert {"torch", "numpy", "python"} <= set(cell["versions"])
        assert cell["machine"]["threads"] == 1


def test_a_cell_is_what_the_training_loop_gives(folder):
    (images, labels), (test, answers) = PARTS["clean"], PARTS["test"]
    protected = CUDAPoison(key=KEY).apply(images, labels)
    net = build_victim("smallcnn", 10, 8, 1)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    history = train(
        net,
        torch.from_numpy(protected)[:, None],
        torch.from_numpy(labels),
        recipe=PLAN.recipe,
        seed=1,
        test=(torch.from_numpy(test)[:, None], torch.from_numpy(answers)),
    )
    torch.set_num_threads(threads)
    (path,) = folder.glob("cuda-public-evaluate_erm_*seed-1*.json")
    result = json.loads(path.read_text())["result"]
    assert result["test_accuracy"] == pytest.approx(history.test_accuracy, abs=1e-6)
    assert result["train_loss"] == pytest.approx(history.train_loss, abs=1e-5)


def test_what_is_done_is_not_done_again(folder, monkeypatch):
    computed = []
    monkeypatch.setattr("unlearnable_transforms.evaluation.evaluate.compute", computed.append)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.json")}
    arguments = {"poisons": [CUDAPoison(key=KEY)], "defenses": ["jpeg", "erm"], "seeds": [1, 0], "out": folder}
    report = evaluate(**NEEDED, **arguments)
    assert computed == []
    assert len(report.cells) == 12
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.json")} == before


@pytest.mark.parametrize(
    "change",
    [
        {"poisons": [CUDAPoison(key=Key.public("another"))]},
        {"poisons": [CUDAPoison(key=KEY, blur=0.2)]},
        {"defenses": ["jpeg:quality=11"]},
        {"seeds": [2]},
        {"recipe": replace(PLAN, recipe=replace(PLAN.recipe, max_lr=0.05))},
        {"victims": ["resnet9-screen"]},
        {"rows": 100},
    ],
)
def test_what_changes_the_numbers_is_another_cell(folder, monkeypatch, change):
    tasks = []
    monkeypatch.setattr("unlearnable_transforms.evaluation.evaluate.compute", tasks.append)
    arguments = {**NEEDED, "poisons": [CUDAPoison(key=KEY)], "defenses": ["erm"], "controls": False, **change}
    with pytest.raises(ValueError, match="no cells") if "poisons" not in change else nullcontext():
        evaluate(**arguments, out=folder)
    assert len(tasks) == (1 if "poisons" in change else 2)


@pytest.mark.slow
def test_processes_give_what_one_gives(folder, tmp_path):
    evaluate(**NEEDED, poisons=[CUDAPoison(key=KEY)], defenses=["erm", "jpeg"], seeds=[0, 1], out=tmp_path, workers=2)
    assert numbers_of(tmp_path) == numbers_of(folder)


KILLED = """
import sys
from pathlib import Path
import evaluations as e
import unlearnable_transforms as ut
if __name__ == "__main__":
    ut.evaluate(**e.NEEDED, poisons=[ut.CUDAPoison(key=e.KEY)], defenses=["erm", "jpeg"], seeds=[0, 1],
                out=Path(sys.argv[1]), workers=2)
"""


@pytest.mark.slow
def test_killed_in_the_middle_it_goes_on(folder, tmp_path):
    script, out = tmp_path / "killed.py", tmp_path / "out"
    script.write_text(KILLED)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests", ROOT / "tests" / "support"))),
    }
    process = subprocess.Popen(
        [sys.executable, str(script), str(out)], env=environment, start_new_session=True, cwd=ROOT
    )
    try:
        deadline = time.monotonic() + 400
        while len(list(out.glob("*.json"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    left = {path: path.stat().st_mtime_ns for path in out.glob("*.json")}
    assert 2 <= len(left) < 12
    evaluate(**NEEDED, poisons=[CUDAPoison(key=KEY)], defenses=["erm", "jpeg"], seeds=[0, 1], out=out)
    assert numbers_of(out) == numbers_of(folder)
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in left.items())


def test_no_key_is_in_any_file(tmp_path):
    secret = Key.generate()
    report = evaluate(**NEEDED, poisons=[CUDAPoison(key=secret)], defenses=["erm"], out=tmp_path, samples=2)
    report.save(tmp_path)
    texts = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(texts) == 3 + 3 + 2
    key = secret._secret
    assert not any(key in text or key.hex().encode() in text for text in texts)
    assert all(secret.fingerprint.encode() in text for text in texts if b'"role": "poison"' in text)


def test_partial_protection_beside_its_clean_part():
    report = evaluate(
        **NEEDED, poisons={"mine": CUDAPoison(key=KEY)}, defenses=["erm"], controls=False, fractions=[0.4]
    )
    rows = {cell["set"]["label"]: cell["data"]["rows"] for cell in report.cells}
    assert rows["mine, 40% protected"] == 150
    pairs = zip(*PARTS["clean"], strict=True)
    chosen = sum(is_chosen(KEY, sample_id(image[..., None], f"i:{label}"), 0.4) for image, label in pairs)
    assert 30 < chosen < 90
    assert rows["mine, the clean 60% alone"] == 150 - chosen


def test_diverged_trainings_are_marked_and_kept(tmp_path):
    wild = replace(PLAN, recipe=replace(PLAN.recipe, max_lr=1e30))
    report = evaluate(**{**NEEDED, "recipe": wild}, defenses=["erm"], out=tmp_path)
    (cell,) = report.cells
    assert cell["status"] == "diverged"
    assert "epoch" in cell["reason"]
    assert "diverged" in str(report)
    assert "diverged" in report.html()
    report.save(tmp_path)
    assert json.loads((tmp_path / "report.json").read_text())["tables"][0]["entries"][0]["last"] is None


class Broken(Defense):
    name = "broken"

    def prepare(self, images, labels, setting):
        raise RuntimeError("out of luck")


def test_a_failing_cell_does_not_stop_the_others(tmp_path):
    error = error_of(lambda: evaluate(**NEEDED, defenses=[Broken(), "erm"], out=tmp_path), RuntimeError)
    assert "1 of 2" in str(error)
    assert "out of luck" in str(error)
    (path,) = tmp_path.glob("*.json")
    assert "_erm_" in path.name


def test_a_damaged_cell_is_named(folder, tmp_path):
    (tmp_path / "bad.json").write_text("{")
    assert "bad.json" in str(error_of(lambda: evaluate(**NEEDED, defenses=["erm"], out=tmp_path), ValueError))


# ---- defenses by name


def test_hooks_reach_the_training():
    calls = []

    class Spy(Defense):
        name = "spy"

        def recipe(self, recipe):
            return replace(recipe, epochs=3)

        def prepare(self, images, labels, setting):
            calls.append(("prepare", tuple(images.shape), setting.num_classes, setting.image_size))
            return images

        def augment(self, images, generator):
            assert images.dtype == torch.uint8
            return images

        def on_epoch(self, epoch):
            calls.append(("epoch", epoch))

        def finish(self, net, setting):
            calls.append(("finish", net.training))

        def test(self, images, setting):
            return images.flip(-1)

        def predict(self, net, images, setting):
            calls.append(("predict", len(images)))
            votes = torch.zeros(len(images), setting.num_classes)
            votes[:, 7] = 1
            return votes

    report = evaluate(**NEEDED, defenses=[Spy()])
    assert calls == [
        ("prepare", (150, 3, 8, 8), 10, 8), ("epoch", 1), ("epoch", 2), ("epoch", 3), ("finish", False), ("predict", 80)
    ]  # fmt: skip
    result = report.cells[0]["result"]
    sevens = float((PARTS["test"][1] == 7).mean())
    assert result["last"] == result["test_accuracy"][-1] == pytest.approx(sevens)
    assert np.array(result["confusion"])[:, 7].sum() == 80


def test_an_instance_of_a_class_without_a_name_is_called_by_the_class():
    class Darker(Defense):
        def prepare(self, images, labels, setting):
            return images // 2

    report = evaluate(**NEEDED, defenses=["erm", Darker()])
    assert report.tables[0].columns == ["erm", "Darker"]
    assert report.accuracy("clean", "Darker") != report.accuracy("clean", "erm")


def test_what_is_asked_for_twice_is_trained_once():
    assert len(evaluate(**NEEDED, defenses=["jpeg", "jpeg:quality=10"]).cells) == 1


def test_recipes_of_ones_own_are_apart_by_their_settings(tmp_path):
    for epochs in (1, 3):
        recipe = replace(DIGITS, epochs=epochs)
        evaluate(**{**NEEDED, "recipe": recipe}, defenses=["erm"], victims=["smallcnn"], out=tmp_path)
    report = ut.Report.load(tmp_path)
    assert sorted(table.about["plain"]["epochs"] for table in report.tables) == [1, 3]
    assert all(len(entry.cells) == 1 for table in report.tables for entry in table.entries.values())
    assert "recipe own (epochs 1," in str(report)


def test_the_name_of_a_recipe_does_not_count(tmp_path):
    first = evaluate(**NEEDED, defenses=["erm"], out=tmp_path)
    renamed = {**NEEDED, "recipe": replace(PLAN, name="another")}
    again = evaluate(**renamed, defenses=["erm"], out=tmp_path)
    assert again.cells[0]["date"] == first.cells[0]["date"]
    assert len(list(tmp_path.glob("*.json"))) == 1


def test_specifications():
    assert make_defense("jpeg:quality=30", PLAN).quality == 30
    assert make_defense("at-fgsm", PLAN).eps == 1 / 255
    assert make_defense("at-fgsm:eps=4/255", PLAN).eps == 4 / 255
    assert make_defense("at-pgd:norm=l2,steps=2", PLAN).norm == "l2"
    assert defense_label(make_defense("jpeg", PLAN)) == "jpeg"
    assert defense_label(make_defense("jpeg:quality=30", PLAN)) == "jpeg quality=30"
    assert defense_label(make_defense("at-fgsm", PLAN)) == "at-fgsm eps=1/255"
    assert defense_label(make_defense("at-fgsm:eps=0.1234567", PLAN)) == "at-fgsm eps=0.1234567"  # not rounded
    assert defense_label(make_defense("coin:alpha=3", PLAN)) == "coin alpha=3"
    assert defense_label(make_defense("at-pgd:norm=l2,step_size=0.2", PLAN)) == "at-pgd norm=l2 step_size=51/255"
    with pytest.raises(ValueError, match="quality"):
        make_defense("jpeg:qualty=30", PLAN)
    with pytest.raises(KeyError, match="did you mean 'jpeg'"):
        make_defense("jpg", PLAN)


def test_plans():
    assert PLAN.training("smallcnn", "at-fgsm").epochs == 3
    assert PLAN.training("smallcnn", "erm").epochs == 2
    paper = get_plan("paper")
    assert (paper.victim, paper.recipe.epochs, paper.recipe.nesterov, paper.rows) == ("resnet18", 60, False, None)
    assert paper.training("deit-tiny", "erm").optimizer == "adamw"
    assert get_plan(DIGITS).recipe == DIGITS
    with pytest.raises(KeyError, match="screen"):
        get_plan("quick")


def test_names_are_exported():
    assert ut.evaluate is evaluate
    assert {"jpeg", "at-fgsm"} <= set(ut.list_defenses())
    assert ut.get_defense("jpeg").__name__ == "JPEG"
    assert cells_module.FORMAT == 2
