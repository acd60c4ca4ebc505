"""Trains on a SLURM cluster, one process for each GPU:

    python launch/slurm.py --nodes 4 data.path=/data/ffhq
    python launch/slurm.py --nodes 1 --config celebahq256 --partition gpu --time 24:00:00

The job saves and requeues itself before its time limit and at a preemption, and is requeued when
a node fails. After anything else (`scancel`, an error), the same command resumes the training.
"""

import shlex
import shutil
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import submitit

from launch import arguments, cluster, sbatch
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
    add("--nodes", type=int, default=1)
    add("--gpus-per-node", type=int, help="0: one process per node, on its CPUs")
    add("--cpus", type=int, help="CPUs of each process")
    add("--mem", help="memory of each node, as 200G (default: the partition's)")
    add("--time", help="as 90 (minutes), 12:00:00 or 2-12 (default: the longest allowed)")
    for name in ("partition", "account", "qos", "constraint", "comment", "exclude"):
        add(f"--{name}", help="as of sbatch")
    sbatch.add_arguments(parser)
    parser.add_argument("--follow", action="store_true", help="print the training's output")
    args = parser.parse_args()
    try:
        if args.keys is not None:
            print_keys(Config, args.keys)
            return
        start(args)
    except arguments.USER_ERRORS as error:
        arguments.exit_with_error(error)


def start(args: Namespace) -> None:
    """Submits the training, unless its job is in the queue."""
    config, folder = arguments.read(args)
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
    if job is None:  # the configuration of a job in the queue stays
        config = arguments.with_history(config, folder, args.branch, args.replan, args.dry_run)
    executor = submitit.AutoExecutor(
        folder / "slurm", cluster="slurm", slurm_max_num_timeout=10_000
    )
    executor.update_parameters(**parameters(args, config, offered, gpus, folder))
    for line in [guess, *announcements]:
        if line:
            print(f"# {line}")
    if args.dry_run:
        plugin: Any = executor._executor
        script = plugin._make_submission_file_text("python ...", "dry-run")
        print(f"{script}\n# run in {folder}\n{arguments.as_yaml(config)}", end="")
        return
    if job is None:
        snapshot(folder)
        job = executor.submit(Training(config, folder, gpus)).job_id
        (folder / "slurm" / "job").write_text(job)
        print(f"submitted job {job}: {args.nodes} nodes, {tasks} processes on each")
    print(
        f"run      {folder}\n"
        f"output   {log_path(folder, job)}\n"
        f"compare  mlflow ui --backend-store-uri {store(config.tracking, folder)}\n"
        f"stop     scancel {job}"
    )
    if args.follow:
        sys.exit(follow(folder, job))


def parameters(
    args: Namespace, config: Config, offered: cluster.Nodes, gpus: int, folder: Path
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
            **sbatch.options(args),
        },
        "slurm_teardown": [
            f"status=$?; [ $status = 0 ] || {shlex.quote(sys.executable)} -m launch.requeue ..",
            "exit $status",
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
    if not record.exists():
        return None
    job = record.read_text()
    state = cluster.job_state(job)
    if state is None:
        return None
    print(f"job {job} of this run is already in the queue ({state})")
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


def follow(folder: Path, job: str) -> int:
    """Copies the job's output to here until it has left the queue; 0 if it completed."""
    path, position, polls, state = log_path(folder, job), 0, 0, ""
    while True:
        if polls % 5 == 0:
            try:
                state = cluster.job_state(job)
            except ConfigError as error:
                print(f"{error}; retrying", file=sys.stderr)
        if path.exists():
            with path.open() as file:
                file.seek(position)
                sys.stdout.write(file.read())
                sys.stdout.flush()
                position = file.tell()
        if state is None:
            ended = cluster.run_client(
                "sacct", "--noheader", "-X", "-o", "State", "-j", job
            ).split()
            well = ended[:1] == ["COMPLETED"]
            errors = "" if well else f"; errors are in {folder / 'slurm'}/{job}_*_log.err"
            print(f"job {job}: {ended[0] if ended else 'left the queue'}{errors}")
            return 0 if well else 1
        polls += 1
        time.sleep(2)


if __name__ == "__main__":
    main()
