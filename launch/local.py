"""Trains on this machine, with one process per GPU, or as many as asked for:

    python launch/local.py --config demo
    python launch/local.py --config ffhq256 --processes 4 data.path=/data/ffhq

Ctrl-C or SIGTERM write a checkpoint and stop; a second Ctrl-C stops at once. To resume, run the
same command again, also after a kill.
"""

import os
import shutil
import signal
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import torch
from torch import multiprocessing

from launch import arguments, memory, rehearse, sweep
from launch import check as checks
from launch.keys import print_keys
from pipeline import processes
from pipeline.records.checkpoints import CheckpointError
from pipeline.records.tracking import TrackingError
from stages.config import Config
from stages.health import DivergedError, OutOfMemoryError
from stages.run_folder import LostRunError
from stages.trainer import train

ERRORS = (
    *arguments.USER_ERRORS, CheckpointError, TrackingError, DivergedError, OutOfMemoryError,
    LostRunError,
)  # fmt: skip


def main() -> None:
    parser = arguments.parser(__doc__)
    parser.add_argument(
        "--processes",
        type=arguments.at_least(1),
        help="default: one per GPU, as far as the batches divide; without a GPU, one",
    )
    sweep.add_arguments(parser)
    args = parser.parse_intermixed_args()  # keys and options in any order
    try:
        if args.keys is not None:
            print_keys(Config, args.keys)
            return
        if args.sweep:
            sys.exit(train_sweep(args))
        config, folder = arguments.read(args)
        gpus = torch.cuda.device_count()
        count = args.processes or max(1, arguments.usable_gpus(config, 1, gpus))
        config, sizes = memory.sized(config, folder, count, memory.here(count), args.branch)
        for line in sizes + arguments.check(config, count, args.dry_run):
            print(f"# {line}", flush=True)
        if args.check or args.rehearse:
            trial = arguments.trial_folder(folder, args)
            sys.exit(try_here(config, trial, count, args.check))
        config = arguments.with_history(config, folder, args.branch, args.replan, args.dry_run)
        if args.dry_run:
            print(f"# {count} processes, run in {folder}\n{arguments.as_yaml(config)}", end="")
            return
        status = (
            train_here(config, folder)
            if count == 1
            else run_in_children(train_here, config, folder, count)
        )
    except ERRORS as error:
        arguments.exit_with_error(error)
    sys.exit(status)


def train_sweep(args: Namespace) -> int:
    """Trains all points of a sweep, one after another; returns the exit status."""
    todo = sweep.read(args)
    print(todo.tree(), flush=True)
    gpus = torch.cuda.device_count()
    trainings = [todo.shared] if todo.shared else []
    status = 0
    for point in [*trainings, *todo.points]:
        count = args.processes or max(1, arguments.usable_gpus(point.config, 1, gpus))
        card, branch = memory.here(count), None if point is todo.shared else todo.branch
        config, sizes = memory.sized(point.config, point.folder, count, card, branch)
        for line in sizes + arguments.check(config, count, args.dry_run):
            print(f"# {line}", flush=True)
        if args.dry_run or point.finished:
            continue
        print(f"\n== {point.name}", flush=True)
        config = arguments.with_history(config, point.folder, branch, replan=True)
        ended = run_in_children(train_here, config, point.folder, count)
        if ended and (point is todo.shared or ended > 128):  # a signal stops the sweep
            return ended
        status = status or ended
    return status


def try_here(config: Config, folder: Path, count: int, check: bool) -> int:
    """A check or a rehearsal with `count` processes of this machine; the exit status."""
    try:
        if check:
            return run_in_children(check_here, config, folder, count)
        os.environ |= environment(0, count, processes.free_port())
        return rehearse.run(config, folder, range(count), nodes=1)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_here(config: Config, folder: Path) -> int:
    """The part of this process in a check; the exit status."""
    return checks.run(config, folder, gpus=torch.cuda.device_count())


def train_here(config: Config, folder: Path) -> int:
    """Trains in this process; returns the exit status."""
    stopped_by = train(config, folder)
    return 128 + stopped_by if stopped_by else 0


def run_in_children(
    function: Callable[[Config, Path], int], config: Config, folder: Path, count: int
) -> int:
    """Runs `function` in `count` child processes and waits for them; returns the exit status."""
    errors = multiprocessing.get_context("spawn").SimpleQueue()
    children = multiprocessing.start_processes(
        _child,
        (function, config, folder, count, processes.free_port(), errors),
        nprocs=count,
        start_method="spawn",
        join=False,
    )

    def stop(number: int, frame) -> None:
        """Makes the children save and stop. (Ctrl-C reaches them too; twice does no harm.)"""
        again = number == signal.SIGINT and bool(stopping)
        stopping.append(number)
        for child in children.processes:
            if child.is_alive():
                child.kill() if again else child.terminate()

    stopping: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    try:
        while not children.join():
            pass
    except multiprocessing.ProcessExitedException as error:
        if not errors.empty():
            arguments.exit_with_error(errors.get())
        if error.exit_code > 0:
            return error.exit_code
        print(f"process {error.error_index} was killed: {error.signal_name}", file=sys.stderr)
        return 128 - error.exit_code
    return 0


def environment(rank: int, count: int, port: int) -> dict[str, str]:
    """Of a process of this machine."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def _child(
    rank: int,
    function: Callable[[Config, Path], int],
    config: Config,
    folder: Path,
    count: int,
    port: int,
    errors,
) -> None:
    os.environ |= environment(rank, count, port)
    try:
        status = function(config, folder)
    except ERRORS as error:
        errors.put(str(error))
        sys.exit(1)
    # Rank 0 saves and ends last. A nonzero status of another rank would kill it before that.
    sys.exit(0 if rank else status)


if __name__ == "__main__":
    main()
