"""What the tests share: fixed keys, pictures, data sets, and private folders instead of the user's."""

import atexit
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # before anything imports it: no call home
if "HF_HOME" not in os.environ:  # else the loopback Hub leaves its traces among the user's own data sets
    os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="hub-of-the-tests-")
    atexit.register(shutil.rmtree, os.environ["HF_HOME"], ignore_errors=True)
_worker = os.environ.get("PYTEST_XDIST_WORKER", "")
if _worker and Path(os.environ["HF_HOME"]).name != _worker:  # else two tests would share it at the same time
    os.environ["HF_HOME"] = str(Path(os.environ["HF_HOME"], _worker))
# Before NumPy and torch: on pictures this small, two threads are slower, and far slower beside another program.
os.environ["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", "1")
os.environ["OPENBLAS_NUM_THREADS"] = os.environ.get("OPENBLAS_NUM_THREADS", "1")

import datasets
import numpy as np
import pytest
import tiny_weights  # noqa: F401  # a victim with weights
import torch
from datasets.fingerprint import Hasher
from PIL import ExifTags, Image

from unlearnable_transforms import (
    ARPoison,
    AUEPoison,
    BAITPoison,
    Chain,
    CUDAPoison,
    EMPoison,
    HYPOPoison,
    Key,
    LSPPoison,
    OPSPoison,
    PILPoison,
    Poison,
    REMPoison,
    SEMPoison,
    TAPPoison,
    UCPoison,
    get_poison,
    list_poisons,
)
from unlearnable_transforms.cli.main import main
from unlearnable_transforms.poisons.optimised import OptimisedPoison

ROOT = Path(__file__).parents[1]
SHARED = Path(__file__).parents[2] / "shared" / "data"
FEATURES = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
CLASSES = ["ant", "bee", "cat", "dog"]
KEY = Key.public("roads")
SECRET = b"unlearnable tests: a secret key!"
NUMBERS, NAMES = [3, 0, 2, 0, 1], ["dog", "ant", "cat", "ant", "bee"]
SPOTS = {label: [(label, 2 * label, 255, 255 * (label % 2), 0)] for label in range(4)}
FILTERS = {label: np.random.default_rng(label).random((5, 5)) / 4 for label in range(4)}

TINY = {"surrogate": "smallcnn", "steps": 2, "batch_size": 16, "noise_steps": 2, "attack_steps": 1, "augment": "crop"}
STARTED = {"surrogates": ["tiny-weights", "tiny-weights"], "work_size": 8, "batch_size": 16, "noise_steps": 2}
_KEPT_NOISE = Path(tempfile.mkdtemp(prefix="noise-of-the-tests-"))
atexit.register(shutil.rmtree, _KEPT_NOISE, ignore_errors=True)


def known_pictures() -> np.ndarray:
    """uint8 (25, 12, 10, 3): what the fitted methods of the table learn from, five of each kind that the methods
    are called with: plain, from JPEG, with alpha, and grey, twice."""
    plain = pixels(5, 12, 10, 3)
    jpeg = np.stack([np.asarray(decode(encode(image, "JPEG"))) for image in plain])
    grey = [pixels(5, 12, 10)[..., None], pixels(5, 12, 10, 2)[..., :1]]
    return np.concatenate([plain, jpeg, pixels(5, 12, 10, 4)[..., :3], *(np.repeat(image, 3, 3) for image in grey)])


def fitted(method: Callable[..., Poison], labels: list, **arguments) -> Callable[[], Poison]:
    """How to make a fitted method; the noise of the first fit is found again in the tests that follow."""

    def make() -> Poison:
        cache = Path(os.environ["UNLEARNABLE_TRANSFORMS_CACHE"], "noise")
        shutil.copytree(_KEPT_NOISE, cache, dirs_exist_ok=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # so little noise protects nothing, and says so
            poison = method(key=KEY, data=(known_pictures(), labels * 5), **arguments)
        shutil.copytree(cache, _KEPT_NOISE, dirs_exist_ok=True)
        return poison

    return make


def chain(key: Key, data) -> Chain:
    return Chain([PILPoison(key=key), CUDAPoison(key=key), SEMPoison(key=key, **TINY)], data=data)


def in_two_steps(method: type[Poison], key: Key, data) -> Poison:
    return method(key=key, **(TINY if issubclass(method, OptimisedPoison) else {})).fit(data)


# Every method, in the ways that differ: name -> (how to make it, labels for five images). test_calling.py calls each of
# them in every way, test_state.py pickles and fingerprints them. A method without a row gets one below.
POISONS: dict[str, tuple[Callable[[], Poison], list]] = {
    "cuda": (lambda: CUDAPoison(key=KEY), NUMBERS),
    "cuda, text": (lambda: CUDAPoison(key=KEY), NAMES),
    "cuda, classes": (lambda: CUDAPoison(key=KEY, classes=CLASSES), NUMBERS),
    "cuda, classes and text": (lambda: CUDAPoison(key=KEY, classes=CLASSES), NAMES),
    "cuda, explicit": (lambda: CUDAPoison(kernels=FILTERS), NUMBERS),
    "cuda, large": (lambda: CUDAPoison(key=KEY, kernel_size=13), NUMBERS),
    "ar": (lambda: ARPoison(key=KEY, classes=[0, 1, 2, 3]), NUMBERS),
    "ar, text": (lambda: ARPoison(key=KEY, data=(known_pictures(), NAMES * 5)), NAMES),
    "lsp": (lambda: LSPPoison(key=KEY, classes=[0, 1, 2, 3]), NUMBERS),
    "lsp, text": (lambda: LSPPoison(key=KEY, data=(known_pictures(), NAMES * 5)), NAMES),
    "lsp, classes and text": (lambda: LSPPoison(key=KEY, classes=CLASSES), NAMES),
    "ops": (lambda: OPSPoison(key=KEY, data=(known_pictures(), NUMBERS * 5)), NUMBERS),
    "ops, text": (lambda: OPSPoison(key=KEY, data=(known_pictures(), NAMES * 5), sparsity=2), NAMES),
    "ops, explicit": (lambda: OPSPoison(pixels=SPOTS, grid=(12, 10)), NUMBERS),
    "pil": (fitted(PILPoison, NUMBERS), NUMBERS),
    "pil, text": (fitted(PILPoison, NAMES), NAMES),
    "pil, classes and text": (fitted(PILPoison, NAMES, classes=CLASSES), NAMES),
    "em": (fitted(EMPoison, NUMBERS, **TINY), NUMBERS),
    "em, class-wise": (fitted(EMPoison, NUMBERS, kind="class", **TINY), NUMBERS),
    "aue": (fitted(AUEPoison, NUMBERS, **{**TINY, "augment": "contrastive"}), NUMBERS),
    "aue, class-wise": (fitted(AUEPoison, NUMBERS, kind="class", **{**TINY, "augment": "contrastive"}), NUMBERS),
    "hypo": (fitted(HYPOPoison, NUMBERS, **TINY), NUMBERS),
    "sem": (fitted(SEMPoison, NUMBERS, **TINY), NUMBERS),
    "rem": (fitted(REMPoison, NUMBERS, **TINY), NUMBERS),
    "tap": (fitted(TAPPoison, NUMBERS, **TINY, restarts=2), NUMBERS),
    "tap, weights": (fitted(TAPPoison, NUMBERS, preset="photographs", **STARTED), NUMBERS),
    "tap, farthest": (fitted(TAPPoison, NUMBERS, preset="photographs", targets="farthest", **STARTED), NUMBERS),
    "bait": (fitted(BAITPoison, NUMBERS, steps=3, **STARTED), NUMBERS),
    "bait, colour": (fitted(BAITPoison, NUMBERS, steps=3, colour=3, **STARTED), NUMBERS),
    "uc": (fitted(UCPoison, NUMBERS, steps=3, **STARTED), NUMBERS),
    "uc, colour": (fitted(UCPoison, NUMBERS, steps=3, colour=3, loss="features", **STARTED), NUMBERS),
    "chain": (fitted(chain, NUMBERS), NUMBERS),
}
for _name in sorted(set(list_poisons()) - {name.partition(",")[0] for name in POISONS}):
    POISONS[_name] = fitted(partial(in_two_steps, get_poison(_name)), NUMBERS), NUMBERS


@pytest.fixture(autouse=True)
def _private_places(tmp_path, monkeypatch):
    """Nothing is written to, or read from, the user's own folders."""
    monkeypatch.setenv("UNLEARNABLE_TRANSFORMS_CACHE", str(tmp_path / "unlearnable-cache"))
    monkeypatch.delenv("UNLEARNABLE_KEY_FILE", raising=False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets-cache")
    datasets.disable_progress_bars()


@pytest.fixture
def key() -> Key:
    return Key.public("tests")


@pytest.fixture
def poison(key) -> CUDAPoison:
    return CUDAPoison(key=key)


@pytest.fixture
def key_file(tmp_path) -> Path:
    """A secret key in a file."""
    return Key(SECRET).save(tmp_path / "my.key")


@pytest.fixture
def out(tmp_path) -> Path:
    """Where protected pictures go; nothing is there yet."""
    return tmp_path / "out"


@pytest.fixture
def ledger(tmp_path) -> Path:
    """Where a ledger goes; nothing is there yet."""
    return tmp_path / "ledger.parquet"


@pytest.fixture
def no_ledgers(tmp_path, monkeypatch) -> Callable[[], None]:
    """Called, it takes away the cache in which ledgers lie."""
    return lambda: monkeypatch.setenv("UNLEARNABLE_TRANSFORMS_CACHE", str(tmp_path / "empty"))


def command_here(out: Path, key_file: Path) -> Callable[..., int]:
    """`unlearnable protect SOURCE out OPTIONS` in this process, with one worker: its exit code."""
    fixed = ["--key", str(key_file), "--workers", "1"]
    return lambda source, *options: main(["protect", str(source), str(out), *fixed, *map(str, options)])


@pytest.fixture
def protect(out, key_file) -> Callable[..., int]:
    """`command_here` for the folder and the key of the test."""
    return command_here(out, key_file)


@pytest.fixture(scope="session")
def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """The 1797 handwritten digits, uint8 (N, 3, 8, 8), and their labels."""
    from sklearn.datasets import load_digits  # here: processes that import this file need not wait for it

    data, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(np.round(data * (255 / 16)).astype(np.uint8)).view(-1, 1, 8, 8)
    return images.expand(-1, 3, -1, -1).contiguous(), torch.from_numpy(labels).long()


@pytest.fixture(scope="session")
def clothing(tmp_path_factory) -> datasets.Dataset:
    """The first 6 photographs of a real data set, JPEG bytes of many sizes."""
    path = SHARED / "clothing" / "test-00000-of-00001.parquet"
    if not path.exists():
        pytest.skip(f"the data set {path.parent.name} is not at {path.parent}")
    cache = str(tmp_path_factory.mktemp("clothing"))
    data = datasets.load_dataset("parquet", data_files={"test": str(path)}, split="test", cache_dir=cache)
    return data.select(range(6))


def pixels(*shape: int, seed: int = 0) -> np.ndarray:
    """Random uint8 of a shape, with blocks of equal values so that encoders have something to lose."""
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def middling(count: int, *shape: int) -> np.ndarray:
    """Different pictures (count, H, W, C) with values so far from 0 and 255 that noise is not clipped."""
    return 100 + pixels(count, *shape) % 56


def arithmetic(side: int, channels: int) -> np.ndarray:
    """A picture (side, side + 3, channels) of integer arithmetic, the same for ever: what golden bytes are made of."""
    y, x, c = np.meshgrid(np.arange(side), np.arange(side + 3), np.arange(channels), indexing="ij")
    return ((x * 7 + y * 13 + c * 50 + (x * y) // 3) % 256).astype(np.uint8)


def tensors(images: np.ndarray) -> torch.Tensor:
    """Pictures (B, H, W, C) as (B, C, H, W)."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def encode(image: np.ndarray | Image.Image, format: str = "PNG", **options) -> bytes:
    """The bytes of a picture file."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def upright(image: np.ndarray) -> bytes:
    """A PNG stored lying on its side, with the EXIF tag that turns it upright."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    return encode(np.rot90(image).copy(), exif=exif.tobytes())


def decode(data: bytes) -> Image.Image:
    """The picture in a file's bytes, loaded."""
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def image_set(images: list, labels: list, features: datasets.Features = FEATURES) -> datasets.Dataset:
    """A data set in memory with the columns image and label. Bytes are stored as they are."""
    rows = [{"bytes": image, "path": None} if isinstance(image, bytes) else image for image in images]
    return datasets.Dataset.from_dict({"image": rows, "label": labels}, features=features)


def stored(data: datasets.Dataset, column: str = "image") -> list[dict]:
    """What is stored in an image column: ``{"bytes", "path"}`` a row."""
    return data.with_format("arrow")[:][column].to_pylist()


def run_python(code: str, *, timeout: float = 100, **environment: str) -> str:
    """The output of a fresh interpreter that can import the package and this file."""
    path = os.pathsep.join(
        [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "support"), os.environ.get("PYTHONPATH", "")]
    )
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="session")
def elsewhere(tmp_path_factory) -> dict:
    """What another process, with other hashes of text and one thread, makes of ``report``."""
    cache = str(tmp_path_factory.mktemp("cache-elsewhere"))
    code = "import conftest; print(conftest.report())"
    return json.loads(run_python(code, PYTHONHASHSEED="7", OMP_NUM_THREADS="1", UNLEARNABLE_TRANSFORMS_CACHE=cache))


def report() -> str:
    """Random words, fingerprints and protected bytes, as JSON."""
    images, known = pixels(5, 40, 43, 3), pixels(5, 12, 10, 3)
    poisons = {name: (make(), labels) for name, (make, labels) in POISONS.items()}
    return json.dumps(
        {
            "words": KEY.stream("x").words(3).tolist(),
            "derived": KEY.derive("user/name").fingerprint,
            "hashes": {name: Hasher.hash(poison) for name, (poison, _) in poisons.items()},
            "bytes": {
                name: hashlib.sha256(poison.apply(known if poison.needs_ids else images, labels).tobytes()).hexdigest()
                for name, (poison, labels) in poisons.items()
            },
        }
    )


def error_of(call: Callable[[], object], kind: type[Exception]) -> Exception:
    """The exception that a call raises."""
    with pytest.raises(kind) as caught:
        call()
    return caught.value
