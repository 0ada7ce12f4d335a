"""``--method NAME:ARGUMENT=VALUE``: the grammar of ``--defense``, for methods and chains of them."""

import re
from pathlib import Path

import numpy as np
import pytest
from conftest import CLASSES, decode, encode, pixels

import unlearnable_transforms as ut
from unlearnable_transforms.cli.main import main

IMAGES = pixels(8, 32, 32, 3)
LABELS = [row % 2 for row in range(8)]


@pytest.fixture
def photos(tmp_path) -> Path:
    """Eight images of two classes."""
    for row, image in enumerate(IMAGES):
        path = tmp_path / "photos" / CLASSES[row % 2] / f"{row}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(image))
    return tmp_path / "photos"


def written(out: Path) -> np.ndarray:
    return np.stack([np.asarray(decode((out / CLASSES[row % 2] / f"{row}.png").read_bytes())) for row in range(8)])


@pytest.mark.parametrize(
    ("options", "make"),
    [
        (["--method", "cuda:strength=strong"], lambda key: ut.CUDAPoison(key, strength="strong")),
        (["--strength", "strong"], lambda key: ut.CUDAPoison(key, strength="strong")),
        (["--kernel-size", "5", "--blur", "0.2"], lambda key: ut.CUDAPoison(key, kernel_size=5, blur=0.2)),
        (["--invertible"], lambda key: ut.CUDAPoison(key, invertible=True)),
        (["--method", "lsp", "--eps", "4"], lambda key: ut.LSPPoison(key, eps=4 / 255)),
        (
            ["--method", "cuda:kernel_size=5,blur=0.2 > lsp:cells=5,eps=4/255"],
            lambda key: ut.Chain(
                [ut.CUDAPoison(key, kernel_size=5, blur=0.2), ut.LSPPoison(key, cells=5, eps=4 / 255)]
            ),
        ),
        (
            ["--method", "ops:sparsity=2,cuda", "--strength", "subtle"],
            lambda key: ut.Chain([ut.OPSPoison(key, sparsity=2), ut.CUDAPoison(key, strength="subtle")]),
        ),
    ],
)
def test_arguments_of_methods_on_the_command_line(protect, photos, out, key_file, options, make):
    assert protect(photos, *options) == 0
    poison = make(ut.Key.load(key_file)).fit((IMAGES, LABELS))
    assert (written(out) == poison.apply(IMAGES, LABELS)).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "smem"], "no method 'smem': did you mean 'sem'?; the methods are"),
        (["--method", "sem:step=5"], "sem has no argument 'step': did you mean 'steps'?; it has image_key"),
        (["--method", "sem:steps=-1"], "steps is a whole number from 0, got -1"),
        (["--method", "sem:surrogate=resnet"], "surrogate is one of "),
        (["--method", "sem:preset=quick"], "preset is one of paper, fast, cpu, got 'quick'"),
        (["--method", "sem:augment=cropflip"], "did you mean 'crop-flip'"),
        (["--method", "sem:noise=abc"], "sem has no argument 'noise'"),
        (["--method", "cuda:kernels=3"], "cuda has no argument 'kernels'"),
        (["--method", "cuda:strength"], "strength is one of subtle, normal, strong, got ''"),
        (["--method", "cuda:strength=subtle", "--strength", "strong"], "strength is both in --method"),
        (["--method", "chain"], 'a chain is written as its links: --method "cuda > sem"'),
        (["--method", "cuda >"], "no method ''"),
        (["--strength", "stron"], "strength is one of subtle, normal, strong, got 'stron': did you mean 'strong'?"),
        (["--method", "pil", "--preset", "fast"], "the method pil has no option --preset"),
    ],
)
def test_wrong_arguments_are_one_line_that_names_the_choices(protect, photos, out, capsys, options, message):
    assert protect(photos, *options) == 2
    line = capsys.readouterr().err
    assert re.fullmatch(r"unlearnable: error: .*\n", line)
    assert message in line
    assert not out.exists()


def test_methods_names_the_arguments_of_one(capsys):
    assert main(["methods", "sem"]) == 0
    shown = capsys.readouterr().out
    assert "eps: a number in [1/255, 127/255], in units of 1 = white (default: 8/255)" in shown
    assert "preset: one of paper, fast, cpu (default: cpu)" in shown
    assert "noise:" not in shown
    assert "data:" not in shown
    assert main(["methods", "nothing"]) == 2
    assert "no method 'nothing'" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["lsp", "ops", "ar", "cuda > lsp", "lsp,ops:sparsity=2"])
def test_what_was_fitted_while_it_was_protected_is_published_with_the_same_options(
    protect, photos, out, tmp_path, key_file, capsys, method
):
    assert protect(photos, "--method", method) == 0
    publish = ["publish", str(out), "user/name", "--key", str(key_file), "--originals-public", "no"]
    assert main([*publish, "--method", "ops:sparsity=3", "--folder", str(tmp_path / "wrong")]) == 2
    assert "was protected with" in capsys.readouterr().err
    assert main([*publish, "--method", method, "--folder", str(tmp_path / "ready")]) == 0
