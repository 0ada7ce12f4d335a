"""What real trainers get from protected photographs: `python tests/benchmarks/trainers.py [--size 96] [--jobs 1]`.

Data: `clothing` (CC0, ten classes, 1,593 training and 510 test photographs), protected at full size and shrunk by the
trainer. Trainers: a small network from nothing; EfficientNet-Lite0 with ImageNet weights, all layers fine-tuned
(`erm`) and as a linear probe (`last-layer`). Sets: clean, the strengths of CUDA under one key, and the control, one
filter for all classes. Every training is a cell in docs/results/trainers; a run that was stopped goes on.
"""

import argparse
from pathlib import Path

import unlearnable_transforms as ut

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data" / "clothing"
RESULTS = ROOT / "docs" / "results" / "trainers"
KEY = ut.Key.public("clothing-0")
LITE = "efficientnet_lite0:weights=imagenet"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--size", type=int, default=96, help="side to which trainers shrink, in pixels")
    parser.add_argument("--strength", action="append", help="of CUDA; again for more (default: normal)")
    parser.add_argument("--jobs", type=int, default=1, help="processes of one thread")
    options = parser.parse_args()
    strengths = options.strength or ["normal"]
    shared = {
        "clean": str(options.data / "train-00000-of-00001.parquet"),
        "test": str(options.data / "test-00000-of-00001.parquet"),
        "poisons": {f"cuda {strength}": ut.CUDAPoison(key=KEY, strength=strength) for strength in strengths},
        "recipe": "photographs",
        "image_size": options.size,
        "workers": options.jobs,
        "out": RESULTS,
        "samples": 0,
    }
    print(ut.evaluate(victims=[LITE], defenses=["last-layer", "erm"], **shared))
    print(ut.evaluate(defenses=["erm"], **shared))


if __name__ == "__main__":
    main()
