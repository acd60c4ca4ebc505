"""Queries to SLURM: resources of a partition, state of a job."""

import re
import subprocess
from pathlib import Path
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
    unused: str | None = None
    """What some nodes have besides, where they differ."""
    gres: str = ""
    """Their generic resources, as sinfo shows them."""


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
    found = {gpus_of(row[1]) for row in rows}
    used = min(found - {0}, default=0)
    kinds = sorted(found, reverse=True)
    unused = None
    if len(kinds) > 1:
        unused = (
            f"nodes of partition {partition or rows[0][0]} have {', '.join(map(str, kinds[:-1]))} "
            f"or {kinds[-1]} GPUs: {used} of each are used; choose nodes with --constraint or "
            f"--exclude, and --gpus-per-node"
        )
    elif not used:
        unused = (
            f"nodes of partition {partition or rows[0][0]} have no GPUs: this trains on CPUs; "
            f"name another with --partition"
        )
    return Nodes(
        gpus=used,
        cpus=min(int(row[2].rstrip("+")) for row in rows),
        minutes=min(minutes_of(row[3]) for row in rows),
        unused=unused,
        gres=" ".join(sorted({row[1] for row in rows})),
    )


def gpus_of(gres: str) -> int:
    """GPUs in a generic resource of sinfo: `gpu:a100:8(S:0-1)`, `gpu:4`, `(null)`."""
    return sum(int(n) for n in re.findall(r"gpu(?::[^:,()]+)?:(\d+)", gres))


def minutes_of(time: str) -> int:
    """Minutes in SLURM's notation: 90, 1:30:00, 2-12, 2-12:00:00, infinite."""
    if time.lower() in ("infinite", "unlimited"):
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


class Queued(NamedTuple):
    """A job in the queue."""

    state: str
    """PENDING, RUNNING, COMPLETING, ..."""
    reason: str
    """Why it waits: Resources, JobHeldUser, ..."""
    restarts: str = "0"


def job_state(job: str) -> Queued | None:
    """What a job in the queue does; None once it has left it.

    ConfigError where squeue fails, for instance because the controller is busy.
    """
    try:
        form = "State:|,Reason:.100|,RestartCnt:"
        shown = run_client("squeue", "--noheader", "--Format", form, "--jobs", job).strip()
        fields = [field.strip() for field in shown.split("\n")[0].split("|")]
        return Queued(*fields) if shown else None
    except ConfigError as error:
        if "Invalid job id" in str(error):  # one of days ago
            return None
        raise


def jobs_in(folder: Path) -> list[str]:
    """The user's jobs in the queue that run in `folder`."""
    lines = run_client("squeue", "--me", "--noheader", "-o", "%i|%Z").splitlines()
    found = [line.strip().partition("|") for line in lines]
    return [job for job, _, place in found if place == str(folder)]
