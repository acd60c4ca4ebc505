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
from collections.abc import Callable
from pathlib import Path

import torch
from torch import multiprocessing

from launch import arguments, failure, memory, rehearse, sweep, sweep_local
from launch import check as checks
from launch.keys import print_keys
from pipeline import processes
from pipeline.records.checkpoints import CheckpointError
from pipeline.records.tracking import TrackingError
from stages.config import Config
from stages.health import DivergedError, OutOfMemoryError
from stages.run_folder import LostRunError
from stages.trainer import train


class ChildError(Exception):
    """The error of a child process that the user can fix."""


ERRORS = (
    *arguments.USER_ERRORS, CheckpointError, TrackingError, DivergedError, OutOfMemoryError,
    LostRunError, ChildError,
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
            sys.exit(sweep_local.train(args))
        config, folder = arguments.read(args)
        usable, line = arguments.usable_gpus(config, 1, torch.cuda.device_count())
        if line and not args.processes:
            print(line, flush=True)
        count = args.processes or max(1, usable)
        card, refuse = memory.here(count), not args.rehearse
        config, sizes = memory.sized(config, folder, count, card, args.branch, refuse)
        for line in sizes + arguments.check(config, count, args.dry_run):
            print(f"# {line}", flush=True)
        if args.check or args.rehearse:
            trial = arguments.trial_folder(folder, args)
            sys.exit(try_here(config, trial, count, args.check))
        config = arguments.with_history(config, folder, args.branch, args.replan, args.dry_run)
        if args.dry_run:
            print(f"# {count} processes, run in {folder}\n{arguments.as_yaml(config)}", end="")
            return
        status = start(config, folder, count)
    except ERRORS as error:
        arguments.exit_with_error(error)
    sys.exit(status)


def start(config: Config, folder: Path, count: int) -> int:
    """Trains in `count` processes; returns the exit status. ERRORS, which the folder keeps."""
    failure.clear(folder)
    try:
        if count == 1:
            return train_here(config, folder)
        return run_in_children(train_here, config, folder, count)
    except ERRORS as error:
        failure.keep(folder, error)
        raise
    except (Exception, SystemExit) as error:
        failure.keep(folder, f"{type(error).__name__}: {error}")
        raise


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
    processes.stop()
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
            raise ChildError(errors.get()) from None
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
