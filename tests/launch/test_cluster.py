"""What SLURM says of itself, read; and what the launcher asks for because of it."""

import os
import subprocess
import sys
from argparse import Namespace

import pytest

from launch import arguments, requeue, submission, watch
from launch.cluster import LONGEST, gpus_of, job_state, minutes_of, node_resources
from pipeline.config import ConfigError, parse
from stages.config import Config
from stages.hang import SENTENCE
from tests.conftest import ROOT
from tests.stages.tiny import tiny


@pytest.mark.parametrize(
    ("shown", "gpus"),
    [
        ("(null)", 0),
        ("gpu:4", 4),
        ("gpu:a100:8(S:0-1)", 8),
        ("gpu:a100:2(S:0),gpu:a100:2(S:1)", 4),
        ("gpu:h100:8(S:0-1),nvme:1", 8),
        ("shard:16", 0),
    ],
)
def test_gpus_of_what_sinfo_shows(shown, gpus):
    assert gpus_of(shown) == gpus


@pytest.mark.parametrize(
    ("time", "minutes"),
    [
        ("90", 90),
        ("30:00", 30),
        ("12:00:00", 720),
        ("2-12", 3600),
        ("1-02:30:00", 1590),
        ("infinite", LONGEST),
        ("UNLIMITED", LONGEST),
    ],
)
def test_minutes_of_the_ways_to_write_a_time(time, minutes):
    assert minutes_of(time) == minutes


@pytest.mark.parametrize("time", ["soon", "1d", "2-x", ""])
def test_what_is_no_time_is_named(time):
    with pytest.raises(ConfigError, match="is not a time: use 90"):
        minutes_of(time)


def test_as_many_gpus_are_used_as_can_share_every_batch():
    config = parse(Config, tiny(ROOT), "tiny")  # four micro-batches to a step
    assert arguments.usable_gpus(config, nodes=2, gpus=2) == (2, None)
    count, said = arguments.usable_gpus(config, nodes=2, gpus=8)
    assert count == 2
    assert "can be shared by 4 of 16 GPUs: 2 of the 8 GPUs of each node are asked for" in said
    assert arguments.usable_gpus(config, nodes=1, gpus=3)[0] == 2
    assert arguments.usable_gpus(config, nodes=4, gpus=0) == (0, None)


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Makes a program of SLURM that gives one of these outputs after the other, then the last."""
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    (tmp_path / "bin").mkdir()

    def make(name: str, *outputs: str) -> None:
        answers = tmp_path / name
        answers.write_text("\n".join(outputs) + "\n")
        rest = f"[ $(wc -l < {answers}) -gt 1 ] && sed -i 1d {answers}"
        lines = ["#!/bin/sh", f'echo "$@" >> {answers}.calls', f"head -n 1 {answers}"]
        (tmp_path / "bin" / name).write_text("\n".join([*lines, f"{rest}; exit 0", ""]))
        (tmp_path / "bin" / name).chmod(0o755)

    return make


def test_nodes_that_differ_or_have_no_gpus_are_told_of(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    rows = ["gpu*|gpu:a100:8|128|2-00:00:00", "gpu*|gpu:v100:2|24|2-00:00:00", "gpu*|(null)|16|90"]
    for shown, said in ((rows, "8, 2 or 0 GPUs: 2 of each are used"), (rows[2:], "trains on CPUs")):
        text = "\n".join(shown)
        (tmp_path / "sinfo").write_text(f"#!/bin/sh\ncat <<EOF\n{text}\nEOF\n")
        (tmp_path / "sinfo").chmod(0o755)
        assert said in node_resources(None).unused
    (tmp_path / "sinfo").write_text(f"#!/bin/sh\necho '{rows[0]}'\n")
    assert node_resources(None) == (8, 128, 2880, None, "gpu:a100:8")


def test_what_a_job_waits_for_is_said_with_what_helps(program, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(watch, "POLL", 0)
    waits = ["PENDING|Resources", "PENDING|launch failed requeued held|2", "RUNNING|None|2"]
    program("squeue", *waits, "COMPLETING|None", "")
    program("sacct", "FAILED|71:0")
    (tmp_path / "7_0_log.out").write_text("a line of the training\n")
    assert watch.follow(tmp_path / "7_0_log.out", "7") == 1
    assert capsys.readouterr().out.splitlines() == [
        "a line of the training",
        "job 7: PENDING (Resources): it waits for nodes",
        "job 7: PENDING (launch failed requeued held), start 3: it is held: scontrol release 7",
        "job 7: RUNNING, start 3",
        "job 7: COMPLETING: its processes are being stopped",
        f"job 7: FAILED (it hung); errors are in {tmp_path}/7_*",
    ]


def test_a_full_disk_is_said_where_the_log_cannot(program, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(watch, "POLL", 0)
    program("squeue", "RUNNING|None|1", "RUNNING|None|1", "")
    program("sacct", "COMPLETED|0:0")
    line = f"no space left on the disk of {tmp_path}: the log may lack lines"
    for room, times in ((0, 0), (1 << 60, 1)):  # bytes: of every disk, and of none
        monkeypatch.setattr(watch, "ROOM", room)
        assert watch.follow(tmp_path / "7_0_log.out", "7") == 0
        assert capsys.readouterr().out.count(line) == times


def test_a_job_that_is_being_ended_is_waited_for(program, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(watch, "POLL", 0)
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm" / "job").write_text("7")
    program("squeue", "", "COMPLETING|None", "COMPLETING|None", "")
    assert submission.queued(tmp_path) == {}
    assert "job 7 of this run is being stopped" in capsys.readouterr().out
    program("squeue", f"8|{tmp_path}/code", "PENDING|JobHeldUser")
    assert submission.queued(tmp_path) == {None: "8"}  # killed before it wrote `job`
    assert "queue: PENDING (JobHeldUser): it is held: scontrol release 8" in (
        capsys.readouterr().out
    )


def test_the_exit_status_decides_what_becomes_of_a_job(program, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    (tmp_path / "slurm").mkdir()
    (tmp_path / "processes").mkdir()

    def settle(status: int, restarts: int) -> tuple[int, str]:
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(restarts))
        program("scontrol", f"JobId=7 JobState=RUNNING Requeue=1 Restarts={restarts} BatchFlag=1")
        return requeue.settle(tmp_path, status), capsys.readouterr().out

    assert settle(requeue.OWN_ERROR, 0) == (201, "an error of its own: job 7 is not requeued\n")
    killed = "a process died (which, and of what: `srun: error:` in 7_0_log.err): "
    killed += "job 7 is requeued\n"
    assert settle(137, 0) == (137, killed)
    assert settle(137, 0) == (137, killed)  # the same attempt counts once
    (tmp_path / "processes" / SENTENCE).write_text("process 2 has been in `data`\n")
    assert settle(137, 1) == (199, "process 2 has been in `data`: job 7 is requeued\n")
    assert settle(198, 2)[0] == 198
    status, said = settle(198, 3)
    assert status == requeue.NO_PROGRESS and "without a new checkpoint" in said
    (tmp_path / "checkpoints" / "000000320").mkdir(parents=True)
    assert settle(198, 3)[0] == 198
    # Of one task, for which srun killed the others.
    (tmp_path / "slurm" / "error-7-3").write_text("DatasetError: a.tar was altered")
    assert settle(137, 3) == (201, "DatasetError: a.tar was altered: job 7 is not requeued\n")
    assert settle(137, 4)[0] == 137
    program("scontrol", "JobId=7 JobState=COMPLETING Requeue=1 Restarts=3 BatchFlag=1")
    assert requeue.settle(tmp_path, 137) == 137 and not capsys.readouterr().out


def test_a_log_on_a_full_disk_changes_nothing(program, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "0")
    (tmp_path / "slurm").mkdir()
    program("scontrol", "JobId=7 JobState=RUNNING Requeue=1 Restarts=0 BatchFlag=1")
    command = [sys.executable, "-m", "launch.requeue", str(tmp_path)]
    with open("/dev/full", "w") as full:
        for status in (137, requeue.OWN_ERROR):
            ended = subprocess.run(
                [*command, str(status)], cwd=ROOT, stdout=full, stderr=full, check=False
            )
            assert ended.returncode == status
    assert "requeue 7" in (tmp_path / "scontrol.calls").read_text()


def test_a_node_that_hung_or_is_down_is_excluded_if_asked(program, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "0")
    for folder in ("slurm", "processes"):
        (tmp_path / folder).mkdir()
    job = "JobId=7 JobState=RUNNING Restarts=0 NumNodes=2 NodeList=node[1-2] Partition=main"
    (tmp_path / "bin" / "scontrol").write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n'
        f'echo "{job} ExcNodeList=$(cat {tmp_path}/exc)"\n'
    )
    (tmp_path / "bin" / "scontrol").chmod(0o755)
    (tmp_path / "bin" / "sinfo").write_text(
        "#!/bin/sh\n"
        'case "$*" in\n'
        '*"%N %T"*) printf "node1 idle\\nnode2 down*\\n" ;;\n'
        '*--nodes*) printf "node3\\n" ;;\n'
        '*) printf "node1\\nnode2\\nnode3\\nnode4\\n" ;;\n'
        "esac\n"
    )
    (tmp_path / "bin" / "sinfo").chmod(0o755)

    def settle(status: int, excluded: str = "(null)", exclude: bool = True) -> list[str]:
        (tmp_path / "exc").write_text(excluded)
        (tmp_path / "processes" / SENTENCE).write_text("process 1 on node1 has been in")
        (tmp_path / "asked").unlink(missing_ok=True)
        requeue.settle(tmp_path, status, exclude)
        return (tmp_path / "asked").read_text().splitlines()

    update = "update JobId=7 ExcNodeList="
    assert settle(199) == ["show job 7", "requeue 7", f"{update}node1"]
    assert "job 7 is requeued without node1" in capfd.readouterr().out
    assert settle(199, exclude=False) == ["show job 7", "requeue 7"]
    assert settle(198) == ["show job 7", "requeue 7", f"{update}node2"]
    (tmp_path / "checkpoints" / "000000320").mkdir(parents=True)  # else it was lost too often
    assert settle(198, "node3") == ["show job 7", "requeue 7", f"{update}node3,node2"]
    (tmp_path / "bin" / "sinfo").write_text("#!/bin/sh\nprintf 'node1\\nnode2\\n'\n")
    assert settle(199) == ["show job 7", "requeue 7"]
    assert "node1: not excluded" in capfd.readouterr().out


def test_a_controller_that_does_not_answer_is_not_the_end_of_a_job(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    for error in ("Socket timed out on send/recv operation", "Invalid job id specified"):
        (tmp_path / "squeue").write_text(
            f"#!/bin/sh\necho 'slurm_load_jobs error: {error}' >&2\nexit 1"
        )
        (tmp_path / "squeue").chmod(0o755)
        if "Invalid" in error:
            assert job_state("7") is None
        else:
            with pytest.raises(ConfigError, match=r"squeue.*failed: .*timed out"):
                job_state("7")


@pytest.fixture
def asked():
    """The options of a job without any."""
    names = (*submission.NAMED, "mem", "time", "cpus", "gpus_per_node", "gpu_memory", "rehearse")
    return Namespace(**dict.fromkeys(names), sbatch=[], env=[], setup=[], dry_run=True)


def test_two_trainings_that_use_half_the_gpus_fit_on_a_node(program, asked):
    """Batches for four GPUs on nodes of eight: half of the processors, too."""
    program("sinfo", "main*|gpu:8|64|infinite")
    config = parse(Config, tiny(ROOT), "tiny")
    for gpus in (4, 2):
        found = submission.resources(asked, config, 1, ROOT)
        wanted = submission.parameters(asked, config, ROOT, found, {})
        assert (wanted["gpus_per_node"], wanted["tasks_per_node"]) == (gpus, gpus)
        assert wanted["cpus_per_task"] == 8
        assert any("shared by 4 of 8 GPUs" in line for line in found.notes) == (gpus == 4)
        asked.gpus_per_node = 2


def test_a_controller_that_does_not_answer_is_asked_again(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setattr(requeue, "PAUSE", 0)
    (tmp_path / "slurm").mkdir()
    program = tmp_path / "scontrol"

    def answers(refusal: str) -> None:
        program.write_text(
            f"#!/bin/sh\necho $1 >> {tmp_path}/asked\n"
            f"[ $(wc -l < {tmp_path}/asked) -lt 3 ] && echo '{refusal}' >&2 && exit 1\n"
            "echo 'JobId=7 JobState=RUNNING Restarts=0 '\n"
        )
        program.chmod(0o755)

    answers("slurm_load_jobs error: Socket timed out on send/recv operation")
    assert requeue.settle(tmp_path, 198) == 198
    assert "job 7 is requeued" in capfd.readouterr().out
    assert (tmp_path / "asked").read_text().split() == ["show", "show", "show", "requeue"]
    (tmp_path / "asked").unlink()
    answers("slurm_load_jobs error: Invalid job id specified")
    assert requeue.settle(tmp_path, 198) == 198
    assert "cannot be requeued" in capfd.readouterr().out
    assert (tmp_path / "asked").read_text().split() == ["show"]
