"""A training is told to stop, or its command is given at a bad moment."""

import signal

import pytest

from tests.cluster.faults.training import BATCH, EVERY, STEPS

STOPPING = r"stopping on SIG\w+ at [\d,]+ images"


@pytest.mark.slurm
def test_time_limit(fault, on_slurm):
    """8: time limit (--time 4)."""
    training = on_slurm("--time", 4).start()
    training.wait_images(BATCH * (STEPS[0] + 2))
    fault.strikes()
    with training.slowed(stopped=5):
        fault.noticed(training, STOPPING, 300)
        fault.row.noticed = "at the signal"
    fault.completes(training)


@pytest.mark.slurm
def test_preemption(fault, on_slurm, cluster):
    """9: preemption by a job in `urgent`."""
    training = on_slurm().start()
    training.wait_middle()
    fault.strikes()
    urgent = ("--partition=urgent", "--nodes=4", "--exclusive", "--output=/dev/null")
    cluster.run("sbatch", *urgent, "--wrap", "sleep 5")
    fault.noticed(training, STOPPING)
    fault.completes(training)


@pytest.mark.slurm
def test_scancel_and_the_same_command_at_once(fault, on_slurm, cluster):
    """10: scancel, and the same command at once."""
    training = on_slurm().start()
    training.wait_middle()
    fault.strikes()
    cluster.run("scancel", training.job)
    training.start()
    fault.noticed(training, "is being stopped; waiting for its end|submitted job")
    training.wait(lambda: training.said().count("submitted job") == 2, 120, "a second job")
    fault.completes(training)


@pytest.mark.slurm
def test_launcher_killed_at_submission(fault, on_slurm):
    """16a: the launcher is killed once it has submitted; the same command."""
    training = on_slurm().start()
    assert training.job
    training.kill_all()
    fault.strikes()
    training.start()
    fault.noticed(training, "is already in the queue")
    fault.completes(training)


@pytest.mark.slurm
def test_same_command_from_two_shells(fault, on_slurm, tmp_path):
    """16b: the same command from two shells at once."""
    first, second = on_slurm(), on_slurm()
    fault.strikes()
    first.start()
    second.start()
    lines = [t.wait_for("submitted job|is already in the queue", 120) for t in (first, second)]
    fault.row.noticed = f"{max(moment for moment, _ in lines) - fault.struck:.0f} s"
    fault.row.saw = "; ".join(sorted(line for _, line in lines))
    assert sum("submitted job" in line for _, line in lines) == 1
    second.end()
    fault.completes(first)


@pytest.mark.slurm
def test_other_numbers_of_nodes(fault, on_slurm, cluster):
    """24: scancel, and another number of nodes: 2, 1, 4."""
    training = on_slurm().start()
    training.wait_images(BATCH * (STEPS[0] + 4))
    for number, nodes in enumerate((1, 4)):
        fault.strikes()
        cluster.run("scancel", training.job)
        training.end()
        training.command[training.command.index("--nodes") + 1] = str(nodes)
        training.start()
        fault.noticed(training, r"continuing at [\d,]+ images", 300)
        if not number:
            training.wait_images(BATCH * (STEPS[0] + 20))
    assert training.end() == 0
    assert training.weights()
    fault.not_compared(training, "differ, as README says (order of sums)")


def test_two_people_with_one_output(fault, local, tmp_path):
    """16c: two people train into one --output, on one machine."""
    first, second = local(), local()
    first.start()
    first.wait_middle()
    first.signal_all(signal.SIGSTOP)  # so that the second is surely ahead
    fault.strikes()
    second.start()
    second.wait_for("continuing at", 200)
    first.signal_all(signal.SIGCONT)
    fault.noticed(first, "has been taken over by .*: this process ends")
    assert first.end() == 1
    fault.completes(second)


def test_kills_of_the_whole_training(fault, local):
    """26: kill -9 of the whole local training, two processes, 5 times."""
    training = local(processes=2)
    for number in range(5):
        training.start()
        training.wait_images(EVERY * (number + 1) + BATCH * 2)
        fault.strikes()
        training.kill_all()
    training.start()
    fault.noticed(training, "continuing at", 200)
    fault.completes(training)
