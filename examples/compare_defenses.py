"""What defenses do to CUDA, offline on handwritten digits: python examples/compare_defenses.py [FOLDER]"""

import sys
import tempfile

import numpy as np
from sklearn.datasets import load_digits

import unlearnable_transforms as ut


def main() -> None:
    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    out = sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()
    report = ut.evaluate(
        clean=(images[:1300], digits.target[:1300]),
        test=(images[1300:], digits.target[1300:]),
        poisons=[ut.CUDAPoison(key=ut.Key.public("example"))],  # in earnest: a key of your own
        defenses=["erm", "gaussian", "jpeg:quality=50"],
        recipe="digits",
        out=out,
    )
    print(report)
    print("Look at", report.save(out))


if __name__ == "__main__":
    main()
