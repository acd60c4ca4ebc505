"""`make demo`: draws faces, prepares them, trains on them; prints each command before it runs.

Whatever a stopped demo has finished is not done again.
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
    # Networks this narrow gain nothing from threads: a process for each of two cores, one thread.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    processes = min(2, len(os.sched_getaffinity(0)))
    if not FACES.exists():
        say("drawing faces")
        run("dataprep/synthetic.py", FACES, "--count", COUNT)
    say("preparing them: every resolution from 4x4 to 32x32")
    run("dataprep/shard.py", FACES, "--out", DATA, "--max-resolution", 32)
    say("training: 4x4, 8x8, 16x16, 32x32")
    run("launch/local.py", "--config", "demo", "--processes", processes)
    last = max((RUN / "pictures").glob("samples-*.png"))
    say(f"done in {(time.monotonic() - started) / 60:.1f} minutes")
    print(
        f"samples          {last}\n"
        f"reconstructions  {last.with_name(last.name.replace('samples', 'reconstructions'))}\n"
        f"losses           {RUN / 'pictures' / 'losses.png'}\n"
        f"compare stages   .venv/bin/mlflow ui --backend-store-uri sqlite:///runs/mlflow.db\n"
        f"                 and open {STAGES}"
    )


def say(line: str) -> None:
    print(f"\n== {line}", flush=True)


def run(*command: object) -> None:
    """Runs one of the project's programs; ends as it does where it fails."""
    words = [str(word) for word in command]
    print("$ python", shlex.join(words), flush=True)
    with subprocess.Popen([sys.executable, *words]) as program:
        try:
            status = program.wait()
        except KeyboardInterrupt:
            status = program.wait()  # Ctrl-C has reached it too: it saves, and ends by itself
    if status:
        sys.exit(status if status > 0 else 128 - status)


if __name__ == "__main__":
    main()
