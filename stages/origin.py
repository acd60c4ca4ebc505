"""Origin of a run: commit of the code, data, job."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import torch

from dataprep.manifest import Manifest
from pipeline import processes
from stages.config import Config

VERSION = "version.txt"  # beside a copy of the code
ROOT = Path(__file__).resolve().parent.parent
DIRTY = "-dirty"


def version() -> str | None:
    """The commit of the running code, with -dirty where files differ from it; of a copy made
    for a job, that which was copied."""
    copied = ROOT / VERSION
    if copied.exists():
        return copied.read_text()
    git = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=40", "--exclude=*"]
    try:
        result = subprocess.run([*git, f"--dirty={DIRTY}"], capture_output=True, text=True)
    except OSError:
        return None
    return result.stdout.strip() or None


def program() -> str:
    """The program that trains, relative to the code; in a job that is not one of ours."""
    started = Path(sys.argv[0]).resolve()
    if started.is_relative_to(ROOT) and "launch" in started.parts:
        return str(started.relative_to(ROOT))
    return "stages/trainer.py"


def lineage(config: Config) -> dict[str, str]:
    """The origin of a training's weights: the checkpoint of another run, or a model."""
    found = {"init": config.init} if config.init else {}
    if config.sweep:
        found["sweep.id"] = config.sweep
    if parent := config.origin:
        found |= {
            "origin.run": parent.run,
            "origin.images": str(parent.images),
            "origin.checkpoint": parent.checkpoint,
        }
        if parent.mlflow_run:
            found["origin.mlflow_run"] = parent.mlflow_run
    for change in config.history:
        found[f"changed.{change.images:09}"] = "; ".join(change.changes)
    return found


def tags(manifest: Manifest) -> dict[str, str]:
    """What produced a run: data, code, job, machines; the mlflow.* ones are columns of its UI."""
    job = os.environ.get("SLURM_JOB_ID")
    found = {
        "dataset.digest": manifest.digest,
        "dataset": manifest.place,
        "host": socket.gethostname(),
        "processes": str(processes.world_size()),
        "mlflow.source.name": program(),
        "mlflow.source.type": "JOB" if job else "LOCAL",
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    if (code := version()) and code != "unknown":
        commit = code.removesuffix(DIRTY)
        found |= {"git": commit, "git.dirty": str(commit != code).lower()}
        found["mlflow.source.git.commit"] = commit
    if job:
        found["slurm.restarts"] = os.environ.get("SLURM_RESTART_COUNT", "0")
        for name in ("job_id", "job_name", "job_nodelist", "job_partition", "gpus_on_node"):
            if value := os.environ.get(f"SLURM_{name.upper()}"):
                found[f"slurm.{name}"] = value
    return found
