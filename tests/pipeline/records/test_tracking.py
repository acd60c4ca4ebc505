"""Runs in a real MLflow store or server, which comes and goes, and whose runs are deleted."""

import contextlib
import io
import json
import math
import multiprocessing
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from PIL import Image

from pipeline.processes import free_port
from pipeline.records import outbox, tracking
from pipeline.records.store import PARENT, Store
from pipeline.records.tracking import Tracking, TrackingConfig, TrackingError
from tests.pipeline.records.servers import server, silent_server, wait_for
from tests.processes import run_together

DATA = {"name": "faces train 4x4", "digest": "d" * 64, "source": "/data", "profile": {"n": 3}}
OWN = TrackingConfig()

pytestmark = pytest.mark.long


@pytest.fixture
def folder(tmp_path) -> Path:
    made = tmp_path / "run"
    made.mkdir()
    Image.new("RGB", (8, 8)).save(made / "samples.png")
    return made


def start(folder: Path, config: TrackingConfig = OWN, git: str = "abc") -> Tracking:
    """A training's tracking that has entered its first stage."""
    made = Tracking(config, folder, "faces", {"git": git})
    made.stage(4, "faces", {"lr": 0.001}, DATA)
    return made


def is_sent(tracking: Tracking) -> bool:
    return not tracking.outbox.pending


def steps(client: MlflowClient, run: str, key: str) -> list[int]:
    return [point.step for point in client.get_metric_history(run, key)]


def known(folder: Path) -> dict:
    return json.loads((folder / "mlflow.json").read_text())


def test_a_server_that_goes_away_is_told_later_and_nothing_twice(folder, monkeypatch, capsys):
    monkeypatch.setattr(outbox, "RETRY_SECONDS", 0.1)
    root, port = folder.parent, free_port()
    config = TrackingConfig(uri=f"http://127.0.0.1:{port}")
    with server(root, port):
        first = start(folder, config)
        first.metrics(100, {"loss_E": 1.0})
        first.picture(100, "samples", folder / "samples.png")
        wait_for(lambda: is_sent(first))
    first.metrics(200, {"loss_E": 2.0})
    first.metrics(300, {"loss_E": 3.0})
    wait_for(lambda: first.outbox.failures)
    first.outbox.close()  # killed; resumed at 200, while the server is away
    again = start(folder, config, "def")
    again.picture(100, "samples", folder / "samples.png")
    for images in (300, 400):
        again.metrics(images, {"loss_E": images / 100})
    again.stage(8, "faces", {"lr": 0.001}, DATA)
    again.metrics(500, {"loss_E": 5.0, "a b/c?": 1.0})
    again.metrics(600, {"loss_E": 6.0})
    wait_for(lambda: again.outbox.failures)
    with server(root, port) as uri:
        wait_for(lambda: is_sent(again))
        again.end("FINISHED", whole_training=True)
        output = capsys.readouterr().out
        assert output.count("cannot be reached") == 2 and "answers again" in output
        assert "refused metrics" in output and "a b/c?" in output
        client, runs = MlflowClient(uri), known(folder)
        assert steps(client, runs["stages"]["4"], "loss_E") == [100, 200, 300, 400]
        assert steps(client, runs["stages"]["8"], "loss_E") == [500, 600]
        assert client.get_run(runs["parent"]).data.tags["git"] == "def"
        assert client.get_run(runs["stages"]["4"]).data.params == {"lr": "0.001"}
        pictures = [p.path for p in client.list_artifacts(runs["stages"]["4"], "images")]
        assert sum(path.endswith(".png") for path in pictures) == 1
        experiment = client.get_experiment_by_name("soft-introvae").experiment_id
        found = client.search_runs([experiment])
        assert len(found) == 3 and {r.info.status for r in found} == {"FINISHED"}
    assert not (folder / outbox.NAME).exists()


def test_a_server_that_never_answers_costs_no_time_and_is_told_by_a_command(
    folder, monkeypatch, capsys
):
    monkeypatch.setattr(tracking, "LAST_WAIT", 1.0)
    port = free_port()
    config = TrackingConfig(uri=f"http://127.0.0.1:{port}")
    with server(folder.parent, port):
        start(folder, config).end("SCHEDULED", whole_training=True)
    with silent_server(port):
        again = start(folder, config)
        slowest = 0.0
        for images in range(100, 2100, 100):
            started = time.monotonic()
            again.metrics(images, {"loss_E": 1.0})
            slowest = max(slowest, time.monotonic() - started)
            time.sleep(0.01)
        assert slowest < 0.5  # 48 s where the training waited; now it is a line in a file
        again.end("FINISHED", whole_training=True)
    output = capsys.readouterr().out
    assert "lacks 26 entries (no answer within 1 s)" in output
    command = [sys.executable, "-m", *output.split("python -m ")[1].split()]
    with server(folder.parent, port) as uri:
        late = subprocess.run(command, capture_output=True, text=True, check=True)
        assert "got 26 entries" in late.stdout
        client, runs = MlflowClient(uri), known(folder)
        assert steps(client, runs["stages"]["4"], "loss_E") == list(range(100, 2100, 100))
        assert client.get_run(runs["parent"]).info.status == "FINISHED"
        late = subprocess.run(command, capture_output=True, text=True, check=True)
        assert "has all entries" in late.stdout


def test_a_server_that_is_not_there_at_the_start_is_an_error_that_names_it(tmp_path):
    uri = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(TrackingError, match=f"{uri} cannot be used.*start the server"):
        Tracking(TrackingConfig(uri=uri), tmp_path, "faces", {})


def test_a_password_in_the_address_is_not_printed(tmp_path):
    with pytest.raises(
        TrackingError, match=r"the MLflow store http://127\.0\.0\.1:1 cannot"
    ) as error:
        Tracking(TrackingConfig(uri="http://me:secret@127.0.0.1:1"), tmp_path, "faces", {})
    assert "secret" not in str(error.value)


def test_deleted_runs_get_new_ones_and_a_deleted_experiment_is_said(folder, capsys):
    first = start(folder)
    first.metrics(100, {"loss_E": 1.0})
    first.end("SCHEDULED", whole_training=True)
    client, before = MlflowClient(first.uri), known(folder)
    client.delete_run(before["parent"])
    again = start(folder)
    again.metrics(200, {"loss_E": 2.0})
    wait_for(lambda: is_sent(again))
    between = known(folder)
    assert between["parent"] != before["parent"] and between["stages"] == before["stages"]
    stage = client.get_run(before["stages"]["4"])
    assert stage.data.tags["mlflow.parentRunId"] == between["parent"]
    assert (
        f"has no run {before['parent']} any more: faces gets a new one" in capsys.readouterr().out
    )
    client.delete_run(before["stages"]["4"])  # while the training tells it
    again.metrics(300, {"loss_E": 3.0})
    again.end("FINISHED", whole_training=True)
    after = known(folder)
    assert steps(client, after["stages"]["4"], "loss_E") == [300]
    assert client.get_run(after["stages"]["4"]).info.status == "FINISHED"
    assert "refused" not in capsys.readouterr().out

    experiment = client.get_experiment_by_name("soft-introvae").experiment_id
    client.delete_experiment(experiment)
    other = folder.with_name("other")
    other.mkdir()
    with pytest.raises(TrackingError, match=r"was deleted: restore it by .*--experiment-id 1"):
        Tracking(OWN, other, "other", {})
    third = start(folder)  # a training goes on, and keeps what it has to send
    wait_for(lambda: third.outbox.failures)
    assert "was deleted: restore it" in capsys.readouterr().out
    client.restore_experiment(experiment)
    third.end("FINISHED", whole_training=True)
    assert is_sent(third)


def test_a_folder_that_was_moved_goes_on_in_the_same_runs_there(folder):
    first = start(folder)
    first.picture(100, "samples", folder / "samples.png")
    first.end("SCHEDULED", whole_training=True)
    before, root = known(folder), folder.parent
    there = root / "elsewhere"
    there.mkdir()
    for name in ("run", "mlflow.db", "mlflow-artifacts"):
        shutil.move(root / name, there / name)
    (output,) = run_together(1, go_on, str(there / "run"))
    assert "looks for them in" in output
    assert known(there / "run")["parent"] == before["parent"]
    assert not (root / "mlflow.db").exists() and not (root / "mlflow-artifacts").exists()
    client = MlflowClient(f"sqlite:///{there / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("soft-introvae")
    assert len(client.search_runs([experiment.experiment_id])) == 2
    assert experiment.artifact_location == (there / "mlflow-artifacts").as_uri()
    pictures = [p.path for p in client.list_artifacts(before["stages"]["4"], "images")]
    assert sum(path.endswith(".png") for path in pictures) == 2


def go_on(folder: str) -> str:
    """A training that is resumed, in a process of its own (MLflow remembers paths); its lines."""
    with contextlib.redirect_stdout(io.StringIO()) as output:
        again = start(Path(folder))
        again.picture(200, "samples", Path(folder) / "samples.png")
        again.end("FINISHED", whole_training=True)
    return output.getvalue()


def test_what_mlflow_holds_of_a_run(folder):
    first = start(folder)
    first.parameters({"long": "x" * 7000, "every.log": 10})
    first.metrics(100, {"inf": math.inf, "nan": math.nan, "fid": 12.0})
    first.model("faces.v1-r004", 100, folder, DATA, {"fid": 12.0})
    first.stage(4, "faces", {"lr": 0.0001}, DATA)  # a second stage of the resolution
    first.end("SCHEDULED", whole_training=True)
    again = start(folder)
    again.parameters({"every.log": 20})  # may change on resume; MLflow's parameters may not
    again.model("faces.v1-r004", 100, folder, DATA, {"fid": 12.0})
    again.end("FINISHED", whole_training=True)
    client, runs = MlflowClient(first.uri), known(folder)
    run = client.get_run(runs["stages"]["4"])
    assert len(run.data.params["long"]) <= 6000 and "(cut: config.yaml" in run.data.params["long"]
    assert run.data.params["every.log"] == "10"
    assert run.data.tags["changed.every.log"] == "20"
    assert run.data.params["lr"] == "0.001" and run.data.tags["changed.lr"] == "0.0001"
    assert run.data.metrics["inf"] > 1e308 and math.isnan(run.data.metrics["nan"])
    assert steps(client, run.info.run_id, "fid") == [100]
    (data,) = run.inputs.dataset_inputs
    assert data.dataset.name == DATA["name"] and data.dataset.digest == DATA["digest"][:36]
    experiment = client.get_experiment_by_name("soft-introvae")
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    best = [{"field_name": "metrics.fid", "ascending": True}]
    (model,) = client.search_logged_models([experiment.experiment_id], order_by=best)
    assert model.name == "faces-v1-r004" and model.tags["checkpoint"] == str(folder)
    assert model.params["resolution"] == "4" and model.source_run_id == run.info.run_id
    (metric,) = model.metrics
    assert (metric.value, metric.dataset_name) == (12.0, DATA["name"])


def test_a_full_disk_is_named(folder, capsys):
    first = start(folder)
    wait_for(lambda: is_sent(first))
    size = (folder.parent / "mlflow.db").stat().st_size // 4096
    with first.outbox.changed:
        limit_pages(first, size)
        first.metrics(100, {f"value{i}": 1.0 for i in range(900)})
    wait_for(lambda: first.outbox.failures)
    assert "cannot be reached (database or disk is full)" in capsys.readouterr().out
    limit_pages(first, 2**30)
    first.end("FINISHED", whole_training=True)
    assert is_sent(first) and "answers again" in capsys.readouterr().out


def limit_pages(tracking: Tracking, pages: int) -> None:
    """A full disk, to SQLite: no database of more than so many pages on MLflow's connections."""
    from sqlalchemy import event

    store = tracking.outbox.send.__self__.client._tracking_client.store
    engine = store.engine

    def limit(connection, *_):
        connection.execute(f"PRAGMA max_page_count = {pages}")

    engine.dispose()
    event.listen(engine, "connect", limit)


def track(folder: Path) -> None:
    Tracking(OWN, folder, folder.name, {}).end("FINISHED", whole_training=True)


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


def test_trainings_that_log_the_same_dataset_at_once_both_hold_it(tmp_path):
    said: list[str] = []
    stores = [Store(None, tmp_path / name, "faces", said.append) for name in "ab"]
    for store in stores:
        store.folder.mkdir()
        store.open(PARENT, store.folder.name, {})
    together = threading.Barrier(2)

    def send(store: Store) -> None:
        for number in range(20):
            data = {**DATA, "digest": f"{number:036d}"}
            together.wait(60)
            while True:
                try:
                    store.send([{"what": "dataset", "run": PARENT, "data": data, "context": ""}])
                    break
                except TrackingError:
                    time.sleep(0.01)  # as the outbox does

    threads = [threading.Thread(target=send, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert said == []
    for store in stores:
        held = store.client.get_run(store.known["parent"]).inputs.dataset_inputs
        assert len({one.dataset.digest for one in held}) == 20
