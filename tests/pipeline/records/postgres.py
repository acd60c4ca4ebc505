"""A PostgreSQL server of a test: Debian's, with a folder and a port of its own."""

import glob
import os
import pwd
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path

from pipeline.processes import free_port

BINARIES = "/usr/lib/postgresql/*/bin"


def obstacle() -> str | None:
    """Why there can be none here."""
    if not glob.glob(f"{BINARIES}/initdb"):
        return "needs PostgreSQL (Debian: postgresql)"
    return None


@contextmanager
def postgres():
    """The URI of an empty database, as MLflow takes it."""
    binaries, port = Path(max(glob.glob(BINARIES))), free_port()
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    how = {"check": True, "capture_output": True, "cwd": "/"}
    if os.getuid() == 0:  # under which it does not run
        user = pwd.getpwnam("postgres")
        os.chown(folder, user.pw_uid, user.pw_gid)
        how |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    try:
        data = folder / "data"
        initdb = ["initdb", "--auth=trust", "--username=mlflow", "--no-sync", "-D", data]
        subprocess.run([binaries / initdb[0], *initdb[1:]], **how)
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        control = [binaries / "pg_ctl", "-D", data, "-w", "-l", folder / "log"]
        subprocess.run([*control, "-o", options, "start"], **how)
        try:
            yield f"postgresql+psycopg2://mlflow@127.0.0.1:{port}/postgres"
        finally:
            subprocess.run([*control, "-m", "immediate", "stop"], **how)
    finally:
        shutil.rmtree(folder)
