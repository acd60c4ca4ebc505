"""Trains on a SLURM cluster, one process for each GPU:

    python launch/slurm.py --nodes 4 data.path=/data/ffhq
    python launch/slurm.py --nodes 1 --config celebahq256 --partition gpu --time 24:00:00

The job saves and requeues itself before its time limit and when it is preempted, and is requeued
when a node dies. After anything else (`scancel`, an error), the same command continues it.
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
SIGNAL_BEFORE = 120  # seconds between the signal to save and the end


def main() -> None:
    parser = arguments.parser(__doc__)
    add = parser.add_argument_group("resources (default: what the partition has)").add_argument
    add("--nodes", type=int, default=1)
    add("--gpus-per-node", type=int, help="0: one process per node, on its CPUs")
    add("--cpus", type=int, help="CPUs of each process")
    add("--mem", help="memory of each node, as 200G (default: the partition's)")
    add("--time", help="as 90 (minutes), 12:00:00 or 2-12 (default: the longest allowed)")
    for name in ("partition", "account", "qos", "constraint", "comment", "exclude"):
        add(f"--{name}", help="as of sbatch")
    sbatch.add_arguments(parser)
    parser.add_argument("--follow", action="store_true", help="show the training's output")
    given = parser.parse_args()
    try:
        if given.keys is not None:
            print_keys(Config, given.keys)
            return
        start(given)
    except arguments.USER_ERRORS as error:
        arguments.complain(error)


def start(given: Namespace) -> None:
    """Submits the training, unless its job is in the queue already."""
    config, folder = arguments.read(given)
    offered, guess = sbatch.offered(given)
    asked = sbatch.gpus(sbatch.options(given)) if given.gpus_per_node is None else None
    gpus = offered.gpus if given.gpus_per_node is None else given.gpus_per_node
    if asked is not None:
        gpus = asked
    elif given.gpus_per_node is None:
        gpus = arguments.shareable(config, given.nodes, gpus)
    tasks = max(1, gpus)
    announcements = arguments.check(config, given.nodes * tasks, given.dry_run)
    job = None if given.dry_run else queued(folder)
    if job is None:  # the configuration of a job in the queue stays
        config = arguments.planned(given, config, folder)
    executor = submitit.AutoExecutor(
        folder / "slurm", cluster="slurm", slurm_max_num_timeout=10_000
    )
    executor.update_parameters(**parameters(given, config, offered, gpus, folder))
    for line in [guess, *announcements]:
        if line:
            print(f"# {line}")
    if given.dry_run:
        plugin: Any = executor._executor
        script = plugin._make_submission_file_text("python ...", "dry-run")
        print(f"{script}\n# run in {folder}\n{arguments.show(config)}", end="")
        return
    if job is None:
        snapshot(folder)
        job = executor.submit(Training(config, folder, gpus)).job_id
        (folder / "slurm" / "job").write_text(job)
        print(f"submitted job {job}: {given.nodes} nodes, {tasks} processes on each")
    print(
        f"run      {folder}\n"
        f"output   {log(folder, job)}\n"
        f"compare  mlflow ui --backend-store-uri {store(config.tracking, folder)}\n"
        f"stop     scancel {job}"
    )
    if given.follow:
        sys.exit(follow(folder, job))


def parameters(
    given: Namespace, config: Config, offered: cluster.Nodes, gpus: int, folder: Path
) -> dict:
    """For submitit. The job starts in the folder of its code, where Python looks first."""
    tasks = max(1, gpus)
    wanted = {
        "name": config.name,
        "nodes": given.nodes,
        "tasks_per_node": tasks,
        "cpus_per_task": given.cpus or max(1, offered.cpus // tasks),
        "timeout_min": cluster.minutes_of(given.time) if given.time else offered.minutes,
        "slurm_signal_delay_s": SIGNAL_BEFORE,
        "slurm_srun_args": ["--cpu-bind=none", "--kill-on-bad-exit=1"],
        "slurm_additional_parameters": {
            "requeue": True,  # when a node dies, say
            "chdir": code(folder),
            **sbatch.options(given),
        },
        "slurm_teardown": [
            f"status=$?; [ $status = 0 ] || {shlex.quote(sys.executable)} -m launch.requeue ..",
            "exit $status",
        ],
        "slurm_mem": given.mem,
    }
    if given.env or given.setup:
        wanted["slurm_setup"] = sbatch.setup(given)
    if gpus and sbatch.gpus(sbatch.options(given)) is None:
        wanted["gpus_per_node"] = gpus
    for name in ("partition", "account", "qos", "constraint", "comment", "exclude"):
        wanted[f"slurm_{name}"] = getattr(given, name)
    return {name: value for name, value in wanted.items() if value is not None}


def queued(folder: Path) -> str | None:
    """The job of this run that is in the queue."""
    record = folder / "slurm" / "job"
    if not record.exists():
        return None
    job = record.read_text()
    state = cluster.state(job)
    if state is None:
        return None
    print(f"job {job} of this run is in the queue already ({state})")
    return job


def code(folder: Path) -> Path:
    return folder / "code"


def snapshot(folder: Path) -> None:
    """Copies the code for the job, which may start, or restart, when ours has changed."""
    here, ignore = Path(__file__).resolve().parent.parent, shutil.ignore_patterns("__pycache__")
    for package in PACKAGES:
        shutil.rmtree(code(folder) / package, ignore_errors=True)
        shutil.copytree(here / package, code(folder) / package, ignore=ignore)
    (code(folder) / VERSION).write_text(version() or "unknown")


def log(folder: Path, job: str) -> Path:
    """What the first process says."""
    return folder / "slurm" / f"{job}_0_log.out"


def follow(folder: Path, job: str) -> int:
    """Copies the job's output to here until it has left the queue; 0 if it completed."""
    path, place, polls, state = log(folder, job), 0, 0, ""
    while True:
        if polls % 5 == 0:
            try:
                state = cluster.state(job)
            except ConfigError as error:
                print(f"{error}; asking again", file=sys.stderr)
        if path.exists():
            with path.open() as file:
                file.seek(place)
                sys.stdout.write(file.read())
                sys.stdout.flush()
                place = file.tell()
        if state is None:
            ended = cluster.ask("sacct", "--noheader", "-X", "-o", "State", "-j", job).split()
            well = ended[:1] == ["COMPLETED"]
            errors = "" if well else f"; errors are in {folder / 'slurm'}/{job}_*_log.err"
            print(f"job {job}: {ended[0] if ended else 'left the queue'}{errors}")
            return 0 if well else 1
        polls += 1
        time.sleep(2)


if __name__ == "__main__":
    main()
