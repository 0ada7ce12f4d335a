"""Protect inside a DataLoader, before random augmentation. Runs offline: python examples/torchvision_dataloader.py"""

import torch
from torch.utils.data import DataLoader
from torchvision.datasets import FakeData
from torchvision.transforms import v2

from unlearnable_transforms import CUDAPoison, Key, ProtectedDataset


def main() -> None:
    augment = v2.Compose(
        [v2.ToImage(), v2.RandomCrop(32, 4), v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True)]
    )
    data = FakeData(size=256, image_size=(3, 32, 32), num_classes=10, transform=augment)  # or CIFAR10, ImageFolder ...
    protected = ProtectedDataset(data, CUDAPoison(key=Key.generate()))  # runs the data set's transform after the poison
    for images, labels in DataLoader(protected, batch_size=64, num_workers=2):
        print(tuple(images.shape), images.dtype, labels[:5].tolist())


if __name__ == "__main__":
    main()
