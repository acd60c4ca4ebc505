"""A sweep: a training for each combination of values. What they have in common is trained once.

    python launch/local.py --config demo --sweep stages.3.beta_neg=8,16,32
    python launch/slurm.py --config ffhq256 --sweep seed=1,2 --sweep objective.beta_rec=0.05,0.1

Each point is a training with its own folder, named by what differs. Where points differ in
stages from one on alone, the stages before are one training, and the points branch off its end.
The same command resumes what is unfinished; more values add points.
"""

import argparse
import itertools
from dataclasses import dataclass, replace
from pathlib import Path

from launch import arguments
from pipeline.config import ConfigError, plain
from stages import plan, schedule
from stages.config import Config


@dataclass(frozen=True)
class Point:
    """A training of a sweep."""

    name: str
    """What differs, as "beta_neg=8 seed=1"."""
    config: Config
    folder: Path

    @property
    def finished(self) -> bool:
        return plan.position(self.folder) >= schedule.total(self.config)


@dataclass(frozen=True)
class Sweep:
    """The points, and the training of what they share."""

    points: list[Point]
    shared: Point | None

    @property
    def images(self) -> int:
        """Images seen in all."""
        totals = [schedule.total(point.config) - self.prefix for point in self.points]
        return sum(totals) + self.prefix

    @property
    def prefix(self) -> int:
        """Images that the points share."""
        return schedule.total(self.shared.config) if self.shared else 0

    @property
    def branch(self) -> str | None:
        """Where the points branch off, as of `--branch`."""
        return f"{self.shared.folder}@{self.prefix}" if self.shared else None

    def tree(self) -> str:
        """The trainings and their images, as text."""
        lines = []
        if self.shared:
            lines.append(f"{self.prefix:>13,} images  shared by all  {self.shared.folder}")
        for point in self.points:
            own = schedule.total(point.config) - self.prefix
            state = "  (finished)" if point.finished else ""
            lines.append(f"{own:>13,} images  {point.name}  {point.folder}{state}")
        apart = sum(schedule.total(point.config) for point in self.points)
        lines.append(f"{self.images:>13,} images in all; one by one {apart:,}")
        return "\n".join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--sweep",
        action="append",
        metavar="key=A,B",
        help="a training for each value, or each combination where there are several; what they "
        "have in common is trained once",
    )


def read(args: argparse.Namespace) -> Sweep:
    """The sweep that `--sweep` asks for, in --output or runs/NAME-sweep. ConfigError."""
    if args.branch:
        raise ConfigError("--sweep branches off by itself, where points share stages: no --branch")
    axes = [_axis(text) for text in args.sweep]
    last = [key.rpartition(".")[2] for key, _ in axes]
    names = [short if last.count(short) == 1 else key for short, (key, _) in zip(last, axes)]
    args, points = argparse.Namespace(**vars(args)), []
    args.output, asked, overrides = None, args.output, list(args.overrides)
    for values in itertools.product(*(values for _, values in axes)):
        args.overrides = [
            *overrides, *(f"{key}={value}" for (key, _), value in zip(axes, values))
        ]  # fmt: skip
        config, _ = arguments.read(args)
        folder = (asked or Path("runs") / f"{config.name}-sweep").resolve()
        name = " ".join(f"{key}={value}" for key, value in zip(names, values))
        config = replace(config, name=f"{config.name} {name}", sweep=folder.name)
        points.append(Point(name, config, folder / name.replace("/", "_").replace(" ", ",")))
    return Sweep(points, _shared(points))


def _axis(text: str) -> tuple[str, list[str]]:
    key, equals, values = text.partition("=")
    found = list(dict.fromkeys(v for v in values.split(",") if v))
    if not equals or not key or not found:
        raise ConfigError(f"--sweep {text!r} should read key=value,value, as in seed=1,2,3")
    return key, found


def _shared(points: list[Point]) -> Point | None:
    """The training of the stages that all points have in common, where there are any."""
    first = points[0]
    keys = set()
    for point in points[1:]:
        keys |= plan.differing(plain(first.config), plain(point.config)).keys()
    parts = [key.split(".") for key in keys]
    if not parts or any(part[0] != "stages" for part in parts):
        return None
    count = min(int(part[1]) for part in parts)
    if count == 0:
        return None
    name = first.config.name.removesuffix(f" {first.name}")
    config = replace(first.config, name=f"{name} shared", stages=first.config.stages[:count])
    folder = first.folder.parent / f"shared-{schedule.total(config):09}"
    return Point("shared", config, folder)
