"""Draw pictures before and after CUDA, from a Parquet file with an image and a label column.

python examples/picture_cifar.py ../shared/data/cifar10/train-00000-of-00001.parquet docs/images/cifar10.png
"""

import sys

import numpy as np
from datasets import load_dataset
from matplotlib.figure import Figure

from unlearnable_transforms import CUDAPoison, Key


def main(source: str, target: str) -> None:
    data = load_dataset("parquet", data_files=source, split="train[:200]")
    labels = data["label"]
    rows = [labels.index(label) for label in sorted(set(labels))][:10]
    poison = CUDAPoison(key=Key.public("picture"))
    pairs = [(np.asarray(image), label) for image, label in zip(data[rows]["image"], data[rows]["label"], strict=True)]
    figure = Figure(figsize=(1.2 * len(pairs), 3.8), facecolor="white")
    axes = figure.subplots(3, len(pairs))
    for column, (before, label) in zip(axes.T, pairs, strict=True):
        after = poison(before, label)[0]
        difference = np.clip(128 + 4 * (after.astype(int) - before), 0, 255).astype(np.uint8)
        for cell, picture in zip(column, (before, after, difference), strict=True):
            cell.imshow(picture)
            cell.set_axis_off()
    for row, name in enumerate(("clean", "protected", "difference x4")):
        axes[row, 0].set_title(name, loc="left", fontsize=11)
    figure.tight_layout(pad=0.4)
    figure.savefig(target, dpi=110)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        main(*sys.argv[1:])
    else:
        print(__doc__)
