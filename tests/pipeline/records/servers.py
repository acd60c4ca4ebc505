"""MLflow servers of a test: a real one, and one that accepts and never answers."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def server(root: Path, port: int, *more: str, store: str | None = None, **env: str):
    """An MLflow server on `port` of this machine; without `store`, over one in `root`."""
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", store or f"sqlite:///{root / 'server.db'}"]
    command += ["--artifacts-destination", str(root / "artifacts"), *more]
    # Without jobs it starts twice as fast.
    env = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"} | env
    log = root / "server.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, start_new_session=True, env=env
        )
    try:
        deadline = time.monotonic() + 120
        while not answers(port):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        subprocess.run(["pkill", "-9", "-s", str(process.pid)], check=False)
        process.wait()


def answers(port: int) -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
    except OSError:
        return False
    return True


@contextmanager
def silent_server(port: int):
    """Accepts connections on `port`, and never answers."""
    deadline = time.monotonic() + 20
    while True:
        try:
            listening = socket.create_server(("127.0.0.1", port))
            break
        except OSError:  # workers of a server that was killed still hold it
            assert time.monotonic() < deadline
            time.sleep(0.1)
    with listening:
        yield


def wait_for(what, seconds: float = 60) -> None:
    """Until `what()` is true."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.02)
