"""Plots over images seen: the planned schedule, the logged losses."""

from pathlib import Path
from typing import BinaryIO

import matplotlib
from matplotlib.figure import Figure

from pipeline.records.journal import Journal
from stages import schedule as schedules
from stages.config import Config

matplotlib.use("Agg")


def schedule(config: Config, path: Path | BinaryIO) -> None:
    """Fade-in, batch, learning rate and beta_neg and the ceiling of KL of a training."""
    total = schedules.total(config)
    points = sorted({total * i // 2000 for i in range(2001)})
    moments = [schedules.at(config, images) for images in points]
    curves = {
        "alpha": [m.alpha for m in moments],
        "batch": [m.stage.batch for m in moments],
        "learning rate": [m.lr for m in moments],
        "beta_neg": [getattr(m.objective, "beta_neg", float("nan")) for m in moments],
        "ceiling of KL\n(nats)": [_ceiling(config, m) for m in moments],
    }
    figure = Figure(figsize=(9, 7.5), layout="constrained")
    axes = figure.subplots(len(curves), 1, sharex=True)
    for axis, (name, values) in zip(axes, curves.items(), strict=True):
        axis.plot(points, values, color="tab:blue")
        axis.set_ylabel(name)
        axis.set_ylim(bottom=0)
        _mark_stages(axis, config)
    axes[-1].set_xlabel("images seen")
    figure.savefig(path, dpi=100)


def _ceiling(config: Config, moment: schedules.Moment) -> float:
    found = schedules.ceiling(config, moment.stage)
    return float("nan") if found is None else found


def losses(journal: Journal, path: Path | BinaryIO) -> None:
    """Losses, reconstruction error, the three KL and the speed, as logged."""
    curves = journal.curves()
    groups = {
        "loss": ["loss_E", "loss_D"],
        "reconstruction": ["rec"],
        "KL (nats)": ["kl_real", "kl_rec", "kl_fake"],
        "images per second": ["images_per_second"],
    }
    figure = Figure(figsize=(9, 8), layout="constrained")
    axes = figure.subplots(len(groups), 1, sharex=True)
    for axis, (label, names) in zip(axes, groups.items(), strict=True):
        for name in names:
            if name in curves:
                axis.plot(*zip(*curves[name], strict=True), label=name)
        axis.set_ylabel(label)
        axis.set_yscale("log")
        if len(names) > 1 and axis.lines:
            axis.legend(loc="upper left", ncols=3)
        axis.grid(alpha=0.3)
    axes[-1].set_xlabel("images seen")
    figure.savefig(path, dpi=100)


def _mark_stages(axis, config: Config) -> None:
    """A line where each stage ends, and its resolution."""
    first = 0
    for stage in config.stages:
        side = stage.resolution
        axis.axvline(first, color="0.8", linewidth=0.8)
        place = (first, 1.0)
        axis.annotate(f"{side}", place, xycoords=("data", "axes fraction"), fontsize=7, color="0.4")
        first += stage.images
