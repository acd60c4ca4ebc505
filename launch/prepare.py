"""Prepares a dataset on a SLURM cluster, as an array of tasks on as many nodes as are free:

    python launch/prepare.py SOURCE --out DIR --tasks 64
    python launch/prepare.py SOURCE --out DIR --tasks 64 --partition cpu --max-resolution 512

Each task makes a range of the shards, and a last job puts them together. All other options are
those of dataprep/shard.py, and the dataset is the same to the byte. SOURCE and DIR lie where all
nodes see them. Should a task fail, the same command does what is missing.
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
    """Runs dataprep/shard.py with these arguments; begun anew where the job is requeued."""

    def __init__(self, arguments: list[str]):
        self.arguments = arguments

    def __call__(self) -> None:
        command = [sys.executable, "dataprep/shard.py", *self.arguments]
        subprocess.run(command, cwd=ROOT, check=True)

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        return submitit.helpers.DelayedSubmission(self)  # what is done is on the disk


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("source", metavar="SOURCE")
    add("--out", metavar="DIR", type=Path, required=True)
    add("--tasks", metavar="N", type=int, required=True, help="tasks of the array")
    add("--cpus", type=int, default=4, help="processors, and workers, of each task [4]")
    add("--mem", help="memory of each task, as 8G (default: the partition's)")
    add("--time", type=int, default=24 * 60, help="minutes [a day]")
    for name in ("partition", "account", "qos", "constraint", "exclude"):
        add(f"--{name}", help="as of sbatch")
    add("--follow", action="store_true", help="wait for the end")
    given, options = parser.parse_known_args()

    common = [str(Path(given.source).absolute()), "--out", str(given.out.absolute()), *options]
    common += ["--workers", str(given.cpus)]
    logs = given.out.absolute().with_name(given.out.name + ".slurm")
    array, merge = submit(given, common, logs)
    print(f"submitted {given.tasks} tasks as job {array.split('_')[0]}, then job {merge.job_id}")
    print(f"output   {logs}\nresult   {merge.paths.stdout}")
    return follow(merge) if given.follow else 0


def submit(given: argparse.Namespace, common: list[str], logs: Path) -> tuple[str, submitit.Job]:
    """Queue the array, and the job that comes after all of it; the array's id and that job."""
    executor = submitit.AutoExecutor(logs, cluster="slurm", slurm_max_num_timeout=100)
    wanted = {
        "name": f"prepare-{given.out.name}",
        "cpus_per_task": given.cpus,
        "timeout_min": given.time,
        "slurm_mem": given.mem,
        "slurm_srun_args": ["--cpu-bind=none"],
        "slurm_array_parallelism": given.tasks,
    }
    for name in ("partition", "account", "qos", "constraint", "exclude"):
        wanted[f"slurm_{name}"] = getattr(given, name)
    executor.update_parameters(**{k: v for k, v in wanted.items() if v is not None})
    with executor.batch():
        tasks = [
            executor.submit(Shard([*common, "--task", str(i), "--tasks", str(given.tasks)]))
            for i in range(given.tasks)
        ]
    array = tasks[0].job_id.split("_")[0]
    executor.update_parameters(
        slurm_dependency=f"afterok:{array}",
        slurm_additional_parameters={"kill_on_invalid_dep": "yes"},
    )
    return array, executor.submit(Shard([*common, "--merge"]))


def follow(merge: submitit.Job) -> int:
    """Wait for the last job; 0 where it put a dataset together."""
    while not merge.done():
        time.sleep(POLL)
    failure = merge.exception()
    print(merge.stdout() or "", end="")
    if failure is None:
        return 0
    print(
        f"error: the dataset was not made ({merge.state}): see {merge.paths.folder}; the same "
        "command does what is missing",
        file=sys.stderr,
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
