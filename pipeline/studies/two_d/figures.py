"""Figures 2 and 3 of the paper, from finished cells."""

from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure

from pipeline.records.files import whole
from pipeline.studies.two_d import cells, metrics, settings
from pipeline.studies.two_d.data import DISTRIBUTIONS
from pipeline.studies.two_d.networks import Ensemble
from pipeline.studies.two_d.settings import Effort

matplotlib.use("Agg")
SIDE = 256  # of the density's grid
SHOWN = 2_000  # points


def figure2(folder: Path, effort: Effort, path: Path) -> int:
    """Samples over the density by exp(ELBO), of the first seed; how many cells it shows.

    A row for each distribution with a finished cell: the data, then each method.
    """
    finished: dict[str, dict] = {}
    for name in DISTRIBUTIONS:
        for method in settings.METHODS:
            cell = settings.table2(name, method, effort)
            if cells.finished(folder, cell) is not None:
                finished.setdefault(name, {})[method] = cell
    if not finished:
        return 0
    figure = Figure(figsize=(9.6, 4.9 * len(finished)), layout="constrained")
    rows = figure.subplots(2 * len(finished), 4, squeeze=False)
    torch.manual_seed(0)
    for i, (name, of_methods) in enumerate(finished.items()):
        above, below = rows[2 * i], rows[2 * i + 1]
        h = DISTRIBUTIONS[name].half_range
        _points(above[0], DISTRIBUTIONS[name].draw(SHOWN).numpy(), h, "Data")
        below[0].set_axis_off()
        below[0].text(0.5, 0.5, "density\nexp(ELBO)", ha="center", va="center")
        above[0].set_ylabel(DISTRIBUTIONS[name].title)
        for j, (method, title) in enumerate(settings.METHODS.items(), 1):
            if method not in of_methods:
                for axis in (above[j], below[j]):
                    axis.set_axis_off()
                above[j].set_title(f"{title}: not run", fontsize=10)
                continue
            model = cells.models(folder, of_methods[method])
            _points(above[j], samples(model), h, title)
            below[j].imshow(density(model, h), extent=(-h, h, -h, h), origin="lower", cmap="magma")
            _bare(below[j], h)
    _save(figure, path)
    return sum(len(of_methods) for of_methods in finished.values())


def figure3(lines: dict[str, list[dict]], path: Path) -> None:
    """KL and JSD over IntroVAE's m, deviation shaded; Soft-IntroVAE's as flat lines.

    `lines` as `table.comparison` gives them: IntroVAE's by m, then one for each other by its title.
    """
    (title_of_first, of_margins), *others = lines.items()
    figure = Figure(figsize=(9.6, 3.8), layout="constrained")
    for axis, measure, title in zip(figure.subplots(1, 2), ("kl", "jsd"), ("KL", "JSD")):
        known = [line for line in of_margins if line[measure] is not None]
        margins = [line["margin"] for line in known]
        mean = np.array([line[measure]["mean"] for line in known])
        deviation = np.array([line[measure]["deviation"] or 0.0 for line in known])
        axis.plot(margins, mean, "o-", color="tab:blue", label=title_of_first)
        low = np.maximum(mean - deviation, 0.05 * mean)
        axis.fill_between(margins, low, mean + deviation, alpha=0.2, color="tab:blue")
        for (label, (line,)), style in zip(others, ("-", "--")):
            if line[measure] is not None:
                axis.axhline(line[measure]["mean"], color="tab:red", linestyle=style, label=label)
        axis.set(xscale="log", yscale="log", xlabel="m (nats)", ylabel=f"{title}, as in the paper")
        for line in known:
            if lost := line[measure]["diverged"]:
                where = (line["margin"], line[measure]["mean"])
                axis.annotate(f"{lost} diverged", where, rotation=90, fontsize=7)
        axis.set_xticks(margins, [f"{m:g}" for m in margins], fontsize=7, rotation=60)
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    _save(figure, path)


@torch.no_grad()
def samples(model: Ensemble) -> np.ndarray:
    """Of the first of the models, (SHOWN, 2)."""
    return model.generate(SHOWN * model.count).view(SHOWN, model.count, 2)[:, 0].numpy()


def density(model: Ensemble, half_range: float) -> np.ndarray:
    """exp(ELBO) of the first of the models at SIDE x SIDE points, rows upwards in x_2."""
    energy = metrics.energies(model, metrics.grid(half_range, SIDE))[:, 0]
    return (-energy).exp().view(SIDE, SIDE).numpy()


def _points(axis, points: np.ndarray, half_range: float, title: str) -> None:
    axis.scatter(points[:, 0], points[:, 1], s=1.5, linewidths=0, alpha=0.6)
    axis.set_title(title, fontsize=10)
    _bare(axis, half_range)


def _bare(axis, half_range: float) -> None:
    axis.set(xlim=(-half_range, half_range), ylim=(-half_range, half_range), aspect="equal")
    axis.set(xticks=[], yticks=[])


def _save(figure: Figure, path: Path) -> None:
    with whole(path) as beside:
        figure.savefig(beside, dpi=80, format="png")
    print(path, flush=True)
