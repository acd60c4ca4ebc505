"""launch/local.py says what is wrong before anything starts, and what it would start."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dataprep import shard
from launch import local
from stages import beginning
from tests.dataprep.pictures import make_folder
from tests.stages.tiny import run as train
from tests.stages.tiny import tiny, write

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]


@pytest.fixture
def command(dataset, tmp_path, monkeypatch, capsys):
    """Calls the command with more arguments; what it printed, or the message it ended with."""

    def call(*arguments: str) -> str:
        config = write(tiny(dataset), tmp_path / "tiny.yaml")
        line = ["launch/local.py", "--config", str(config), "--output", str(tmp_path / "run")]
        monkeypatch.setattr(sys, "argv", [*line, *arguments])
        try:
            local.main()
        except SystemExit as end:
            return str(end.code)
        return capsys.readouterr().out

    return call


def test_dry_run_prints_the_whole_configuration(command, tmp_path):
    said = command("--dry-run", "--processes", "2", "stages.1.lr=0.5")
    assert f"\n# 2 processes, run in {tmp_path / 'run'}\n" in said
    assert "lr: 0.5" in said and "ema_half_life: 10000" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["objective.beta_ngg=3"], "did you mean 'beta_neg'"),
        (["--processes", "3"], "3 processes cannot share the 4 micro-batches of a step at 4x4"),
        (["data.path=/nowhere"], "/nowhere"),
        (["--output", "/proc/none"], "/proc/none cannot be written"),
        (["stages.1.resolution=16"], "should follow the resolutions [4, 8, 16], not [4, 16]"),
        (["evaluation.extractor=vgg16"], "evaluation.weights"),
        (["evaluation.extractor=vgg16", "evaluation.weights=/none.safetensors"], "/none"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(command, tmp_path, arguments, message):
    said = command(*arguments)
    assert message in said and said.startswith("local.py: ")
    assert not (tmp_path / "run").exists()


def test_one_training_image_is_refused(command, tmp_path):
    for name in ("00000.png", "60000.png"):  # one for each split, by FFHQ's ids
        path = make_folder(tmp_path / "faces", 1, names=name) / name
        path.write_bytes(path.read_bytes() + name.encode())
    how = ["--max-resolution", "8", "--workers", "1"]
    assert shard.main([str(tmp_path / "faces"), "--out", str(tmp_path / "few"), *how]) == 0
    said = command(f"data.path={tmp_path / 'few'}")
    assert said.startswith("local.py: ") and "few has 1 training image: a Frechet distance" in said
    assert not (tmp_path / "run").exists()


def test_two_processes_save_when_their_group_is_stopped_and_say_errors_in_one_line(
    dataset, tmp_path
):
    config, folder = write(tiny(dataset), tmp_path / "tiny.yaml"), tmp_path / "run"
    command = [sys.executable, ROOT / "launch/local.py", "--config", config, "--output", folder]
    command += ["--processes", "2"]
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen(command, start_new_session=True, **how)
    path = folder / "metrics.jsonl"
    while process.poll() is None and not (path.exists() and path.read_text()):
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    output = process.communicate(timeout=60)[0]
    # The processes have had both the terminal's signal and their parent's, in either order.
    assert process.returncode in (128 + signal.SIGINT, 128 + signal.SIGTERM), output
    assert "stopping on SIG" in output and "Traceback" not in output
    (checkpoint,) = (folder / "checkpoints").iterdir()
    assert 16 <= int(checkpoint.name) <= 96
    ended = subprocess.run([*command, "stages.1.lr=0.5"], timeout=60, **how)
    assert ended.returncode == 1 and "Traceback" not in ended.stdout
    assert "local.py: " in ended.stdout and "stages.1.lr was 0.01, is 0.5" in ended.stdout


def test_a_fallback_is_announced(command):
    said = command(
        *("--dry-run", "evaluation.extractor=inception", "evaluation.weights=/none.pth"),
        "evaluation.otherwise=random",
    )
    assert "\n# no fid, but fd_random will be measured: " in said and "/none.pth" in said


def test_a_branch_has_the_configuration_of_its_run(dataset, tmp_path, monkeypatch, capsys):
    """Where no --config is given, and for the same command again without the run."""
    parent, folder = tmp_path / "parent", tmp_path / "branch"
    assert train(tiny(dataset, ema_half_life=77), parent) == [0]
    command = ["launch/local.py", "--branch", f"{parent}@96", "--output", str(folder)]
    monkeypatch.setattr(sys, "argv", [*command, "--dry-run", "stages.1.lr=0.5"])
    local.main()
    said = capsys.readouterr().out
    assert "ema_half_life: 77" in said and "lr: 0.5" in said and "branches off" in said
    beginning.branch(f"{parent}@96", folder)
    parent.rename(tmp_path / "gone")
    local.main()
    assert "ema_half_life: 77" in capsys.readouterr().out
