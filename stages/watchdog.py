"""Ends a training that hangs, and names the process that blocks it and the section it is in.

Processes wait for each other at every step: one that hangs blocks all. A thread in each process
writes the current section of the process to `processes/` in the run's folder (its heartbeat), and
ends the process when it has made no progress for too long. Collectives time out a little later;
their message does not name the process that hangs.
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
from stages.hang import HANG, SENTENCE

DUMP = 60  # seconds for NCCL to write its flight recorder, after its own time-out


class Watchdog(threading.Thread):
    """Call `step_done` after each step, and `take_time` before work that takes longer."""

    def __init__(self, folder: Path, config: FaultsConfig):
        super().__init__(daemon=True)
        self.folder, self.config, self.over = folder, config, threading.Event()
        # SLURM's name of the node, where there is one: launch/requeue.py may exclude it.
        self.limit = 0.0
        self.host = os.environ.get("SLURMD_NODENAME", socket.gethostname())
        self.period = min(10.0, config.timeout / 5)
        self.take_time()
        if processes.is_first():
            (folder / SENTENCE).unlink(missing_ok=True)
        self.start()

    def take_time(self) -> None:
        """Allows `long_timeout` until the next step: a stage begins, is evaluated or is saved."""
        self._allow(self.config.long_timeout)

    def step_done(self) -> None:
        self._allow(self.config.timeout)

    def _allow(self, seconds: float) -> None:
        if seconds != self.limit:
            self.limit = seconds
            # Collectives time out after `end` has printed its message. NCCL times out before `end`
            # exits the process, dumps its flight recorder and aborts.
            processes.set_timeout(seconds + (3 if torch.cuda.is_available() else 5) * self.period)

    def stop(self) -> None:
        self.over.set()

    def run(self) -> None:
        seen, silent, before = -1, 0.0, time.monotonic()
        self.publish(silent)  # so that a process that stops at once has a heartbeat, too
        while not self.over.wait(self.period):
            now = time.monotonic()
            # Time for which this process was suspended (scontrol suspend) does not count.
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
        with contextlib.suppress(OSError):  # a full disk is reported where checkpoints are written
            self.folder.mkdir(parents=True, exist_ok=True)
            beside = path.with_suffix(".partial")
            beside.write_text(json.dumps(about))
            beside.rename(path)

    def end(self, silent: float) -> None:
        """Prints which process hangs, and exits this one, even if its main thread is blocked."""
        sentence = f"{self.find_slowest(silent)}, and the training hangs"
        with contextlib.suppress(OSError):
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

    def find_slowest(self, silent: float) -> str:
        """A description of the process with the least progress, from the heartbeats of all."""
        time.sleep(self.period)  # until all processes have written their current section
        found = {}
        for rank in range(processes.world_size()):
            try:
                found[rank] = json.loads((self.folder / f"{rank:04}.json").read_text())
            except (OSError, ValueError):
                continue
        if not found:
            return f"no step has finished for {silent:.0f} s, no process has written a heartbeat"
        rank = min(found, key=lambda r: (found[r]["count"], found[r]["time"]))
        about = found[rank]
        newest = max(one["time"] for one in found.values())
        dead = newest - about["time"] > 3 * self.period
        who, where = f"process {rank} on {about['host']}", f"`{about['section']}`"
        if dead:
            return f"{who}, last seen in {where}, has sent no heartbeat for {silent:.0f} s"
        return f"{who} has been in {where} for {silent:.0f} s"
