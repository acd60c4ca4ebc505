"""The folder of a training: its configuration, and who may write there."""

import os
import socket
import time
from pathlib import Path

import yaml

from pipeline.config import ConfigError, flat, plain
from pipeline.records.files import whole
from stages.config import Config

# What may differ when a training is resumed: none of it changes what is computed.
FREE = ("name", "data.path", "data.loader", "data.workers", "tracking.", "evaluation.", "every.")
FREE += ("faults.",)  # a step back changes what is computed from there on, as checkpoints record


class LostRunError(Exception):
    """Another process has taken the run over; this one must not write there any more."""


class RunFolder:
    """config.yaml, metrics.jsonl, mlflow.json, checkpoints/, pictures/, reports/; by rank 0."""

    def __init__(self, path: Path):
        self.path = path
        self.checkpoints, self.pictures = path / "checkpoints", path / "pictures"
        self.reports = path / "reports"
        self.claimed = path / "claimed-by"
        self.token = ""

    def claim(self) -> None:
        """Makes this process the one that writes here. One that wrote before finds out in `check`.

        A process that was cut off from the others can wake when the job already runs elsewhere.
        """
        for folder in (self.pictures, self.reports):
            folder.mkdir(parents=True, exist_ok=True)
        self.token = f"{socket.gethostname()} process {os.getpid()} at {time.time_ns()}"
        with whole(self.claimed) as beside:
            beside.write_text(self.token)

    def check(self) -> None:
        """LostRunError unless this process still is the one that writes here."""
        holder = self.claimed.read_text()
        if holder != self.token:
            raise LostRunError(f"{self.path} has been taken over by {holder}: this process ends")

    def keep_config(self, config: Config, digest: str) -> None:
        """Writes config.yaml, or compares it with the one there: ConfigError if they differ."""
        path = self.path / "config.yaml"
        content = {"dataset_digest": digest, **plain(config)}
        if path.exists():
            differences = compare(yaml.safe_load(path.read_text()), content)
            if differences:
                raise ConfigError(
                    f"{self.path} holds a training of another configuration: "
                    + "; ".join(differences)
                    + ". Give this one an --output of its own, or ask for the same again"
                )
        self.path.mkdir(parents=True, exist_ok=True)
        with whole(path) as beside:
            beside.write_text(yaml.safe_dump(content, sort_keys=False))


def compare(old: dict, new: dict) -> list[str]:
    """What differs between two configurations that must compute the same: "key was a, now b"."""
    # A key that is null is as one that was not there when the training began.
    old, new = ({k: v for k, v in flat(c).items() if v is not None} for c in (old, new))
    missing = "not set"
    return [
        f"{key} was {old.get(key, missing)}, is {new.get(key, missing)}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key, missing) != new.get(key, missing)
        and not key.startswith(FREE)
        and ".every" not in key
    ]
