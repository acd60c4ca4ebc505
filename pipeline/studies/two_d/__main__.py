"""The paper's 2-D study:

    python -m pipeline.studies.two_d table2
    python -m pipeline.studies.two_d table2 --distributions 8gaussians rings --out /data/two_d
    sbatch --array=0-11 --wrap 'python -m pipeline.studies.two_d table2 --out /data/two_d'

table2 trains its cells and writes table2.md, table2.json and figure2.png; figure2 draws again what
is there. search, figure3 and questions do the same for theirs. What is finished is not done
again, and a cell that was stopped continues: the same command goes on. Any number of processes,
on all machines that see --out, share the work: each takes a cell that no other has.
"""

import argparse
import sys
from pathlib import Path

import torch
from filelock import FileLock

from pipeline.records.tracking import TrackingConfig, TrackingError
from pipeline.studies.two_d import cells, reports, settings
from pipeline.studies.two_d.cells import Cell, CellError
from pipeline.studies.two_d.data import DISTRIBUTIONS
from pipeline.studies.two_d.settings import Effort
from pipeline.studies.two_d.training import keep_freed_memory


def main() -> None:
    given = arguments()
    keep_freed_memory()
    try:
        effort = asked_effort(given)
        made = plan(given, effort)
        tracking = TrackingConfig(uri=given.tracking, experiment="two-d")
        for number, cell in enumerate(made, 1):
            print(f"cell {number} of {len(made)}: {cell.name}", flush=True)
            cells.run(cell, given.out, tracking, given.device)
        with FileLock(given.out / "report.lock"):  # the last to write has read all that is there
            getattr(reports, given.what)(given.out, given.report, effort)
    except (CellError, TrackingError, OSError) as error:
        sys.exit(f"two_d: {error}")
    except KeyboardInterrupt:
        sys.exit("two_d: stopped; the same command continues from the last checkpoint")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.studies.two_d",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    of_all = argparse.ArgumentParser(add_help=False)
    add = of_all.add_argument
    add("--out", type=Path, default=Path("runs/two_d"), help="folder of cells [%(default)s]")
    add("--report", type=Path, help="folder of tables and figures [that of the cells]")
    add("--iterations", type=int, help="of each cell [30000; search: 4000]")
    add("--precision", choices=["fp32", "bf16"], default="fp32", help="of products [%(default)s]")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    add("--device", choices=["cpu", "cuda"], default=device, help="[%(default)s]")
    add("--tracking", metavar="URI", help="an MLflow server or store [mlflow.db in --out]")
    commands = parser.add_subparsers(dest="what", required=True)
    for what, first in {"table2": [*DISTRIBUTIONS], "search": [*DISTRIBUTIONS],
                        "questions": ["8gaussians"]}.items():  # fmt: skip
        add = commands.add_parser(what, parents=[of_all]).add_argument
        add("--distributions", nargs="+", choices=[*DISTRIBUTIONS], default=first)
        if what != "questions":
            methods = [m for m in settings.METHODS if what == "table2" or m != "soft-introvae"]
            add("--methods", nargs="+", choices=methods, default=methods)
    for what in ("figure2", "figure3"):
        commands.add_parser(what, parents=[of_all])
    given = parser.parse_args()
    if given.iterations is not None and given.iterations < 1:
        parser.error(f"--iterations {given.iterations}: at least 1")
    given.report = given.report or given.out
    for folder in (given.out, given.report):
        folder.mkdir(parents=True, exist_ok=True)
    return given


def asked_effort(given: argparse.Namespace) -> Effort:
    schedule = settings.SEARCH if given.what == "search" else settings.FULL
    if given.iterations not in (None, schedule.iterations):
        schedule = settings.brief(given.iterations)
    return Effort(given.precision, schedule)


def plan(given: argparse.Namespace, effort: Effort) -> list[Cell]:
    """The cells to be run, the longest first."""
    if given.what == "figure2":
        return []
    if given.what == "figure3":
        soft = settings.table2("8gaussians", "soft-introvae", effort)
        return [soft, *(settings.figure3(seed, effort) for seed in settings.SEEDS)]
    if given.what == "questions":
        return [c for d in given.distributions for c in settings.questions(d, effort).values()]
    make = {"table2": settings.table2, "search": settings.search}[given.what]
    slowest_first = [m for m in reversed(settings.METHODS) if m in given.methods]
    return [make(d, method, effort) for method in slowest_first for d in given.distributions]


if __name__ == "__main__":
    main()
