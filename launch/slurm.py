"""Trains on a SLURM cluster, one process for each GPU:

    python launch/slurm.py --nodes 4 data.path=/data/ffhq
    python launch/slurm.py --nodes 1 --config celebahq256 --partition gpu --time 24:00:00

The job saves and requeues itself before its time limit and when it is preempted, and is requeued
when a node dies. After anything else (`scancel`, an error), the same command continues it.
"""

import os
import shutil
import sys
import time
from argparse import Namespace
from pathlib import Path

import submitit

from launch import arguments, cluster
from launch.job import Training
from pipeline.tracking import store
from stages.config import Config

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
    parser.add_argument("--follow", action="store_true", help="show the training's output")
    given = parser.parse_args()
    try:
        start(given)
    except arguments.USER_ERRORS as error:
        arguments.complain(error)


def start(given: Namespace) -> None:
    """Submits the training, unless its job is in the queue already."""
    config, folder = arguments.read(given)
    offered = cluster.nodes(given.partition)
    gpus = offered.gpus if given.gpus_per_node is None else given.gpus_per_node
    gpus = gpus if given.gpus_per_node is not None else shareable(config, given.nodes, gpus)
    tasks = max(1, gpus)
    announcement = arguments.check(config, given.nodes * tasks)
    executor = submitit.AutoExecutor(
        folder / "slurm", cluster="slurm", slurm_max_num_timeout=10_000
    )
    executor.update_parameters(**parameters(given, config, offered, gpus))
    if announcement:
        print(f"# {announcement}")
    if given.dry_run:
        script = executor._executor._make_submission_file_text("python ...", "dry-run")
        print(f"{script}\n# run in {folder}\n{arguments.show(config)}", end="")
        return
    job = queued(folder)
    if job is None:
        os.environ["PYTHONPATH"] = os.pathsep.join(
            [str(snapshot(folder)), *filter(None, [os.environ.get("PYTHONPATH")])]
        )
        job = executor.submit(Training(config, folder)).job_id
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


def shareable(config: Config, nodes: int, gpus: int) -> int:
    """As many of a node's GPUs as can share every stage's batch; says so where not all can."""
    for count in range(gpus, 0, -1):
        try:
            config.check_processes(nodes * count)
        except ValueError:
            continue
        if count < gpus:
            print(
                f"using {count} of the {gpus} GPUs of each node: the configuration's batches "
                f"cannot be shared by more on {nodes} nodes (see micro_batch)"
            )
        return count
    return min(gpus, 1)


def parameters(given: Namespace, config: Config, offered: cluster.Nodes, gpus: int) -> dict:
    """For submitit."""
    tasks = max(1, gpus)
    wanted = {
        "name": config.name,
        "nodes": given.nodes,
        "tasks_per_node": tasks,
        "cpus_per_task": given.cpus or max(1, offered.cpus // tasks),
        "timeout_min": cluster.minutes_of(given.time) if given.time else offered.minutes,
        "slurm_signal_delay_s": SIGNAL_BEFORE,
        "slurm_srun_args": ["--cpu-bind=none", "--kill-on-bad-exit=1"],
        "slurm_additional_parameters": {"requeue": True},  # when a node dies, say
        "slurm_mem": given.mem,
    }
    if gpus:
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


def snapshot(folder: Path) -> Path:
    """A copy of the code for the job, which may start, or restart, when ours has changed."""
    here = Path(__file__).resolve().parent.parent
    copy = folder / "code"
    for package in PACKAGES:
        shutil.rmtree(copy / package, ignore_errors=True)
        shutil.copytree(
            here / package, copy / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    return copy


def log(folder: Path, job: str) -> Path:
    """What the first process says."""
    return folder / "slurm" / f"{job}_0_log.out"


def follow(folder: Path, job: str) -> int:
    """Copies the output of the job to here until it has left the queue; 0 if it ended well."""
    path, place = log(folder, job), 0
    while True:
        state = cluster.state(job)
        if path.exists():
            with path.open() as file:
                file.seek(place)
                sys.stdout.write(file.read())
                sys.stdout.flush()
                place = file.tell()
        if state is None:
            ended = cluster.ask("sacct", "--noheader", "-X", "-o", "State", "-j", job).split()
            print(f"job {job}: {ended[0] if ended else 'left the queue'}")
            return 0 if ended and ended[0] == "COMPLETED" else 1
        time.sleep(2)


if __name__ == "__main__":
    main()
