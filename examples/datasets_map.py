"""Protect a Hugging Face data set with ``ds.map``, offline on handwritten digits: python examples/datasets_map.py"""

import numpy as np
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage
from sklearn.datasets import load_digits

from unlearnable_transforms import CUDAPoison, Key


def digits() -> Dataset:
    bunch = load_digits()
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    features = Features({"image": Image(), "label": ClassLabel(names=[str(digit) for digit in range(10)])})
    return Dataset.from_dict(
        {"image": [PILImage.fromarray(image) for image in pixels], "label": bunch.target.tolist()}, features=features
    )


def main() -> None:
    data = digits()  # or datasets.load_dataset("uoft-cs/cifar10", split="train")
    key = Key.generate()  # in earnest: key.save("my.key"), and never publish it
    protected = data.map(CUDAPoison(key=key), batched=True)
    print(protected)
    print("clean    ", np.asarray(data[0]["image"])[3])
    print("protected", np.asarray(protected[0]["image"])[3])


if __name__ == "__main__":
    main()
