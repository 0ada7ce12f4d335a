"""``ds.map`` with a method that learns its noise from the data first: SEM. Offline on digits, or on a set of the Hub.

python examples/map_learnt_noise.py [digits | cifar10 | cifar100 | tiny-imagenet | imagenet-100]

On digits the fit is cut short: it takes seconds, protects nothing, and says so. On a set of the Hub it is the preset
``cpu``: minutes for 10,000 pictures of 32 px, hours for large ones without a GPU.
"""

import sys

import numpy as np
from samples import columns, load

from unlearnable_transforms import Key, SEMPoison

SHORT = {"surrogate": "smallcnn", "steps": 15, "augment": "crop"}  # digits must not be mirrored


def main(name: str = "digits") -> None:
    train, _ = load(name, rows=200)
    options = SHORT if name == "digits" else {}
    key = Key.generate()  # in earnest: key.save("my.key"), and never publish it

    poison = SEMPoison(key=key, data=train, **options)
    protected = train.map(poison, batched=True)

    image, _ = columns(train)
    before, after = (np.asarray(data[0][image], int) for data in (train, protected))
    print(protected)
    print("the noise is", poison.noise, "and changes the first picture by at most", np.abs(after - before).max())
    print("what the fit found:", {name: poison.report[name] for name in ("surrogate_accuracy", "separability", "psnr")})

    again = SEMPoison(key=key, noise=poison.noise, **options)  # by name, without the data
    print("the same from the cache:", np.array_equal(np.asarray(again(train[0])[image]), after))


if __name__ == "__main__":
    main(*sys.argv[1:2])
