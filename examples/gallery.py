"""What every method does to the same pictures: clean, protected, difference, spectrum. Runs offline.

python examples/gallery.py [FOLDER]

Writes gallery-NAME.jpg for each method, with a photograph of 256 px, one of 64 px, and a handwritten digit enlarged to
32 px in its rows. The photograph of 256 px is also written pixel by pixel: real-clean.jpg, real-NAME.jpg and
real-NAME-difference.jpg. start-clean.jpg, start-protected.jpg and start.jpg are a whole photograph with CUDA at the
strength normal, and the three pictures in a row. The README, docs/index.md, docs/gallery.md and the methods' pages show
all of them. Methods that learn noise are fitted
in STEPS steps on CROPS pictures of each of two classes: as strong as a real fit's noise, and of its kind, but it
protects nothing.
"""

import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

import unlearnable_transforms as ut
from unlearnable_transforms.poisons.fitted import FittedPoison
from unlearnable_transforms.poisons.optimised import OptimisedPoison

KEY = ut.Key.public("gallery")
STEPS = 20
CROPS = 8  # of each photograph, and digits of each class
BY_WORK_SIZE = ("bait", "uc")  # made at 112 px, which is larger than most of these pictures
COLUMNS = ("clean", "protected", "difference x 4", "spectrum of the difference")


def photographs() -> tuple[list[Image.Image], list[int]]:
    """Crops of scikit-learn's two photographs, 64 px but for the first of each, which is 256 px; and their classes."""
    places = np.random.default_rng(0)
    pictures, labels = [], []
    for label, photograph in enumerate(load_sample_images().images):
        for number in range(CROPS):
            top, left = (85, 192) if number < 2 else places.integers(0, (427 - 256, 640 - 256))
            crop = Image.fromarray(photograph[top : top + 256, left : left + 256])
            pictures.append(crop if number == 0 else crop.resize((64, 64), Image.Resampling.LANCZOS))
            labels.append(label)
    return pictures, labels


def digits() -> tuple[list[Image.Image], list[int]]:
    """Handwritten threes and fives, enlarged to 32 px; and their classes."""
    bunch = load_digits()
    rows = np.concatenate([np.flatnonzero(bunch.target == digit)[:CROPS] for digit in (3, 5)])
    pixels = np.rint(bunch.images[rows] * (255 / 16)).astype(np.uint8)
    pictures = [Image.fromarray(image).resize((32, 32), Image.Resampling.BICUBIC) for image in pixels]
    return pictures, [int(bunch.target[row]) for row in rows]


def make(name: str, data: tuple[list[Image.Image], list[int]]) -> ut.Poison:
    """The method with its default strength, fitted where it needs to be."""
    method = ut.get_poison(name)
    options = {"steps": STEPS, "batch_size": CROPS} if issubclass(method, OptimisedPoison) else {}
    if method.name in BY_WORK_SIZE:
        options["work_size"] = min(min(image.size) for image in data[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ut.FitWarning)  # so short a fit protects nothing, and says so
        return method(key=KEY, **options).fit(data)


def spectrum(difference: np.ndarray) -> np.ndarray:
    """How strong each frequency of a difference (H, W, 3) is, log scale, 0..1; slow waves in the middle."""
    window = np.hanning(len(difference))
    waves = np.fft.fft2(difference.mean(2) * window[:, None] * window)
    strength = np.log(1 + np.abs(np.fft.fftshift(waves)))
    return strength / max(float(strength.max()), 1e-9)


def save(path: Path, image: np.ndarray) -> None:
    """An image (H, W, 3) of whole levels as a JPEG that keeps colours at full size."""
    Image.fromarray(image.astype(np.uint8)).save(path, quality=95, subsampling="4:4:4")


def magnified(clean: np.ndarray, protected: np.ndarray) -> np.ndarray:
    """Four times the difference of two images (H, W, 3) of whole levels, around mid-grey."""
    return np.clip(128 + 4 * (protected - clean), 0, 255)


def draw_start(folder: Path) -> None:
    """The pictures of the first pages: a whole photograph, pixel by pixel, and its middle in a row."""
    clean = load_sample_images().images[1]
    protected = ut.CUDAPoison(key=KEY)(clean, "flower")[0]
    save(folder / "start-clean.jpg", clean)
    save(folder / "start-protected.jpg", protected)
    three = (clean, protected, magnified(clean.astype(int), protected.astype(int)))
    gap = np.full((256, 8, 3), 255)
    crops = [image[85 : 85 + 256, 192 : 192 + 256] for image in three]
    save(folder / "start.jpg", np.concatenate([crops[0], gap, crops[1], gap, crops[2]], axis=1))


def draw(name: str, folder: Path) -> None:
    """The pictures of a method."""
    pictures, labels = photographs()
    small, their_labels = digits()
    poison, of_digits = make(name, (pictures, labels)), make(name, (small, their_labels))
    rows = [
        (poison, pictures[CROPS], labels[CROPS]),
        (poison, pictures[1], labels[1]),
        (of_digits, small[0], their_labels[0]),
    ]
    figure = Figure(figsize=(9.2, 7), facecolor="white")
    axes = figure.subplots(len(rows), len(COLUMNS))
    for number, (cells, (method, picture, label)) in enumerate(zip(axes, rows, strict=True)):
        clean, protected = (np.asarray(one.convert("RGB"), int) for one in (picture, method(picture, label)[0]))
        difference = magnified(clean, protected)
        if number == 0:
            save(folder / "real-clean.jpg", clean)
            save(folder / f"real-{name}.jpg", protected)
            save(folder / f"real-{name}-difference.jpg", difference)
        for cell, image in zip(cells, (clean, protected, difference, spectrum(protected - clean)), strict=True):
            cell.imshow(image, cmap="magma", vmin=0, vmax=1 if image.ndim == 2 else None)
            cell.set_axis_off()
    for cell, title in zip(axes[0], COLUMNS, strict=True):
        cell.set_title(title, fontsize=11, loc="left")
    figure.tight_layout(pad=0.5)
    figure.savefig(folder / f"gallery-{name}.jpg", dpi=100, pil_kwargs={"quality": 88})


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
    draw_start(folder)
    for name in ut.list_poisons():
        learns = issubclass(ut.get_poison(name), FittedPoison)
        draw(name, folder)
        print(f"{name:5}", "noise made in a short fit" if learns else "as it would be published")
    print("Look at", folder)


if __name__ == "__main__":
    main()
