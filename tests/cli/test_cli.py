"""The command line: keygen, methods, quickstart, and how errors are told."""

import io
import os
import pickle
import re
import stat
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from conftest import pixels
from PIL import Image

import unlearnable_transforms as ut
from unlearnable_transforms.cli import keygen, quickstart
from unlearnable_transforms.cli.main import main
from unlearnable_transforms.errors import UsageKeyError, WorkError


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


@pytest.mark.parametrize("arguments", [["nonsense"], ["keygen"], ["cache"], ["quickstart", "--keys", "0"]])
def test_bad_arguments_exit_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage: unlearnable" in capsys.readouterr().err


def test_the_program_alone_shows_its_help(capsys):
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert all(f"    {command}" in captured.out for command in ("quickstart", "protect", "cache"))


@pytest.mark.parametrize("arguments", ["methods", "methods cuda", "--help"])
def test_a_reader_that_goes_away_is_no_error(arguments, monkeypatch):
    """As in `unlearnable methods | head -1`."""
    read, write = os.pipe()
    os.close(read)
    with open(write, "w") as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        try:
            code = main(arguments.split())
        except SystemExit as stop:
            code = stop.code
    assert code == 0


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["protct", "a", "b"], "protect"),
        (["cache", "verfy"], "verify"),
        (["keygen", "a", "--hepl"], "--help"),
        (["audit", "a", "--tset", "b"], "--test"),
        (["audit", "a", "--labelkey", "b"], "--label-key"),
        (["publish", "a", "u/b", "--key", __file__, "--gated", "manuel"], "manual"),
    ],
)
def test_what_was_meant_is_named(arguments, meant, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert capsys.readouterr().err.endswith(f": did you mean {meant!r}?\n")


def test_nothing_is_meant_by_nonsense(capsys):
    for arguments in (["xyzzy"], ["keygen", "a", "--xyzzy"]):
        with pytest.raises(SystemExit):
            main(arguments)
        assert "did you mean" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["protect", "a", "b"],
        ["fit", "a"],
        ["evaluate", "a", "--clean", "b"],
        ["unlock", "a", "b"],
        ["publish", "a", "u/b"],
        ["verify", "a"],
    ],
)
def test_a_key_file_that_is_not_there(tmp_path, arguments, capsys):
    key = tmp_path / "nokey"
    assert main([*arguments, "--key", str(key)]) == 2
    message = f"unlearnable: error: there is no key file {key}; `unlearnable keygen {key}` makes a new key\n"
    assert capsys.readouterr() == ("", message)


@pytest.mark.parametrize("name", ["Ann_private", "Ann_private/", "photos/Ann_private", "./Ann_private", "/Ann/private"])
@pytest.mark.parametrize("command", ["protect", "fit", "audit", "verify", "unlock", "evaluate"])
def test_a_mistyped_folder_is_not_looked_up_on_the_hub(tmp_path, monkeypatch, capsys, key_file, command, name):
    def refuse(*args, **options):
        raise AssertionError("the name left this machine")

    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    monkeypatch.setattr("datasets.load_dataset", refuse)
    monkeypatch.setattr("unlearnable_transforms.data.table.load_dataset", refuse)
    monkeypatch.setattr("huggingface_hub.HfApi.snapshot_download", refuse)
    options = {
        "protect": [name, "out", "--key", str(key_file)],
        "fit": [name, "--key", str(key_file), "--method", "em"],
        "unlock": [name, "out", "--key", str(key_file)],
        "evaluate": ["out", "--clean", name, "--test", name, "--key", str(key_file)],
    }
    assert main([command, *options.get(command, [name])]) == 2
    err = capsys.readouterr().err
    assert "there is no " in err
    assert "Ann" in err


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["keygen", "unused"], "stopped"),
        (["verify", "unused"], "stopped"),
        (["protect", "a", "b", "--key", __file__], "stopped; run the same command again to continue"),
        (["fit", "a", "--key", __file__], "stopped; what is done is kept, run the same command again to continue"),
    ],
)
def test_ctrl_c_is_one_line_and_130(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(command(arguments), "run", raising(KeyboardInterrupt()))
    assert main(arguments) == 130
    assert capsys.readouterr() == ("", f"\n{message}\n")


def command(arguments):
    return sys.modules[f"unlearnable_transforms.cli.{arguments[0]}"]


def raising(error):
    def run(args):
        raise error

    return run


def stumble(kind):
    """A bug of each kind, as an expression that fails inside the package."""
    from unlearnable_transforms import sample
    from unlearnable_transforms.jobs.summary import Summary

    expressions = {
        TypeError: lambda: sample.class_tokens(3),
        AttributeError: lambda: sample.SampleError.at([0], None).rows.none,
        KeyError: lambda: Summary().count({}, 0, {}),
        ValueError: lambda: sample.sample_ids(np.zeros(3), []),
    }
    return expressions[kind]


@pytest.mark.parametrize("kind", [TypeError, AttributeError, KeyError, ValueError])
def test_a_bug_in_the_package_shows_a_traceback(kind, monkeypatch):
    monkeypatch.setattr(keygen, "run", lambda args: stumble(kind)())
    with pytest.raises(kind):
        main(["keygen", "unused"])


@pytest.mark.parametrize("error", [AssertionError(), IndexError(), RecursionError(), ZeroDivisionError(), KeyError()])
def test_a_bug_elsewhere_shows_a_traceback(error, monkeypatch):
    monkeypatch.setattr(keygen, "run", raising(error))
    with pytest.raises(type(error)):
        main(["keygen", "unused"])


@pytest.mark.parametrize("error", [ValueError("a"), ut.SampleError("a"), UsageKeyError("a"), WorkError("a")])
def test_an_error_of_a_worker_is_what_it_was_there(error, monkeypatch, capsys):
    """Sent through a pipe, with the worker's traceback as a note."""
    error.add_note("in a worker process:")
    monkeypatch.setattr(keygen, "run", raising(pickle.loads(pickle.dumps(error))))
    if isinstance(error, ut.UnlearnableError):
        assert main(["keygen", "unused"]) == 2
        assert capsys.readouterr().err == "unlearnable: error: a\n"
    else:
        with pytest.raises(ValueError, match="a"):
            main(["keygen", "unused"])


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda: ut.Key.load(__file__), r".* is not a key file; make one with `unlearnable keygen`"),
        (lambda: ut.get_poison("cudo"), r".*cudo.*"),
        (lambda: ut.Key("text"), r".*bytes.*"),
        (lambda: raising(ut.SampleError("a reason\nof two lines", [3]))(None), "row 3: a reason of two lines"),
        (lambda: Path("/no/such\x1b[2J/file").read_bytes(), r".*No such file or directory: '/no/such\\x1b\[2J/file'"),
    ],
    ids=["ValueError", "KeyError", "TypeError", "SampleError", "OSError"],
)
def test_what_the_library_refuses_is_one_line(fault, message, monkeypatch, capsys):
    monkeypatch.setattr(keygen, "run", lambda args: fault())
    assert main(["keygen", "unused"]) == 2
    assert re.fullmatch(rf"unlearnable: error: {message}\n", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("say which with label_key=.", "say which with --label-key."),
        ('(label_key=, fraction=), or image_key="img": no', "(--label-key, --fraction), or --image-key img: no"),
        ("pass keep= to protect", "pass --keep-column to protect"),
        ("keep_splits= ['x']: none", "--keep-split ['x']: none"),
        ('protect it with labels="auto"', "protect it with --labels auto"),
        ("or allow_partial=True; changed=True", "or --allow-partial; --changed"),
        ("use key.derive('ann/cats')", "use --derive ann/cats"),
        ("with nothing_key= else", "with nothing_key= else"),
        ("CUDAPoison(key=Key(ab), invertible=True, blur=0.2)", "CUDAPoison(key=Key(ab), invertible=True, blur=0.2)"),
        ("names are https://x.org?label=, a", "names are https://x.org?label=, a"),
    ],
)
def test_messages_name_options_and_not_arguments(monkeypatch, capsys, key_file, said, shown):
    """Those of the command itself, and of the others."""

    def run(args):
        warnings.warn(said, ut.UnlearnableWarning, stacklevel=1)
        raise ut.SampleError(said)

    for arguments in (["protect", "a", "b"], ["publish", "a", "b"]):
        monkeypatch.setattr(command(arguments), "run", run)
        assert main([*arguments, "--key", str(key_file)]) == 2
        assert capsys.readouterr().err == f"unlearnable: warning: {shown}\nunlearnable: error: {shown}\n"


def test_warnings_are_one_line_each(monkeypatch, capsys):
    def run(args):
        for number in range(2):
            warnings.warn(f"look\n  here {number}\x1b[2J", ut.UnlearnableWarning, stacklevel=1)

    monkeypatch.setattr(keygen, "run", run)
    assert main(["keygen", "unused"]) == 0
    lines = [f"unlearnable: warning: look here {number}\\x1b[2J\n" for number in range(2)]
    assert capsys.readouterr() == ("", "".join(lines))


@pytest.fixture
def photos(tmp_path):
    """One image, and one file that is none and has a name to steer terminals with."""
    folder = tmp_path / "photos" / "cat"
    folder.mkdir(parents=True)
    Image.fromarray(pixels(9, 9, 3)).save(folder / "a.png")
    (folder / "é中\x1b[2J\n.png").write_bytes(b"no image")
    return folder.parent


@pytest.mark.parametrize(("encoding", "name"), [("latin-1", r"é\u4e2d"), ("ascii", r"\xe9\u4e2d"), ("utf-8", "é中")])
def test_names_are_printed_in_any_encoding(photos, out, key_file, monkeypatch, encoding, name):
    terminal = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(terminal, encoding, write_through=True))
    assert main(["protect", str(photos), str(out), "--key", str(key_file), "--workers", "1"]) == 1
    text = terminal.getvalue().decode(encoding)
    assert rf"  cat/{name}\x1b[2J\n.png: " in text
    assert "1 files written: 1 protected" in text
    assert "\x1b" not in text


@pytest.mark.parametrize("whole", [False, True])
def test_a_reader_that_goes_away_ends_nothing(photos, out, key_file, monkeypatch, capfd, whole):
    if whole:
        next(photos.glob("cat/*J*")).unlink()
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as pipe:
        monkeypatch.setattr("sys.stdout", pipe)
        code = main(["protect", str(photos), str(out), "--key", str(key_file), "--workers", "1"])
        assert main(["methods"]) == 0
    assert code == (0 if whole else 1)
    assert (out / "cat" / "a.png").exists()
    assert "error" not in capfd.readouterr().err


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


@pytest.mark.slow
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
    for name in ("a", "b"):
        Path("photos", name).mkdir(parents=True)
        pictures[0].save(Path("photos", name, "one.png"))
    for line in quickstart.next_steps().splitlines():
        prompt, _, code = line.strip().partition(" ")
        if prompt == "$":
            assert main(code.split()[1:]) == 0
        elif prompt == ">>>":
            exec(code, names)
    assert Path("my.key").exists()
    assert len(list(Path("protected").rglob("*.png"))) == 2
    changed = [np.asarray(row["image"]) for row in names["protected"]]
    assert all((after != np.asarray(before)).any() for before, after in zip(pictures, changed, strict=True))


@pytest.mark.parametrize(
    ("typed", "on_path", "printed"),
    [
        (".venv/bin/unlearnable", "", ".venv/bin/unlearnable"),
        ("{here}/my files/unlearnable", "", "'{here}/my files/unlearnable'"),
        ("{here}/bin/unlearnable", "{here}/bin", "unlearnable"),
        ("-c", "", "unlearnable"),
    ],
)
def test_the_next_steps_name_the_command_as_it_was_typed(typed, on_path, printed, tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "unlearnable").touch(mode=0o755)
    monkeypatch.setattr(sys, "argv", [typed.format(here=tmp_path), "quickstart"])
    monkeypatch.setenv("PATH", on_path.format(here=tmp_path) or str(tmp_path))
    assert f"  $ {printed.format(here=tmp_path)} keygen my.key\n" in quickstart.next_steps()


def test_the_page_says_what_to_install_where_its_packages_are_missing(monkeypatch, capsys):
    for name in [name for name in sys.modules if name.startswith("unlearnable_transforms.app")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "starlette", None)
    monkeypatch.setitem(sys.modules, "starlette.applications", None)
    assert main(["app", "--no-browser"]) == 2
    assert "pip install 'unlearnable-transforms[app]'" in capsys.readouterr().err
