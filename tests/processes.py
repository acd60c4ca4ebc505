"""Runs a function in several processes at once, joined as a training's are; and fills the disk."""

import contextlib
import io
import multiprocessing
import os
import resource
import traceback

import torch

from pipeline import processes

# The server imports DeepSpeed once; the processes are forked from it in milliseconds.
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["pipeline.engines", "pipeline.processes", "mlflow", "ffcv.loader"])


def run_together(count: int, function, *args, timeout: float = 120, **env) -> list:
    """`function(*args)` in `count` processes of this host; their results, by rank.

    The function must be importable by name and give tensors, numbers, strings, or lists and
    dictionaries of them. An exception in one process is raised here, with its trace.
    """
    port, pipes, children = processes.free_port(), [], []
    for rank in range(count):
        here, there = _context.Pipe(duplex=False)
        environment = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count}
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, **env}
        process = _context.Process(target=_child, args=(there, environment, function, args))
        process.start()
        there.close()
        pipes.append(here)
        children.append(process)
    try:
        return [_result(pipe, rank, timeout) for rank, pipe in enumerate(pipes)]
    finally:
        for process in children:
            process.kill()
            process.join()


@contextlib.contextmanager
def files_of_at_most(size: int):
    """No file of this process can become longer, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _result(pipe, rank: int, timeout: float):
    if not pipe.poll(timeout):
        raise TimeoutError(f"process {rank} gave nothing within {timeout:.0f} s")
    ok, value = pipe.recv()
    if not ok:
        raise RuntimeError(f"process {rank}:\n{value}")
    return torch.load(io.BytesIO(value))


def _child(pipe, environment, function, args) -> None:
    os.environ |= {name: str(value) for name, value in environment.items()}
    try:
        torch.set_num_threads(1)
        processes.start()
        result = io.BytesIO()
        torch.save(function(*args), result)
        pipe.send((True, result.getvalue()))
    except BaseException:
        pipe.send((False, traceback.format_exc()))
    finally:
        pipe.close()
        os._exit(0)
