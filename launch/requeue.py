"""Requeues a job whose tasks failed, or ends it, by the exit status of the first that failed.

The batch script calls it after its tasks, with the status of srun. When one task has failed, srun
kills the others, and then its status is that of their signal: a task therefore writes an error of
its own, or what a hanging training waits for, into a file as well.

    python -m launch.requeue FOLDER STATUS        # of the run
"""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from pipeline.records import checkpoints
from stages.watchdog import HANG, SENTENCE

OWN_ERROR = 201  # of a process: the same would come again
LOST = 198  # the connection to another process: it, or its node, has died
NO_PROGRESS = 197  # of the job: lost too often without a new checkpoint
TRIES = 3  # restarts after losses, without a new checkpoint, until the job fails

MEANING = {
    OWN_ERROR: "an error of its own",
    HANG: "it hung",
    LOST: "a process or a node was lost",
    NO_PROGRESS: f"lost more than {TRIES} times without a new checkpoint",
}


def main() -> None:
    sys.exit(settle(Path(sys.argv[1]).resolve(), int(sys.argv[2])))


def settle(folder: Path, status: int) -> int:
    """Requeues this job, or says why not; the exit status of the batch script."""
    job, restarts = os.environ["SLURM_JOB_ID"], os.environ.get("SLURM_RESTART_COUNT", "0")
    if 128 < status <= 128 + signal.NSIG:
        if own_error(folder).exists():
            status = OWN_ERROR
        elif (folder / "processes" / SENTENCE).exists():
            status = HANG
    why = reason(folder, status)
    if status == OWN_ERROR:
        print(f"{why}: job {job} is not requeued", flush=True)
        return status
    try:
        shown = subprocess.run(
            ["scontrol", "show", "job", job], check=True, capture_output=True, text=True
        ).stdout
    except (OSError, subprocess.CalledProcessError) as refusal:
        print(f"{why}: job {job} cannot be requeued ({refusal}): run the command again")
        return status
    if "JobState=RUNNING" not in shown or f"Restarts={restarts} " not in shown:
        return status  # it is requeued already, or a user has cancelled it
    tries = losses(folder / "slurm", job, restarts)
    if tries > TRIES:
        print(f"{why}, and {MEANING[NO_PROGRESS]}: job {job} is not requeued", flush=True)
        return NO_PROGRESS
    print(f"{why}: job {job} is requeued", flush=True)
    subprocess.run(["scontrol", "requeue", job], check=False)
    return status


def own_error(folder: Path) -> Path:
    """Where a task of this attempt of this job says that it ended by an error of its own."""
    job, restarts = os.environ["SLURM_JOB_ID"], os.environ.get("SLURM_RESTART_COUNT", "0")
    return folder / "slurm" / f"error-{job}-{restarts}"


def reason(folder: Path, status: int) -> str:
    """In words, what tasks ended with."""
    if status == HANG:
        with contextlib.suppress(OSError):
            found = folder / "processes" / SENTENCE
            said = found.read_text().strip()
            found.unlink()  # it is not true of the next attempt
            return said
    if 128 < status <= 128 + signal.NSIG:
        log = f"{os.environ['SLURM_JOB_ID']}_0_log.err"
        return f"a process died (which, and of what: `srun: error:` in {log})"
    return MEANING.get(status, f"a process ended with status {status}")


def losses(folder: Path, job: str, restarts: str) -> int:
    """How often this job was lost since its newest checkpoint, with this time; kept in files."""
    reached = next(iter(checkpoints.newest_first(folder.parent / "checkpoints")), None)
    record = folder / f"lost-{job}-{reached.name if reached else 0}-{restarts}"
    with contextlib.suppress(OSError):  # a disk that is full costs the counting
        record.touch()
    return len(list(folder.glob(f"{record.name.rpartition('-')[0]}-*")))


if __name__ == "__main__":
    main()
