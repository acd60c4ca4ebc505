"""Tells MLflow what it could not be told when a training ended, from the queue in its folder:

python -m pipeline.tell runs/ffhq256
"""

import argparse
import json
import sys
from pathlib import Path

from pipeline.records.outbox import NAME, Outbox, read
from pipeline.records.store import RECORD, Store
from pipeline.records.tracking import untold


def main(arguments: list[str] | None = None) -> None:
    p = argparse.ArgumentParser(
        prog="python -m pipeline.tell",
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
        sys.exit(f"{p.prog}: {given.run} is no folder of a training that MLflow knows: {error}")
    store = Store(known["uri"], folder, known["experiment"])
    if not entries:
        print(f"MLflow at {store.uri} lacks nothing that {given.run} has for it")
        return
    outbox = Outbox(folder / NAME, store.tell, f"MLflow at {store.uri}", print)
    if untold(outbox, folder, given.wait):
        sys.exit(1)
    print(f"MLflow at {store.uri} was told {len(entries)} entries")


if __name__ == "__main__":
    main()
