"""Compares trainings in MLflow: the distance and cost of each configuration at each resolution:

    python -m pipeline.compare runs/a runs/b
    python -m pipeline.compare --sweep beta_neg --plot compared.png
    python -m pipeline.compare baseline b64 --uri http://mlflow:5000 --format markdown

Name a training by its folder, or by its run's id or name in MLflow. Trainings that differ only in
their seed form one row: mean, standard deviation and count. The column `METRIC at` holds values
measured at equal images seen: the largest number at which all trainings at that resolution were
measured. Compare values in this column only; it also sorts the rows. Speed and device hours count
steps, not evaluations.
"""

import argparse
import json
import math
import statistics
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.records import trainings
from pipeline.records.mlflow_access import TrackingError, open_store
from pipeline.records.trainings import Training

# Parameters that do not change what is computed.
APART = ("seed", "name", "tracking.", "data.path", "data.workers")
FORMATS = ("text", "markdown", "json")


@dataclass(frozen=True)
class Row:
    """One configuration at one resolution; lists hold a value per training, in one order."""

    configuration: str
    resolution: int
    trainings: list[str]
    last: list[tuple[int, float]]
    """(images seen, distance)"""
    best: list[tuple[int, float]]
    at_images: int | None
    at: list[float]
    images_per_second: list[float]
    device_hours: list[float]


def differing(found: list[Training]) -> list[str]:
    """Parameters that have more than one value, without the seed, names and paths."""
    keys = sorted(set().union(*(t.params for t in found)))
    keys = [key for key in keys if not key.startswith(APART)]
    return [key for key in keys if len({t.params.get(key) for t in found}) > 1]


def grouped(found: list[Training]) -> dict[str, list[Training]]:
    """Trainings by the parameters that differ."""
    keys, groups = differing(found), {}
    for training in found:
        setting = "  ".join(f"{key}={training.params.get(key, '-')}" for key in keys)
        groups.setdefault(setting or "all alike", []).append(training)
    return groups


def metric_of(found: list[Training]) -> str:
    """The distance that most trainings have. TrackingError if none has one."""
    have = [name for t in found for name in t.distances]
    if not have:
        raise TrackingError("no distance has been measured in these trainings yet")
    return max(sorted(set(have)), key=have.count)


def rows(found: list[Training], metric: str) -> list[Row]:
    """Rows by resolution, the largest first; within a resolution the best first."""
    groups = grouped(found)
    reached = {side for t in found for side in t.distances.get(metric, {})}
    made = []
    for side in sorted(reached, reverse=True):
        measured = [t.distances[metric][side] for t in found if side in t.distances.get(metric, {})]
        common = set.intersection(*({images for images, _ in points} for points in measured))
        here = [
            row(name, ts, metric, side, max(common, default=None)) for name, ts in groups.items()
        ]
        made += sorted((r for r in here if r), key=lambda r: mean(r.at))
    return made


def row(
    configuration: str, group: list[Training], metric: str, side: int, common: int | None
) -> Row | None:
    """A configuration at a resolution; None if none of its trainings was measured there."""
    group = [t for t in group if side in t.distances.get(metric, {})]
    if not group:
        return None
    histories = [t.distances[metric][side] for t in group]
    return Row(
        configuration,
        side,
        [t.name for t in group],
        [history[-1] for history in histories],
        [min(history, key=lambda point: point[1]) for history in histories],
        common,
        [dict(history)[common] for history in histories] if common is not None else [],
        [t.speed.get(side, math.nan) for t in group],
        [t.device_hours.get(side, math.nan) for t in group],
    )


def mean(values: list[float]) -> float:
    return statistics.fmean(values) if values else math.inf


def spread(values: list[float]) -> str:
    """The mean; for several values also their standard deviation and count."""
    if not values:
        return "-"
    if len(values) == 1:
        return f"{values[0]:.4g}"
    return f"{mean(values):.4g} ± {statistics.stdev(values):.2g} ({len(values)})"


def cells(made: list[Row], metric: str) -> list[list[str]]:
    """The table's cells, header row first."""
    head = ["at", "configuration", f"{metric} at", "images", "last", "images", "best", "images"]
    table = [[*head, "img/s", "device h"]]
    for r in made:
        last, best = ([value for _, value in points] for points in (r.last, r.best))
        table.append(
            [
                f"{r.resolution}x{r.resolution}",
                r.configuration,
                spread(r.at),
                "-" if r.at_images is None else f"{r.at_images:,}",
                spread(last),
                span([images for images, _ in r.last]),
                spread(best),
                span([images for images, _ in r.best]),
                f"{mean(r.images_per_second):,.0f}",
                f"{sum(r.device_hours):,.3g}",
            ]
        )
    return table


def span(numbers: list[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def text(table: list[list[str]]) -> str:
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    lines = ("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in table)
    return "\n".join(line.rstrip() for line in lines)


def markdown(table: list[list[str]]) -> str:
    head, *body = ("| " + " | ".join(line) + " |" for line in table)
    return "\n".join([head, "|" + " --- |" * len(table[0]), *body])


def plot(found: list[Training], metric: str, path: Path) -> None:
    """Plots distance over images seen: a panel per resolution, a colour per configuration."""
    from matplotlib.figure import Figure

    sides = sorted({side for t in found for side in t.distances.get(metric, {})})
    figure = Figure(figsize=(4.5 * len(sides), 4), layout="constrained")
    panels = figure.subplots(1, len(sides), squeeze=False)[0]
    for panel, side in zip(panels, sides, strict=True):
        for number, (setting, group) in enumerate(grouped(found).items()):
            curves = [t.distances.get(metric, {}).get(side, []) for t in group]
            for i, points in enumerate(filter(None, curves)):
                label = "" if i else setting
                x, y = zip(*points, strict=True)
                panel.plot(x, y, "o-", markersize=4, color=f"C{number}", label=label)
        panel.set_title(f"{side}x{side}")
        panel.set_xlabel("images seen")
        values = [value for t in found for _, value in t.distances.get(metric, {}).get(side, [])]
        if values and max(values) > 3 * min(values):
            panel.set_yscale("log")
        panel.grid(alpha=0.3, which="both")
    panels[0].set_ylabel(metric)
    panels[-1].legend(fontsize=8)
    figure.savefig(path, dpi=120)


def main(arguments: list[str] | None = None) -> None:
    given = parser().parse_args(arguments)
    try:
        if bool(given.runs) == (given.sweep is not None):
            raise TrackingError("name trainings, or a sweep by --sweep ID")
        uri = trainings.store_of(given.runs, given.uri)
        found = trainings.find(open_store(uri), given.runs, given.sweep)
        metric = given.metric or metric_of(found)
        made = rows(found, metric)
        if not made:
            raise TrackingError(f"none of these trainings has {metric}; see --metric")
    except TrackingError as error:
        sys.exit(f"python -m pipeline.compare: {error}")
    if given.format == "json":
        content = {
            "store": uri,
            "metric": metric,
            "differ": differing(found),
            "trainings": [asdict(t) for t in found],
            "rows": [asdict(r) for r in made],
        }
        print(json.dumps(content, indent=1))
    else:
        print({"text": text, "markdown": markdown}[given.format](cells(made, metric)))
    if given.plot:
        plot(found, metric, given.plot)


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m pipeline.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("runs", nargs="*", metavar="RUN", help="a run's folder, id or name")
    p.add_argument("--sweep", metavar="ID", help="all trainings of a sweep")
    p.add_argument("--uri", help="MLflow store (that of the first folder, or runs/mlflow.db)")
    p.add_argument("--metric", help="a distance, such as fid or fd_vgg16_1k (the commonest)")
    p.add_argument("--format", choices=FORMATS, default="text")
    p.add_argument("--plot", type=Path, metavar="FILE", help="plot the distances to FILE")
    return p


if __name__ == "__main__":
    main()
