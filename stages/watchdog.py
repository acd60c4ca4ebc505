"""Ends a training that stands still, and says which process held it up, and where.

Processes wait for each other at every step, so that one that hangs stops all. Each has a thread
that writes down what its process is doing, in `processes/` of the run's folder, and that notices
when its own process has not come further for too long. What time-outs of collectives say, which
are a little longer, names nobody.
"""

import contextlib
import json
import os
import socket
import sys
import threading
import time
from pathlib import Path

import torch
import torch.distributed as dist

from pipeline import processes, section
from stages.config import FaultsConfig

HANG = 199  # exit status of a process that ends because the training stood still
SENTENCE = "hang.txt"
DUMP = 60  # seconds for NCCL to write its flight recorder down, after its own time-out


class Watchdog(threading.Thread):
    """`step_done` after each step, `take_time` before what may take longer than a step."""

    def __init__(self, folder: Path, config: FaultsConfig):
        super().__init__(daemon=True)
        self.folder, self.config, self.over = folder, config, threading.Event()
        self.limit, self.host = 0.0, socket.gethostname()
        self.period = min(10.0, config.timeout / 5)
        self.take_time()
        if processes.is_first():
            (folder / SENTENCE).unlink(missing_ok=True)
        self.start()

    def take_time(self) -> None:
        """Until the next step: it begins a stage, or measures, or writes."""
        self._allow(self.config.long_timeout)

    def step_done(self) -> None:
        self._allow(self.config.timeout)

    def _allow(self, seconds: float) -> None:
        if seconds != self.limit:
            self.limit = seconds
            # Later than `end` has spoken. NCCL's is over before `end` leaves, and then it dumps its
            # flight recorder and aborts.
            processes.set_timeout(seconds + (3 if torch.cuda.is_available() else 5) * self.period)

    def stop(self) -> None:
        self.over.set()

    def run(self) -> None:
        seen, silent, before = -1, 0.0, time.monotonic()
        while not self.over.wait(self.period):
            now = time.monotonic()
            # A process that was stopped itself, as by scontrol suspend, does not count that time.
            silent, before = silent + min(now - before, 2 * self.period), now
            if section.count != seen:
                seen, silent = section.count, 0.0
            self.publish(silent)
            if silent > self.limit:
                self.end(silent)

    def publish(self, silent: float) -> None:
        about = {"count": section.count, "section": section.name, "seconds": round(silent)}
        about |= {"host": self.host, "pid": os.getpid(), "time": time.time()}
        path = self.folder / f"{processes.rank():04}.json"
        with contextlib.suppress(OSError):  # a full disk is told of where what is needed is written
            self.folder.mkdir(parents=True, exist_ok=True)
            beside = path.with_suffix(".partial")
            beside.write_text(json.dumps(about))
            beside.rename(path)

    def end(self, silent: float) -> None:
        """Says who holds up the training, and ends this process, whatever its main thread does."""
        sentence = f"{self.accuse(silent)}, and the training stands still"
        print(
            f"{sentence}: process {processes.rank()} ends after the {self.limit:.0f} s that "
            f"faults.timeout or long_timeout allow",
            file=sys.stderr,
            flush=True,
        )
        with contextlib.suppress(OSError):
            (self.folder / SENTENCE).write_text(sentence + "\n")
        if dist.get_backend() == "nccl":
            time.sleep(DUMP)
        os._exit(HANG)

    def accuse(self, silent: float) -> str:
        """The process that has come least far, from what all have written down."""
        time.sleep(self.period)  # until all have written down what they do at this moment
        found = {}
        for rank in range(processes.world_size()):
            try:
                found[rank] = json.loads((self.folder / f"{rank:04}.json").read_text())
            except (OSError, ValueError):
                continue
        if not found:
            return f"nothing has been trained for {silent:.0f} s, and no process says why"
        rank = min(found, key=lambda r: (found[r]["count"], found[r]["time"]))
        about = found[rank]
        newest = max(one["time"] for one in found.values())
        dead = newest - about["time"] > 3 * self.period
        who, where = f"process {rank} on {about['host']}", f"`{about['section']}`"
        if dead:
            return f"{who}, last seen in {where}, has given no sign of life for {silent:.0f} s"
        return f"{who} has been in {where} for {silent:.0f} s"
