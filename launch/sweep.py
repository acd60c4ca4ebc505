"""A sweep: a training for each combination of values. What they have in common is trained once.

    python launch/local.py --config demo --sweep stages.3.beta_neg=8,16,32
    python launch/slurm.py --config ffhq256 --sweep seed=1,2 --sweep stages.6.beta_neg=256,512

Each point is a training with its own folder, named by what differs. Points that compute the same
up to some image share a training up to it, and branch off its end; these make a tree. The same
command resumes what is unfinished; more values add points.
"""

import argparse
import itertools
import re
from dataclasses import dataclass, replace
from pathlib import Path

from dataprep.manifest import Manifest
from launch import arguments, memory
from pipeline.config import ConfigError, plain
from pipeline.records.journal import Journal
from stages import plan, schedule
from stages.config import Config
from stages.report import SECONDS


@dataclass(frozen=True, eq=False)
class Part:
    """A training of a sweep: a point, or what several points share; equal to itself alone."""

    name: str
    """What differs, as "beta_neg=8 seed=1"."""
    config: Config
    folder: Path
    parent: "Part | None" = None
    """The part that it branches off, at its end."""
    shared: bool = False

    @property
    def start(self) -> int:
        """Images at which it branches off; 0 without a parent."""
        return schedule.total(self.parent.config) if self.parent else 0

    @property
    def seen(self) -> int:
        """Images seen at its newest checkpoint."""
        return plan.position(self.folder)

    @property
    def branch(self) -> str | None:
        """Where it branches off, as of `--branch`; None if it has begun, or has no parent."""
        return f"{self.parent.folder}@{self.start}" if self.parent and not self.seen else None

    @property
    def finished(self) -> bool:
        """Whether it is trained and evaluated to its end."""
        end = schedule.total(self.config)
        return self.seen >= end and Journal(self.folder / "metrics.jsonl").has(end, SECONDS)


@dataclass(frozen=True)
class Sweep:
    """The trainings, parents first."""

    name: str
    folder: Path
    parts: list[Part]

    @property
    def points(self) -> list[Part]:
        return [part for part in self.parts if not part.shared]

    def children(self, parent: Part | None) -> list[Part]:
        return [part for part in self.parts if part.parent is parent]

    def to_train(self) -> list[Part]:
        """The unfinished trainings, parents first: of the shared ones, those that others need."""
        return [part for part in self.parts if self._needed(part)]

    def _needed(self, part: Part) -> bool:
        if part.finished:
            return False
        if not part.shared:
            return True
        return any(not child.seen and self._needed(child) for child in self.children(part))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("a sweep").add_argument
    add(
        "--sweep",
        action="append",
        metavar="key=A,B",
        help="a training for each value, or each combination where there are several; what they "
        "have in common is trained once",
    )
    add(
        "--at-once",
        type=arguments.at_least(1),
        metavar="N",
        help="trainings of a sweep at the same time (default: on SLURM all, on this machine as "
        "many as its GPUs hold, or one)",
    )


def read(args: argparse.Namespace) -> Sweep:
    """The sweep that `--sweep` asks for, in --output or runs/NAME-sweep. ConfigError."""
    if args.branch:
        raise ConfigError("--sweep branches off by itself, where points share stages: no --branch")
    if args.check or args.rehearse:
        raise ConfigError("--check and --rehearse are for one training: give them without --sweep")
    axes = _axes(args.sweep)
    if "name" in axes:
        raise ConfigError("--sweep names its points itself: no name")
    args, points = argparse.Namespace(**vars(args)), []
    args.output, asked, overrides = None, args.output, list(args.overrides)
    for values in itertools.product(*axes.values()):
        args.overrides = [*overrides, *(f"{key}={value}" for key, value in zip(axes, values))]
        config, _ = arguments.read(args)
        if "data.path" in axes:
            config = plan.of_dataset(config, Manifest.load(config.data.path).digest)
        base, name = config.name, _name(axes, values)
        folder = (asked or Path("runs") / f"{base}-sweep").resolve()
        config = replace(config, name=f"{base} {name}", sweep=folder.name)
        points.append((values, Part(name, config, folder / _file(name))))
    _refuse_same([point for _, point in points])
    return Sweep(base, folder, _grown(axes, points, None))


def refuse(args: argparse.Namespace, found: Sweep) -> None:
    """ConfigError where a training has begun with other values: it needs --replan, or cannot."""
    for part in found.parts:
        known = plan.read(part.folder) if part.seen else None
        if known is None:
            continue
        digest = Manifest.load(part.config.data.path).digest
        config, _ = memory.sized(part.config, part.folder, 1, memory.Card(None, ""))
        config = plan.with_precision(plan.of_dataset(config, digest), known.engine.precision)
        if not part.finished:
            plan.continued(config, part.folder, digest, args.replan)
        elif plan.agreement(known, config) < schedule.total(config):
            listed = "\n".join(f"  {line}" for line in plan.compare(plain(known), plain(config)))
            raise ConfigError(
                f"{part.folder} was trained to its end by another configuration:\n{listed}\n"
                f"Name another --output"
            )


def _axes(texts: list[str]) -> dict[str, list[str]]:
    """{key: values} of `--sweep`; ConfigError."""
    axes: dict[str, list[str]] = {}
    for text in texts:
        key, equals, values = text.partition("=")
        found = list(dict.fromkeys(v for v in values.split(",") if v))
        if not equals or not key or not found:
            raise ConfigError(f"--sweep {text!r} should read key=value,value, as in seed=1,2,3")
        if key in axes:
            raise ConfigError(f"--sweep names {key} twice: give all its values at once")
        axes[key] = found
    return axes


def _name(axes: dict[str, list[str]], values: tuple[str | None, ...]) -> str:
    """ "beta_neg=8 seed=1"; a key whose last word another one has is written whole."""
    last = [key.rpartition(".")[2] for key in axes]
    names = [short if last.count(short) == 1 else key for short, key in zip(last, axes)]
    return " ".join(f"{name}={v}" for name, v in zip(names, values) if v is not None)


def _file(name: str) -> str:
    """A part's name as that of a folder."""
    return re.sub(r"[^\w.=,+-]", "_", name.replace(" ", ","))


def _refuse_same(points: list[Part]) -> None:
    """ConfigError for two points that compute the same, or have the same folder."""
    for one, other in itertools.combinations(points, 2):
        same = not plan.compare(plain(one.config), plain(other.config))
        if same or one.folder == other.folder:
            raise ConfigError(
                f"{one.name} and {other.name} are the same training"
                if same
                else f"{one.name} and {other.name} would have the same folder, {one.folder}"
            )


def _grown(
    axes: dict[str, list[str]], points: list[tuple[tuple[str, ...], Part]], parent: Part | None
) -> list[Part]:
    """The parts that continue `parent`, parents first: `points`, and what some of them share."""
    parts, left = [], list(points)
    start = schedule.total(parent.config) if parent else 0
    while left:
        first = left[0][1]
        alike = [plan.agreement(first.config, point.config) > start for _, point in left[1:]]
        group = [left[0], *itertools.compress(left[1:], alike)]
        left = [point for point in left if point not in group]
        if len(group) == 1:
            parts.append(replace(first, parent=parent))
            continue
        end = min(plan.agreement(first.config, p.config) for _, p in group[1:])
        common = tuple(v[0] if len(set(v)) == 1 else None for v in zip(*(v for v, _ in group)))
        shared = _shared(first, _name(axes, common), end, parent)
        parts += [shared, *_grown(axes, group, shared)]
    return parts


def _shared(point: Part, common: str, end: int, parent: Part | None) -> Part:
    """The first `end` images of a point, as a training of its own; `common` are its values."""
    stages, seen = [], 0
    for stage in point.config.stages:
        if seen < end:
            stages.append(replace(stage, images=min(stage.images, end - seen)))
            seen += stage.images
    base = point.config.name.removesuffix(f" {point.name}")
    name = f"{common} shared to {end:,} images".strip()
    config = replace(point.config, name=f"{base} {name}", stages=stages)
    folder = point.folder.parent / _file(f"{common} shared-{end:09}".strip())
    return Part(name, config, folder, parent, shared=True)
