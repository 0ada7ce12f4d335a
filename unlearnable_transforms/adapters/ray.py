"""Ray: protection on Ray Data, and the work of ``unlearnable protect`` spread over a cluster.

Both apply only: fit the method first, on one machine. A poison that is sent to workers carries its key: use a cluster
that you trust.
"""

import logging
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any

import numpy as np
import torch

try:
    import ray
except ImportError as error:
    raise ImportError("Ray is not installed: pip install 'unlearnable-transforms[ray]'") from error

from ..data.beside import row_images
from ..data.columns import find_columns, refuse_second_image
from ..errors import UsageTypeError
from ..jobs.workers import AHEAD, quiet_and_single
from ..poisons.base import NotFittedError, Poison

RETRIES = 3  # of a task whose actor died, and of the actor


class Protect:
    """Protects the batches of a Ray data set, in actors, each of which opens the noise once::

        pool = ray.data.ActorPoolStrategy(size=4)
        data.map_batches(ut.ray.Protect, fn_constructor_kwargs={"poison": poison}, compute=pool)

    Pictures are what Ray Data makes of them: uint8 arrays (B, H, W, C) of ``read_images``, also of mixed sizes, or the
    structs of bytes and path in the Parquet of ``datasets``, which come out as PNG without a path. Every other column
    stays as it is.

    Args:
        poison: a fitted protection method.

    Raises:
        TypeError: no protection method; or, when called, no NumPy batch.
        ValueError: when called, a second column of pictures, which would stay unprotected.
        NotFittedError: ``fit`` comes first.
        SampleError: when called, pictures or labels that cannot be protected, with their rows in the batch.
    """

    def __init__(self, poison: Poison) -> None:
        if not isinstance(poison, Poison):
            raise UsageTypeError(f"poison is a {type(poison).__name__}, not a protection method")
        if not poison.fitted:
            raise NotFittedError(
                f"{type(poison).__name__} is not fitted: call poison.fit(dataset) before Ray gets it (docs/cache.md)"
            )
        torch.set_num_threads(1)  # an actor has one core
        self.poison = poison

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(batch, dict):
            raise UsageTypeError(f"the batch is a {type(batch).__name__}: call map_batches with batch_format='numpy'")
        image_key, label_key = find_columns(batch.keys(), self.poison.image_key, self.poison.label_key)
        if self.poison.image_key is None:
            refuse_second_image(image_key, row_images(batch, len(batch[label_key]), [image_key]))
        images, labels = batch[image_key], list(batch[label_key])
        if not (isinstance(images, np.ndarray) and images.dtype == object):
            return {**batch, image_key: self.poison.apply(images, labels)}
        # An array in a cell is a picture (H, W, C): Ray Data knows no other order.
        protected = [self.poison(image, label)[0] for image, label in zip(images, labels, strict=True)]
        column = np.empty(len(protected), object)
        column[:] = protected
        return {**batch, image_key: column}


def run_tasks(worker: Callable[[Any], Any], tasks: Iterable[Any], processes: int) -> Generator[Any]:
    """Results of ``worker(task)`` from Ray actors, in the order in which they get done; as :func:`..workers.run_tasks`.

    A running cluster is used where there is one (``RAY_ADDRESS``), else this machine alone. The task of an actor that
    died is done again, by its successor or another.

    Args:
        worker: is sent to every actor once, with the key that it holds.
        tasks: taken as they are needed.
        processes: actors, each with one core.

    Raises:
        ray.exceptions.RayActorError: actors keep dying.
        Exception: what a worker raised.
    """
    own = not ray.is_initialized()
    if own:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING)
    remote: Any = ray.remote(num_cpus=1, max_restarts=RETRIES, max_task_retries=RETRIES)(_Actor)
    actors = []
    try:
        sent = ray.put(worker)
        actors = [remote.remote(sent) for _ in range(processes)]
        remaining = iter(tasks)
        busy: dict[Any, Any] = {}  # what is under way -> its actor
        for actor in actors * AHEAD:
            _send_next(remaining, busy, actor)
        while busy:
            (ready,), _ = ray.wait(list(busy))
            actor = busy.pop(ready)
            result, error = ray.get(ready)
            if error is not None:
                raise error
            _send_next(remaining, busy, actor)
            yield result
    finally:
        for actor in actors:
            ray.kill(actor)
        if own:
            ray.shutdown()


class _Actor:
    def __init__(self, worker: Callable[[Any], Any]) -> None:
        self.worker = worker

    def run(self, task: Any) -> tuple[Any, Exception | None]:
        with quiet_and_single():
            try:
                return self.worker(task), None
            except Exception as error:
                error.add_note(f"in a Ray actor:\n{traceback.format_exc()}")
                return None, error


def _send_next(tasks: Iterator[Any], busy: dict[Any, Any], actor: Any) -> None:
    for task in tasks:
        busy[actor.run.remote(task)] = actor
        return
