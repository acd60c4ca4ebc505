"""MLflow's server is gone, slow or silent, its database locked."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from itertools import pairwise

from mlflow import MlflowClient

from pipeline import processes
from tests.cluster.faults.training import BATCH, STEPS
from tests.conftest import ROOT
from tests.pipeline.records.servers import server, silent_server

AWAY = "cannot be reached.*entries are sent later"


def points(uri: str) -> dict[str, int]:
    """Points of rec, by the name of the run; all must have ended well."""
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("soft-introvae").experiment_id
    found = client.search_runs([experiment])
    assert {run.info.status for run in found} == {"FINISHED"}
    return {
        run.info.run_name: len(client.get_metric_history(run.info.run_id, "train/rec"))
        for run in found
    }


def flush(training) -> None:
    """What the training says that one should do."""
    command = [sys.executable, "-m", "pipeline.flush", training.folder]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)


ALL = {"tiny": 0, "tiny 4x4": STEPS[0], "tiny 8x8": STEPS[1]}


def pause(training, since: float) -> float:
    """Seconds of the longest pause between two lines of the training."""
    moments = [moment for moment, line in training.heard if moment > since and "img/s" in line]
    return max(b - a for a, b in pairwise(moments))


def begun(local, tmp_path) -> tuple:
    """A training of some steps, and the port of its server, which has gone."""
    port = processes.free_port()
    training = local(f"tracking.uri=http://127.0.0.1:{port}")
    with server(tmp_path, port):
        training.start()
        training.wait_images(BATCH * 10)
    return training, port


def test_server_killed_and_back(fault, local, tmp_path):
    """12a: MLflow server killed for the middle third."""
    training, port = begun(local, tmp_path)
    fault.strikes()
    fault.noticed(training, AWAY)
    training.wait_images(BATCH * 30)
    training.signal_all(signal.SIGSTOP)  # a server takes longer to start than this training lasts
    with server(tmp_path, port) as uri:
        training.signal_all(signal.SIGCONT)
        fault.completes(training)
        if "pipeline.flush" in training.said():
            flush(training)
        assert points(uri) == ALL, points(uri)


def test_server_away_to_the_end(fault, local, tmp_path):
    """12b: MLflow server away to the end; then what is said at the end."""
    training, port = begun(local, tmp_path)
    fault.strikes()
    fault.noticed(training, AWAY)
    fault.completes(training)
    line = training.wait_for(r"python -m pipeline\.flush", 5)[1]
    fault.row.saw += f"; at the end: {line[:40]}... {line[line.index('To send') :]}"[:200]
    with server(tmp_path, port) as uri:
        flush(training)
        assert points(uri) == ALL, points(uri)


def test_server_stopped_for_a_minute(fault, local, tmp_path):
    """12c: MLflow server stopped (SIGSTOP) for 60 s."""
    port = processes.free_port()
    training = local(f"tracking.uri=http://127.0.0.1:{port}")
    with server(tmp_path, port) as uri:
        training.start()
        training.wait_images(BATCH * 10)
        (leader,) = set(_sessions(port))
        _signal(leader, signal.SIGSTOP)
        fault.strikes()
        fault.noticed(training, f"{AWAY}|To send them later")  # it may end before
        time.sleep(max(0, 60 - (time.monotonic() - fault.struck)))
        _signal(leader, signal.SIGCONT)
        fault.completes(training)
        fault.row.saw += f"; longest pause between two steps {pause(training, fault.struck):.1f} s"
        if "pipeline.flush" in training.said():
            flush(training)
        assert points(uri) == ALL, points(uri)


def _sessions(port: int) -> list[int]:
    """Sessions of the processes that serve on a port."""
    shown = subprocess.run(
        ["pgrep", "-f", f"mlflow server --port {port} "], capture_output=True, text=True, check=True
    ).stdout
    return [os.getsid(int(pid)) for pid in shown.split()]


def _signal(session: int, number: int) -> None:
    name = signal.Signals(number).name.removeprefix("SIG")
    subprocess.run(["pkill", f"-{name}", "-s", str(session)], check=True)


def test_server_that_hangs_to_the_end(fault, local, tmp_path):
    """31: a server that accepts and never answers, from the second third to the end."""
    training, port = begun(local, tmp_path)
    with silent_server(port):
        fault.strikes()
        fault.noticed(training, AWAY)
        fault.completes(training)
        longest = pause(training, fault.struck)
    fault.row.saw += f"; longest pause between two steps {longest:.1f} s"
    assert longest < 20
    assert training.find(r"python -m pipeline\.flush")


def test_database_locked(fault, local, tmp_path):
    """32: mlflow.db locked by another process for 60 s."""
    training = local().start()
    training.wait_images(BATCH * 10)
    held = sqlite3.connect(tmp_path / "mlflow.db", timeout=60, isolation_level=None)
    held.execute("BEGIN EXCLUSIVE")
    fault.strikes()
    fault.noticed(training, "database is locked")
    time.sleep(max(0, 60 - (time.monotonic() - fault.struck)))
    held.execute("ROLLBACK")
    held.close()
    fault.completes(training)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    if "pipeline.flush" in training.said():
        flush(training)
    assert points(uri) == ALL, points(uri)
