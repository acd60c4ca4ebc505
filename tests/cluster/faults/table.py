"""The table of faults: a row for each, kept in a file, printed at the end."""

import json
import re
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from stages.origin import version
from tests.cluster.faults.training import EVERY, LAST, Training

LONGEST = 180  # seconds that a fault may go unnoticed
TITLE = f"""\
# Faults

What `make test-cluster` has found: trainings of {LAST // 16} steps (4x4, then 8x8; ZeRO 1 as
ffhq256, a checkpoint each {EVERY} images) on the tests' SLURM cluster of four nodes, or on one
machine (local, with the number of processes). "Noticed" is the time until the user's command
printed the sentence, "images again" what was computed twice, "weights" the final ones against the
undisturbed training's.
"""
HEAD = (
    "#", "fault", "on", "noticed after", "what the user saw", "images again", "weights", "verdict",
)  # fmt: skip


@dataclass
class Row:
    number: str
    fault: str
    where: str = ""
    noticed: str = "not reached"
    saw: str = ""
    again: str = "-"
    weights: str = "-"
    verdict: str = ""
    commit: str = ""
    seconds: int = 0

    def cells(self) -> list[str]:
        return [
            self.number, self.fault, self.where, self.noticed, self.saw, self.again, self.weights,
            self.verdict,
        ]  # fmt: skip


class Fault:
    """Fills the row of one test: the clock from the fault on, and what came of it.

    `expected` gives the weights of the undisturbed training on so many processes.
    """

    def __init__(self, docstring: str, expected):
        number, _, name = " ".join(docstring.split()).partition(": ")
        self.row, self.expected = Row(number, name.rstrip(".")), expected
        self.began = self.struck = time.monotonic()

    def strikes(self) -> None:
        """Starts the clock: call it just before the fault."""
        self.struck = time.monotonic()

    def noticed(self, training: Training, pattern: str, seconds: float = LONGEST) -> str:
        """Waits for a line of the user's command; the line."""
        moment, line = training.wait_for(pattern, seconds, self.struck)
        self.row.noticed, self.row.saw = f"{moment - self.struck:.0f} s", short(line)
        return line

    def unnoticed(self, why: str) -> None:
        """What took place of a line, where the training is undisturbed."""
        self.row.noticed, self.row.saw = "nothing to notice", why

    def completes(self, training: Training, seconds: float = 400, **changes) -> None:
        """The command ends well, with the weights of the undisturbed training (`compare`)."""
        status = training.end(seconds)
        assert status == 0, f"exit status {status}: {training.said()[-300:]}"
        self.compare(training, **changes)

    def compare(self, training: Training, **changes) -> None:
        """Compares final weights with those of the undisturbed training with `changes`."""
        found = training.weights()
        self.row.again = str(training.images_again())
        assert found, f"there is no checkpoint of {LAST} images"
        self.row.weights = "differ"
        assert found == self.expected(training.processes, **changes), "the final weights differ"
        self.row.weights = "equal"

    def not_compared(self, training: Training, why: str) -> None:
        self.row.again, self.row.weights = str(training.images_again()), why


def short(line: str) -> str:
    """A line for a cell, without names of folders that differ from run to run."""
    line = re.sub(r"(?<![\w:/])/\S*/(?=[\w.-]+)", "", " ".join(line.split()))
    return line if len(line) <= 220 else line[:217] + "..."


def keep(path: Path, row: Row) -> None:
    """Adds a row to the table's file of rows, in the place of an older one of the same number."""
    row.commit = (version() or "unknown")[:9]
    with path.with_suffix(".jsonl").open("a") as file:
        file.write(json.dumps(asdict(row)) + "\n")


def rows(path: Path) -> list[Row]:
    """The newest row of each number, in the order of the numbers."""
    kept = path.with_suffix(".jsonl")
    lines = kept.read_text().splitlines() if kept.exists() else []
    newest = {row.number: row for row in (Row(**json.loads(line)) for line in lines)}

    def order(row: Row) -> tuple[int, str]:
        digits = re.match(r"\d*", row.number)[0]
        return (int(digits) if digits else 1000, row.number)

    return sorted(newest.values(), key=order)


def write(path: Path) -> str:
    """The table as Markdown: written to `path`, and returned."""
    found = rows(path)
    cells = [list(HEAD), ["---"] * len(HEAD), *(row.cells() for row in found)]
    lines = ["| " + " | ".join(c.replace("|", "/") for c in row) + " |" for row in cells]
    good = sum(row.verdict == "OK" for row in found)
    for commit in sorted({row.commit for row in found}):
        of = [row for row in found if row.commit == commit]
        lines += ["", f"{len(of)} rows at {commit}, {sum(r.seconds for r in of) // 60} min."]
    text = "\n".join([TITLE, *lines, "", f"{good} of {len(found)} rows are OK.", ""])
    path.write_text(text)
    return text
