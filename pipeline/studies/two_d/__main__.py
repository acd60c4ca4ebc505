"""The paper's 2-D study:

    python -m pipeline.studies.two_d table2
    python -m pipeline.studies.two_d table2 --distributions 8gaussians rings --out /data/two_d
    sbatch --array=0-11 --wrap 'python -m pipeline.studies.two_d table2 --out /data/two_d \\
        --task $SLURM_ARRAY_TASK_ID --tasks 12'

table2 trains its cells and writes table2.md, table2.json and figure2.png; figure2 draws again what
is there. search, figure3 and questions do the same for theirs. What is finished is not done
again, and a cell that was stopped continues: the same command goes on.
"""

import argparse
import ctypes
import os
import sys
from pathlib import Path

import torch

from pipeline.studies.two_d import cells, reports, settings
from pipeline.studies.two_d.cells import Cell, CellError
from pipeline.studies.two_d.data import DISTRIBUTIONS
from pipeline.studies.two_d.settings import Effort
from pipeline.tracking import TrackingConfig, TrackingError


def main() -> None:
    given = arguments()
    keep_freed_memory()
    try:
        made = plan(given)
        tracking = TrackingConfig(uri=given.tracking, experiment="two-d")
        for cell in made[given.task :: given.tasks]:
            cells.run(cell, given.out, tracking, given.device)
        write = getattr(reports, given.what)
        write(given.out, given.report, made, effort(given))
    except (CellError, TrackingError) as error:
        sys.exit(f"two_d: {error}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.studies.two_d",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("what", choices=["table2", "figure2", "figure3", "search", "questions"])
    add("--out", type=Path, default=Path("runs/two_d"), help="folder of cells [%(default)s]")
    add("--report", type=Path, help="folder of tables and figures [that of the cells]")
    add("--distributions", nargs="+", choices=[*DISTRIBUTIONS], default=[*DISTRIBUTIONS])
    add("--methods", nargs="+", choices=[*settings.METHODS], default=[*settings.METHODS])
    add("--iterations", type=int, help="of each cell [30000; search: 4000]")
    add("--precision", choices=["fp32", "bf16"], default="bf16", help="of products [%(default)s]")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    add("--device", default=device, help="[%(default)s]")
    add("--task", type=int, default=0, metavar="I", help="run the cells I, I + N, I + 2 N, ...")
    add("--tasks", type=int, default=1, metavar="N")
    add("--tracking", metavar="URI", help="an MLflow server or store [mlflow.db in --out]")
    given = parser.parse_args()
    if not 0 <= given.task < given.tasks:
        parser.error(f"--task {given.task} is not one of 0 to {given.tasks - 1} (--tasks)")
    if given.iterations is not None and given.iterations < 1:
        parser.error(f"--iterations {given.iterations}: at least 1")
    given.report = given.report or given.out
    for folder in (given.out, given.report):
        folder.mkdir(parents=True, exist_ok=True)
    return given


def plan(given: argparse.Namespace) -> list[Cell]:
    """The cells to be run, all tasks' together."""
    common = effort(given)
    if given.what == "figure3":
        return [settings.figure3(seed, common) for seed in settings.SEEDS]
    if given.what == "questions":
        return settings.questions("8gaussians", common)
    if given.what == "figure2":
        return []
    make = {"table2": settings.table2, "search": settings.search}[given.what]
    searched = [m for m in given.methods if given.what == "table2" or m != "soft-introvae"]
    return [make(name, method, common) for name in given.distributions for method in searched]


def effort(given: argparse.Namespace) -> Effort:
    if given.iterations is not None:
        return Effort(given.precision, settings.brief(given.iterations))
    schedule = settings.SHORT if given.what == "search" else settings.FULL
    return Effort(given.precision, schedule)


def keep_freed_memory() -> None:
    """Has glibc keep what is freed: handing activations back each time costs a quarter of a step.

    (mallopt with M_MMAP_THRESHOLD and M_TRIM_THRESHOLD; other C libraries have none.)
    """
    if "MALLOC_MMAP_THRESHOLD_" not in os.environ:
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(-3, 1 << 30)
            mallopt(-1, (1 << 31) - 1)


if __name__ == "__main__":
    main()
