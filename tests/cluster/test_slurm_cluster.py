"""The test cluster itself: what tests of training on SLURM take for granted."""

import pytest
import submitit

pytestmark = pytest.mark.slurm

NODES = ["node1", "node2", "node3", "node4"]


@pytest.fixture(autouse=True)
def restored(slurm_cluster):
    yield
    slurm_cluster.restore()


@pytest.fixture
def executor(slurm_cluster, tmp_path):
    executor = submitit.AutoExecutor(tmp_path, cluster="slurm")
    executor.update_parameters(timeout_min=5, slurm_exclusive=True)
    return executor


@pytest.fixture
def diary(tmp_path):
    """A file that jobs write lines to."""
    path = tmp_path / "diary"
    path.touch()
    return path


def submit(cluster, script: str, *options: str) -> str:
    """Number of a new batch job that runs `script` (sh)."""
    return cluster.run("sbatch", "--parsable", "--output=/dev/null", *options, "--wrap", script)


def wait_for_lines(cluster, diary, number: int) -> list[str]:
    cluster.wait_until(
        lambda: len(diary.read_text().splitlines()) >= number, f"{number} lines in {diary}", 40
    )
    return diary.read_text().splitlines()


def wait_for_state(cluster, job: str, state: str):
    """Wait until the last attempt of a job is accounted for with that state and exit status."""
    command = ("sacct", "--allocations", "--noheader", "--parsable2", "--format=State,ExitCode")
    cluster.wait_until(
        lambda: cluster.run(*command, "--jobs", job) == state, f"job {job} to be {state}", 20
    )


def results(cluster, job) -> list:
    """What the tasks of a submitit job return; by itself it waits for ever for lost ones."""
    cluster.wait_until(job.done, f"job {job.job_id}", 90)
    return job.results()


def test_four_nodes_are_idle_and_each_is_a_host(slurm_cluster):
    assert slurm_cluster.states() == dict.fromkeys(NODES, "idle")
    assert sorted(slurm_cluster.run("srun", "--nodes=4", "hostname").split()) == NODES


def test_nodes_know_themselves_each_other_and_this_machine(slurm_cluster):
    names = ["localhost", *NODES, "ctl", "host"]
    command = f"for name in {' '.join(names)}; do getent hosts $name; done"
    found = slurm_cluster.run("srun", "--nodelist=node2", "sh", "-c", command)
    addresses = dict(reversed(line.split()) for line in found.splitlines())
    assert list(addresses) == names
    assert addresses["host"] == slurm_cluster.host_address


def test_accounting_knows_how_jobs_ended(slurm_cluster):
    good, bad = submit(slurm_cluster, "true"), submit(slurm_cluster, "exit 3")
    wait_for_state(slurm_cluster, good, "COMPLETED|0:0")
    wait_for_state(slurm_cluster, bad, "FAILED|3:0")


def test_fake_gpus_are_handed_out(slurm_cluster):
    command = ("srun", "--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=2")
    visible = slurm_cluster.run(*command, "printenv", "CUDA_VISIBLE_DEVICES")
    assert visible.split() == ["0,1", "0,1"]


def test_submitit_job_adds_up_over_four_nodes(slurm_cluster, executor):
    def add_up():
        import os

        import torch
        from submitit.helpers import TorchDistributedEnvironment

        os.environ.pop("MASTER_PORT", None)  # of the shell that submits
        environment = TorchDistributedEnvironment().export(overwrite=True)
        torch.distributed.init_process_group("gloo")
        total = torch.tensor(environment.rank + 1)
        torch.distributed.all_reduce(total)
        return os.uname().nodename, int(total)

    executor.update_parameters(nodes=4, tasks_per_node=1)
    job = executor.submit(add_up)
    assert results(slurm_cluster, job) == [(node, 1 + 2 + 3 + 4) for node in NODES]


def test_submitit_array_runs_on_all_nodes_at_once(slurm_cluster, executor, diary):
    def meet(name):
        import os
        import time

        with diary.open("a") as file:
            file.write(f"{name}\n")
        while len(diary.read_text().splitlines()) < 4:
            time.sleep(0.05)
        return name, os.uname().nodename, os.environ["SLURM_ARRAY_TASK_ID"]

    with executor.batch():
        jobs = [executor.submit(meet, name) for name in "abcd"]
    assert [job.job_id for job in jobs] == [f"{jobs[0].job_id[:-2]}_{i}" for i in range(4)]
    names, nodes, indices = zip(*(results(slurm_cluster, job)[0] for job in jobs))
    assert (*names, *indices) == tuple("abcd0123")
    assert sorted(nodes) == NODES


def stay(diary) -> str:
    """Script that writes down its job, its attempt and its node, and stays in the first attempt."""
    line = '"$SLURM_JOB_ID ${SLURM_RESTART_COUNT:-0} $(hostname)"'
    return f'echo {line} >> {diary}; [ "$SLURM_RESTART_COUNT" ] || {{ sleep 300 & wait; }}'


def test_requeued_job_keeps_its_number(slurm_cluster, diary):
    job = submit(slurm_cluster, stay(diary), "--nodelist=node1")
    wait_for_lines(slurm_cluster, diary, 1)
    slurm_cluster.run("scontrol", "requeue", job)
    lines = wait_for_lines(slurm_cluster, diary, 2)
    assert lines == [f"{job} 0 node1", f"{job} 1 node1"]
    wait_for_state(slurm_cluster, job, "COMPLETED|0:0")


def test_preempted_job_is_told_and_runs_again(slurm_cluster, diary):
    react = f"echo told >> {diary}; scontrol requeue $SLURM_JOB_ID"
    script = f"trap '{react}' USR2; {stay(diary)}"
    options = ("--nodes=4", "--exclusive")
    job = submit(slurm_cluster, script, *options, "--signal=B:USR2@60")
    wait_for_lines(slurm_cluster, diary, 1)
    submit(slurm_cluster, f"echo urgent >> {diary}", *options, "--partition=urgent")
    lines = wait_for_lines(slurm_cluster, diary, 4)
    assert lines == [f"{job} 0 node1", "told", "urgent", f"{job} 1 node1"]


def test_job_on_all_nodes_runs_again_when_one_of_them_reboots(slurm_cluster, diary):
    job = submit(slurm_cluster, stay(diary), "--nodes=4", "--exclusive", "--requeue")
    wait_for_lines(slurm_cluster, diary, 1)
    slurm_cluster.power_off(3)
    slurm_cluster.power_on(3)
    lines = wait_for_lines(slurm_cluster, diary, 2)
    assert lines == [f"{job} 0 node1", f"{job} 1 node1"]


def test_lost_nodes_are_down_and_their_job_moves_to_another(slurm_cluster, diary):
    job = submit(slurm_cluster, stay(diary), "--requeue")
    assert wait_for_lines(slurm_cluster, diary, 1) == [f"{job} 0 node1"]
    slurm_cluster.power_off(1)
    slurm_cluster.unplug(2)
    lost = {"node1": "down*", "node2": "down*"}
    slurm_cluster.wait_until(
        lambda: slurm_cluster.states().items() >= lost.items(), "two nodes to be DOWN", 40
    )
    assert wait_for_lines(slurm_cluster, diary, 2)[1] == f"{job} 1 node3"
    slurm_cluster.plug(2)
    assert slurm_cluster.states()["node2"] == "idle"
