"""Prepares a dataset on a SLURM cluster, as an array of tasks on as many nodes as are free:

    python launch/prepare.py SOURCE --out DIR --tasks 64
    python launch/prepare.py SOURCE --out DIR --tasks 64 --partition cpu --max-resolution 512

Each task makes a range of the shards; a last job merges them. All other options are those of
dataprep/shard.py, and the dataset has the same bytes. SOURCE and DIR must be on a file system that
all nodes share. If a task fails, the same command makes what is missing.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import submitit

ROOT = Path(__file__).resolve().parent.parent
POLL = 2.0  # seconds


class Shard:
    """Runs dataprep/shard.py with these arguments; a requeued job runs it again."""

    def __init__(self, arguments: list[str]):
        self.arguments = arguments

    def __call__(self) -> None:
        command = [sys.executable, "dataprep/shard.py", *self.arguments]
        subprocess.run(command, cwd=ROOT, check=True)

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        return submitit.helpers.DelayedSubmission(self)  # finished units are on disk


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("source", metavar="SOURCE")
    add("--out", metavar="DIR", type=Path, required=True)
    add("--tasks", metavar="N", type=int, required=True, help="tasks of the array")
    add("--cpus", type=int, default=4, help="CPUs, and workers, of each task [4]")
    add("--mem", help="memory of each task, as 8G (default: the partition's)")
    add("--time", type=int, default=24 * 60, help="minutes [a day]")
    for name in ("partition", "account", "qos", "constraint", "exclude"):
        add(f"--{name}", help="as of sbatch")
    add("--follow", action="store_true", help="wait for the end")
    args, options = parser.parse_known_args()

    common = [str(Path(args.source).absolute()), "--out", str(args.out.absolute()), *options]
    common += ["--workers", str(args.cpus)]
    logs = args.out.absolute().with_name(args.out.name + ".slurm")
    array, merge = submit(args, common, logs)
    print(f"submitted {args.tasks} tasks as job {array.split('_')[0]}, then job {merge.job_id}")
    print(f"output   {logs}\nresult   {merge.paths.stdout}")
    return follow(merge) if args.follow else 0


def submit(args: argparse.Namespace, common: list[str], logs: Path) -> tuple[str, submitit.Job]:
    """Submits the array, then the merge job after it; the array's id and the merge job."""
    executor = submitit.AutoExecutor(logs, cluster="slurm", slurm_max_num_timeout=100)
    wanted = {
        "name": f"prepare-{args.out.name}",
        "cpus_per_task": args.cpus,
        "timeout_min": args.time,
        "slurm_mem": args.mem,
        "slurm_srun_args": ["--cpu-bind=none"],
        "slurm_array_parallelism": args.tasks,
    }
    for name in ("partition", "account", "qos", "constraint", "exclude"):
        wanted[f"slurm_{name}"] = getattr(args, name)
    executor.update_parameters(**{k: v for k, v in wanted.items() if v is not None})
    with executor.batch():
        tasks = [
            executor.submit(Shard([*common, "--task", str(i), "--tasks", str(args.tasks)]))
            for i in range(args.tasks)
        ]
    array = tasks[0].job_id.split("_")[0]
    executor.update_parameters(
        slurm_dependency=f"afterok:{array}",
        slurm_additional_parameters={"kill_on_invalid_dep": "yes"},
    )
    return array, executor.submit(Shard([*common, "--merge"]))


def follow(merge: submitit.Job) -> int:
    """Waits for the merge job; 0 where it made the dataset."""
    while not merge.done():
        time.sleep(POLL)
    failure = merge.exception()
    print(merge.stdout() or "", end="")
    if failure is None:
        return 0
    print(
        f"error: the dataset was not made ({merge.state}): see {merge.paths.folder}; the same "
        "command makes what is missing",
        file=sys.stderr,
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
