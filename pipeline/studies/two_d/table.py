"""Table 2 and the smaller tables, as data and as markdown: mean and deviation over the seeds."""

import json
import math
from pathlib import Path

import numpy as np
import torch

from pipeline.config import flat
from pipeline.records.files import whole
from pipeline.studies.two_d import cells, metrics, settings
from pipeline.studies.two_d.data import DISTRIBUTIONS
from pipeline.studies.two_d.settings import Effort

PAPERS = {"gnelbo": "gnELBO 1e-7", "kl": "KL", "jsd": "JSD"}
IN_NATS = {"kl_nats": "KL, nats", "jsd_nats": "JSD, nats", "nll": "NLL, nats"}
MISSING = "not run"


def statistics(rows: list[dict], name: str) -> dict | None:
    """Of one measure over models that have not diverged: mean, deviation (n - 1), their number."""
    values = [row[name] for row in rows if row[name] is not None]
    if not values:
        return None
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    mean, lost = float(np.mean(values)), len(rows) - len(values)
    return {"mean": mean, "deviation": deviation, "models": len(values), "diverged": lost}


def table2(folder: Path, effort: Effort) -> dict:
    """The finished part of Table 2, with the paper's numbers and the floors."""
    rows = []
    for name in DISTRIBUTIONS:
        for method in settings.METHODS:
            cell = settings.table2(name, method, effort)
            found = cells.finished(folder, cell)
            row: dict = {"distribution": name, "method": method, "cell": cell.name}
            if found is not None:
                row |= {
                    "objective": found["cell"]["objectives"][0],
                    "seeds": found["cell"]["seeds"],
                    "precision": effort.precision,
                    "iterations": effort.schedule.iterations,
                    "seconds": found["seconds"],
                    "models": found["models"],
                    "measured": {m: statistics(found["models"], m) for m in [*PAPERS, *IN_NATS]},
                }
            rows.append(row)
    return {"rows": rows, "floor": floors(), "paper": settings.PAPER, "uniform_gnelbo": uniform()}


def floors() -> dict[str, dict[str, float]]:
    """Of each distribution, what two draws of it are apart; always the same draws."""
    found = {}
    with torch.random.fork_rng(devices=[]):
        for name, distribution in DISTRIBUTIONS.items():
            torch.manual_seed(0)
            found[name] = metrics.floor(distribution)
    return found


def uniform() -> float:
    """The gnELBO of a model with a constant energy."""
    return 1 / (metrics.GRID**2 + 100 * 128)


def table2_markdown(table: dict) -> str:
    """Two tables: what the paper measures, and the same in nats."""
    return "\n\n".join(
        [
            "Paper's measures; each as ours (paper's). `floor`: two draws of the distribution.",
            _markdown(table, PAPERS, with_paper=True),
            "Excess over the floor, likewise.",
            _excess(table),
            f"Textbook divergences of {metrics.POINTS_IN_NATS:,} points, and -log exp(ELBO) "
            "normalised over the grid; all in nats.",
            _markdown(table, IN_NATS, with_paper=False),
            _remarks(table),
        ]
    )


def _markdown(table: dict, measures: dict[str, str], with_paper: bool) -> str:
    lines = [f"| | | {' | '.join(settings.METHODS.values())} | floor |", "|---" * 6 + "|"]
    for name, distribution in DISTRIBUTIONS.items():
        for measure, title in measures.items():
            shown = []
            for row in (r for r in table["rows"] if r["distribution"] == name):
                text = _ours(row, measure)
                if with_paper:
                    text += " ({} ± {})".format(*table["paper"][name][row["method"]][measure])
                shown.append(text)
            low = table["floor"][name].get(measure)
            shown.append(_number(low) if low is not None else "")
            lines.append(f"| {distribution.title} | {title} | {' | '.join(shown)} |")
    return "\n".join(lines)


def _excess(table: dict) -> str:
    lines = [f"| | | {' | '.join(settings.METHODS.values())} |", "|---" * 5 + "|"]
    for name, distribution in DISTRIBUTIONS.items():
        for measure in ("kl", "jsd"):
            low, shown = table["floor"][name][measure], []
            for row in (r for r in table["rows"] if r["distribution"] == name):
                ours = row.get("measured", {}).get(measure)
                text = f"**{_number(ours['mean'] - low)}**" if ours else _ours(row, measure)
                theirs = table["paper"][name][row["method"]][measure][0] - low
                shown.append(f"{text} ({_number(theirs)})")
            lines.append(f"| {distribution.title} | {PAPERS[measure]} | {' | '.join(shown)} |")
    return "\n".join(lines)


def _ours(row: dict, measure: str) -> str:
    if "measured" not in row:
        return MISSING
    found, unit = row["measured"][measure], 1e7 if measure == "gnelbo" else 1
    if found is None:
        return "diverged"
    text = f"**{_number(found['mean'] * unit)}**"
    if found["deviation"] is not None:
        text += f" ± {_number(found['deviation'] * unit, like=found['mean'] * unit)}"
    if found["diverged"]:
        text += f", {found['diverged']} of {found['diverged'] + found['models']} diverged"
    return text


def _remarks(table: dict) -> str:
    done = [row for row in table["rows"] if "measured" in row]
    if not done:
        return "No cell is finished."
    hours = sum(row["seconds"] for row in done) / 3600
    return f"{len(done)} of {len(table['rows'])} cells, {hours:.1f} hours of training in all."


def comparison(results: list[dict]) -> list[dict]:
    """A line for each objective of cells that differ in seeds alone.

    It has the settings in which the objectives differ, and the measures.
    """
    objectives = [flat(objective) for objective in results[0]["cell"]["objectives"]]
    models = [row for found in results for row in found["models"]]
    keys = [k for k in objectives[0] if any(o[k] != objectives[0][k] for o in objectives)]
    lines = []
    for i, objective in enumerate(objectives):
        rows = [row for row in models if row["objective"] == i]
        line = {key: objective[key] for key in keys}
        lines.append(line | {m: statistics(rows, m) for m in [*PAPERS, *IN_NATS]})
    return lines


def comparison_markdown(lines: list[dict]) -> str:
    """`comparison`'s lines, or others with the same measures, as a table."""
    measures = PAPERS | IN_NATS
    keys = [key for key in lines[0] if key not in measures]
    rows = [[*keys, *measures.values()], ["---"] * (len(keys) + len(measures))]
    for line in lines:
        rows.append([str(line[k]) for k in keys] + [_ours({"measured": line}, m) for m in measures])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def write(path: Path, content: str | dict | list) -> None:
    """Text, or data as JSON."""
    with whole(path) as beside:
        text = content if isinstance(content, str) else json.dumps(content, indent=1)
        beside.write_text(text.rstrip("\n") + "\n")
    print(path, flush=True)


def _number(value: float, like: float | None = None) -> str:
    """Three figures, and two decimals at most from 1 on; or as many decimals as `like` has."""
    of = abs(value if like is None else like)
    return f"{value:.{2 if of == 0 or of >= 1 else 2 - math.floor(math.log10(of))}f}"
