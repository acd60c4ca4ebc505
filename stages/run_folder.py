"""The folder of a training: its configuration, and the process that owns it."""

import os
import socket
import time
from pathlib import Path

from pipeline.config import ConfigError, plain
from pipeline.records.files import whole
from stages import plan
from stages.config import Config


class LostRunError(Exception):
    """Another process owns the run now; this one must not write there any more."""


class RunFolder:
    """config.yaml, metrics.jsonl, mlflow.json, checkpoints/, pictures/, reports/; by rank 0.

    Every process has a file in processes/ (`stages.watchdog`).
    """

    def __init__(self, path: Path):
        self.path = path
        self.checkpoints, self.pictures = path / "checkpoints", path / "pictures"
        self.reports = path / "reports"
        self.claimed = path / "claimed-by"
        self.token = ""

    def claim(self) -> None:
        """Makes this process the owner. A previous owner notices it in `check`.

        (A process that was cut off can resume when the job already runs elsewhere.)
        """
        for folder in (self.pictures, self.reports):
            folder.mkdir(parents=True, exist_ok=True)
        self.token = f"{socket.gethostname()} process {os.getpid()} at {time.time_ns()}"
        with whole(self.claimed) as beside:
            beside.write_text(self.token)

    def check(self) -> None:
        """LostRunError where another process owns the run."""
        try:
            holder = self.claimed.read_text()
        except OSError:  # nobody can claim it there either
            return
        if holder != self.token:
            raise LostRunError(f"{self.path} has been taken over by {holder}: this process ends")

    def keep_config(self, config: Config) -> None:
        """Writes config.yaml, or compares it with the existing one. ConfigError if they differ."""
        known = plan.read(self.path)
        if known is not None:
            known = plan.with_precision(known, config.engine.precision)
        if known is not None and (differences := plan.compare(plain(known), plain(config))):
            raise ConfigError(
                f"{self.path} holds a training of another configuration: "
                + "; ".join(differences)
                + ". Give this one an --output of its own, or ask for the same again"
            )
        if known is None or plain(known) != plain(config):  # a disk that is full takes no more
            plan.write(self.path, config)
