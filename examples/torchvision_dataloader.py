"""Protect inside a DataLoader, before random augmentation: offline on handwritten digits, or on a set of the Hub.

python examples/torchvision_dataloader.py [digits | cifar10 | cifar100 | tiny-imagenet | imagenet-100]
"""

import itertools
import sys

import torch
from datasets import Dataset
from samples import columns, load
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from unlearnable_transforms import CUDAPoison, Key, ProtectedDataset


class Pairs(torch.utils.data.Dataset):
    """Rows as ``(image, label)``, as torchvision's own data sets give them."""

    def __init__(self, data: Dataset) -> None:
        self.data, self.columns = data, columns(data)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple:
        row = self.data[index]
        return tuple(row[name] for name in self.columns)


def main(name: str = "digits") -> None:
    train, _ = load(name)
    augment = v2.Compose(
        [v2.RGB(), v2.ToImage(), v2.RandomResizedCrop(32, scale=(0.5, 1)), v2.ToDtype(torch.float32, scale=True)]
    )
    # CIFAR10(...), ImageFolder(...) of torchvision go in as they are, with the transform that they have of their own.
    protected = ProtectedDataset(Pairs(train), CUDAPoison(key=Key.generate()), transform=augment)
    loader = DataLoader(protected, batch_size=64, shuffle=True, num_workers=2)
    for images, labels in itertools.islice(loader, 4):
        print(tuple(images.shape), images.dtype, labels[:5].tolist())


if __name__ == "__main__":
    main(*sys.argv[1:2])
