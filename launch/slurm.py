"""Trains on a SLURM cluster, one process for each GPU:

    python launch/slurm.py --nodes 4 data.path=/data/ffhq
    python launch/slurm.py --nodes 1 --config celebahq256 --partition gpu --time 24:00:00

The job saves and requeues itself before its time limit and at a preemption, and is requeued when
a node fails or a process hangs. After anything else (`scancel`, an error), the same command
resumes the training.
"""

import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from filelock import FileLock

from launch import arguments, per_stage, sbatch, submission, sweep, trial, watch
from launch.job import Training
from launch.keys import print_keys
from pipeline.config import ConfigError
from pipeline.records.tracking import store
from stages.config import Config


def main() -> None:
    parser = arguments.parser(__doc__)
    add = parser.add_argument_group("resources (default: those of the partition)").add_argument
    add("--nodes", type=per_stage.numbers, default=[1], help="with --per-stage also as 1,1,2,4")
    add("--per-stage", action="store_true", help=per_stage.HELP)
    add("--gpus-per-node", type=arguments.at_least(0), help="0: one process per node, on its CPUs")
    add("--gpu-memory", type=float, metavar="GIB", help="of one GPU (default: by its type in gres)")
    add("--cpus", type=arguments.at_least(1), help="CPUs of each process")
    add("--mem", help="memory of each node, as 200G (default: the partition's)")
    add("--time", help="as 90 (minutes), 12:00:00 or 2-12 (default: the longest allowed)")
    for name in submission.NAMED:
        add(f"--{name}", help="as of sbatch")
    add(
        "--exclude-failed",
        action="store_true",
        help="requeue the job without a node that hung or was lost",
    )
    sbatch.add_arguments(parser)
    sweep.add_arguments(parser)
    parser.add_argument("--follow", action="store_true", help="print the training's output")
    args = parser.parse_intermixed_args()  # keys and options in any order
    try:
        if args.keys is not None:
            print_keys(Config, args.keys)
            return
        per_stage.check_arguments(args)
        submit_sweep(args) if args.sweep else start(args)
    except arguments.USER_ERRORS as error:
        arguments.exit_with_error(error)


def start(args: Namespace) -> None:
    """Submits what is asked for, unless its jobs are in the queue; follows it with --follow."""
    config, folder = arguments.read(args)
    if args.check or args.rehearse:
        sys.exit(trial.submit(args, config, folder))
    with nullcontext() if args.dry_run else alone(folder):
        if args.per_stage:
            jobs = per_stage.submit(args, config, folder)
        else:
            job = submit(args, config, folder, args.branch)
            jobs = [job] if job else []
    if jobs and not args.dry_run:
        print_where(config, folder, jobs)
    for job in jobs if args.follow else []:
        if status := watch.follow(submission.log_path(folder, job), job):
            sys.exit(status)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Of two commands given at once, one waits here, and then finds the job of the other."""
    try:
        (folder / "slurm").mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "slurm" / "lock")
        lock.acquire()
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written ({error.strerror or error})") from None
    try:
        yield
    finally:
        lock.release()


def submit_sweep(args: Namespace) -> None:
    """Submits a job for each unfinished point of a sweep; points wait for the part they share."""
    if args.follow:
        raise ConfigError("--sweep submits several jobs: --follow is for one")
    found, after = sweep.read(args), None
    print(found.tree(), flush=True)
    if found.shared and not found.shared.finished:
        after = submit(args, found.shared.config, found.shared.folder, None)
        print_where(found.shared.config, found.shared.folder, [after] if after else [])
    for point in found.points:
        if not point.finished:
            print(f"\n== {point.name}", flush=True)
            job = submit(args, point.config, point.folder, found.branch, after)
            print_where(point.config, point.folder, [job] if job else [])


def submit(
    args: Namespace, config: Config, folder: Path, branch: str | None, after: str | None = None
) -> str | None:
    """Submits a training, unless its job is in the queue; the job's id, None in a dry run.

    `branch` is as of `plan.branch`; with `after`, the job starts when that job has succeeded, and
    branches off then.
    """
    asked = submission.resources(args, config, args.nodes, folder, branch)
    config = asked.config
    queued = {} if args.dry_run else submission.queued(folder)
    if not queued and not after:  # the configuration of a job in the queue stays
        config = arguments.with_history(config, folder, branch, args.replan, args.dry_run)
    made = submission.executor(args, config, folder, asked, **submission.after(after))
    for line in asked.notes:
        print(f"# {line}")
    if args.dry_run:
        script = submission.script(made)
        print(f"{script}\n# run in {folder}\n{arguments.as_yaml(config)}", end="")
        return None
    if queued:
        return next(iter(queued.values()))
    submission.snapshot(folder)
    job = submission.send(made, Training(config, folder, asked.gpus, branch))
    submission.record(folder, {None: job})
    print(f"submitted job {job}: {asked.nodes} nodes, {asked.tasks} processes on each")
    return job


def print_where(config: Config, folder: Path, jobs: list[str]) -> None:
    if not jobs:
        return
    outputs = " ".join(str(submission.log_path(folder, job)) for job in jobs)
    print(
        f"run      {folder}\n"
        f"output   {outputs}\n"
        f"compare  mlflow ui --backend-store-uri {store(config.tracking, folder)}\n"
        f"stop     scancel {' '.join(jobs)}"
    )


if __name__ == "__main__":
    main()
