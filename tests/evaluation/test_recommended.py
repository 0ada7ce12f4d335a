"""`ut.recommended` says what the measurements say, and nothing else."""

import json
from pathlib import Path

import pytest

import unlearnable_transforms as ut
from unlearnable_transforms.cli.main import main
from unlearnable_transforms.evaluation.recommended import MEASURED, make_poison

RESULTS = Path(__file__).parents[2] / "docs" / "results" / "screen"
TABLE = json.loads(MEASURED.read_text())


def accuracies_of(row: dict) -> list[float]:
    return [row["accuracies"][defense] for defense in TABLE["clean"]]


def test_figures_are_those_of_the_trainings() -> None:
    tables = ut.Report.load(RESULTS).tables
    (table,) = [table for table in tables if any(row[0] == "CUDA, key screen-0" for row, _ in table.entries)]
    means = {(row[0], entry.cells[0]["defense"]["name"]): entry.last for (row, _), entry in table.entries.items()}
    for row in TABLE["methods"]:
        name = f"{'CUDA' if row['method'] == 'cuda' else row['method']}, key screen-0"
        for defense, accuracy in row["accuracies"].items():
            assert accuracy == pytest.approx(means[name, defense], abs=1e-4)
    for defense, accuracy in TABLE["clean"].items():
        assert accuracy == pytest.approx(means["clean", defense], abs=1e-4)


@pytest.mark.parametrize("side", [8, 32, 71, (32, 600)])
def test_the_lowest_worst_case_of_what_looks_no_worse_than_cuda(side: int | tuple[int, int]) -> None:
    (cuda,) = [row for row in TABLE["methods"] if row["method"] == "cuda"]
    allowed = [row for row in TABLE["methods"] if row["ssim"] >= cuda["ssim"] and row["psnr_gain"] >= cuda["psnr_gain"]]
    best = min(allowed, key=lambda row: max(accuracies_of(row)))
    answer = ut.recommended(side)
    assert (answer.title, answer.accuracy) == (best["method"], max(accuracies_of(best)))
    assert best["accuracies"][answer.worst] == answer.accuracy
    assert "32 x 32" in answer.note


def test_photographs_get_what_was_measured_on_photographs() -> None:
    answer = ut.recommended((400, 300))
    assert answer.links == [("cuda", {})]
    assert "photographs.md" in answer.note


def test_every_row_can_be_made(key: ut.Key) -> None:
    for row in TABLE["methods"]:
        poison = make_poison(row["links"], key, image_key="img")
        made = poison.links if isinstance(poison, ut.Chain) else [poison]
        assert [link.name for link in made] == [name for name, _ in row["links"]]
        assert all(link.image_key == "img" for link in made)
    answer = ut.recommended(32)
    assert answer.poison(key).title == make_poison(answer.links, key).title


def test_the_table_names_every_method_and_marks_the_answer(capsys: pytest.CaptureFixture) -> None:
    main(["methods", "--recommended", "32"])
    lines = capsys.readouterr().out.splitlines()
    answer = ut.recommended(32)
    assert lines[0] == f"{answer.title}: at most {100 * answer.accuracy:.1f} %, under {answer.worst}."
    (marked,) = [line for line in lines if line.startswith("*")]
    assert marked[1:].startswith(answer.title)
    shown = [line[1:24].strip() for line in lines[3:-1]]
    assert shown[0] == "clean"
    assert sorted(shown[1:]) == sorted(row["method"] for row in TABLE["methods"])
    worst = [float(line[24:31]) for line in lines[4:-1]]
    assert worst == sorted(worst)


@pytest.mark.parametrize("size", [0, -3, (0, 32)])
def test_sizes_that_are_none(size: int | tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="at least 1 pixel"):
        ut.recommended(size)


def test_a_side_of_nothing_is_an_error_on_the_command_line_too(capsys: pytest.CaptureFixture) -> None:
    assert main(["methods", "--recommended", "0"]) == 2
    assert "at least 1 pixel" in capsys.readouterr().err
