"""What a SLURM cluster offers, and what it is doing."""

import re
import subprocess
from typing import NamedTuple

from pipeline.config import ConfigError

DAY = 24 * 60
LONGEST = 3 * DAY  # minutes asked for where the partition sets no limit


class Nodes(NamedTuple):
    """What every node of a partition has, at least."""

    gpus: int
    cpus: int
    minutes: int
    """The longest a job may run."""


def ask(*command: str) -> str:
    """The output of a SLURM client; ConfigError if there is none, or it fails."""
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout
    except FileNotFoundError:
        raise ConfigError(
            f"there is no {command[0]} here: run this on a machine from which SLURM jobs are "
            f"submitted, or train on this machine with launch/local.py"
        ) from None
    except subprocess.CalledProcessError as error:
        raise ConfigError(f"{' '.join(command)} failed: {error.stderr.strip()}") from None


def nodes(partition: str | None) -> Nodes:
    """What the nodes of a partition have, of the default one if none is named."""
    lines = ask(
        "sinfo", "--noheader", "-o", "%P|%G|%c|%l", *(["-p", partition] if partition else [])
    )
    rows = [line.strip().split("|") for line in lines.splitlines()]
    rows = [row for row in rows if partition or row[0].endswith("*")] or rows
    if not rows:
        raise ConfigError(f"SLURM knows no partition {partition!r}: see sinfo")
    gpus = [n for n in (gpus_of(row[1]) for row in rows) if n]
    return Nodes(
        gpus=min(gpus, default=0),
        cpus=min(int(row[2].rstrip("+")) for row in rows),
        minutes=min(minutes_of(row[3]) for row in rows),
    )


def gpus_of(gres: str) -> int:
    """GPUs in what sinfo shows as generic resources: `gpu:a100:8(S:0-1)`, `gpu:4`, `(null)`."""
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
        raise ConfigError(f"{time!r} is no time: try 90 (minutes), 12:00:00 or 2-12") from None


def state(job: str) -> str | None:
    """PENDING, RUNNING, ... of a job in the queue; None when it has left it.

    ConfigError where SLURM does not say, as when its controller is too busy to answer.
    """
    try:
        return ask("squeue", "--noheader", "-o", "%T", "-j", job).strip() or None
    except ConfigError as error:
        if "Invalid job id" in str(error):  # one of days ago
            return None
        raise
