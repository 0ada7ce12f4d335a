"""How AR's processes are found, and what they do over large pictures: `python tests/benchmarks/ar.py`.

Prints, for 10, 100 and 1,000 classes: seconds of the search on one core; the share of patterns, in whole levels and of
starts that the search has not seen, that the filter of their own class answers least to; and the lowest answer to
another class's filter. Then, for the processes of 10 keys x 10 classes without the limit of 32 pixels: the share whose
pattern grows to more than ten times its strength at 32 pixels, and the largest strength.
"""

import time

import numpy as np

from unlearnable_transforms import Key
from unlearnable_transforms.poisons import ar

SIDES = (32, 64, 96, 224, 512)


def patterns(processes: np.ndarray, side: int) -> np.ndarray:
    """A pattern of each class, not scaled, (n, 3, side, side)."""
    border = 4 * (side + 4) - 4
    words = Key.public("patterns").stream(side).words(processes[:, :, 0].size * border)
    return ar.generate(ar.normals(words).reshape(-1, 3, border), processes, side, side).transpose(3, 2, 0, 1)


def answers(noise: np.ndarray, processes: np.ndarray) -> np.ndarray:
    """Of each pattern (rows) to each class's filter, as the search counts them; 900 windows."""
    filters = np.concatenate([processes, -np.ones((len(processes), 3, 1))], 2).reshape(-1, 27)
    found = []
    for windows in np.lib.stride_tricks.sliding_window_view(noise, (3, 3), axis=(2, 3)):
        outputs = windows.transpose(1, 2, 0, 3, 4).reshape(-1, 27) @ filters.T
        found.append(np.sqrt((outputs**2).sum(0) * len(outputs) / (2 * np.pi)))
    return np.stack(found)


def main() -> None:
    print("classes   search, s of one core   own filter answers least   lowest answer to another")
    for count in (10, 100, 1000):
        start = time.process_time()
        processes = ar.coefficients(Key.public("search"), tuple(f"i:{label}" for label in range(count)))
        seconds = time.process_time() - start
        noise = patterns(processes, ar.TILE)
        noise /= np.linalg.norm(noise.reshape(count, -1), axis=1)[:, None, None, None]
        found = answers(np.rint(255 * noise) / 255, processes)
        own = (found.argmin(1) == np.arange(count)).mean()
        np.fill_diagonal(found, np.inf)
        print(f"{count:7}   {seconds:21.1f}   {own:24.1%}   {found.min():25.2f}", flush=True)

    tokens = tuple(f"i:{label}" for label in range(10))
    processes = np.concatenate([ar.coefficients(Key.public(f"growth {seed}"), tokens) for seed in range(10)])
    print("\nside, px   grown tenfold   largest root mean square")
    first = None
    for side in SIDES:
        parts = [patterns(processes[begin : begin + 10], side) for begin in range(0, len(processes), 10)]
        strength = np.sqrt(np.concatenate([(part**2).mean((1, 2, 3)) for part in parts]))
        first = strength if first is None else first
        print(f"{side:8}   {(strength > 10 * first).mean():13.0%}   {strength.max():24.3g}", flush=True)


if __name__ == "__main__":
    main()
