"""Runs in a real MLflow server, which comes and goes."""

import json
import multiprocessing
import os
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest
from mlflow import MlflowClient
from PIL import Image

from pipeline.processes import free_port
from pipeline.records import tracking
from pipeline.records.tracking import Tracking, TrackingConfig, TrackingError

pytestmark = pytest.mark.long


@contextmanager
def server(root: Path, port: int):
    """An MLflow server on `port` of this machine, over the store in `root`."""
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{root / 'server.db'}"]
    command += ["--artifacts-destination", str(root / "artifacts")]
    with (root / "server.log").open("ab") as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=os.environ
            | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},  # starts twice as fast
        )
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < deadline, (
                    root / "server.log"
                ).read_text()
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        subprocess.run(["pkill", "-9", "-s", str(process.pid)], check=False)
        process.wait()


def steps(client: MlflowClient, run: str, key: str) -> list[int]:
    return [point.step for point in client.get_metric_history(run, key)]


def test_a_server_that_goes_away_is_told_later_and_nothing_twice(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tracking, "PATIENCE", 0)
    port, folder = free_port(), tmp_path / "run"
    folder.mkdir()
    config = TrackingConfig(uri=f"http://127.0.0.1:{port}")
    with server(tmp_path, port):
        first = Tracking(config, folder, "faces", {"git": "abc"})
        first.stage(4, "faces", {"lr": 0.001})
        first.metrics(100, {"loss_E": 1.0})
        first.picture(100, "samples-004", Image.new("RGB", (8, 8)))
    first.metrics(200, {"loss_E": 2.0})
    first.metrics(300, {"loss_E": 3.0})
    assert capsys.readouterr().out.count("does not answer") == 1
    with server(tmp_path, port) as uri:
        first.metrics(400, {"loss_E": 4.0})
        first.metrics(500, {"a b/c?": 1.0})
        said = capsys.readouterr().out
        assert "answers again" in said and "refused to measure" in said
        client, stage, parent = MlflowClient(uri), first.ids["4"], first.ids[""]
        assert steps(client, stage, "loss_E") == [100, 200, 300, 400]

        again = Tracking(config, folder, "faces", {"git": "def"})  # killed, and resumed at 200
        again.stage(4, "faces", {"lr": 0.001})
        for images in (300, 400, 500):
            again.metrics(images, {"loss_E": images / 100})
    again.stage(8, "faces", {"lr": 0.001})  # while the server is away
    again.metrics(600, {"loss_E": 6.0})
    third = Tracking(config, folder, "faces", {"git": "def"})  # resumed while it is
    third.stage(8, "faces", {"lr": 0.001})
    third.metrics(600, {"loss_E": 6.0})
    third.metrics(700, {"loss_E": 7.0})
    assert capsys.readouterr().out.count("does not answer") == 2
    with server(tmp_path, port):
        third.end("FINISHED", whole_training=True)
        known = json.loads((folder / "mlflow.json").read_text())
        assert (known["parent"], known["stages"]["4"]) == (parent, stage)
        assert steps(client, known["stages"]["8"], "loss_E") == [600, 700]
        assert steps(client, stage, "loss_E") == [100, 200, 300, 400, 500]
        assert client.get_run(parent).data.tags["git"] == "def"
        assert client.get_run(stage).data.params == {"lr": "0.001"}
        assert any("samples" in image.path for image in client.list_artifacts(stage, "images"))
        experiment = client.get_experiment_by_name("soft-introvae").experiment_id
        runs = client.search_runs([experiment])
        assert len(runs) == 3
        assert {r.info.status for r in runs if r.info.run_id != stage} == {"FINISHED"}


def test_a_server_that_is_not_there_at_the_start_is_an_error_that_names_it(tmp_path):
    uri = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(TrackingError, match=f"{uri} cannot be used.*start the server"):
        Tracking(TrackingConfig(uri=uri), tmp_path, "faces", {})


def track(folder: Path) -> None:
    Tracking(TrackingConfig(), folder, folder.name, {})


def test_processes_that_make_a_store_at_once_share_it(tmp_path):
    folders = [tmp_path / f"run{i}" for i in range(3)]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pipeline.records.tracking"])
    made = [context.Process(target=track, args=(folder,)) for folder in folders]
    for folder, process in zip(folders, made, strict=True):
        folder.mkdir()
        process.start()
    for process in made:
        process.join(120)
    assert [process.exitcode for process in made] == [0, 0, 0]
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("soft-introvae").experiment_id
    assert len(client.search_runs([experiment])) == 3
