"""What a job of a training does, said to whoever waits for it."""

import sys
import time
from pathlib import Path

from launch import cluster
from launch.requeue import MEANING
from pipeline.config import ConfigError

POLL = 2  # seconds between readings of the output; SLURM is asked at every fifth
SILENCE = 180  # seconds without a line that are told

# What squeue gives as the reason of a job that waits, in part -> what that means, what helps.
REASONS = {
    "held": "it is held: scontrol release {job}",
    "Held": "it is held: scontrol release {job}",
    "Resources": "it waits for nodes",
    "Priority": "it waits behind jobs of higher priority",
    "BeginTime": "it was requeued, and SLURM lets some time pass",
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
    """A job's state with its reason, and what that means and what releases it, where known."""
    if queued.state == "COMPLETING":
        return "COMPLETING: its processes are being ended"
    if queued.state != "PENDING":
        return queued.state
    known = next((text for part, text in REASONS.items() if part in queued.reason), "")
    return f"PENDING ({queued.reason})" + (f": {known.format(job=job)}" if known else "")


def leave(job: str) -> cluster.Queued | None:
    """Waits while a job is being ended, as after scancel; what it is then, None if it has left."""
    told = False
    while (queued := cluster.job_state(job)) is not None and queued.state == "COMPLETING":
        if not told:
            print(f"job {job} of this run is being ended; waiting for it to leave", flush=True)
        told = True
        time.sleep(POLL)
    return queued


def follow(path: Path, job: str) -> int:
    """Copies the output of a job, in `path`, to here until it has left the queue; 0 if it ended
    well. Says what it waits for, and when nothing has been said for minutes."""
    place, polls, told, heard = 0, 0, "", time.monotonic()
    queued: cluster.Queued | None = cluster.Queued("", "")
    while True:
        if polls % 5 == 0:
            try:
                queued = cluster.job_state(job)
            except ConfigError as error:
                print(f"{error}; retrying", file=sys.stderr)
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
        if queued.state and describe(job, queued) != told:
            told, heard = describe(job, queued), time.monotonic()
            print(f"job {job}: {told}", flush=True)
        if queued.state == "RUNNING" and time.monotonic() - heard > SILENCE:
            heard = time.monotonic()
            print(f"job {job} has said nothing for {SILENCE // 60} minutes", flush=True)
        time.sleep(POLL)


def end(folder: Path, job: str) -> int:
    """Says how a job ended that has left the queue; 0 if well."""
    command = ("sacct", "--noheader", "-X", "--parsable2", "-o", "State,ExitCode", "-j", job)
    state, _, status = (cluster.run_client(*command).split("\n")[0] or "left the queue|").partition(
        "|"
    )
    if state == "COMPLETED":
        print(f"job {job}: {state}")
        return 0
    number = status.partition(":")[0]
    # sacct takes 128 from a status that is larger.
    meaning = MEANING.get(int(number) + 128, "") if number.isdigit() else ""
    print(f"job {job}: {state}{f' ({meaning})' if meaning else ''}; errors are in {folder}/{job}_*")
    return 1
