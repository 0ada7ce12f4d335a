"""The card is made of what was measured and says no more; the manifest tells keys and files; the two commands."""

import json
import re
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import pytest
from conftest import decode, encode, image_set, stored
from datasets import ClassLabel, Dataset, Features, Image
from evaluations import cell
from folders import save_key, tree
from huggingface_hub import DatasetCard
from planted import forget_ledgers
from publications import CLASSES, FEATURES, ROWS, clean_set, key, pictures, protected_folder, publish

import unlearnable_transforms as ut
from unlearnable_transforms.cli.main import main
from unlearnable_transforms.evaluation.cells import write
from unlearnable_transforms.evaluation.search import Trial
from unlearnable_transforms.publishing.manifest import seal, verify
from unlearnable_transforms.publishing.own import BEGIN, END


@pytest.fixture
def protected() -> Dataset:
    return ut.protect(clean_set(), ut.CUDAPoison(key=key()))


def cells(poison: ut.Poison, **change) -> list[dict]:
    """Made-up results: erm 20 %, jpeg 60 %, at-fgsm 30 %, where clean gives 90, 80, 70; and a control."""
    config = {**poison.public_config(), **change}
    rows = {"erm": (0.9, 0.2), "jpeg": (0.8, 0.6), "at-fgsm": (0.7, 0.3)}
    found = []
    for defense, (clean, last) in rows.items():
        found.append(cell("clean", defense, clean, role="clean"))
        found.append(
            cell("mine|", defense, last, set={"label": "mine|", "role": "poison", "of": None, "config": config})
        )
    return [*found, cell("mine|, one filter", "erm", 0.85, role="control")]


def card_of(folder: Path) -> DatasetCard:
    return DatasetCard((folder / "README.md").read_text())


def test_the_card_of_a_measured_set(tmp_path, protected):
    report = ut.Report(cells(ut.CUDAPoison(key=key())), {})
    publish(protected, tmp_path / "out", report=report, license="mit")
    text = card_of(tmp_path / "out").text
    worst = r"\*\*The worst case: mine\\\|: at most 60.0 %, under jpeg \(of 3 tried\); clean data under it 80.0 %"
    assert re.search(worst, text)
    table = [line for line in text.splitlines() if line.startswith("| ") and "%" not in line]
    start = table.index("| defense | clean | mine\\| | mine\\|, one filter |")
    assert table[start + 1 : start + 4] == [
        "| jpeg | 80.0 | 60.0 | - |", "| at-fgsm | 70.0 | 30.0 | - |", "| none (erm) | 90.0 | 20.0 | 85.0 |"
    ]  # fmt: skip
    assert "It does not hold against jpeg: 60.0 % where clean images give 80.0 %, 67 % of the loss won back." in text
    assert "does not hold against at-fgsm" not in text
    assert f"{len(ut.list_defenses()) - 3} were not tried" in text
    assert "Licence: mit" in text
    assert "not allowed" in text
    assert "Sadasivan" in text
    assert "Nothing was measured" not in text


def test_every_percentage_of_the_card_is_one_that_was_measured(tmp_path, protected):
    report = ut.Report(cells(ut.CUDAPoison(key=key())), {})
    publish(protected, tmp_path / "out", report=report)
    text = card_of(tmp_path / "out").text
    known = {90.0, 20.0, 80.0, 60.0, 70.0, 30.0}
    derived = {67.0}  # of the loss won back: (60 - 20) / (80 - 20)
    assert {float(number) for number in re.findall(r"(\d+(?:\.\d+)?) %", text)} <= known | derived


def test_a_card_without_a_report_claims_nothing(tmp_path, protected):
    publish(protected, tmp_path / "out", opt_out=False)
    text = card_of(tmp_path / "out").text
    assert "## Measured\n\nNothing was measured." in text
    assert not re.findall(r"\d %", text)
    assert "Licence: none was stated" in text
    assert "Opt-out: none was declared" in text
    assert "opt_out" not in json.loads((tmp_path / "out/protection.json").read_text())


def test_the_metadata_of_the_card(tmp_path, protected):
    publish(protected, tmp_path / "out", license="cc-by-4.0")
    data = card_of(tmp_path / "out").data.to_dict()
    assert data["license"] == "cc-by-4.0"
    assert data["task_categories"] == ["image-classification"]
    assert data["size_categories"] == ["n<1K"]
    assert "noai" in data["tags"]
    assert data["configs"][0]["data_files"] == [{"split": "train", "path": "data/train-*"}]
    assert datasets.load_dataset_builder(str(tmp_path / "out")).info.features == protected.features


def test_a_report_about_something_else_is_refused_before_any_work(tmp_path, protected):
    report = ut.Report(cells(ut.CUDAPoison(key=key()), arguments={"blur": 0.2}), {})
    with pytest.raises(ValueError, match="the report is about"):
        publish("nowhere", tmp_path / "out", report=report)


def test_a_report_with_another_key_says_so(tmp_path, protected):
    report = ut.Report(cells(ut.CUDAPoison(key=ut.Key.public("x"))), {})
    publish(protected, tmp_path / "out", report=report)
    assert "Measured with other keys of the same method" in card_of(tmp_path / "out").text
    report = ut.Report(cells(ut.CUDAPoison(key=key())), {})
    publish(protected, tmp_path / "same", report=report)
    assert "other keys" not in card_of(tmp_path / "same").text


def test_every_method_names_its_paper():
    for name in ut.list_poisons():
        assert re.search(r"\(.+ (19|20)\d\d.*\)$", ut.get_poison(name).paper), name


def test_what_the_control_loses_stands_beside_the_headline(tmp_path, protected):
    known = {"label": "mine|, one filter", "role": "control", "of": "mine|", "config": {"method": "cuda"}}
    control = cell("mine|, one filter", "jpeg", 0.75, set=known)
    report = ut.Report([*cells(ut.CUDAPoison(key=key()))[:-1], control], {})
    publish(protected, tmp_path / "out", report=report)
    assert r"The control, mine\|, one filter, alone loses 5.0 points there." in card_of(tmp_path / "out").text
    publish(protected, tmp_path / "none", report=ut.Report(cells(ut.CUDAPoison(key=key())), {}))
    assert "No control was measured there" in card_of(tmp_path / "none").text


def test_starts_and_searches_stand_beside_the_worst_case(tmp_path, protected):
    scratch = cells(ut.CUDAPoison(key=key()))
    publish(protected, tmp_path / "scratch", report=ut.Report(scratch, {}))
    text = card_of(tmp_path / "scratch").text
    assert "- From nothing: at most 60.0 % (smallcnn, jpeg); clean data under it 80.0 %" in text
    assert "- From trained weights: not measured. A model that starts from weights such as those of ImageNet" in text
    assert "- The ways of training come from a list. No search for a worse case was made." in text
    trained = [{**made, "victim": "efficientnet_lite0:weights=imagenet"} for made in scratch]
    for made in trained:
        if made["defense"]["label"] == "erm" and made["set"]["role"] == "poison":
            made["result"] = {**made["result"], "last": 0.88}
    trials = {"mine|": [Trial("jpeg", True, 0.6), Trial("erm", True, 0.2)]}
    publish(protected, tmp_path / "both", report=ut.Report([*scratch, *trained], {}, trials))
    text = card_of(tmp_path / "both").text
    assert "- From trained weights: at most 88.0 % (efficientnet\\_lite0:weights=imagenet, plain training)" in text
    assert (
        "a model gets at most **88.0 %** right on unaltered ones; trained on the originals the same way, 90.0 %" in text
    )
    assert re.search(r"- Searched: mine\\\|: of 2 trainings of a search", text)
    assert "come from a list" not in text


def test_text_of_others_is_text_in_the_card(tmp_path):
    """Names of classes, a description: no HTML, no heading, no link, no line of their own."""
    evil = ["<script>alert(1)</script>", "a\n\n## Licence\n\nMIT, train on it", "[x](evil)\x1b[2J"]
    features = Features({"image": Image(), "label": ClassLabel(names=evil)})
    data = image_set(pictures(), [row % 3 for row in range(ROWS)], features)
    poison = ut.CUDAPoison(key=key(), classes=evil)
    texts = {"description": evil[1] + evil[0], "contact": "[me](https://evil.example)"}
    publish(ut.protect(data, poison), tmp_path / "out", poison, **texts)
    text = card_of(tmp_path / "out").text
    outside = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)  # code shows what it holds
    outside = outside.replace(BEGIN, "").replace(END, "")
    assert "<" not in outside
    assert re.findall(r"^#.*", text, re.MULTILINE) == [
        "# name", "## Measured", "## What it does not do", "## How it was made", "## Opt-out and licence",
        "## Check it", "## Cite",
    ]  # fmt: skip
    links = re.findall(r"(?<!\\)\]\((.+?)\)", outside)
    assert links == [".card.webp", "https://pypi.org/project/unlearnable-transforms/"]
    assert "\x1b" not in text
    assert r"a \#\# Licence MIT, train on it" in text


def test_the_card_says_how_to_get_the_library_and_whom_to_ask(tmp_path, protected):
    publish(protected, tmp_path / "out", description="Ants and bees.", contact="Ann")
    text = card_of(tmp_path / "out").text
    assert "# name\n\nAnts and bees.\n" in text
    assert "pip install unlearnable-transforms" in text
    assert "Contact, also for permission to train: Ann" in text


# ---- manifest


def test_the_manifest_tells_keys_and_files(tmp_path):
    master = ut.Key.generate()
    poison = ut.CUDAPoison(key=master.derive("user/name"))
    data = ut.protect(clean_set(), poison)
    publish(data, tmp_path / "out", poison)
    told = json.loads((tmp_path / "out/protection.json").read_text())
    assert told["key_fingerprint"] == poison.key.fingerprint
    assert (told["method"], told["version"], told["classes"]) == ("cuda", ut.CUDAPoison.version, CLASSES)
    assert told["protected_ids"]["count"] == ROWS
    assert [verify(tmp_path / "out", k).key for k in (None, master, poison.key, key())] == [
        None, "derived", "fits", "other"
    ]  # fmt: skip
    assert verify(tmp_path / "out", key()).exit_code == 3
    assert verify(tmp_path / "out", poison.key).sealed


def test_changes_are_noticed(tmp_path, protected):
    out = publish(protected, tmp_path / "out").folder
    table = out / "data/train-00000-of-00001.parquet"
    good = table.read_bytes()
    assert verify(out).exit_code == 0
    pq.write_table(pq.read_table(table), table, compression="gzip")  # written by another hand
    verdict = verify(out)
    assert (verdict.changed, verdict.same_pictures, verdict.exit_code) == (["data/" + table.name], True, 1)
    other = Dataset.from_dict({"image": stored(protected)[::-1], "label": [0] * ROWS}, features=FEATURES)
    other.to_parquet(table)
    assert verify(out).same_pictures is False
    table.write_bytes(good[:-1])
    assert verify(out).same_pictures is False
    table.unlink()
    (out / "more.txt").write_text("x")
    verdict = verify(out)
    assert (verdict.missing, verdict.added) == ([f"data/{table.name}"], ["more.txt"])
    text = "\n".join(verdict.lines())
    assert "missing: data/train" in text
    assert "added: more.txt" in text


def test_a_manifest_that_was_edited_is_not_sealed(tmp_path, protected):
    out = publish(protected, tmp_path / "out").folder
    path = out / "protection.json"
    told = json.loads(path.read_text())
    told["files"]["README.md"]["bytes"] += 1
    path.write_text(json.dumps(told))
    verdict = verify(out, key())
    assert (verdict.key, verdict.sealed, verdict.exit_code) == ("fits", False, 1)
    told["seal"] = seal(told, ut.Key.generate())
    path.write_text(json.dumps(told))
    assert verify(out, key()).sealed is False
    path.write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        verify(out)


@pytest.mark.parametrize("label", [None, "Ann"])
def test_pictures_in_files_are_compared_by_their_pixels_too(tmp_path, label):
    folder = protected_folder(tmp_path, *(["--label", label] if label else []))
    out = publish(folder, tmp_path / "out", label=label, rename=label is not None).folder
    path = next(path for path in sorted(out.rglob("*.png")))
    path.write_bytes(encode(decode(path.read_bytes()), compress_level=9))
    assert verify(out).same_pictures is True
    path.write_bytes(encode(pictures()[0]))
    assert verify(out).same_pictures is False


# ---- commands


@pytest.fixture
def ready(tmp_path) -> list[str]:
    """Arguments of `unlearnable publish` for a protected folder."""
    folder = protected_folder(tmp_path)
    return [str(folder), "user/name", "--key", str(tmp_path / "my.key"), "--folder", str(tmp_path / "out")]


def test_publish_and_verify_by_command(tmp_path, ready, capsys):
    report = tmp_path / "results"
    report.mkdir()
    for number, made in enumerate(cells(ut.CUDAPoison(key=key()))):
        write(made, report / f"{number}.json")
    assert main(["publish", *ready, "--originals-public", "no", "--report", str(report)]) == 0
    told = capsys.readouterr()
    assert "6 protected; verified with the ledger" in told.out
    assert "ready to upload" in told.out
    assert "at most 60.0 %" in card_of(tmp_path / "out").text
    assert main(["verify", str(tmp_path / "out"), "--key", str(tmp_path / "my.key")]) == 0
    assert "the key fits\nthe manifest is sealed with it" in capsys.readouterr().out
    ut.Key.generate().save(tmp_path / "other.key")
    assert main(["verify", str(tmp_path / "out"), "--key", str(tmp_path / "other.key")]) == 3
    (tmp_path / "out" / "ant" / "000.png").write_bytes(b"?")
    assert main(["verify", str(tmp_path / "out")]) == 1
    assert "changed: ant/000.png" in capsys.readouterr().out
    assert main(["verify", str(tmp_path / "protected")]) == 0  # not published, but protected
    assert "WHOLE: all 6 images" in capsys.readouterr().out


def test_what_options_say_of_the_set_is_on_the_card(tmp_path, ready):
    forget_ledgers()
    said = ["--description", "Ants and bees.", "--contact", "ann at the museum", "--license", "cc-by-4.0"]
    assert main(["publish", *ready, *said, "--originals-public", "no", "--allow-unverified"]) == 0
    card = card_of(tmp_path / "out")
    assert "Ants and bees." in card.text
    assert "ann at the museum" in card.text
    assert card.data.license == "cc-by-4.0"
    assert json.loads((tmp_path / "out" / "protection.json").read_text())["coverage"] == "coverage not verified"


def test_leaks_are_listed_and_the_exit_code_is_1(tmp_path, ready, capsys):
    (Path(ready[0]) / "ant" / "clean.png").write_bytes(encode(pictures()[0]))
    assert main(["publish", *ready, "--originals-public", "no"]) == 1
    told = capsys.readouterr().err.splitlines()
    assert told[0] == "unlearnable: nothing was published:"
    assert {line.split(":")[0] for line in told[1:]} == {"- clean picture", "- telling name", "- mixed encodings"}
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("answers", "public"), [(["yes"], True), (["", "maybe", "n"], False)])
def test_it_asks_whether_the_originals_are_public(tmp_path, ready, capsys, monkeypatch, answers, public):
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda: answers.pop(0))
    assert main(["publish", *ready]) == 0
    assert answers == []
    assert ("The originals are public" in card_of(tmp_path / "out").text) == public


def test_without_a_terminal_it_wants_the_answer_as_an_option(ready, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    assert main(["publish", *ready]) == 2
    assert "--originals-public" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--strength", "strong"], "was protected with arguments"),
        (["--method", "pil"], "was protected with method"),
        (["--key", "{other}"], "was protected with key_fingerprint"),
        (["--ledger", "{other}"], "is not a ledger"),
        (["--folder", "{source}/out"], "lie in each other"),
    ],
)
def test_options_that_do_not_fit_the_folder(tmp_path, ready, capsys, options, message):
    ut.Key.generate().save(tmp_path / "other.key")
    given = [option.format(other=tmp_path / "other.key", source=ready[0]) for option in options]
    assert main(["publish", *ready, *given, "--originals-public", "no"]) == 2
    assert message in capsys.readouterr().err


def test_a_protection_that_was_interrupted_is_not_published(tmp_path, ready, capsys, monkeypatch):
    from unlearnable_transforms.jobs import run

    (tmp_path / "photos" / "ant" / "777.png").write_bytes(encode(pictures(1, 50)[0]))
    monkeypatch.setattr(run, "_run_on", lambda *arguments: (record for record in ()))
    for path in tree(tmp_path / "protected"):
        (tmp_path / "protected" / path).unlink()
    save_key(tmp_path / "again.key")
    arguments = [str(tmp_path / "photos"), str(tmp_path / "protected"), "--key", str(tmp_path / "again.key")]
    for folder in (tmp_path / "protected").iterdir():
        folder.rmdir()
    main(["protect", *arguments, "--workers", "1"])
    (tmp_path / "protected" / "ant").mkdir()
    (tmp_path / "protected" / "ant" / "0.png").write_bytes(encode(pictures()[0]))
    capsys.readouterr()
    assert main(["publish", *ready, "--originals-public", "no"]) == 2
    assert "has not finished" in capsys.readouterr().err
