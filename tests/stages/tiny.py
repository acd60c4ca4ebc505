"""A training of seconds."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import yaml

from pipeline.config import parse
from stages.config import Config
from stages.trainer import train
from tests.processes import run_together


def tiny(dataset: Path, **changes) -> dict:
    """A configuration of two stages, 6 and 10 steps, as plain data."""
    content = {
        "name": "tiny",
        "data": {"path": str(dataset), "loader": "webdataset", "workers": 1},
        "shape": {
            "resolution": 16,
            "latent": 8,
            "base_channels": 4,
            "max_channels": 8,
            "mapping_layers": 2,
        },
        "objective": {"beta_rec": 1.0, "beta_kl": 0.5, "beta_neg": 8.0, "method": "soft-introvae"},
        "vae_images": 32,
        "engine": {"precision": "fp32", "zero_stage": 0},
        "every": {"log": 16, "pictures": 96, "checkpoint": 48, "evaluation": 0},
        "evaluation": {"extractor": "random", "samples": 40, "batch": 16},
        "stages": [
            {"resolution": 4, "images": 96, "batch": 16, "micro_batch": 4, "lr": 0.01},
            {"resolution": 8, "images": 160, "batch": 16, "micro_batch": 4, "lr": 0.01, "fade": 64},
        ],
    }
    for key, value in changes.items():
        part, _, name = key.rpartition("__")
        (content[part] if part else content)[name] = value
    return content


def run(content: dict, folder: Path, processes: int = 1, before=None, **env) -> list[int]:
    """Trains in new processes; what `train` gave in each. `before()` is called in each first."""
    return run_together(processes, _train, content, str(folder), before, **env)


def said(folder: Path) -> str:
    """What the processes of the trainings in `folder` have printed."""
    return folder.with_suffix(".log").read_text()


def _train(content: dict, folder: str, before) -> int:
    with open(Path(folder).with_suffix(".log"), "a") as log:
        os.dup2(log.fileno(), 1)
    if before is not None:
        before(Path(folder))
    return train(parse(Config, content, "tiny"), Path(folder))


def write(content: dict, path: Path) -> Path:
    path.write_text(yaml.safe_dump(content))
    return path


def final_weights(folder: Path, images: int = 256) -> dict[str, str]:
    """sha256 of what the last checkpoint holds."""
    last = max((folder / "checkpoints").iterdir(), key=lambda p: p.name)
    about = json.loads((last / "checkpoint.json").read_text())
    assert about["images"] == images
    return about["sha256"]


def journal(folder: Path, name: str) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["images"], line[name]) for line in lines if name in line]


class StopAt:
    """Sends the process a signal once so many images are in its run's journal."""

    def __init__(self, images: int):
        self.images = images

    def __call__(self, folder: Path) -> None:
        args = (folder / "metrics.jsonl",)
        threading.Thread(target=self.watch, args=args, daemon=True).start()

    def watch(self, path: Path) -> None:
        while not path.exists() or f'"images": {self.images}' not in path.read_text():
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGUSR2)
