"""What the tests of evaluating share: a plan that is soon done, digits in parts that it takes, and made-up cells."""

from dataclasses import replace

import numpy as np
from sklearn.datasets import load_digits

from unlearnable_transforms import Key
from unlearnable_transforms.evaluation.cells import FORMAT, INIT
from unlearnable_transforms.evaluation.recipes import Column, Plan
from unlearnable_transforms.training.loop import DIGITS

PLAN = Plan("tiny", replace(DIGITS, epochs=2), "smallcnn", columns={"at-fgsm": Column({"eps": 1 / 255}, epochs=3)})
KEY = Key.public("evaluate")


def digit_parts() -> dict:
    """150 digits to train on, 80 to test on, 60 that the attacker has: uint8 (N, 8, 8) and labels."""
    loaded = load_digits()
    images = np.rint(loaded.images * (255 / 16)).astype(np.uint8)
    parts = {"clean": slice(0, 150), "test": slice(150, 230), "attacker_clean": slice(230, 290)}
    return {name: (images[rows], loaded.target[rows]) for name, rows in parts.items()}


PARTS = digit_parts()
NEEDED = {"clean": PARTS["clean"], "test": PARTS["test"], "recipe": PLAN, "progress": False}  # by every evaluation


def cell(label: str, defense: str, last: float, *, role: str = "poison", seed: int = 0, **change) -> dict:
    """A made-up cell."""
    result = {
        "last": last, "last5": last - 0.05, "best": last + 0.05, "best_epoch": 1, "before_training": None,
        "macro_recall": last, "confusion": [[3, 1], [2, 2]], "test_accuracy": [last + 0.05, last],
        "train_accuracy": [0.8, 0.9], "train_loss": [1.0, 0.5], "batches": 2, "forward_images": 4,
        "backward_images": 4, "seconds": 1.0,
    }  # fmt: skip
    made = {
        "format": FORMAT,
        "id": f"{abs(hash((label, defense, seed))):016x}"[:16],
        "status": "done",
        "data": {"clean": "c", "train": label, "test": "t", "spare": None, "rows": 10, "test_rows": 8,
                 "image_size": 8, "classes": ["a", "b"]},
        "set": {"label": label, "role": role, "of": None, "config": {"method": "cuda"}},
        "defense": {"label": defense, "name": defense, "version": 1, "arguments": {}},
        "victim": "smallcnn",
        "init": INIT,
        "recipe": {"name": "screen", "epochs": 2},
        "plain": {"epochs": 2},
        "seed": seed,
        "result": result,
        "machine": {"processor": "a processor", "threads": 1},
        "versions": {"torch": "2"},
        "date": "2026-11-24 10:00 UTC",
    }  # fmt: skip
    return {**made, **change}
