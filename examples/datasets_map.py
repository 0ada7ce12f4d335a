"""Protect a Hugging Face data set with ``ds.map``, offline on handwritten digits, or on one of the Hub.

python examples/datasets_map.py [digits | cifar10 | cifar100 | tiny-imagenet | imagenet-100]
"""

import sys

import numpy as np
from samples import columns, load

from unlearnable_transforms import CUDAPoison, Key


def main(name: str = "digits") -> None:
    train, _ = load(name)
    key = Key.generate()  # in earnest: key.save("my.key"), and never publish it
    protected = train.map(CUDAPoison(key=key), batched=True)
    image, _ = columns(train)
    print(protected)
    print("clean    ", *np.asarray(train[0][image])[8].ravel()[:16])
    print("protected", *np.asarray(protected[0][image])[8].ravel()[:16])


if __name__ == "__main__":
    main(*sys.argv[1:2])
