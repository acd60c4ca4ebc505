"""The table of a rehearsal: what each stage takes in time and memory, and what does not fit."""

import math
import shutil
from pathlib import Path
from statistics import median

from stages import state
from stages.config import Config
from stages.rehearsal import Measures

GIB = 2**30


class Table:
    """Lines of text, stage by stage; `status` is 1 once something does not fit."""

    def __init__(self, config: Config, nodes: int):
        self.config, self.nodes = config, nodes
        self.seconds, self.images, self.status, self.titled = 0.0, 0, 0, False
        self.lines: list[str] = []

    def take(self) -> str:
        """The lines since the last call."""
        lines, self.lines = self.lines, []
        return "".join(f"{line}\n" for line in lines)

    def add(self, number: int, measures: list[Measures]) -> None:
        """The line of a stage, from the measures of all processes."""
        stage = self.config.stages[number]
        if not self.titled:
            self.title(measures)
        worst = {
            name: max(getattr(m, name) for m in measures)
            for name in ("fading", "after", "peak", "evaluation", "checkpoint")
        }
        seconds = stage_seconds(self.config, number, measures)
        self.seconds, self.images = self.seconds + seconds, self.images + stage.images
        slowest, usual = max(measures, key=lambda m: m.own), median(m.own for m in measures)
        fading = f"{stage.batch / worst['fading']:,.0f}" if worst["fading"] else "-"
        self.row(
            f"{stage.resolution}x{stage.resolution}",
            f"{stage.batch / worst['after']:,.0f}",
            fading,
            f"{worst['peak'] / GIB:.2f}",
            f"{worst['evaluation']:.1f}",
            f"{worst['checkpoint']:.1f}",
            *self.hours(seconds),
            f"{slowest.rank} on {slowest.host}, {slowest.own / usual:.2f}",
        )

    def does_not_fit(self, number: int, message: str) -> None:
        """The line of a stage that does not fit into the memory, with the remedy."""
        side, self.status = self.config.stages[number].resolution, 1
        self.lines.append(f"{f'{side}x{side}':>9}  DOES NOT FIT: {message}")

    def end(self, folder: Path) -> None:
        """The sum of the stages, and room for checkpoints on the disk of `folder`."""
        if self.seconds:
            rate = f"{self.images / self.seconds:,.0f}"
            self.row("whole", rate, "", "", "", "", *self.hours(self.seconds), "")
        if self.status:
            self.lines.append("the sum is without the stages that do not fit")
        needed, free = state.disk_bytes(self.config), shutil.disk_usage(folder.parent).free
        self.lines.append(
            f"checkpoints: {needed / GIB:,.2f} GiB in all, {free / GIB:,.2f} GiB free in "
            f"{folder.parent}"
        )
        if needed > free:
            self.lines.append("the checkpoints do not fit: make room, or name another --output")
            self.status = 1

    def title(self, measures: list[Measures]) -> None:
        one, self.titled = measures[0], True
        what = "peak" if one.device != "CPU" else "resident"
        owner = "GPU" if one.device != "CPU" else "node"
        self.lines += [
            f"rehearsal of {self.config.name}: processes {len(measures)}, nodes {self.nodes}, "
            f"{one.device}, {one.precision}",
            f"{what}: memory of a process in GiB, and the {owner} has {one.memory / GIB:.0f}; "
            f"slowest: data and forward passes, relative to the median",
        ]
        self.row(
            "stage", "images/s", "in fade", what, "evaluate s", "save s", "hours", "node hours",
            "slowest process",
        )  # fmt: skip

    def row(self, *cells: str) -> None:
        widths = (9, 9, 9, 9, 10, 10, 9, 10)
        padded = [f"{cell:>{width}}" for cell, width in zip(cells, widths)]
        self.lines.append("  ".join([*padded, cells[-1]]).rstrip())

    def hours(self, seconds: float) -> tuple[str, str]:
        return f"{seconds / 3600:.3g}", f"{seconds / 3600 * self.nodes:.3g}"


def stage_seconds(config: Config, number: int, measures: list[Measures]) -> float:
    """Seconds of a stage: its steps, and all that is due between them."""
    stage = config.stages[number]
    first = sum(before.images for before in config.stages[:number])
    every, last = stage.every or config.every, first + stage.images

    def times(interval: int) -> int:
        """How often something is due every `interval` images, and at the end of the stage."""
        return 1 + ((last - 1) // interval - first // interval if interval else 0)

    def worst(name: str) -> float:
        return max(getattr(m, name) for m in measures)

    steps, fading = stage.images // stage.batch, math.ceil(stage.fade / stage.batch)
    pictures = 1 + (stage.images // every.pictures).bit_length() if every.pictures else 1
    return (
        worst("start")
        + fading * worst("fading")
        + (steps - fading) * worst("after")
        + worst("statistics")
        + times(every.evaluation) * worst("evaluation")
        + times(every.checkpoint) * worst("checkpoint")
        + pictures * worst("pictures")
    )
