"""Methods x defenses x seeds, with clean controls: an example of a comparison. Offline on digits.

python examples/comparison_study.py [digits | cifar10 | cifar100 | tiny-imagenet | imagenet-100] [FOLDER]

Stopped and started with the same folder, it goes on; more methods, defenses or seeds add to the table. On a set of the
Hub it takes two keys, three seeds, more defenses, methods that learn, controls, and the screen's victim: 441 trainings,
of a minute or two each on two cores where pictures have 32 px.
"""

import sys
import tempfile

from samples import load

import unlearnable_transforms as ut


def main(name: str = "digits", out: str | None = None) -> None:
    out = out or tempfile.mkdtemp()
    train, test = load(name, side=8, rows=400)
    if name == "digits":
        keys, seeds, methods = ["study-0"], [0], ["cuda", "lsp"]
        defenses, recipe, rows = ["erm", "jpeg:quality=10"], "digits", 400
    else:
        keys, seeds, methods = ["study-0", "study-1"], [0, 1, 2], ["cuda", "lsp", "pil", "sem", "em"]
        defenses = ["erm", "grayscale", "jpeg", "coin", "rsk-ff", "orthogonal-projection", "at-fgsm"]
        recipe, rows = "screen", 10_000
    poisons = {
        f"{method}, {key}": ut.get_poison(method)(key=ut.Key.public(key))  # fixed names: anybody can make them again
        for method in methods
        for key in keys
    }
    report = ut.evaluate(
        clean=train,
        test=test,
        poisons=poisons,
        defenses=defenses,
        seeds=seeds,
        recipe=recipe,
        rows=rows,
        image_size=64 if name == "imagenet-100" else None,  # those are of many sizes
        controls=name != "digits",
        out=out,
    )
    print(report)
    print("Look at", report.save(out))


if __name__ == "__main__":
    main(*sys.argv[1:3])
