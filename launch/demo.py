"""`make demo`: draws faces, prepares them, trains on them; prints each command before it runs.

Finished steps of a stopped demo are not repeated.
"""

import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FACES, DATA, RUN = Path("data/faces.zip"), Path("data/demo"), Path("runs/demo")
COUNT = 4000
STAGES = "http://127.0.0.1:5000/#/experiments/1/runs?workflowType=machine_learning"


def main() -> None:
    os.chdir(ROOT)
    started = time.monotonic()
    # Networks this narrow gain nothing from threads: two processes with one thread each.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    processes = min(2, len(os.sched_getaffinity(0)))
    if not FACES.exists():
        print_heading("drawing faces")
        run("dataprep/synthetic.py", FACES, "--count", COUNT)
    print_heading("preparing them: every resolution from 4x4 to 32x32")
    run("dataprep/shard.py", FACES, "--out", DATA, "--max-resolution", 32)
    print_heading("training: 4x4, 8x8, 16x16, 32x32")
    run("launch/local.py", "--config", "demo", "--processes", processes)
    last = max((RUN / "pictures").glob("samples-*.png"))
    print_heading(f"done in {(time.monotonic() - started) / 60:.1f} minutes")
    print(
        f"samples          {last}\n"
        f"reconstructions  {last.with_name(last.name.replace('samples', 'reconstructions'))}\n"
        f"losses           {RUN / 'pictures' / 'losses.png'}\n"
        f"compare stages   .venv/bin/mlflow ui --backend-store-uri sqlite:///runs/mlflow.db\n"
        f"                 and open {STAGES}"
    )


def print_heading(line: str) -> None:
    print(f"\n== {line}", flush=True)


def run(*command: object) -> None:
    """Runs one of the project's programs; exits with its status where it fails."""
    words = [str(word) for word in command]
    print("$ python", shlex.join(words), flush=True)
    with subprocess.Popen([sys.executable, *words]) as program:
        try:
            status = program.wait()
        except KeyboardInterrupt:
            status = program.wait()  # Ctrl-C reached it too: it saves and exits
    if status:
        sys.exit(status if status > 0 else 128 - status)


if __name__ == "__main__":
    main()
