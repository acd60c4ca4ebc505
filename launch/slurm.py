"""Trains on a SLURM cluster, one process for each GPU:

    python launch/slurm.py --nodes 4 data.path=/data/ffhq
    python launch/slurm.py --nodes 1 --config celebahq256 --partition gpu --time 24:00:00

The job saves and requeues itself before its time limit and at a preemption, and is requeued when
a node fails or a process hangs. After anything else (`scancel`, an error), the same command
resumes the training.
"""

import shlex
import shutil
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import submitit
from filelock import FileLock
from submitit.core.utils import FailedJobError

from launch import arguments, cluster, sbatch, sweep, watch
from launch.job import Training
from launch.keys import print_keys
from pipeline.config import ConfigError
from pipeline.records.tracking import store
from stages.config import Config
from stages.origin import VERSION, version

PACKAGES = ("dataprep", "pipeline", "stages", "launch")
SIGNAL_SECONDS = 120  # between the signal to save and the time limit


def main() -> None:
    parser = arguments.parser(__doc__)
    add = parser.add_argument_group("resources (default: those of the partition)").add_argument
    add("--nodes", type=arguments.at_least(1), default=1)
    add("--gpus-per-node", type=arguments.at_least(0), help="0: one process per node, on its CPUs")
    add("--cpus", type=arguments.at_least(1), help="CPUs of each process")
    add("--mem", help="memory of each node, as 200G (default: the partition's)")
    add("--time", help="as 90 (minutes), 12:00:00 or 2-12 (default: the longest allowed)")
    for name in ("partition", "account", "qos", "constraint", "comment", "exclude"):
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
        submit_sweep(args) if args.sweep else start(args)
    except arguments.USER_ERRORS as error:
        arguments.exit_with_error(error)


def start(args: Namespace) -> None:
    """Submits the training, unless its job is in the queue; follows it with --follow."""
    config, folder = arguments.read(args)
    with nullcontext() if args.dry_run else alone(folder):
        job = submit(args, config, folder, args.branch)
    if job and args.follow:
        sys.exit(watch.follow(log_path(folder, job), job))


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
    for point in found.points:
        if not point.finished:
            print(f"\n== {point.name}", flush=True)
            submit(args, point.config, point.folder, found.branch, after)


def submit(
    args: Namespace, config: Config, folder: Path, branch: str | None, after: str | None = None
) -> str | None:
    """Submits a training, unless its job is in the queue; the job's id, None in a dry run.

    `branch` is as of `plan.branch`; with `after`, the job starts when that job has succeeded, and
    branches off then.
    """
    offered, guess = sbatch.offered(args)
    asked = sbatch.gpus(sbatch.options(args)) if args.gpus_per_node is None else None
    gpus = offered.gpus if args.gpus_per_node is None else args.gpus_per_node
    if asked is not None:
        gpus = asked
    elif args.gpus_per_node is None:
        gpus = arguments.usable_gpus(config, args.nodes, gpus)
    tasks = max(1, gpus)
    announcements = arguments.check(config, args.nodes * tasks, args.dry_run)
    job = None if args.dry_run else queued_job(folder)
    if job is None and not after:  # the configuration of a job in the queue stays
        config = arguments.with_history(config, folder, branch, args.replan, args.dry_run)
    executor = submitit.AutoExecutor(
        folder / "slurm", cluster="slurm", slurm_max_num_timeout=10_000
    )
    executor.update_parameters(**parameters(args, config, offered, gpus, folder, after))
    unused = offered.unused if args.gpus_per_node is None else None
    for line in [guess, *announcements, unused]:
        if line:
            print(f"# {line}")
    if args.dry_run:
        plugin: Any = executor._executor
        script = plugin._make_submission_file_text("python ...", "dry-run")
        print(f"{script}\n# run in {folder}\n{arguments.as_yaml(config)}", end="")
        return None
    if job is None:
        snapshot(folder)
        try:
            job = executor.submit(Training(config, folder, gpus, branch)).job_id
        except FailedJobError as error:
            raise ConfigError(f"SLURM takes no such job: {error}") from None
        (folder / "slurm" / "job").write_text(job)
        print(f"submitted job {job}: {args.nodes} nodes, {tasks} processes on each")
    print(
        f"run      {folder}\n"
        f"output   {log_path(folder, job)}\n"
        f"compare  mlflow ui --backend-store-uri {store(config.tracking, folder)}\n"
        f"stop     scancel {job}"
    )
    return job


def parameters(
    args: Namespace,
    config: Config,
    offered: cluster.Nodes,
    gpus: int,
    folder: Path,
    after: str | None,
) -> dict:
    """submitit's parameters. The job starts in the copy of the code, first on Python's path."""
    tasks = max(1, gpus)
    wanted = {
        "name": config.name,
        "nodes": args.nodes,
        "tasks_per_node": tasks,
        "cpus_per_task": args.cpus or max(1, offered.cpus // tasks),
        "timeout_min": cluster.minutes_of(args.time) if args.time else offered.minutes,
        "slurm_signal_delay_s": SIGNAL_SECONDS,
        "slurm_srun_args": ["--cpu-bind=none", "--kill-on-bad-exit=1"],
        "slurm_additional_parameters": {
            "requeue": True,  # SLURM requeues it when a node fails
            "chdir": code_folder(folder),
            **({"dependency": f"afterok:{after}", "kill-on-invalid-dep": "yes"} if after else {}),
            **sbatch.options(args),
        },
        "slurm_teardown": [
            f"status=$?; [ $status = 0 ] || "
            f"{shlex.quote(sys.executable)} -m launch.requeue .. $status"
            + " --exclude-failed"
            * args.exclude_failed,
            "exit $?",
        ],
        "slurm_mem": args.mem,
    }
    if args.env or args.setup:
        wanted["slurm_setup"] = sbatch.setup(args)
    if gpus and sbatch.gpus(sbatch.options(args)) is None:
        wanted["gpus_per_node"] = gpus
    for name in ("partition", "account", "qos", "constraint", "comment", "exclude"):
        wanted[f"slurm_{name}"] = getattr(args, name)
    return {name: value for name, value in wanted.items() if value is not None}


def queued_job(folder: Path) -> str | None:
    """The id of this run's job in the queue, or None."""
    record = folder / "slurm" / "job"
    # A command that was killed between sbatch and `record` has left a job that only SLURM knows.
    job = cluster.job_in(code_folder(folder)) or (record.read_text() if record.exists() else None)
    found = watch.leave(job) if job else None
    if found is None:
        return None
    print(f"job {job} of this run is already in the queue: {watch.describe(job, found)}")
    return job


def code_folder(folder: Path) -> Path:
    return folder / "code"


def snapshot(folder: Path) -> None:
    """Copies the code into the run's folder: edits do not reach a job that starts later."""
    here, ignore = Path(__file__).resolve().parent.parent, shutil.ignore_patterns("__pycache__")
    for package in PACKAGES:
        shutil.rmtree(code_folder(folder) / package, ignore_errors=True)
        shutil.copytree(here / package, code_folder(folder) / package, ignore=ignore)
    (code_folder(folder) / VERSION).write_text(version() or "unknown")


def log_path(folder: Path, job: str) -> Path:
    """The output of rank 0."""
    return folder / "slurm" / f"{job}_0_log.out"


if __name__ == "__main__":
    main()
