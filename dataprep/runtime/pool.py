"""Tasks in worker processes that may die: a pool that breaks is replaced."""

import contextlib
import ctypes
import multiprocessing
import os
import signal
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from dataprep.manifest import DatasetError

Task = TypeVar("Task")
ATTEMPTS = 3  # of a task whose worker dies

# Fork: this process has no threads, and other start methods import everything again (0.5 s each).
fork = multiprocessing.get_context("fork")
current = fork.RawArray(ctypes.c_char, 1024)  # shared with the workers: see `note`


def default_workers() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0))


def note(item: str) -> None:
    """Called in a worker: record what it works on, for the error message if it dies."""
    current.value = item.encode("utf-8", "replace")[: len(current) - 1]


def run(
    call: Callable[[Task], Any],
    tasks: Iterable[Task],
    workers: int,
    on_death: Callable[[list[Task]], None] = lambda running: None,
) -> Iterator[tuple[Task, Any]]:
    """Yield (task, call(task)) for all tasks, in the order in which they finish.

    When a worker dies, the tasks that were running are passed to `on_death` and run again, one at a
    time: if a worker dies again, its task is known. DatasetError when ATTEMPTS workers died of one
    task. Exceptions of `call` are raised here.
    """
    waiting, again, deaths = deque(tasks), deque(), Counter()
    while waiting or again:
        todo, size = (again, 1) if again else (waiting, workers)
        running = {}
        try:
            with worker_pool(call, size) as pool:
                while todo or running:
                    with delayed_interrupt():
                        while todo and len(running) < size:
                            running[pool.submit(work, todo[0])] = todo[0]
                            todo.popleft()
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        result = future.result()
                        yield running.pop(future), result
        except BrokenProcessPool:
            again.extendleft(running.values())
            deaths.update(running.values() if size == 1 else ())
            for task in again:
                if deaths[task] == ATTEMPTS:
                    at = current.value.decode("utf-8", "replace")
                    raise DatasetError(
                        f"{ATTEMPTS} workers died of {task}, at {at}; out of memory? "
                        "fewer --workers need less; run the command again"
                    ) from None
            on_death(list(running.values()))


@contextlib.contextmanager
def worker_pool(call: Callable, size: int) -> Iterator[ProcessPoolExecutor]:
    """A process pool whose workers are killed at the end, even if they are busy."""
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(size, fork, start_worker, (call, os.getpid()))
    try:
        yield pool
    finally:
        for process in set(multiprocessing.active_children()) - others:
            process.kill()
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def delayed_interrupt() -> Iterator[None]:
    """Delay Ctrl-C until the end: hooks that run at a fork, such as logging's, would swallow it."""
    pressed = []
    before = signal.signal(signal.SIGINT, lambda *caught: pressed.append(caught))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed and callable(before):
        before(*pressed[0])


def work(task: Any) -> Any:
    return work.call(task)  # type: ignore[attr-defined]


def start_worker(call: Callable, parent: int) -> None:
    """Ignore Ctrl-C, which the parent handles, and have Linux kill the worker when the parent ends:
    it holds the lock of the run."""
    work.call = call  # type: ignore[attr-defined]  # inherited, not pickled, and kept between tasks
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(1, signal.SIGKILL)  # 1: PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)
