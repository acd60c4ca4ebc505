"""Puts a job back in the queue when a process of it, or a node, was lost.

The processes that are left do so themselves where they notice (`launch.job`). Where they are ended
first, as NCCL ends a process whose peer is gone, the batch script does, after its tasks:

    python -m launch.requeue FOLDER        # of the run
"""

import os
import subprocess
import sys
import time
from pathlib import Path

from pipeline.records import checkpoints

TRIES = 3  # restarts after losses, without a new checkpoint, until the job fails
PATIENCE = 10  # seconds for SLURM to end a job in which one process failed by its own error


def main() -> None:
    folder = Path(sys.argv[1]).resolve()
    try:
        requeue(folder, ProcessLookupError("a process was killed"))
    except ProcessLookupError as error:
        sys.exit(f"{error}: job {attempt()[0]} is not requeued")


def attempt() -> tuple[str, str]:
    """The job, and how often it has been restarted."""
    return os.environ["SLURM_JOB_ID"], os.environ.get("SLURM_RESTART_COUNT", "0")


def own_error(folder: Path) -> Path:
    """The file that tells that a process of this attempt was ended by an error of its own."""
    return folder / "slurm" / "-".join(["failed", *attempt()])


def requeue(folder: Path, error: BaseException) -> None:
    """Requeues this job because of `error`, which is raised where that is refused or in vain."""
    time.sleep(PATIENCE)
    if own_error(folder).exists():
        raise error  # it comes of another's, which comes again
    job, restarts = attempt()
    reached = next(iter(checkpoints.newest_first(folder / "checkpoints")), None)
    record = folder / "slurm" / f"lost-{job}-{reached.name if reached else 0}-{restarts}"
    record.touch()
    if len(list(record.parent.glob(f"{record.name.rpartition('-')[0]}-*"))) > TRIES:
        raise error
    try:
        shown = subprocess.run(
            ["scontrol", "show", "job", job], check=True, capture_output=True, text=True
        ).stdout
    except (OSError, subprocess.CalledProcessError) as refusal:
        print(f"job {job} cannot be requeued from here ({refusal}): run the command again")
        raise error from None
    if "JobState=RUNNING" in shown and f"Restarts={restarts} " in shown:
        # else another process was quicker, or a user has cancelled it
        print(f"{error}: job {job} is requeued", flush=True)
        subprocess.run(["scontrol", "requeue", job], check=False)


if __name__ == "__main__":
    main()
