"""Two defenses at once against a chain: `python tests/benchmarks/adaptive.py [--method "cuda, invertible > sem"]`.

A chain holds where one of its links does, so somebody who knows of it takes a defense against each link. Trains the
screen's victim (rows 0-9,999 of CIFAR-10's training set) on clean and on protected pictures, after JPEG 10 or in shades
of gray, which undo much of the noise, and with random sharpening and frequency filtering or COIN, which undo much of
the filters. Prints the accuracy on the clean test set after the last epoch.
"""

import argparse
from pathlib import Path

from datasets import disable_progress_bars
from methods import METHODS, make
from screen import cifar, read

from unlearnable_transforms import get_defense
from unlearnable_transforms.defenses.base import Defense, Setting
from unlearnable_transforms.training.loop import SCREEN, Augment, recipe_augment, train
from unlearnable_transforms.victims.registry import build_victim

CLASSES, SIDE = 10, 32
PAIRS = (("jpeg", {"quality": 10}, "rsk-ff"), ("jpeg", {"quality": 10}, "coin"), ("grayscale", {}, "rsk-ff"))


def after_crop(defense: Defense) -> Augment:
    """Crop and flip, then the defense's own augmentation, unless that does both."""
    own, crop_flip = defense.augment, recipe_augment(SCREEN)
    assert own is not None
    if defense.replaces_augment:
        return own
    return lambda batch, generator: own(crop_flip(batch, generator), generator)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="cuda, invertible > sem", choices=METHODS)
    parser.add_argument("--key", default="screen-0", help="name of a public key (default: screen-0)")
    parser.add_argument("--pairs", type=int, default=len(PAIRS), help="only the first N")
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[3] / "shared" / "data")
    arguments = parser.parse_args()
    disable_progress_bars()
    data = cifar(arguments.data)
    train_set = data["train"].select(range(10_000))
    images, labels = read(train_set)
    test = read(data["test"])
    protected = make(arguments.method, arguments.key).fit(train_set).apply(images, labels)
    setting = Setting(CLASSES, SIDE, "resnet9-screen", SCREEN, 0)
    print(f"{'first':10} {'then':8} {'clean':>6} {arguments.method:>24}")
    for first, options, then in PAIRS[: arguments.pairs]:
        accuracies = []
        for shown in (images, protected):
            squeeze, jitter = get_defense(first)(**options), get_defense(then)()
            prepared = jitter.prepare(squeeze.prepare(shown, labels, setting), labels, setting)
            net = build_victim("resnet9-screen", CLASSES, SIDE, 0)
            seen = jitter.test(squeeze.test(test[0], setting), setting), test[1]
            history = train(net, prepared, labels, recipe=SCREEN, seed=0, augment=after_crop(jitter), test=seen)
            accuracies.append(100 * history.last)
        print(f"{first:10} {then:8} {accuracies[0]:6.1f} {accuracies[1]:24.1f}", flush=True)


if __name__ == "__main__":
    main()
