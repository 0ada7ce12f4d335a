"""k-means on whole numbers.

Points and centres are whole numbers and every sum stays below 2**53, so that nothing but the division of a mean is ever
rounded: equal points and an equal key give equal clusters, on every machine and in any order of the points.
"""

import numpy as np
import xxhash

from ..errors import UsageError
from ..key import Key, Stream

RESTARTS = 8
ROUNDS = 100
LEARNT_FROM = 10_000  # points at most; all others are put to the nearest centre
CHUNK = 4096


def find_clusters(points: np.ndarray, count: int, key: Key) -> np.ndarray:
    """The centres of ``count`` clusters, none of which is empty: int64 (count, d), of points int16 (N, d), in any
    order; equal ones count once. The key draws where the search begins.

    Raises:
        ValueError: there are fewer different points than clusters, or ``count`` is below 1.
    """
    if count < 1:
        raise UsageError(f"clusters is a whole number from 1 up, got {count}")
    digests = np.array([xxhash.xxh3_128_digest(point.tobytes()) for point in points], "S16")
    _, first = np.unique(digests, return_index=True)  # an order that is the points' own, and a fair sample
    if len(first) < count:
        raise UsageError(f"{len(first)} different pictures cannot make {count} clusters: ask for fewer")
    some = points[first[:LEARNT_FROM]].astype(np.float64)
    runs = [_k_means(some, count, key.stream("secret labels", "k-means", number)) for number in range(RESTARTS)]
    return min(runs, key=lambda result: result[0])[1].astype(np.int64)


def nearest(points: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nearest centre of each point and the squared distance to it, both int64 (N,)."""
    place, distance = np.zeros((2, len(points)), np.int64)
    for start in range(0, len(points), CHUNK):
        rows = slice(start, start + CHUNK)
        place[rows], distance[rows] = _nearest(points[rows].astype(np.float64), centres)
    return place, distance


def _nearest(points: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As :func:`nearest`, of float64 points; the distances are float64 too."""
    squared = np.einsum("nd,nd->n", points, points)[:, None] - 2 * (points @ centres.T) + (centres**2).sum(1)
    return squared.argmin(1), squared.min(1)


def _k_means(points: np.ndarray, count: int, stream: Stream) -> tuple[float, np.ndarray]:
    """Lloyd's iteration from one draw of k-means++: the sum of squared distances, and the centres; all float64."""
    centres, before = _first_centres(points, count, stream), None
    for _ in range(ROUNDS):
        place, distance = _nearest(points, centres)
        sizes = np.bincount(place, minlength=count)
        if not sizes.all():  # a cluster lost its points: it gets the one that fits worst where it is
            centres[sizes.argmin()] = points[distance.argmax()]
            continue
        result = distance.sum(), centres
        if before is not None and (place == before).all():
            break
        before = place
        members = (place == np.arange(count)[:, None]).astype(np.float64)
        centres = np.rint(members @ points / sizes[:, None])
    return result


def _first_centres(points: np.ndarray, count: int, stream: Stream) -> np.ndarray:
    """k-means++ (Arthur and Vassilvitskii, SODA 2007): each next centre in proportion to its squared distance."""
    centres = points[stream.integers(1, len(points))]
    distance = np.full(len(points), np.inf)
    while len(centres) < count:
        distance = np.minimum(distance, _nearest(points, centres[-1:])[1])
        below = np.cumsum(distance)
        drawn = min(np.floor(stream.uniform(1)[0] * below[-1]), below[-1] - 1)  # whole numbers, all of them
        row = np.searchsorted(below, drawn, "right")
        centres = np.concatenate([centres, points[row : row + 1]])
    return centres
