"""A sweep on this machine: one training after another, or several at once, each by local.py."""

import os
import signal
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import NamedTuple

import torch

from launch import arguments, failure, memory, sweep, sweep_tree
from launch.sweep import Part
from stages.config import Config

PROGRAM = Path(__file__).with_name("local.py")
LOG = "output.log"  # in a run's folder, where several train at once
POLL = 0.2  # seconds


class Plan(NamedTuple):
    """How the trainings share this machine."""

    processes: dict[Part, int]
    """Of each training."""
    at_once: int
    gpus: list[str]
    """This machine's, as in CUDA_VISIBLE_DEVICES."""

    def environment(self, slot: int) -> dict[str, str]:
        """Of the training in a slot from 0: its GPUs; on CPUs, its share of the cores."""
        width = max(self.processes.values())
        if self.gpus:
            own = (slot * width + i for i in range(width))
            devices = dict.fromkeys(self.gpus[i % len(self.gpus)] for i in own)
            return dict(os.environ, CUDA_VISIBLE_DEVICES=",".join(devices))
        if self.at_once == 1:
            return dict(os.environ)
        threads = len(os.sched_getaffinity(0)) // (self.at_once * width)
        return {"OMP_NUM_THREADS": str(max(1, threads)), **os.environ}


def train(args: Namespace) -> int:
    """Trains what is unfinished of a sweep; returns the exit status. USER_ERRORS."""
    found = sweep.read(args)
    print(sweep_tree.text(found, {}), flush=True)
    todo = found.to_train()
    shares, lines = shared_out(args, todo)
    configs = {}
    for part in todo:
        count = shares.processes[part]
        card = memory.here(count)
        configs[part], notes = memory.sized(part.config, part.folder, count, card, part.branch)
        lines += notes + arguments.check(configs[part], count, args.dry_run)
    print("".join(f"# {line}\n" for line in dict.fromkeys(lines)), end="", flush=True)
    sweep.refuse(args, found)
    if not todo:
        print("all trainings are finished: there is nothing to train")
    if args.dry_run or not todo:
        return 0
    return Runner(args, configs, shares).run()


def shared_out(args: Namespace, todo: list[Part]) -> tuple[Plan, list[str]]:
    """The processes of each training, and how many trainings run at once; lines to print."""
    count = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))
    own = max(1, count // args.at_once) if args.at_once else count
    used = {
        part: args.processes or max(1, arguments.usable_gpus(part.config, 1, own)[0])
        for part in todo
    }
    width = max(used.values(), default=1)
    at_once = min(args.at_once or max(1, count // width), max(1, len(todo)))
    line = f"{at_once} trainings at once, of {width} processes each; output in RUN/{LOG}"
    shares = Plan(used, at_once, visible.split(",") if count else [])
    return shares, [line] if at_once > 1 else []


class Runner:
    """Runs the trainings of a sweep; a signal stops them all."""

    def __init__(self, args: Namespace, configs: dict[Part, Config], shares: Plan):
        self.args, self.configs, self.shares = args, configs, shares
        self.todo = list(configs)
        self.running: dict[int, tuple[Part, subprocess.Popen]] = {}  # by slot
        self.lost: list[Part] = []
        self.stopped_by = 0

    def run(self) -> int:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.stop)
        while self.running or (self.todo and not self.stopped_by):
            for slot in range(self.shares.at_once):
                if slot not in self.running and not self.stopped_by and (part := self.next()):
                    self.start(part, slot)
            for slot, (part, process) in list(self.running.items()):
                if process.poll() is not None:
                    del self.running[slot]
                    self.end(part, process.returncode)
            time.sleep(POLL)
        if self.stopped_by:
            return 128 + self.stopped_by
        for part in self.lost:
            print(f"failed: {part.name}: {failure.read(part.folder)}", flush=True)
        if self.lost:
            print("the same command tries these again", flush=True)
        return 1 if self.lost else 0

    def next(self) -> Part | None:
        """Takes the next training whose parent is trained; drops those whose parent failed."""
        unfinished = {part for part, _ in self.running.values()} | set(self.todo)
        for part in list(self.todo):
            if part.parent in self.lost and not part.seen:
                self.todo.remove(part)
                self.lose(part, f"{part.parent.name}, which it branches off, failed")
            elif part.parent not in unfinished or part.seen:
                self.todo.remove(part)
                return part
        return None

    def start(self, part: Part, slot: int) -> None:
        """Starts a training by its config.yaml."""
        print(f"\n== {part.name}", flush=True)
        try:
            config = self.configs[part]
            arguments.with_history(config, part.folder, part.branch, self.args.replan)
        except arguments.USER_ERRORS as error:
            self.lose(part, error)
            return
        failure.clear(part.folder)
        command = [sys.executable, str(PROGRAM), "--config", str(part.folder / "config.yaml")]
        command += ["--output", str(part.folder)]
        command += ["--processes", str(self.shares.processes[part])]
        log = (part.folder / LOG).open("a") if self.shares.at_once > 1 else None
        errors = subprocess.STDOUT if log else None
        process = subprocess.Popen(
            command, env=self.shares.environment(slot), stdout=log, stderr=errors
        )
        self.running[slot] = part, process
        if log:
            log.close()

    def end(self, part: Part, status: int) -> None:
        """Notes how a training ended."""
        if self.shares.at_once > 1:
            print(f"{part.name}: {'finished' if status == 0 else f'status {status}'}", flush=True)
        if status and not self.stopped_by:  # without a reason it was killed
            reason = failure.read(part.folder)
            self.lose(part, reason or f"it ended with status {status}, see its output")

    def lose(self, part: Part, reason: object) -> None:
        """Notes that a training failed."""
        self.lost.append(part)
        part.folder.mkdir(parents=True, exist_ok=True)
        failure.keep(part.folder, reason)

    def stop(self, number: int, frame) -> None:
        """All trainings save and stop; a second Ctrl-C kills them."""
        again = number == signal.SIGINT and self.stopped_by
        self.stopped_by = self.stopped_by or number
        for _, process in self.running.values():
            process.kill() if again else process.terminate()
