"""Prints the state and the output of a training's job while a user waits for it."""

import shutil
import sys
import time
from pathlib import Path

from launch import cluster
from launch.requeue import MEANING
from pipeline.config import ConfigError

POLL = 2  # seconds between readings of the output; SLURM is asked at every fifth
SILENCE = 180  # seconds without output after which a line says so
ROOM = 1 << 20  # bytes; with less on its disk, a job's log may lack the line that says so

# Part of squeue's reason for a pending job -> its meaning and the remedy.
REASONS = {
    "held": "it is held: scontrol release {job}",
    "Held": "it is held: scontrol release {job}",
    "Resources": "it waits for nodes",
    "Priority": "it waits behind jobs of higher priority",
    "BeginTime": "it was requeued, and SLURM starts it after a delay",
    "Cleaning": "it was requeued, and its last attempt is being cleaned up",
    "PartitionDown": "its partition is down: see sinfo, or scancel {job} and name another",
    "PartitionInactive": "its partition is inactive: see sinfo, or scancel {job} and name another",
    "PartitionTimeLimit": "it asks for more time than its partition allows: scancel {job}, --time",
    "PartitionNodeLimit": "it asks for more nodes than its partition has: scancel {job}, --nodes",
    "ReqNodeNotAvail": "nodes that it needs are down, drained or reserved: see sinfo -R",
    "Dependency": "it waits for another job",
    "QOS": "a limit of the quality of service is reached",
    "Assoc": "a limit of the account is reached",
}


def describe(job: str, queued: cluster.Queued) -> str:
    """A job's state and reason, with the meaning of the reason and the remedy if known."""
    start = f", start {int(queued.restarts) + 1}" if queued.restarts not in ("", "0") else ""
    if queued.state == "COMPLETING":
        return "COMPLETING: its processes are being stopped"
    if queued.state != "PENDING":
        return queued.state + start
    known = next((text for part, text in REASONS.items() if part in queued.reason), "")
    return f"PENDING ({queued.reason}){start}" + (f": {known.format(job=job)}" if known else "")


def leave(job: str) -> cluster.Queued | None:
    """Waits while a job completes, as after scancel. Returns its state; None without a job."""
    announced = False
    while (queued := cluster.job_state(job)) is not None and queued.state == "COMPLETING":
        if not announced:
            print(f"job {job} of this run is being stopped; waiting for its end", flush=True)
        announced = True
        time.sleep(POLL)
    return queued


def follow(path: Path, job: str) -> int:
    """Prints a job's output, the file `path`, until the job has left the queue. Returns the exit
    status: 0 if the job completed. Prints the reason while it is pending, a line where its disk is
    full, and a line after each `SILENCE` seconds without output."""
    place, polls, printed, heard, full = 0, 0, "", time.monotonic(), False
    queued: cluster.Queued | None = cluster.Queued("", "")
    while True:
        if polls % 5 == 0:
            try:
                queued = cluster.job_state(job)
            except ConfigError as error:
                print(f"{error}; retrying", file=sys.stderr)
            before, full = full, is_full(path.parent)
            if full and not before:
                print(
                    f"no space left on the disk of {path.parent}: the log may lack lines, and a "
                    f"job that starts waits for room",
                    flush=True,
                )
        polls += 1
        if path.exists():
            with path.open() as file:
                file.seek(place)
                text = file.read()
                sys.stdout.write(text)
                sys.stdout.flush()
                place = file.tell()
                heard = time.monotonic() if text else heard
        if queued is None:
            return end(path.parent, job)
        if queued.state and describe(job, queued) != printed:
            printed, heard = describe(job, queued), time.monotonic()
            print(f"job {job}: {printed}", flush=True)
        if queued.state == "RUNNING" and time.monotonic() - heard > SILENCE:
            heard = time.monotonic()
            print(f"job {job} has printed nothing for {SILENCE // 60} minutes", flush=True)
        time.sleep(POLL)


def is_full(folder: Path) -> bool:
    try:
        return shutil.disk_usage(folder).free < ROOM
    except OSError:  # of a disk that is away
        return False


def end(folder: Path, job: str) -> int:
    """Prints the final state of a job that has left the queue; returns 0 if it completed."""
    state = outcome(job)
    errors = "" if state == "COMPLETED" else f"; errors are in {folder}/{job}_*"
    print(f"job {job}: {state}{errors}")
    return 1 if errors else 0


def outcome(job: str) -> str:
    """The final state of a job that has left the queue, with its meaning if known. ConfigError."""
    command = ("sacct", "--noheader", "-X", "--parsable2", "-o", "State,ExitCode", "-j", job)
    state, _, status = (cluster.run_client(*command).split("\n")[0] or "left the queue|").partition(
        "|"
    )
    number = status.partition(":")[0]
    # sacct subtracts 128 from a status above 128.
    meaning = MEANING.get(int(number) + 128, "") if number.isdigit() else ""
    return f"{state} ({meaning})" if meaning and state != "COMPLETED" else state
