"""Where the work of protecting is done: in processes of this machine, or on a Ray cluster."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, get_args

from .workers import run_tasks

Engine = Literal["local", "ray"]


def check_engine(engine: str) -> None:
    """Refuse an unknown engine, or one whose package is missing, before any work.

    Raises:
        ValueError: there is none of that name.
        ImportError: Ray is not installed.
    """
    if engine not in get_args(Engine):
        raise ValueError(f"engine must be one of {get_args(Engine)}, got {engine!r}")
    if engine == "ray":
        from ..adapters import ray  # noqa: F401  (what is missing is told here)


def run_on(engine: Engine, worker: Callable[[Any], Any], tasks: Iterable[Any], processes: int) -> Iterator[Any]:
    """Results of ``worker(task)``, in the order in which they get done; bytes do not depend on the engine.

    Args:
        engine: "local", see :func:`~unlearnable_transforms.jobs.workers.run_tasks`, or "ray", see
            :func:`~unlearnable_transforms.adapters.ray.run_tasks`.
        worker, tasks: as there.
        processes: or actors.
    """
    if engine == "ray":
        from ..adapters.ray import run_tasks as run_on_ray

        return run_on_ray(worker, tasks, processes)
    return run_tasks(worker, tasks, processes)
