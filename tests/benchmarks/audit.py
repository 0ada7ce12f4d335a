"""Is `ut.audit` right? `python tests/benchmarks/audit.py [signs|measure]`.

`signs` audits, without a test set, clean sets (rows of CIFAR-10, JPEG-10 of them, digits, photographs of clothing) and
controls (random noise of the PSNR of each key's PIL and CUDA, without regard to the class; one picture's PIL noise, and
one CUDA filter, for all classes), and every method, whole, on a random half of the pictures, and after JPEG-10, for
each key. Methods without a fit protect rows 10,000-19,999 of CIFAR-10's training set; fitted ones rows 0-9,999, of
which their noise is; the first 4,000 of these are audited. Margins were chosen on rows 0-9,999 with the key screen-0.
Photographs are protected by CUDA. Printed are for each sign how far it is above its yardstick (* found), then what was
seen of each kind.

`measure` audits some of these (--sets) with clean test pictures, for each key: quick victims are trained, one seed. The
verdict is theirs alone; signs are looked for in the fewest rows, to save time. The clothing set's test file is too
small to test with: it is what is audited, and the training file is tested on.
"""

import argparse
import io
import warnings
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np
from datasets import disable_progress_bars, load_dataset
from PIL import Image
from sklearn.datasets import load_digits

from unlearnable_transforms import Audit, CUDAPoison, Key, audit, get_poison, list_poisons
from unlearnable_transforms.auditing.audit import FEWEST
from unlearnable_transforms.pixels import psnr
from unlearnable_transforms.poisons.fitted import FittedPoison

ROOT = Path(__file__).parents[2]
KEYS = ("screen-0", "screen-1", "screen-2")
FITTED, FRESH = slice(0, 10_000), slice(10_000, 20_000)
SHOWN = 4000  # rows of each that are audited
MEASURED = ("cuda", "sem", "pil", "tap", "sem, JPEG-10", "sem, half", "noise of PIL's PSNR")
TRAIN, TEST = "train-00000-of-00001.parquet", "test-00000-of-00001.parquet"
Set = tuple[list | np.ndarray, list[int]]


def jpeg(images: np.ndarray, quality: int = 10) -> np.ndarray:
    found = []
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=quality)
        found.append(np.asarray(Image.open(buffer)))
    return np.stack(found)


def noise(clean: np.ndarray, changed: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Normal noise of equal PSNR, clipped as pixels are."""
    sigma = 255 / 10 ** (psnr(clean, changed) / 20)
    for _ in range(3):  # clipping takes some of it away
        noisy = np.clip(np.rint(clean + sigma * random.standard_normal(clean.shape)), 0, 255).astype(np.uint8)
        sigma *= 10 ** ((psnr(clean, noisy) - psnr(clean, changed)) / 20)
    return noisy


def protected(method: str, key: str, images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, list]:
    """Clean pictures, the same protected, and their labels."""
    poison = get_poison(method)(key=Key.public(key))
    rows = FITTED if isinstance(poison, FittedPoison) and poison.needs_ids else FRESH
    clean, tokens = images[rows], labels[rows].tolist()
    if not poison.fitted:
        poison.fit((clean, tokens))
    clean, tokens = clean[:SHOWN], tokens[:SHOWN]
    return clean, poison.apply(clean, tokens), tokens


def kinds(clean: np.ndarray, changed: np.ndarray, random: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
    yield "", changed
    half = random.random(len(clean)) < 0.5
    yield ", half", np.where(half[:, None, None, None], changed, clean)
    yield ", JPEG-10", jpeg(changed)


def clean_sets(images: np.ndarray, labels: np.ndarray, photographs: Set) -> Iterator[tuple[str, Set]]:
    """Nothing in these tells the class on purpose."""
    for start in range(0, 50_000, 10_000):
        rows = slice(start, start + 10_000)
        yield f"CIFAR-10, rows from {start:,}", (images[rows], labels[rows].tolist())
    few = np.flatnonzero(labels < 3)[:3000]
    yield "CIFAR-10, three classes, 3,000 rows", (images[few], labels[few].tolist())
    yield "CIFAR-10, 600 rows", (images[:600], labels[:600].tolist())
    yield "CIFAR-10, JPEG-10", (jpeg(images[FRESH]), labels[FRESH].tolist())
    yield "photographs of clothing", photographs
    digits = load_digits()
    small = np.rint(digits.images * 255 / 16).astype(np.uint8)
    yield "digits, 8 x 8", (small, digits.target.tolist())
    for side in (16, 32):
        large = [np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC)) for image in small]
        yield f"digits, enlarged to {side} x {side}", (np.stack(large), digits.target.tolist())


def controls(key: str, images: np.ndarray, labels: np.ndarray) -> Iterator[tuple[str, Set]]:
    """Changed as much as protected pictures are, but all classes alike."""
    random = np.random.default_rng(KEYS.index(key))
    clean, changed, tokens = protected("pil", key, images, labels)
    yield "noise of PIL's PSNR", (noise(clean, changed, random), tokens)
    one = changed[0].astype(int) - clean[0]
    yield "one picture's PIL noise on all", (np.clip(clean + one, 0, 255).astype(np.uint8), tokens)
    clean, changed, tokens = protected("cuda", key, images, labels)
    yield "noise of CUDA's PSNR", (noise(clean, changed, random), tokens)
    yield "one CUDA filter for all", (CUDAPoison(key=Key.public(key)).apply(clean, [0] * len(clean)), tokens)


def methods(key: str, images: np.ndarray, labels: np.ndarray, photographs: Set) -> Iterator[tuple[str, Set]]:
    random = np.random.default_rng(KEYS.index(key))
    for method in list_poisons():
        clean, changed, tokens = protected(method, key, images, labels)
        for behind, made in kinds(clean, changed, random):
            yield method + behind, (made, tokens)
    poison = CUDAPoison(key=Key.public(key))
    pictures = [poison.apply(image[None], [label])[0] for image, label in zip(*photographs, strict=True)]
    yield "photographs, cuda", (pictures, photographs[1])


def line(name: str, key: str, found: Audit) -> str:
    values = {sign.name: f"{sign.value - sign.reference:+.2f}{'*' if sign.found else ' '}" for sign in found.signs}
    figures = " ".join(f"{sign} {value}" for sign, value in values.items())
    share = f"share {found.share:4.0%}" if found.found else ""
    return f"{name:36} {key:8} {found.verdict:22} {share:13} {figures} grid {found.grid or 0:.2f}"


def signs(arguments: argparse.Namespace, images: np.ndarray, labels: np.ndarray, photographs: Set) -> None:
    told: dict[str, list[bool]] = {}

    def tell(kind: str, name: str, key: str, data: Set) -> None:
        found = audit(data, rows=arguments.rows)
        print(line(name, key, found), flush=True)
        told.setdefault(kind or name, []).append(found.found)

    for name, data in () if arguments.no_clean else clean_sets(images, labels, photographs):
        tell("clean", name, "", data)
    for key in arguments.keys:
        for name, data in controls(key, images, labels):
            tell("controls", name, key, data)
        for name, data in methods(key, images, labels, photographs):
            tell("", name, key, data)
    print("\nSigns seen, of so many sets (clean and controls: false alarms):")
    for name, results in told.items():
        print(f"  {name:24} {sum(results)} of {len(results)}")


def measure(
    arguments: argparse.Namespace, images: np.ndarray, labels: np.ndarray, test: Set, photographs: Set, more: Set
) -> None:
    """``test`` are the clean test pictures of CIFAR-10, ``more`` those of the photographs."""

    def tell(name: str, key: str, data: Set, test: Set) -> None:
        found = audit(data, test, rows=FEWEST)
        assert found.measured is not None
        figures = ", ".join(f"{defense} {value:.1%}" for defense, value in found.measured.accuracies.items())
        print(f"{name:22} {key:8} {found.verdict:28} reference {found.measured.reference:.1%}; {figures}", flush=True)

    if not arguments.no_clean:
        tell("clean", "", (images[FRESH], labels[FRESH].tolist()), test)
        tell("photographs, clean", "", photographs, more)
    unknown = set(arguments.sets)
    for key in arguments.keys:
        for name, data in chain(methods(key, images, labels, photographs), controls(key, images, labels)):
            unknown.discard(name)
            if name in arguments.sets:
                tell(name, key, data, more if name.startswith("photographs") else test)
    if unknown:
        raise SystemExit(f"there are no sets {sorted(unknown)}")


def pictures_of(path: Path) -> Set:
    data = load_dataset("parquet", data_files={"only": str(path)})["only"].with_format("numpy")
    return list(data["image"]), [int(label) for label in data["label"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=["signs", "measure"], default="signs")
    parser.add_argument("--keys", nargs="+", default=list(KEYS), choices=KEYS)
    parser.add_argument("--no-clean", action="store_true", help="leave clean sets out")
    parser.add_argument("--rows", type=int, default=4000, help="that the signs rest on, of `signs`")
    parser.add_argument("--sets", nargs="+", default=list(MEASURED), help="of `measure`, beside clean ones")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    arguments = parser.parse_args()
    disable_progress_bars()
    warnings.simplefilter("ignore")  # all-black pictures stay as they are
    images, labels = pictures_of(arguments.data / "cifar10" / TRAIN)
    images, labels = np.stack(images), np.array(labels)
    photographs = pictures_of(arguments.data / "clothing" / TRAIN)
    if arguments.part == "measure":
        test, fewer = (pictures_of(arguments.data / name / TEST) for name in ("cifar10", "clothing"))
        measure(arguments, images, labels, test, fewer, photographs)
    else:
        signs(arguments, images, labels, photographs)


if __name__ == "__main__":
    main()
