"""Nodes, cables and SLURM's own daemons fail."""

import re
import signal
import time
from itertools import pairwise

import pytest

pytestmark = pytest.mark.slurm
PENDING = r"^job \d+: (PENDING|COMPLETING)|is requeued|, start \d"


def nodes_of(cluster, training) -> list[int]:
    """Numbers of the job's nodes; the first is the batch host."""
    listed = cluster.run("squeue", "--noheader", "-o", "%N", "-j", training.job)
    hosts = cluster.run("scontrol", "show", "hostnames", listed).split()
    return [int(host.removeprefix("node")) for host in hosts]


def cut_for_a_minute(fault, cluster, training, place: int) -> int:
    """Unplugs a node of the job, by its place, and plugs it in again; its number."""
    training.wait_middle()
    node = nodes_of(cluster, training)[place]
    fault.strikes()
    cluster.unplug(node)
    fault.noticed(training, PENDING)
    time.sleep(max(0, 60 - (time.monotonic() - fault.struck)))
    cluster.plug(node)
    return node


def test_power_cut_without_a_spare(fault, on_slurm, cluster):
    """4: a node without power, no spare, back after 30 s."""
    training = on_slurm(nodes=4).start()
    training.wait_middle()
    fault.strikes()
    cluster.power_off(3)
    fault.noticed(training, PENDING)
    time.sleep(max(0, 30 - (time.monotonic() - fault.struck)))
    cluster.power_on(3)
    fault.completes(training)


def test_power_cut_with_a_spare(fault, on_slurm, cluster):
    """5: a node without power, a spare."""
    training = on_slurm().start()
    training.wait_middle()
    node = nodes_of(cluster, training)[1]
    fault.strikes()
    cluster.power_off(node)
    fault.noticed(training, PENDING)
    fault.completes(training)


def test_cable_cut_that_slurm_does_not_notice(fault, on_slurm, cluster):
    """6a: a cable cut for 60 s, SlurmdTimeout 300: all wait, and go on."""
    cluster.configure("SlurmdTimeout", 300)
    try:
        training = on_slurm().start()
        training.wait_middle()
        node = nodes_of(cluster, training)[1]
        fault.strikes()
        cluster.unplug(node)
        time.sleep(60)
        cluster.plug(node, timeout=200)  # asked at a third of SlurmdTimeout
        fault.completes(training)
        lines = [moment for moment, _ in training.heard if moment > fault.struck - 5]
        pause = max(b - a for a, b in pairwise(lines))
        fault.unnoticed(f"no line for {pause:.0f} s, then it goes on")
        assert pause < 180 and "requeued" not in training.said()
    finally:
        cluster.configure("SlurmdTimeout", 6)


def test_cable_cut_of_another_node(fault, on_slurm, cluster):
    """6b: a cable cut for 60 s, SlurmdTimeout 6, not of the batch host; a spare."""
    training = on_slurm().start()
    cut_for_a_minute(fault, cluster, training, 1)
    fault.completes(training)


def test_cable_cut_of_the_batch_host(fault, on_slurm, cluster):
    """6c: a cable cut for 60 s, of the batch host; a spare; the old attempt wakes up in the end."""
    training = on_slurm().start()
    cut_for_a_minute(fault, cluster, training, 0)
    fault.completes(training)


def release_when_told(fault, training, cluster, first=lambda: None) -> None:
    """Until the training's end, does `first` and releases its job when it is said to be held."""
    release, end = r"it is held: (scontrol release \d+)", time.monotonic() + 300
    while training.status is None and time.monotonic() < end:
        if found := training.find(release, fault.struck):
            fault.struck = found[0] + 0.001
            fault.row.saw += f"; {found[1]}"
            first()
            cluster.run(*re.search(release, found[1])[1].split())
        time.sleep(0.5)


def test_cable_cut_of_the_batch_host_without_a_spare(fault, on_slurm, cluster):
    """6d: a cable cut for 60 s, of the batch host, no spare; what is said is done."""
    training = on_slurm("--exclude", "node3,node4").start()
    node = cut_for_a_minute(fault, cluster, training, 0)
    release_when_told(fault, training, cluster, lambda: cluster.plug(node))
    fault.completes(training)


def test_controller_killed(fault, on_slurm, cluster):
    """17: slurmctld killed, back after 20 s."""
    training = on_slurm().start()
    training.wait_middle()
    fault.strikes()
    with training.slowed():
        cluster.kill_daemon("slurmctld")
        time.sleep(20)
        cluster.restart_daemon("slurmctld")
        fault.noticed(training, "squeue.*failed")
    fault.completes(training)
    assert "requeued" not in training.said()


def test_controller_silent_when_a_rank_is_killed(fault, on_slurm, cluster):
    """19: the controller is silent for 60 s when rank 1 is killed."""
    training = on_slurm().start()
    training.wait_middle()
    fault.strikes()
    cluster.signal_daemon("slurmctld", signal.SIGSTOP)
    training.kill(1)
    time.sleep(60)
    cluster.signal_daemon("slurmctld", signal.SIGCONT)
    fault.noticed(training, f"squeue.*failed|{PENDING}")
    fault.completes(training)


def test_slurmd_killed(fault, on_slurm, cluster):
    """20: slurmd killed on a node of the training, back after 3 s."""
    training = on_slurm().start()
    training.wait_middle()
    name = f"node{nodes_of(cluster, training)[1]}"
    fault.strikes()
    with training.slowed():
        cluster.kill_daemon(name)
        time.sleep(3)
        cluster.restart_daemon(name)
        time.sleep(15)
    fault.unnoticed("nothing: the training is undisturbed")
    fault.completes(training)
    assert "requeued" not in training.said()


def test_munged_dead(fault, on_slurm, cluster):
    """20b: munged dead for 60 s, SlurmdTimeout 6; where the job is held, what is said is done."""
    training = on_slurm().start()
    training.wait_middle()
    fault.strikes()
    with training.slowed():
        cluster.kill_daemon("munged")
        time.sleep(60)
        cluster.restart_daemon("munged")
    fault.noticed(training, f"squeue.*failed|{PENDING}")
    release_when_told(fault, training, cluster)
    fault.completes(training)


def test_scontrol_requeue(fault, on_slurm, cluster):
    """22: scontrol requeue."""
    training = on_slurm().start()
    training.wait_middle()
    fault.strikes()
    cluster.run("scontrol", "requeue", training.job)
    fault.noticed(training, PENDING)
    fault.completes(training)


def test_suspended(fault, on_slurm, cluster):
    """23: scontrol suspend for 40 s, resume."""
    training = on_slurm().start()
    training.wait_middle()
    fault.strikes()
    cluster.run("scontrol", "suspend", training.job)
    fault.noticed(training, r"^job \d+: SUSPENDED")
    time.sleep(max(0, 40 - (time.monotonic() - fault.struck)))
    cluster.run("scontrol", "resume", training.job)
    fault.completes(training)
    assert "requeued" not in training.said()
