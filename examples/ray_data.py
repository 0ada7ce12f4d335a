"""Protect Parquet with Ray Data, offline on handwritten digits on this machine, or a set of the Hub.

python examples/ray_data.py [digits | cifar10 | cifar100 | tiny-imagenet | imagenet-100]

For files and Parquet that lie on a disk the command line does the same, and can be stopped and started again:

unlearnable protect in/ out/ --key my.key --engine ray --workers 64
"""

import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import ray
from datasets import Dataset
from samples import columns, load

import unlearnable_transforms as ut

FILES = 4


def main(name: str = "digits") -> None:
    train, _ = load(name)
    train = train.add_column("row", range(len(train)))  # Ray gives rows back in any order
    place = Path(tempfile.mkdtemp())
    (place / "in").mkdir()
    for number in range(FILES):
        train.shard(FILES, number).to_parquet(place / "in" / f"{number}.parquet")

    # One that learns is fitted here, before Ray gets it. In earnest: key.save("my.key"), and never publish it.
    poison = ut.CUDAPoison(key=ut.Key.generate())
    actors = 1 if name == "digits" else os.cpu_count() or 1  # so few digits are one block, which one actor takes
    # On a cluster: ray.init("auto"), folders that all its machines see, and an actor a core.
    with ray.init(num_cpus=actors + 1, include_dashboard=False, log_to_driver=False):  # a core reads and writes
        data = ray.data.read_parquet(str(place / "in"))
        pool = ray.data.ActorPoolStrategy(size=actors)
        protected = data.map_batches(ut.ray.Protect, fn_constructor_kwargs={"poison": poison}, compute=pool)
        protected.write_parquet(str(place / "out"))

    written = sorted(str(path) for path in (place / "out").glob("*.parquet"))
    found = Dataset.from_parquet(written, features=train.features).sort("row")
    mapped = train.map(poison, batched=True)
    image, _ = columns(train)
    every_row = found.remove_columns(image)[:] == mapped.remove_columns(image)[:]
    same = every_row and all(
        np.array_equal(np.asarray(one[image]), np.asarray(other[image]))
        for one, other in zip(found, mapped, strict=True)
    )
    print(found)
    print(f"every row once: {every_row}; the pixels of ds.map(poison): {same}")
    print("Look at", place / "out")
    if not same:
        sys.exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:2])
