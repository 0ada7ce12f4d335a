"""Protect as the first op of an albumentations pipeline: offline on handwritten digits, or on a set of the Hub.

python examples/albumentations_pipeline.py [digits | cifar10 | cifar100 | tiny-imagenet | imagenet-100]
"""

import sys

import albumentations as A
import numpy as np
from samples import columns, load

import unlearnable_transforms as ut


def main(name: str = "digits") -> None:
    train, _ = load(name)
    image, label = columns(train)
    poison = ut.CUDAPoison(key=ut.Key.generate())
    pipeline = A.Compose([ut.albumentations.Protect(poison), A.RandomResizedCrop(size=(32, 32), scale=(0.5, 1))])
    for row in train.select(range(4)):
        result = pipeline(image=np.asarray(row[image].convert("RGB")), label=row[label])
        print(result["image"].shape, result["label"])
    print(A.to_dict(pipeline)["transform"]["transforms"][0])  # holds the key's fingerprint, not the key


if __name__ == "__main__":
    main(*sys.argv[1:2])
