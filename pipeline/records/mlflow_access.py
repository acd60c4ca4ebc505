"""How MLflow is reached: its settings, addresses of stores, and what its errors say."""

import logging
import os
import re
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

# A server that does not answer blocks only the thread that sends; see `records.outbox`.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

from filelock import FileLock
from mlflow.exceptions import MlflowException

# They print tracebacks and every try, of what is printed in one line here.
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)


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
    """A lock beside an SQLite store: two processes cannot create its tables at once."""
    path = uri.removeprefix("sqlite:///")
    return FileLock(f"{path}.lock") if path != uri else nullcontext()


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
