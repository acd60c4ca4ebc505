"""Sends to MLflow the entries that were unsent at the end of a training:

python -m pipeline.flush runs/ffhq256
"""

import argparse
import json
import sys
from pathlib import Path

from pipeline.records.outbox import NAME, Outbox, read
from pipeline.records.store import RECORD, Store
from pipeline.records.tracking import flush


def main(arguments: list[str] | None = None) -> None:
    p = argparse.ArgumentParser(
        prog="python -m pipeline.flush",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("run", type=Path, help="the folder of a training that has ended")
    p.add_argument("--wait", type=float, default=600, help="seconds at most (%(default)s)")
    given = p.parse_args(arguments)
    folder = given.run.resolve()
    try:
        known = json.loads((folder / RECORD).read_text())
        entries = read(folder / NAME)
    except (OSError, ValueError) as error:
        sys.exit(
            f"{p.prog}: {given.run} is not the folder of a training that logs to MLflow: {error}"
        )
    store = Store(known["uri"], folder, known["experiment"])
    if not entries:
        print(f"MLflow at {store.shown} has all entries of {given.run}")
        return
    outbox = Outbox(folder / NAME, store.send, f"MLflow at {store.shown}", print)
    if flush(outbox, folder, given.wait):
        sys.exit(1)
    print(f"MLflow at {store.shown} got {len(entries)} entries")


if __name__ == "__main__":
    main()
