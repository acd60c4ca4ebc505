"""MLflow's SQLite store: made whole or not at all; what cannot be opened is named."""

import multiprocessing
import os
import re
import shlex
import signal
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipeline import compare
from pipeline.records import mlflow_access
from pipeline.records.mlflow_access import open_store
from pipeline.records.tracking import Tracking, TrackingConfig, TrackingError

pytestmark = pytest.mark.long

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["pipeline.records.tracking", "mlflow.store.db.utils"])


def is_begun(file: Path) -> bool:
    return file.exists()


def is_first_written(file: Path) -> bool:
    return file.with_name(f"{file.name}-journal").exists()


def is_half_written(file: Path) -> bool:
    return file.exists() and file.stat().st_size > 0


@pytest.mark.parametrize("moment", [is_begun, is_first_written, is_half_written])
def test_a_store_opens_after_a_kill_while_it_was_made(tmp_path, moment):
    for number in range(20):  # a moment lasts some ms, and this process may sleep through it
        file = tmp_path / f"{number}.db"
        process = _context.Process(target=open_store, args=(f"sqlite:///{file}",))
        process.start()
        while not moment(file) and process.is_alive():
            pass
        process.kill()
        process.join()
        if process.exitcode == -signal.SIGKILL:
            break
    assert process.exitcode == -signal.SIGKILL
    client = open_store(f"sqlite:///{file}")
    client.create_run(client.create_experiment("faces"))
    assert sorted(path.name for path in tmp_path.glob(f"{number}.*")) == [
        file.name, f"{file.name}.lock",
    ]  # fmt: skip


def make_half(uri: str) -> None:
    """MLflow makes its tables in the file; killed after the 30th."""
    from sqlalchemy import Engine, event

    made = []

    def count(connection, cursor, statement, *_):
        made.extend(re.findall("CREATE TABLE", statement))
        if len(made) == 30:
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(Engine, "after_cursor_execute", count)
    MlflowClient(uri)


def test_a_half_made_store_is_named_with_the_way_out(tmp_path):
    file, folder = tmp_path / "mlflow.db", tmp_path / "run"
    folder.mkdir()
    process = _context.Process(target=make_half, args=(f"sqlite:///{file}",))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    with pytest.raises(TrackingError, match=rf"{file} cannot be used: it is half made") as error:
        Tracking(TrackingConfig(), folder, "faces", {})
    assert "already exists" in str(error.value) and "runs in it (0)" in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(SystemExit, match="half made"):
        compare.main(["--uri", f"sqlite:///{file}", "faces"])
    half = file.read_bytes()
    subprocess.run(shlex.split(str(error.value).partition("new one:")[2]), check=True)
    # A process of its own: MLflow keeps connections to a file that was moved.
    again = _context.Process(target=open_store, args=(f"sqlite:///{file}",))
    again.start()
    again.join(60)
    assert again.exitcode == 0
    assert file.with_name("mlflow.db.old").read_bytes() == half


def test_a_store_that_is_no_database_is_named(tmp_path):
    file = tmp_path / "mlflow.db"
    file.write_text("runs " * 1000)
    with pytest.raises(
        TrackingError, match=rf"it is damaged \(file is not a database\).*mv {file}"
    ):
        open_store(f"sqlite:///{file}")
    file.unlink()
    file.mkdir()
    with pytest.raises(TrackingError, match=f"{file} cannot be used: unable to open database file"):
        open_store(f"sqlite:///{file}")


def test_a_store_that_is_locked_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(mlflow_access, "LOCKED_SECONDS", 0.1)
    file = tmp_path / "mlflow.db"
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(TrackingError, match=f"{file} cannot be used: database is locked$"):
            open_store(f"sqlite:///{file}")
    open_store(f"sqlite:///{file}")
