"""How MLflow is reached: its settings, addresses of stores, opening one, what its errors say."""

import logging
import os
import re
import sqlite3
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from typing import Any

# A server that does not answer blocks only the thread that sends; see `records.outbox`.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

# They print tracebacks and every try, of what is printed in one line here.
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)

LOCKED_SECONDS = 20.0  # until an SQLite file that another process writes to is an error
# What SQLite says of tables that are not those of a revision of MLflow's schema, and of no tables.
HALF_MADE = "already exists|duplicate column|no such table|no such column"
DAMAGED = "not a database|malformed"


class TrackingError(Exception):
    """A tracking server or store that cannot be used; the message names it and the way out."""


def address(uri: str | None, folder: Path) -> str:
    """The tracking URI of a run in `folder`; without one, that of the store beside it."""
    return uri or f"sqlite:///{folder.resolve().parent / 'mlflow.db'}"


def without_password(uri: str) -> str:
    """A URI to print."""
    return re.sub(r"//[^/@]*@", "//", uri)


def reason(error: BaseException) -> str:
    """The reason of a store's failure in a line: the database's own message if there is one."""
    cause: BaseException | None = error
    while cause is not None:
        if (said := getattr(cause, "orig", None)) is not None:
            return str(said).splitlines()[0]
        cause = cause.__cause__ or cause.__context__
    return without_password((str(error).splitlines() or [type(error).__name__])[0])[:300]


def store_lock(uri: str) -> AbstractContextManager:
    """A lock beside an SQLite store: two processes cannot create its tables at once.

    It locks nothing where the store can only be read.
    """
    path = _sqlite_file(uri)
    if path is None or (path.exists() and not os.access(path.parent, os.W_OK)):
        return nullcontext()
    return FileLock(f"{path}.lock")


def open_store(uri: str) -> MlflowClient:
    """A client of a server or store; an SQLite file that is new gets its tables. TrackingError.

    A server is not asked yet.
    """
    # Rank 0 alone needs them, and they take 0.2 s to import.
    from alembic.util.exc import CommandError
    from sqlalchemy.exc import SQLAlchemyError

    path = _sqlite_file(uri)
    try:
        with store_lock(uri):
            if path is not None and not _has_tables(path):
                _make_tables(path)
            return MlflowClient(uri)  # may upgrade the tables of an earlier MLflow
    except (
        *(MlflowException, SQLAlchemyError, CommandError, sqlite3.Error),
        *(OSError, NotImplementedError),  # of the lock
    ) as error:
        why = reason(error)
        if path is not None and (broken := re.search(f"{HALF_MADE}|{DAMAGED}", why)):
            what = "damaged" if re.search(DAMAGED, broken[0]) else "half made or half upgraded"
            why = f"it is {what} ({why}); {_way_out(path)}"
        raise TrackingError(
            f"the MLflow store {without_password(uri)} cannot be used: {why}"
        ) from error


def _way_out(path: Path) -> str:
    try:
        with closing(_connect(path)) as database:
            (count,) = database.execute("SELECT count(*) FROM runs").fetchone()
    except sqlite3.Error:
        count = "an unknown number of"
    return (
        f"if no process is making it now, move it aside, with the runs in it ({count}), and run "
        f"the same command again, which makes a new one:  mv {path} {path}.old"
    )


def _sqlite_file(uri: str) -> Path | None:
    path = uri.removeprefix("sqlite:///").partition("?")[0]
    return None if path in (uri, "", ":memory:") or path.startswith("file:") else Path(path)


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=LOCKED_SECONDS)


def _has_tables(path: Path) -> bool:
    with closing(_connect(path)) as database:
        return database.execute("SELECT 1 FROM sqlite_master").fetchone() is not None


def _make_tables(path: Path) -> None:
    """MLflow's tables in an SQLite file, in one transaction: a kill leaves all or none.

    MLflow would make them one after the other in the file; here it makes them in memory.
    """
    from mlflow.store.db.utils import _initialize_tables
    from sqlalchemy import create_engine
    from sqlalchemy.pool import StaticPool

    # One connection: another would have an empty database.
    engine = create_engine("sqlite://", poolclass=StaticPool)
    _initialize_tables(engine)
    with closing(engine.raw_connection()) as made, closing(_connect(path)) as file:
        made.driver_connection.backup(file)
    engine.dispose()


def is_client_error(error: Exception) -> bool:
    """Whether the server rejected the request: a retry would not help.

    Two trainings that write the same row at once are no error of the second: a retry finds the row.
    """
    if re.search("UNIQUE constraint|duplicate key|Duplicate entry", str(error)):
        return False
    return isinstance(error, MlflowException) and 400 <= error.get_http_status_code() < 500


def is_deleted(error: Any) -> bool:
    return "must be in the 'active' state" in str(error) or (
        error.error_code == "RESOURCE_DOES_NOT_EXIST"
    )
