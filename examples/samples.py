"""The data of the other examples: handwritten digits, offline, or a set of the Hugging Face Hub by its name.

python examples/samples.py [digits | cifar10 | cifar100 | tiny-imagenet | imagenet-100]
"""

import sys

import numpy as np
from datasets import ClassLabel, Dataset, Features, Image, load_dataset
from PIL import Image as PILImage
from sklearn.datasets import load_digits

HUB = {
    "cifar10": "uoft-cs/cifar10",
    "cifar100": "uoft-cs/cifar100",
    "tiny-imagenet": "zh-plus/tiny-imagenet",
    "imagenet-100": "clane9/imagenet-100",
}
TESTS = ("test", "validation", "valid")


def digits(side: int = 16, rows: int = 1000) -> tuple[Dataset, Dataset]:
    """Training and test set of handwritten digits, enlarged to ``side`` pixels."""
    bunch = load_digits()
    small = [PILImage.fromarray(pixels) for pixels in np.rint(bunch.images * (255 / 16)).astype(np.uint8)]
    images = [image.resize((side, side), PILImage.Resampling.BICUBIC) for image in small]
    features = Features({"image": Image(), "label": ClassLabel(names=[str(digit) for digit in range(10)])})
    whole = Dataset.from_dict({"image": images, "label": bunch.target.tolist()}, features=features)
    return whole.select(range(rows)), whole.select(range(1547, 1797))


def load(name: str = "digits", **of_digits: int) -> tuple[Dataset, Dataset]:
    """Training and test set: digits, with arguments of :func:`digits`, or one of the Hub."""
    if name == "digits":
        return digits(**of_digits)
    if name not in HUB:
        raise SystemExit(f"there is no set {name!r} here: digits, {', '.join(HUB)}")
    splits = load_dataset(HUB[name])
    return splits["train"], next(splits[test] for test in TESTS if test in splits)


def columns(data: Dataset) -> tuple[str, str]:
    """The names of its image and label column; of CIFAR-100's two kinds of labels the fine ones."""
    names = data.column_names
    return "img" if "img" in names else "image", "fine_label" if "fine_label" in names else "label"


if __name__ == "__main__":
    for data in load(*sys.argv[1:2]):
        print(data, *columns(data))
