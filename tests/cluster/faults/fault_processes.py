"""Processes of a training on SLURM are killed, stand still, or are slow."""

import re
import signal
import time
from statistics import median

import pytest
from filelock import FileLock

from tests.cluster.faults.training import BATCH, LINE
from tests.pipeline.data.server import Server

pytestmark = pytest.mark.slurm
REQUEUED = r"a process died .*is requeued|a process or a node was lost.*is requeued"


def killed(fault, on_slurm, *ranks: int) -> None:
    training = on_slurm().start()
    training.wait_middle()
    fault.strikes()
    training.kill(*ranks)
    fault.noticed(training, REQUEUED)
    fault.completes(training)


def test_kill_of_a_rank(fault, on_slurm):
    """1: kill -9 of rank 1."""
    killed(fault, on_slurm, 1)


def test_kill_of_rank_0(fault, on_slurm):
    """2: kill -9 of rank 0."""
    killed(fault, on_slurm, 0)


def test_kill_of_all_ranks(fault, on_slurm):
    """3: kill -9 of all ranks."""
    killed(fault, on_slurm, 0, 1)


def test_kill_of_one_of_eight(fault, on_slurm):
    """3b: kill -9 of rank 5 of 8, scale: 2."""
    training = on_slurm(nodes=4, per_node=2, scale=2).start()
    training.wait_images(2 * BATCH * 13)
    fault.strikes()
    training.kill(5)
    fault.noticed(training, REQUEUED)
    fault.completes(training, scale=2)
    assert "4 nodes, 2 processes on each" in training.said()
    assert "continuing at" in training.log()


def test_sigstop_of_rank_0(fault, on_slurm):
    """7: SIGSTOP for ever of rank 0, with the time-outs that are the default."""
    training = on_slurm().start()
    training.wait_middle()
    fault.strikes()
    training.kill(0, number=signal.SIGSTOP)
    fault.noticed(training, r"process 0 on node\d, .*and the training hangs.*is requeued", 240)
    fault.completes(training)


def test_sigstop_of_rank_1_and_its_node_is_excluded(fault, on_slurm, cluster):
    """7b: SIGSTOP of rank 1, --exclude-failed, faults.timeout=30: goes on without that node."""
    training = on_slurm("--exclude-failed", "faults.timeout=30").start()
    training.wait_middle()
    fault.strikes()
    training.kill(1, number=signal.SIGSTOP)
    line = fault.noticed(training, r"process 1 on node\d, .*is requeued")
    node = re.search(r"process 1 on (node\d)", line)[1]
    training.wait_for("continuing at", 300, fault.struck)
    nodes = cluster.run("squeue", "--noheader", "-o", "%N", "-j", training.job)
    assert node not in cluster.run("scontrol", "show", "hostnames", nodes).split()
    assert "start 2" in training.said()
    fault.completes(training)


def test_slow_rank(fault, on_slurm):
    """27: a slow rank (stopped for 0.5 s of each 0.55 s) for 40 s."""
    training = on_slurm().start()
    training.wait_middle()
    rates = [int(line[2]) for line in LINE.finditer(training.log())]
    fault.strikes()
    with training.slowed(1, stopped=0.5, runs=0.05):
        end = time.monotonic() + 40
        while time.monotonic() < end and training.status is None:
            time.sleep(0.1)
    slow = [
        (moment, int(LINE.search(line)[2]), line)
        for moment, line in list(training.heard)
        if moment > fault.struck and LINE.search(line)
    ]
    moment, _, line = next(s for s in slow if s[1] < median(rates) / 2)
    fault.row.noticed = f"{moment - fault.struck:.0f} s"
    fault.row.saw = f"the rate fell from {median(rates):.0f} img/s: {' '.join(line.split()[-2:])}"
    fault.completes(training)


def test_held_lock(fault, on_slurm, cluster, dataset, tmp_path):
    """28: a lock of data.cache held by another process at the start of 8x8, long_timeout=40."""
    locks = []
    with Server(dataset, host=cluster.host_address) as server:
        training = on_slurm(
            f"data.path={server.address}", "data.order=shards", f"data.cache={tmp_path / 'cache'}",
            "faults.long_timeout=40",
        ).start()  # fmt: skip
        training.wait_images(BATCH * 8)
        for number in range(64):
            locks.append(FileLock(tmp_path / "cache" / f"lock-{number:02}"))
            locks[-1].acquire()
        fault.strikes()
        fault.noticed(training, r"process \d on node\d has been in `\w+` for .*is requeued", 240)
        for lock in locks:
            lock.release()
        fault.completes(training, data__order="shards")


def test_clock_that_jumps(fault, on_slurm, inject):
    """18: the clock of rank 1 jumps by an hour (as its process sees it)."""
    training = on_slurm()
    inject(training, FAULT_CLOCK="1 12")
    training.start()
    training.wait_images(BATCH)
    fault.strikes()
    fault.unnoticed("nothing: the training is undisturbed")
    fault.completes(training)
    assert "hang" not in training.said()
