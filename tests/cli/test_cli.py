"""The command line: keygen, methods, quickstart, and how errors are told."""

import re
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import unlearnable_transforms as ut
from unlearnable_transforms.cli import keygen, quickstart
from unlearnable_transforms.cli.main import main


def test_keygen_writes_a_private_file_and_names_the_fingerprint(tmp_path, capsys):
    path = tmp_path / "my.key"
    assert main(["keygen", str(path)]) == 0
    out = capsys.readouterr().out
    key = ut.Key.load(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert key.fingerprint in out
    assert "never publish" in out
    assert path.read_text().split()[1] not in out


def test_keygen_refuses_to_overwrite(tmp_path, capsys):
    path = tmp_path / "my.key"
    main(["keygen", str(path)])
    before = path.read_bytes()
    capsys.readouterr()
    assert main(["keygen", str(path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.fullmatch(r"unlearnable: error: .*my\.key exists.*\n", captured.err)
    assert path.read_bytes() == before


def test_keygen_into_a_missing_folder(tmp_path, capsys):
    assert main(["keygen", str(tmp_path / "nowhere" / "my.key")]) == 2
    assert re.fullmatch(r"unlearnable: error: there is no folder .*nowhere.*\n", capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []


def test_methods_lists_every_method_with_a_line(capsys):
    assert main(["methods"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ut.list_poisons()
    assert all(len(line.split()) > 3 for line in lines)
    assert any(line.split()[:2] == ["cuda", "CUDAPoison"] for line in lines)


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"unlearnable-transforms {ut.__version__}\n"


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["keygen"], ["quickstart", "--keys", "0"]])
def test_bad_arguments_exit_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage: unlearnable" in capsys.readouterr().err


def test_help_imports_nothing_heavy():
    code = (
        "import sys\n"
        "from unlearnable_transforms.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "print('loaded', sorted({'torch', 'numpy', 'datasets', 'PIL', 'sklearn', 'matplotlib'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "loaded []"
    assert all(command in done.stdout for command in ("quickstart", "keygen", "methods"))


def test_ctrl_c_is_quiet(monkeypatch, capsys):
    def interrupt(args):
        raise KeyboardInterrupt

    monkeypatch.setattr(keygen, "run", interrupt)
    assert main(["keygen", "unused"]) == 130
    assert capsys.readouterr() == ("", "")


def test_a_bug_is_not_hidden(monkeypatch):
    def stumble(args):
        raise ZeroDivisionError

    monkeypatch.setattr(keygen, "run", stumble)
    with pytest.raises(ZeroDivisionError):
        main(["keygen", "unused"])


def test_traceback_shows_where_an_error_came_from(tmp_path):
    with pytest.raises(FileNotFoundError):
        main(["--traceback", "keygen", str(tmp_path / "nowhere" / "my.key")])


@pytest.mark.parametrize("missing", ["sklearn", "matplotlib"])
def test_quickstart_without_its_extra_says_what_to_install(missing, monkeypatch, tmp_path, capsys):
    for name in [name for name in sys.modules if name.split(".")[0] == missing]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    assert main(["quickstart", "--out", str(tmp_path / "out")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.fullmatch(r"unlearnable: error: .*pip install scikit-learn matplotlib\n", captured.err)
    assert not (tmp_path / "out").exists()


def test_quickstart_digits_are_whole():
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    digits = quickstart.load_digits()
    assert digits.images.shape == (1300, 1, 8, 8)
    assert digits.test_images.shape == (497, 1, 8, 8)
    assert (int(digits.images.min()), int(digits.images.max())) == (0, 255)
    assert digits.labels.unique().tolist() == digits.test_labels.unique().tolist() == list(range(10))


def test_quickstart_prints_the_accuracies_and_saves_a_picture(tmp_path, capsys):
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    assert main(["quickstart", "--keys", "1", "--out", str(tmp_path / "new")]) == 0
    out = capsys.readouterr().out
    row = re.search(r"^key quickstart-0 +([\d.]+) % +([\d.]+) %$", out, re.MULTILINE)
    clean, protected = map(float, row.groups())
    assert clean > 95
    assert protected < 60
    assert re.search(rf"^mean +{clean} % +{protected} %$", out, re.MULTILINE)
    with Image.open(tmp_path / "new" / "quickstart.png") as picture:
        assert picture.format == "PNG"
        assert picture.width > 1000
        assert len(np.unique(np.asarray(picture.convert("L")))) > 50


def test_the_next_steps_work_as_printed(tmp_path, monkeypatch, capsys):
    datasets = pytest.importorskip("datasets")
    monkeypatch.chdir(tmp_path)
    pictures = [Image.fromarray(np.full((8, 8, 3), value, np.uint8)) for value in (50, 200)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    names = {"dataset": datasets.Dataset.from_dict({"image": pictures, "label": [0, 1]}, features=features)}
    for line in quickstart.NEXT_STEPS.splitlines()[1:]:
        prompt, _, code = line.strip().partition(" ")
        if prompt == "$":
            assert main(code.split()[1:]) == 0
        else:
            exec(code, names)
    assert Path("my.key").exists()
    changed = [np.asarray(row["image"]) for row in names["protected"]]
    assert all((after != np.asarray(before)).any() for before, after in zip(pictures, changed, strict=True))
