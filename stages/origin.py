"""Origin of a run: commit of the code, data, job."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import torch

from dataprep.manifest import Manifest
from pipeline import processes
from pipeline.records.store import DESCRIPTION
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
    """Where a training's weights come from, as tags, and as a description with a link."""
    found = {"init": config.init} if config.init else {}
    if config.sweep:
        found["sweep.id"] = config.sweep
    if parent := config.origin:
        values = {
            "run": parent.run,
            "images": parent.images,
            "checkpoint": parent.checkpoint,
            "dataset": parent.dataset,
            "mlflow_run": parent.mlflow_run,
        }
        found |= {f"origin.{key}": str(value) for key, value in values.items() if value is not None}
        run = f"`{parent.run}`"
        if parent.mlflow_run and parent.mlflow_experiment:
            run = (
                f"[{parent.run}](#/experiments/{parent.mlflow_experiment}/runs/{parent.mlflow_run})"
            )
        at = "" if parent.images is None else f" at {parent.images:,} images"
        how = "Began with the weights of" if parent.weights_only else "Branched off"
        found[DESCRIPTION] = f"{how} {run}{at}."
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
        found["slurm.job_id"] = job
        if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
            found["slurm.job_id"] = f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID')}"
        for name in ("job_name", "job_nodelist", "job_partition", "gpus_on_node"):
            if value := os.environ.get(f"SLURM_{name.upper()}"):
                found[f"slurm.{name}"] = value
    return found
