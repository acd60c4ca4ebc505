"""Requeues a SLURM job after a process or a node was lost.

A surviving process does it where it notices (`launch.job`). Where all processes end first, as NCCL
aborts a process that lost its peer, the batch script does it after its tasks:

    python -m launch.requeue FOLDER        # of the run
"""

import os
import subprocess
import sys
import time
from pathlib import Path

from pipeline.records import checkpoints

MAX_RETRIES = 3  # requeues without a new checkpoint, before the job fails
GRACE_SECONDS = 10  # for SLURM to end a job whose process failed by an error of its own


def main() -> None:
    folder = Path(sys.argv[1]).resolve()
    try:
        requeue(folder, ProcessLookupError("a process was killed"))
    except ProcessLookupError as error:
        sys.exit(f"{error}: job {attempt()[0]} is not requeued")


def attempt() -> tuple[str, str]:
    """The job's id, and how often it was restarted."""
    return os.environ["SLURM_JOB_ID"], os.environ.get("SLURM_RESTART_COUNT", "0")


def failure_marker(folder: Path) -> Path:
    """The file that marks a process of this attempt as failed by an error of its own."""
    return folder / "slurm" / "-".join(["failed", *attempt()])


def requeue(folder: Path, error: BaseException) -> None:
    """Requeues this job because of `error`; raises `error` where a requeue fails or cannot help."""
    time.sleep(GRACE_SECONDS)
    if failure_marker(folder).exists():
        raise error  # caused by another process's error, which a requeue would repeat
    job, restarts = attempt()
    reached = next(iter(checkpoints.newest_first(folder / "checkpoints")), None)
    record = folder / "slurm" / f"lost-{job}-{reached.name if reached else 0}-{restarts}"
    record.touch()
    if len(list(record.parent.glob(f"{record.name.rpartition('-')[0]}-*"))) > MAX_RETRIES:
        raise error
    try:
        job_info = subprocess.run(
            ["scontrol", "show", "job", job], check=True, capture_output=True, text=True
        ).stdout
    except (OSError, subprocess.CalledProcessError) as refusal:
        print(f"job {job} cannot be requeued from here ({refusal}): run the command again")
        raise error from None
    if "JobState=RUNNING" in job_info and f"Restarts={restarts} " in job_info:
        # Otherwise another process has requeued the job, or a user has cancelled it.
        print(f"{error}: job {job} is requeued", flush=True)
        subprocess.run(["scontrol", "requeue", job], check=False)


if __name__ == "__main__":
    main()
