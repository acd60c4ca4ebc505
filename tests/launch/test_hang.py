"""A process that hangs ends the training, and the message names it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from stages.hang import HANG, SENTENCE
from tests.conftest import ROOT
from tests.stages.tiny import tiny, write


def wait_for(what, seconds: float):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := what():
            return value
        time.sleep(0.05)
    raise TimeoutError(f"not within {seconds:.0f} s")


def process_of(folder: Path, rank: int) -> int:
    return json.loads((folder / "processes" / f"{rank:04}.json").read_text())["pid"]


def test_a_stopped_process_is_named_and_ends_the_training(dataset, tmp_path):
    content, folder = tiny(dataset), tmp_path / "run"
    content["stages"] = [content["stages"][0] | {"images": 160_000}]
    content["every"] = {"log": 160, "pictures": 0, "checkpoint": 0, "evaluation": 0}
    content["faults"] = {"timeout": 8}
    command = [sys.executable, ROOT / "launch/local.py", "--processes", "2", "--output", folder]
    command += ["--config", write(content, tmp_path / "tiny.yaml")]
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    training = subprocess.Popen(command, **how)
    took = None
    try:
        journal, stopped = folder / "metrics.jsonl", folder / "processes" / "0001.json"
        wait_for(lambda: journal.exists() and journal.read_text() and stopped.exists(), 250)
        os.kill(process_of(folder, 1), signal.SIGSTOP)
        started = time.monotonic()
        wait_for((folder / "processes" / SENTENCE).exists, 60)
        took = time.monotonic() - started
        # The launcher has seen the end of process 0: a kill of process 1 before would be the cause.
        first = process_of(folder, 0)
        wait_for(lambda: not psutil.pid_exists(first), 60)
    finally:
        if took is None:
            training.terminate()
        if stopped.exists():
            os.kill(process_of(folder, 1), signal.SIGKILL)
    output = training.communicate(timeout=60)[0]
    assert training.returncode == HANG, output
    assert "process 1 on " in output and "has sent no heartbeat for" in output
    assert 8 < took < 40
