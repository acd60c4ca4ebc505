"""Processes of the test cluster's trainings, found in /proc."""

import contextlib
from collections.abc import Iterator
from pathlib import Path


def _processes(job: str, conf: str) -> Iterator[tuple[int, str, dict[str, str]]]:
    """(pid, command line, environment) of the processes of a job of the cluster of `conf`."""
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError, UnicodeDecodeError):
            variables = dict(line.partition("=")[::2] for line in path.read_text().split("\0"))
            if variables.get("SLURM_JOB_ID") == job and variables.get("SLURM_CONF") == conf:
                yield int(path.parent.name), (path.parent / "cmdline").read_text(), variables


def tasks(job: str, conf: str) -> dict[int, int]:
    """The process of each rank."""
    found: dict[int, int] = {}
    for pid, command, variables in _processes(job, conf):
        trains = "submitit.core._submit" in command and not command.startswith("srun")
        if trains and variables.get("SLURM_STEP_ID", "batch").isdigit():
            rank = int(variables["SLURM_PROCID"])
            found[rank] = min(pid, found.get(rank, pid))  # workers of the loader come later
    return found


def sruns(job: str, conf: str) -> list[int]:
    """The srun of a job's batch script (one process, and one that it forks)."""
    return [pid for pid, command, _ in _processes(job, conf) if command.startswith("srun")]
