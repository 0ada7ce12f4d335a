"""Tasks to worker processes and their results back, in the order in which they get done.

Processes are spawned, never forked: a fork of a process in which torch has used threads can hang for ever. Each worker
has a pipe of its own, so it ends by itself when the main process is killed, and the main process learns at once when a
worker is.
"""

import multiprocessing
import os
import signal
import threading
import traceback
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from typing import Any, cast

import torch

from ..errors import WorkError

AHEAD = 2  # tasks that wait in each worker's pipe, so that it never waits for the main process
PATIENCE = 10


def cores() -> int:
    """How many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_tasks(
    worker: Callable[[Any], Any],
    tasks: Iterable[Any],
    processes: int,
    *,
    ahead: int = AHEAD,
    patience: float = PATIENCE,
) -> Generator[Any]:
    """Results of ``worker(task)``, in the order in which they get done.

    Args:
        worker: can be pickled; it is sent to every process once, and the key with it, through a pipe.
        tasks: taken as they are needed.
        processes: 1 does the work in this process. Each uses one thread of torch.
        ahead: tasks that are sent to each process before its first result is back: 1 for long tasks.
        patience: seconds that a worker gets to end the task it is at when the caller stops early.

    Raises:
        RuntimeError: a worker process ended by itself.
        Exception: what a worker raised.
    """
    if processes == 1:
        with quiet_and_single():
            for task in tasks:
                yield worker(task)
        return
    context = multiprocessing.get_context("spawn")
    connections: dict[Connection, int] = {}  # how many tasks are under way in each
    started = []
    try:
        with _ignoring_interrupts():  # inherited by the workers: Ctrl-C is the main process's to handle
            for _ in range(processes):
                ours, theirs = context.Pipe()
                process = context.Process(target=_serve, args=(theirs, worker), daemon=True)
                process.start()
                theirs.close()
                started.append(process)
                connections[ours] = 0
        remaining = iter(tasks)
        for _ in range(ahead):
            for connection in connections:
                _send_next(remaining, connections, connection)
        while any(connections.values()):
            for ready in wait([connection for connection, count in connections.items() if count]):
                connection = cast(Connection, ready)
                try:
                    result, error = connection.recv()
                except (EOFError, ConnectionResetError):
                    raise WorkError(
                        "a worker process ended by itself, perhaps for lack of memory; run the same command again "
                        "to continue, with fewer --workers"
                    ) from None
                if error is not None:
                    raise error
                connections[connection] -= 1
                _send_next(remaining, connections, connection)
                yield result
    finally:
        for connection in connections:
            connection.close()
        for process in started:
            process.join(patience)
            if process.is_alive():
                process.terminate()
                process.join()


def _send_next(tasks: Iterator[Any], connections: dict[Connection, int], connection: Connection) -> None:
    for task in tasks:
        with suppress(BrokenPipeError, ConnectionResetError):  # the worker has ended: receiving from it tells
            connection.send(task)
        connections[connection] += 1
        return


def _serve(connection: Connection, worker: Callable[[Any], Any]) -> None:
    """The loop of a worker process; it ends when the main process closes the pipe or dies."""
    with quiet_and_single():
        while True:
            try:
                task = connection.recv()
            except (EOFError, OSError):
                return
            parent = multiprocessing.parent_process()
            if parent is not None and not parent.is_alive():  # killed: another run may have begun
                return
            try:
                answer: tuple[Any, Exception | None] = (worker(task), None)
            except Exception as error:
                error.add_note(f"in a worker process:\n{traceback.format_exc()}")
                answer = (None, error)
            try:
                connection.send(answer)
            except OSError:
                return


@contextmanager
def quiet_and_single() -> Iterator[None]:
    """One thread of torch; and warnings about single pictures are left out: the records say what matters."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _ignoring_interrupts() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
