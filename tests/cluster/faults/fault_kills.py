"""Fifty kills in a row, at random moments."""

import contextlib
import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.cluster.faults.training import Training
from tests.cluster.tasks import sruns, tasks

KILLS = {1: 36, 2: 7}  # of local trainings, by the number of processes
ON_SLURM = 7
START = {1: 3.0, 2: 15.0}  # seconds that a start takes, about: some kills come before its end


def children(pid: int) -> list[int]:
    """Processes that a process has started, and those have started."""
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, path.read_text().split()):
                found += [child, *children(child)]
    return found


def wait_for_a_moment(training: Training, start: float) -> None:
    """Of one in four kills some moment of the start, of the others one after the first step."""
    seen = len(training.heard)
    if random.random() < 0.25:
        time.sleep(random.uniform(0, start))
        return

    def steps() -> bool:
        said = any("img/s" in line for _, line in training.heard[seen:])
        return said or training.status is not None

    training.wait(steps, 300, "a step")
    time.sleep(random.uniform(0, 1.5))


def kill_one(training: Training) -> str:
    """SIGKILL to the command or to any of its processes; whom it hit."""
    victims = [training.child.pid, *children(training.child.pid)]
    victim = random.choice(victims)
    with contextlib.suppress(ProcessLookupError):
        os.kill(victim, signal.SIGKILL)
        return "command" if victim == training.child.pid else "process"
    return "nobody"


def test_kills_on_this_machine(fault, local, tmp_path):
    """50a: fifty kills, 43 of them of local trainings (36 of 1 process, 7 of 2)."""
    trainings, again, hit = 0, 0, []
    for processes, count in KILLS.items():
        kills, before = 0, len(hit)
        while kills < count:
            training = local(processes=processes, folder=tmp_path / f"run-{trainings}")
            trainings += 1
            again += kill_until_it_ends(fault, training, count - kills, hit)
            kills = len(hit) - before
    fault.row.where = "local, 1 and 2"
    fault.row.again, fault.row.noticed = str(again), "at once"
    fault.row.saw = (
        f"{hit.count('command')} times the command was hit, {hit.count('process')} times another "
        f"of its processes; the same command each time; {trainings} trainings"
    )


def kill_until_it_ends(fault, training: Training, kills: int, hit: list[str]) -> int:
    """Kills a training at most so often, starts it again each time; images computed again."""
    while True:
        training.start()
        if kills:
            wait_for_a_moment(training, START[training.processes])
        if kills and training.status is None:
            hit.append(kill_one(training))
            kills -= 1
            fault.strikes()
            training.end()
        elif training.end() == 0:
            fault.compare(training)
            return int(fault.row.again)


@pytest.mark.slurm
def test_kills_on_slurm(fault, on_slurm, cluster):
    """50b: fifty kills, 7 of them on SLURM, of a random rank or of srun."""
    training, hit = on_slurm().start(), []
    while len(hit) < ON_SLURM:
        wait_for_a_moment(training, 15.0)
        if training.status is not None:
            assert training.status, f"it ended before kill {len(hit) + 1}"
            training.start()  # more than three losses without a new checkpoint
            continue
        job, conf = training.job, training.conf
        victims = [*tasks(job, conf).values(), *sruns(job, conf)[:1]]
        if not victims:
            continue
        with contextlib.suppress(ProcessLookupError):
            os.kill(random.choice(victims), signal.SIGKILL)
            hit.append(len(victims))
            fault.strikes()
            training.wait(
                lambda: training.find(r"is requeued|FAILED", fault.struck), 300, "a requeue"
            )
    line = training.find("is requeued|FAILED")
    fault.row.noticed, fault.row.saw = "each time", line[1]
    if training.end() != 0:
        training.start()
    fault.completes(training)
