"""Which of two shortcuts a network goes by: `python tests/benchmarks/pairing.py [--test-rows 2000]`.

Trains the screen's victim (rows 0-9,999 of CIFAR-10's training set, key screen-0), under COIN on what
CUDA, PIL and the two chains of them make of the pictures, and tests each network on rows of the test set: clean;
with CUDA's filters or PIL's noise of the true classes; with both; and with both at odds, CUDA of the true class and PIL
of the next. What the network answers there tells which of the two it has learnt to read.
"""

import argparse
from pathlib import Path

import torch
from datasets import disable_progress_bars
from screen import cifar, read

from unlearnable_transforms import Chain, CUDAPoison, Key, PILPoison
from unlearnable_transforms.defenses.coin import COIN
from unlearnable_transforms.training.loop import SCREEN, recipe_augment, train
from unlearnable_transforms.training.model import predict
from unlearnable_transforms.victims.registry import build_victim

CLASSES = 10
KEY = "screen-0"


def jittered(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Crop and flip, then COIN."""
    return COIN().augment(recipe_augment(SCREEN)(images, generator), generator)


def together(images: torch.Tensor, filtered: torch.Tensor, noisy: torch.Tensor) -> torch.Tensor:
    """Filtered pictures with what the noise adds to the plain ones."""
    return (filtered.int() + noisy.int() - images.int()).clamp_(0, 255).to(torch.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--test-rows", type=int, default=2000)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[3] / "shared" / "data")
    arguments = parser.parse_args()
    disable_progress_bars()
    data = cifar(arguments.data)
    train_set = data["train"].select(range(10_000))
    images, labels = read(train_set)
    test, truth = read(data["test"].select(range(arguments.test_rows)))
    following = (truth + 1) % CLASSES
    key = Key.public(KEY)
    cuda, pil = CUDAPoison(key=key), PILPoison(key=key).fit(train_set)
    poisons = {
        "cuda": cuda,
        "pil": pil,
        "cuda > pil": Chain([CUDAPoison(key=key), PILPoison(key=key)]).fit(train_set),
        "pil > cuda": Chain([PILPoison(key=key), CUDAPoison(key=key)]).fit(train_set),
    }
    noisy, noisy_next = (pil.extend((test, answers)).apply(test, answers) for answers in (truth, following))
    filtered = cuda.apply(test, truth)
    tests = {
        "clean": test,
        "CUDA": filtered,
        "PIL": noisy,
        "both": together(test, filtered, noisy),
        "at odds": together(test, filtered, noisy_next),
    }
    print(f"victims under COIN, key {KEY}: share of {len(test)} test pictures put into the true class, in %")
    print(f"{'trained on':12}" + "".join(f"{name:>9}" for name in tests) + "   at odds, PIL's class")
    for name, poison in poisons.items():
        net = build_victim("resnet9-screen", CLASSES, 32, 0)
        train(net, poison.apply(images, labels), labels, recipe=SCREEN, seed=0, augment=jittered)
        answers = {title: predict(net, shown).argmax(1).cpu() for title, shown in tests.items()}
        shares = "".join(f"{100 * (answer == truth).float().mean():9.1f}" for answer in answers.values())
        print(f"{name:12}{shares}{100 * (answers['at odds'] == following).float().mean():12.1f}", flush=True)


if __name__ == "__main__":
    main()
