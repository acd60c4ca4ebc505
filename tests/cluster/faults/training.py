"""A training as a user starts it, in the background, with all that it prints."""

import contextlib
import importlib
import multiprocessing
import os
import random
import re
import signal
import sys
import threading
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

from pipeline.records.files import sha256
from tests.cluster.tasks import tasks
from tests.conftest import ROOT
from tests.stages.tiny import tiny

STEPS = (12, 36)  # at 4x4 and 8x8
BATCH, EVERY = 16, 96  # images of a step, and between two checkpoints
LAST = BATCH * sum(STEPS)
LINE = re.compile(r"^ *([\d,]+)  \d+x\d+  alpha .*?(\d+) img/s", re.M)  # a step that is logged


def content(dataset: Path, **changes) -> dict:
    """The configuration: as ffhq256 at ZeRO 1, and each step is logged."""
    made = tiny(dataset, engine__zero_stage=1, **changes)
    for stage, steps in zip(made["stages"], STEPS, strict=True):
        stage |= {"images": BATCH * steps, "lr": 0.002}
    made["evaluation"]["samples"] = 16
    made["every"] = {"log": BATCH, "pictures": 0, "checkpoint": EVERY, "evaluation": 0}
    return made


# A command is forked from a server that has imported the launchers, which takes 7 s of a processor.
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["launch.local", "launch.slurm", "tests.processes", "ffcv.loader"])


def _run(arguments: list[str], said: str, env: dict[str, str]) -> None:
    """`python ARGUMENTS`, in a process and a session of its own, with its output in a file."""
    os.setsid()
    for stream in (1, 2):
        os.dup2(os.open(said, os.O_WRONLY | os.O_APPEND), stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(ROOT)
    sys.argv = arguments
    importlib.import_module(arguments[0].removesuffix(".py").replace("/", ".")).main()


_asking = threading.Lock()


def _status(child: BaseProcess) -> int | None:
    """The exit status of a process, which only one thread at a time can ask for."""
    with _asking:
        return child.exitcode


class Training:
    """`command` is a launcher (launch/local.py, launch/slurm.py) with its arguments, without
    --output. What it prints is kept in the folder `notes`."""

    def __init__(self, folder: Path, notes: Path, command: list, conf: str, processes: int):
        self.folder, self.notes, self.command, self.conf = folder, notes, [*map(str, command)], conf
        self.processes = processes
        self.heard: list[tuple[float, str]] = []  # (time.monotonic(), line)
        self.child: BaseProcess | None = None
        self.starts = 0
        self.env: dict[str, str] = {}

    @property
    def on_slurm(self) -> bool:
        return "slurm" in self.command[0]

    def start(self, *more: object) -> "Training":
        """The command, once more if it has run before."""
        self.starts += 1
        said = self.notes / f"said.{id(self):x}.{self.starts}"
        said.touch()
        arguments = [*self.command, "--output", str(self.folder), *map(str, more)]
        env = dict(os.environ) | self.env
        self.child = _context.Process(target=_run, args=(arguments, str(said), env))
        self.child.start()
        threading.Thread(target=self._listen, args=(self.child, said), daemon=True).start()
        return self

    def _listen(self, child: BaseProcess, said: Path) -> None:
        with said.open() as lines:
            rest, over = "", False
            while not over:
                over = _status(child) is not None
                time.sleep(0.02)
                rest += lines.read()
                *whole, rest = rest.split("\n")
                now = time.monotonic()
                self.heard += [(now, line.rstrip()) for line in whole]

    @property
    def status(self) -> int | None:
        """The exit status of the command; None while it runs."""
        return None if self.child is None else _status(self.child)

    def said(self) -> str:
        """All that the user's commands have printed."""
        return "\n".join(line for _, line in self.heard)

    def find(self, pattern: str, since: float = 0.0) -> tuple[float, str] | None:
        """When, and in which line, something was printed after `since`; None if it was not."""
        for moment, line in list(self.heard):
            if moment >= since and re.search(pattern, line):
                return moment, line
        return None

    def wait(self, what, seconds: float, named: str):
        """The first true value of `what()`. TimeoutError."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if value := what():
                return value
            time.sleep(0.02)
        raise TimeoutError(f"{seconds:.0f} s without {named}; last was said: {self.said()[-300:]}")

    def wait_for(self, pattern: str, seconds: float, since: float = 0.0) -> tuple[float, str]:
        return self.wait(lambda: self.find(pattern, since), seconds, pattern)

    def wait_images(self, images: int, seconds: float = 300) -> None:
        """Until so many images are in the journal; the training must still run then."""
        path = self.folder / "metrics.jsonl"
        text = f'"images": {images},'
        self.wait(lambda: path.exists() and text in path.read_text(), seconds, f"{images} images")

    def wait_middle(self) -> None:
        """Until a random step in the middle of the training."""
        self.wait_images(BATCH * random.randint(STEPS[0] + 2, sum(STEPS) // 2))

    @property
    def job(self) -> str:
        path = self.folder / "slurm" / "job"
        self.wait(lambda: path.exists() and path.read_text(), 120, "a job")
        return path.read_text()

    def ranks(self) -> dict[int, int]:
        """The pid of each process of the training on SLURM."""
        return self.wait(lambda: tasks(self.job, self.conf), 60, "processes")

    def kill(self, *ranks: int, number: int = signal.SIGKILL) -> None:
        found = self.ranks()
        for rank in ranks:
            os.kill(found[rank], number)

    def signal_all(self, number: int) -> None:
        """A signal to the command and all processes that it has started here."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.child.pid, number)

    def kill_all(self) -> None:
        self.signal_all(signal.SIGKILL)
        self.wait(lambda: self.status is not None, 60, "an end")

    @contextlib.contextmanager
    def slowed(self, rank: int = 0, stopped: float = 0.3, runs: float = 0.03):
        """A process stands still most of the time: all wait for it, at no cost to processors."""
        pid, over = self.ranks()[rank], threading.Event()

        def pulse() -> None:
            with contextlib.suppress(ProcessLookupError):
                while not over.is_set():
                    os.kill(pid, signal.SIGSTOP)
                    over.wait(stopped)
                    os.kill(pid, signal.SIGCONT)
                    over.wait(runs)

        thread = threading.Thread(target=pulse, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def end(self, seconds: float = 400) -> int:
        """The exit status of the command."""
        self.wait(lambda: self.status is not None, seconds, "an end")
        time.sleep(0.2)  # until its last lines are read
        return self.status

    def log(self) -> str:
        """What rank 0 has printed, in all attempts."""
        if not self.on_slurm:
            return self.said()
        return "\n".join(p.read_text() for p in sorted(self.folder.glob("slurm/*_0_log.out")))

    def images_again(self) -> int:
        """Images computed more than once."""
        seen = [int(line[1].replace(",", "")) for line in LINE.finditer(self.log())]
        step = min(seen, default=0)  # the first step begins at 0
        return step * (len(seen) - len(set(seen)))

    def weights(self) -> dict[str, str]:
        """sha256 of the final tensor files; empty without the last checkpoint."""
        files = sorted((self.folder / "checkpoints" / f"{LAST:09}").glob("*.safetensors"))
        return {path.name: sha256(path) for path in files}
