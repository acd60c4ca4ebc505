"""A team's MLflow server: PostgreSQL, passwords, several trainings at once, and a restart."""

import json
import multiprocessing
from pathlib import Path

import pytest
from mlflow import MlflowClient
from PIL import Image

from pipeline.processes import free_port
from pipeline.records import outbox
from pipeline.records.tracking import Tracking, TrackingConfig, TrackingError
from tests.pipeline.records import postgres
from tests.pipeline.records.servers import server, wait_for

pytestmark = pytest.mark.long
DATA = {"name": "faces train", "digest": "d", "source": "/data", "profile": {}}
LAST = 60


def train(folder: Path, uri: str) -> None:
    """A training that tells the server LAST times, half of them while it is restarted."""
    outbox.RETRY_SECONDS = 0.2
    Image.new("RGB", (8, 8)).save(folder / "samples.png")
    tracking = Tracking(TrackingConfig(uri=uri), folder, folder.name, {})
    tracking.stage(4, folder.name, {"lr": 0.1}, DATA)
    for images in range(1, LAST + 1):
        tracking.metrics(images, {"train/rec": 1.0 / images})
        if images == LAST // 2:
            wait_for(lambda: not tracking.outbox.pending, 200)
            (folder / "half").touch()
            wait_for((folder.parent / "down").exists, 200)
    tracking.picture(LAST, "samples", folder / "samples.png")
    wait_for(lambda: tracking.outbox.failures, 200)
    (folder / "noticed").touch()
    wait_for(lambda: not tracking.outbox.pending, 200)
    tracking.end("FINISHED", whole_training=True)


@pytest.mark.skipif(postgres.obstacle() is not None, reason=str(postgres.obstacle()))
def test_three_trainings_write_at_once_with_passwords_through_a_restart(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "a long password")
    users = tmp_path / "auth.ini"
    users.write_text(
        "[mlflow]\ndefault_permission = READ\nadmin_username = admin\n"
        "admin_password = a long password\n"
        f"database_uri = sqlite:///{tmp_path / 'users.db'}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    secret = {"MLFLOW_AUTH_CONFIG_PATH": str(users), "MLFLOW_FLASK_SERVER_SECRET_KEY": "secret"}
    folders, port = [tmp_path / f"run{i}" for i in range(3)], free_port()
    with postgres.postgres() as store:
        how = {"store": store, **secret}
        with server(tmp_path, port, "--app-name", "basic-auth", **how) as uri:
            context = multiprocessing.get_context("spawn")
            children = [context.Process(target=train, args=(f, uri)) for f in folders]
            for folder, child in zip(folders, children, strict=True):
                folder.mkdir()
                child.start()
            wait_for(lambda: all((f / "half").exists() for f in folders), 200)
            with pytest.raises(TrackingError, match=r"cannot be used: .*SSL"):
                encrypted = TrackingConfig(uri=uri.replace("http:", "https:"))
                Tracking(encrypted, tmp_path, "faces", {})
            with monkeypatch.context() as wrong, pytest.raises(TrackingError, match="401"):
                wrong.setenv("MLFLOW_TRACKING_PASSWORD", "guessed")
                Tracking(TrackingConfig(uri=uri), tmp_path, "faces", {})
        (tmp_path / "down").touch()
        wait_for(lambda: all((f / "noticed").exists() for f in folders), 200)
        with server(tmp_path, port, "--app-name", "basic-auth", **how):
            for child in children:
                child.join(200)
            assert [child.exitcode for child in children] == [0, 0, 0]
            client = MlflowClient(uri)
            for folder in folders:
                stage = json.loads((folder / "mlflow.json").read_text())["stages"]["4"]
                points = client.get_metric_history(stage, "train/rec")
                assert [point.step for point in points] == list(range(1, LAST + 1))
                assert client.get_run(stage).info.status == "FINISHED"
                assert client.list_artifacts(stage, "images")
