"""Worker processes that may die.

multiprocessing's own pool waits for ever for the result of a worker that was killed, and
concurrent.futures gives up all of them. Here each worker has a pipe of its own and nothing is
shared, so a death is seen at once, costs one task, and that task is done again.
"""

import contextlib
import ctypes
import multiprocessing
import multiprocessing.connection
import os
import signal
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from dataprep.manifest import DatasetError

Task = TypeVar("Task")
DEATHS = 3  # of the workers on one task, before the run is given up

# Fork, as this process has no threads: other ways import everything anew, half a second each time.
processes = multiprocessing.get_context("fork")


def default_workers() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0))


class Worker:
    """A process that does one task at a time."""

    def __init__(self, call: Callable, others: "list[Worker]"):
        self.pipe, theirs = processes.Pipe()
        # A fork inherits our ends of all pipes; a pipe ends only when every copy is closed.
        ours = [self.pipe, *(worker.pipe for worker in others)]
        how = (call, theirs, ours, os.getpid())
        self.process = processes.Process(target=serve, args=how, daemon=True)
        # Ctrl-C is for the parent alone, and amid a fork Python would lose it.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        self.process.start()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        theirs.close()  # so that the pipe ends when the worker does
        self.task: Any = None
        self.last = ""  # what it last told of

    def give(self, task: Any) -> None:
        self.task, self.last = task, ""
        with contextlib.suppress(OSError):  # it is dead already, as the pipe will tell
            self.pipe.send(task)

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def run(
    call: Callable[[Task, Callable], Any],
    tasks: Iterable[Task],
    workers: int,
    told: Callable[[Task, Any], None] = lambda task, what: None,
    died: Callable[[Task], None] = lambda task: None,
) -> Iterator[tuple[Task, Any]]:
    """Yield (task, call(task, tell)) for all tasks, in the order in which they end.

    `call` runs in `workers` processes; whatever it gives to `tell` arrives at `told`. `died` hears
    of a worker that died, whose task is begun anew. DatasetError where `call` raises one, or where
    DEATHS workers died of the same task.
    """
    waiting, deaths = deque(tasks), {}
    crew: list[Worker] = []
    try:
        while waiting or any(worker.task is not None for worker in crew):
            idle = [worker for worker in crew if worker.task is None]
            while waiting and (idle or len(crew) < workers):
                if not idle:
                    crew.append(Worker(call, crew))
                    idle.append(crew[-1])
                idle.pop().give(waiting.popleft())
            pipes = {worker.pipe: worker for worker in crew if worker.task is not None}
            for pipe in multiprocessing.connection.wait(list(pipes)):
                worker = pipes[pipe]
                try:
                    kind, what = pipe.recv()
                except (EOFError, OSError):
                    worker.end()
                    crew.remove(worker)
                    deaths[worker.task] = deaths.get(worker.task, 0) + 1
                    if deaths[worker.task] == DEATHS:
                        raise DatasetError(obituary(worker)) from None
                    died(worker.task)
                    waiting.appendleft(worker.task)
                    continue
                if kind == "tell":
                    worker.last = str(what)
                    told(worker.task, what)
                elif kind == "done":
                    task, worker.task = worker.task, None
                    yield task, what
                elif kind == "refused":
                    raise DatasetError(what)
                else:
                    at = f"{worker.task}, {worker.last}" if worker.last else worker.task
                    raise RuntimeError(f"in a worker, at {at}:\n{what}")
    finally:
        for worker in crew:
            worker.end()


def obituary(worker: Worker) -> str:
    code = worker.process.exitcode
    how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
    hint = "; out of memory? fewer --workers need less" if code == -signal.SIGKILL else ""
    at = f", the last time at {worker.last}" if worker.last else ""
    return f"{DEATHS} workers died of {worker.task} ({how}{at}){hint}; run the command again"


def end_with(parent: int) -> None:
    """Has Linux kill this process when its parent ends, however that ends: it holds the run's lock.

    (prctl with PR_SET_PDEATHSIG. Elsewhere it ends when it next has something to tell.)
    """
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(1, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def serve(call: Callable, pipe, ours: list, parent: int) -> None:
    """A worker's life: tasks come through the pipe until it ends, with the process that made it."""
    end_with(parent)
    for end in ours:
        end.close()
    try:
        while True:
            task = pipe.recv()
            try:
                result = ("done", call(task, lambda what: pipe.send(("tell", what))))
            except DatasetError as error:
                result = ("refused", str(error))
            except BrokenPipeError:
                raise  # nobody listens any more
            except OSError as error:
                result = ("refused", str(error))
            except Exception:
                result = ("failed", traceback.format_exc())
            pipe.send(result)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass
