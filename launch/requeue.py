"""Requeues a job whose tasks failed, or ends it, by the exit status of the first that failed.

The batch script calls it after its tasks, with the status of srun. When one task has failed, srun
kills the others, and then its status is that of their signal: a task therefore writes an error of
its own, or what a hanging training waits for, into a file as well.

    python -m launch.requeue FOLDER STATUS [--exclude-failed]        # of the run
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

from stages.hang import HANG, SENTENCE

OWN_ERROR = 201  # of a process: the same would come again
LOST = 198  # the connection to another process: it, or its node, has died
NO_PROGRESS = 197  # of the job: lost too often without a new checkpoint
TRIES = 3  # restarts after losses, without a new checkpoint, until the job fails
PATIENCE, PAUSE = 600.0, 5.0  # seconds for a controller that does not answer
SILENT = "timed out|contact|[Cc]onnect|[Mm]unge|[Aa]uthentication"  # what scontrol says of one

MEANING = {
    OWN_ERROR: "an error of its own",
    HANG: "it hung",
    LOST: "a process or a node was lost",
    NO_PROGRESS: f"lost more than {TRIES} times without a new checkpoint",
}


def main() -> None:
    exclude = "--exclude-failed" in sys.argv[3:]
    leave(settle(Path(sys.argv[1]).resolve(), int(sys.argv[2]), exclude))


def leave(status: int) -> NoReturn:
    """Ends this process at once, without the threads that may wait for other processes for ever.

    Lines that do not fit on a full disk are lost; at the interpreter's own end they would make the
    status 120.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(status)


def settle(folder: Path, status: int, exclude: bool = False) -> int:
    """Requeues this job, or says why not; the exit status of the batch script.

    With `exclude`, the job does not run again on a node that hung or was lost.
    """
    job, restarts = job_id(), os.environ.get("SLURM_RESTART_COUNT", "0")
    if 128 < status <= 128 + signal.NSIG:
        if own_error(folder).exists():
            status = OWN_ERROR
        elif (folder / "processes" / SENTENCE).exists():
            status = HANG
    why = reason(folder, status)
    if status == OWN_ERROR:
        say(f"{why}: job {job} is not requeued")
        return status
    try:
        shown = scontrol("show", "job", job)
    except (OSError, subprocess.CalledProcessError) as refusal:
        say(f"{why}: job {job} cannot be requeued ({refusal}): run the command again")
        return status
    if "JobState=RUNNING" not in shown or f"Restarts={restarts} " not in shown:
        return status  # it is requeued already, or a user has cancelled it
    tries = losses(folder / "slurm", job, restarts)
    if tries > TRIES:
        say(f"{why}, and {MEANING[NO_PROGRESS]}: job {job} is not requeued")
        return NO_PROGRESS
    nodes = failed_nodes(status, why, shown) if exclude else ""
    say(f"{why}: job {job} is requeued{nodes and f' without {nodes}'}")
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # SLURM ends this script, too
    with contextlib.suppress(subprocess.CalledProcessError):  # it has printed why
        scontrol("requeue", job)
        if nodes:
            before = value_of("ExcNodeList", shown)
            nodes = ",".join([before, nodes] if before else [nodes])
            scontrol("update", f"JobId={job}", f"ExcNodeList={nodes}")
    return status


def say(line: str) -> None:
    """As pipeline.say, whose package imports torch."""
    with contextlib.suppress(OSError):
        print(line, flush=True)


def scontrol(*arguments: str) -> str:
    """What scontrol prints. A controller that does not answer is asked again for PATIENCE seconds.

    CalledProcessError if it refuses.
    """
    end = time.monotonic() + PATIENCE
    while True:
        run = subprocess.run(["scontrol", *arguments], capture_output=True, text=True, check=False)
        if run.stderr:
            with contextlib.suppress(OSError):  # a full disk
                print(run.stderr.strip(), file=sys.stderr, flush=True)
        if not run.returncode or not re.search(SILENT, run.stderr) or time.monotonic() > end:
            run.check_returncode()
            return run.stdout
        time.sleep(PAUSE)


def failed_nodes(status: int, why: str, shown: str) -> str:
    """Nodes of this job that hung or are down, with commas; none where the rest would not do.

    `shown` is the job as scontrol shows it.
    """
    if status == HANG:
        found = re.findall(r"^process \d+ on ([\w-]+)", why)
    else:
        found = nodes("%N %T", "--nodes", value_of("NodeList", shown))
        found = [name for name, state in map(str.split, found) if re.search(r"down|\*", state)]
    before = value_of("ExcNodeList", shown)
    excluded = {*found, *(nodes("%N", "--nodes", before) if before else [])}
    left = {*nodes("%N", "--partition", value_of("Partition", shown))} - excluded
    if found and len(left) < int(value_of("NumNodes", shown).partition("-")[0]):
        say(f"{', '.join(found)}: not excluded, as no other node of the partition is left")
        return ""
    return ",".join(found)


def nodes(form: str, *of: str) -> list[str]:
    """A line of sinfo for each node."""
    command = ["sinfo", "--noheader", "--Node", "-o", form, *of]
    shown = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return list(dict.fromkeys(line.strip() for line in shown.splitlines()))


def value_of(key: str, shown: str) -> str:
    """A value of what scontrol shows; empty for none."""
    found = re.search(rf"(?:^|\s){key}=(\S*)", shown)
    return "" if found is None or found[1] == "(null)" else found[1]


def job_id() -> str:
    """This job's id. One task of an array has the array's number, which would mean all tasks."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]


def own_error(folder: Path) -> Path:
    """Where a task of this attempt of this job writes the error of its own that ended it."""
    job, restarts = job_id(), os.environ.get("SLURM_RESTART_COUNT", "0")
    return folder / "slurm" / f"error-{job}-{restarts}"


def reason(folder: Path, status: int) -> str:
    """In words, what tasks ended with."""
    if status == HANG:
        with contextlib.suppress(OSError):
            found = folder / "processes" / SENTENCE
            said = found.read_text().strip()
            found.unlink()  # it is not true of the next attempt
            return said
    if status == OWN_ERROR:
        with contextlib.suppress(OSError):
            return own_error(folder).read_text() or MEANING[OWN_ERROR]
    if 128 < status <= 128 + signal.NSIG:
        log = f"{job_id()}_0_log.err"
        return f"a process died (which, and of what: `srun: error:` in {log})"
    return MEANING.get(status, f"a process ended with status {status}")


def losses(folder: Path, job: str, restarts: str) -> int:
    """How often this job was lost since its newest checkpoint, with this time; kept in files."""
    # As pipeline.records.checkpoints does, which imports torch.
    found = [int(p.name) for p in (folder.parent / "checkpoints").glob("*") if p.name.isdigit()]
    record = folder / f"lost-{job}-{max(found, default=0)}-{restarts}"
    with contextlib.suppress(OSError):  # a disk that is full costs the counting
        record.touch()
    return len(list(folder.glob(f"{record.name.rpartition('-')[0]}-*")))


if __name__ == "__main__":
    main()
