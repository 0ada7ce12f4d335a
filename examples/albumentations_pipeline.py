"""Protect as the first op of an albumentations pipeline: python examples/albumentations_pipeline.py"""

import albumentations as A
import numpy as np

import unlearnable_transforms as ut


def main() -> None:
    poison = ut.CUDAPoison(key=ut.Key.generate())
    pipeline = A.Compose([ut.albumentations.Protect(poison), A.HorizontalFlip(p=0.5), A.RandomCrop(56, 56)])
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    result = pipeline(image=image, label=3)
    print(result["image"].shape, result["label"])
    print(A.to_dict(pipeline)["transform"]["transforms"][0])  # holds the key's fingerprint, not the key


if __name__ == "__main__":
    main()
