"""Queries to SLURM: resources of a partition, state of a job."""

import re
import subprocess
from typing import NamedTuple

from pipeline.config import ConfigError

DAY = 24 * 60
LONGEST = 3 * DAY  # minutes to request where the partition sets no limit


class Nodes(NamedTuple):
    """The minimum over the nodes of a partition."""

    gpus: int
    cpus: int
    minutes: int
    """Time limit of a job."""


def run_client(*command: str) -> str:
    """Runs a SLURM client and returns its output; ConfigError if it is missing or fails."""
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout
    except FileNotFoundError:
        raise ConfigError(
            f"there is no {command[0]} here: run this on a machine from which SLURM jobs are "
            f"submitted, or train on this machine with launch/local.py"
        ) from None
    except subprocess.CalledProcessError as error:
        raise ConfigError(f"{' '.join(command)} failed: {error.stderr.strip()}") from None


def node_resources(partition: str | None) -> Nodes:
    """Resources of the nodes of a partition, by default of the default partition."""
    lines = run_client(
        "sinfo", "--noheader", "-o", "%P|%G|%c|%l", *(["-p", partition] if partition else [])
    )
    rows = [line.strip().split("|") for line in lines.splitlines()]
    rows = [row for row in rows if partition or row[0].endswith("*")] or rows
    if not rows:
        raise ConfigError(f"there is no SLURM partition {partition!r}: see sinfo")
    gpus = [n for n in (gpus_of(row[1]) for row in rows) if n]
    return Nodes(
        gpus=min(gpus, default=0),
        cpus=min(int(row[2].rstrip("+")) for row in rows),
        minutes=min(minutes_of(row[3]) for row in rows),
    )


def gpus_of(gres: str) -> int:
    """GPUs in a generic resource of sinfo: `gpu:a100:8(S:0-1)`, `gpu:4`, `(null)`."""
    return sum(int(n) for n in re.findall(r"gpu(?::[^:,()]+)?:(\d+)", gres))


def minutes_of(time: str) -> int:
    """Minutes in SLURM's notation: 90, 1:30:00, 2-12, 2-12:00:00, infinite."""
    if time == "infinite":
        return LONGEST
    days, dash, rest = time.rpartition("-")
    parts = rest.split(":")
    try:
        if dash:
            hours, minutes = ([int(p) for p in parts] + [0, 0])[:2]
            return int(days) * DAY + hours * 60 + minutes
        if len(parts) == 3:
            return int(parts[0]) * 60 + int(parts[1])
        return int(parts[0])
    except ValueError:
        raise ConfigError(f"{time!r} is not a time: use 90 (minutes), 12:00:00 or 2-12") from None


def job_state(job: str) -> str | None:
    """PENDING, RUNNING, ... of a job in the queue; None once it has left the queue.

    ConfigError where squeue fails, for instance because the controller is busy.
    """
    try:
        return run_client("squeue", "--noheader", "-o", "%T", "-j", job).strip() or None
    except ConfigError as error:
        if "Invalid job id" in str(error):  # one of days ago
            return None
        raise
