"""What defenses do to CUDA, offline on handwritten digits, or on a set of the Hub.

python examples/compare_defenses.py [digits | cifar10 | cifar100 | tiny-imagenet | imagenet-100] [FOLDER]

On a set of the Hub these are nine trainings, of a minute or two each on two cores where pictures have 32 px.
"""

import sys
import tempfile

from samples import load

import unlearnable_transforms as ut


def main(name: str = "digits", out: str | None = None) -> None:
    out = out or tempfile.mkdtemp()
    train, test = load(name, side=8, rows=400)
    report = ut.evaluate(
        clean=train,
        test=test,
        poisons=[ut.CUDAPoison(key=ut.Key.public("example"))],  # in earnest: a key of your own
        defenses=["erm", "gaussian", "jpeg:quality=50"],
        recipe="digits" if name == "digits" else "screen",
        image_size=64 if name == "imagenet-100" else None,  # those are of many sizes
        out=out,
    )
    print(report)
    print("Look at", report.save(out))


if __name__ == "__main__":
    main(*sys.argv[1:3])
