"""The report of a stage as one self-contained HTML file: results and cost."""

import base64
import io
from collections.abc import Callable
from html import escape
from itertools import pairwise
from pathlib import Path

from dataprep.manifest import Manifest
from pipeline.config import flat, plain
from pipeline.records import names
from pipeline.records.journal import Journal
from stages import origin, plots
from stages.config import Config
from stages.schedule import Moment

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
       color: #222; background: #fff }
h1 { font-size: 1.6rem; margin-bottom: 0 } h2 { font-size: 1.1rem; margin: 2rem 0 .4rem }
table { border-collapse: collapse } td { padding: .15rem 1.5rem .15rem 0; vertical-align: top }
td + td { font-variant-numeric: tabular-nums } .wide { width: 100% } .quiet { color: #666 }
figure { display: inline-block; margin: 0 1rem 1rem 0; vertical-align: top }
figure img { max-width: 100%; width: 29rem } .bad { color: #b00020 }
"""


def of(config: Config, manifest: Manifest, journal: Journal, moment: Moment, folder: Path) -> str:
    """The report of the stage that ended at `moment.last`; its pictures are in `folder`."""
    side, number = moment.stage.resolution, moment.number
    lines = [line for line in journal.lines if line["resolution"] == side]
    pictures = [
        (name, folder / f"{name}-{side:03}-{moment.last:09}.png")
        for name in ("samples", "reconstructions", "interpolations")
    ]
    title = f"{config.name} at {side}x{side}"
    about = (
        f"stage {number + 1} of {len(config.stages)}, {moment.first:,} to {moment.last:,} images "
        f"seen; data {manifest.content['source']['name']} ({manifest.digest[:12]}, "
        f"{manifest.count('train'):,} images); code {origin.version() or 'of no commit'}"
    )
    parts = [
        f"<h1>{escape(title)}</h1><p class=quiet>{escape(about)}</p>",
        section("Numbers", table(numbers(lines, side))),
        section("Pictures", "".join(figure(n, p.read_bytes()) for n, p in pictures if p.exists())),
        section("Health", table(health(lines))),
        section("Cost", table(cost(lines, moment))),
        section("What changed against the stage before", table(changes(config, number))),
        section("Curves so far", wide(lambda file: plots.losses(journal, file))),
        section("Schedule", wide(lambda file: plots.schedule(config, file))),
    ]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style>'
        + "\n".join(parts)
        + "</html>\n"
    )


def numbers(lines: list[dict], side: int) -> list[tuple[str, str]]:
    """The stage's last evaluation, and its best distance if that is an earlier one."""
    measured = [line for line in lines if "evaluation_seconds" in line]
    if not measured:
        return [("not evaluated", "")]
    kept = ("images", "resolution", "evaluation_seconds")
    history = [(m["images"], {k: v for k, v in m.items() if k not in kept}) for m in measured]
    values = names.with_best(history)
    found = []
    for name in history[-1][1]:
        text_of_value = f"{values[name]:.5g}"
        if values.get(f"{name}_best", values[name]) < values[name]:
            at = values[f"{name}_best_images"]
            text_of_value += f"  (best {values[f'{name}_best']:.5g} at {at:,} images)"
        found.append((name, text_of_value))
    return found


def health(lines: list[dict]) -> list[tuple[str, str]]:
    """Skipped steps, and how often the KL of fakes was below that of reals."""
    logs = [line for line in lines if "evaluation_seconds" not in line]
    counts = [0, *(log.get("skipped_steps", 0) for log in logs)]
    skipped = sum(max(0, b - a) for a, b in pairwise(counts))
    judged = [log for log in logs if "kl_fake" in log and "kl_real" in log]
    found = [("steps left out (not finite)", f"{skipped:,.0f}")]
    if judged:
        below = sum(line["kl_fake"] < line["kl_real"] for line in judged)
        found += [
            ("logs with the KL of fakes below that of reals", f"{below} of {len(judged)}"),
            ("KL at the end, nats", ", ".join(
                f"{n.removeprefix('kl_')} {judged[-1][n]:.4g}"
                for n in ("kl_real", "kl_rec", "kl_fake") if n in judged[-1])),
        ]  # fmt: skip
    return found


def cost(lines: list[dict], moment: Moment) -> list[tuple[str, str]]:
    """Hours of the steps and of the evaluations."""
    logs = [line for line in lines if "images_per_second" in line]
    before, seconds, device = moment.first, 0.0, 0.0
    for line in logs:
        took = (line["images"] - before) / line["images_per_second"]
        seconds, device = seconds + took, device + took * line.get("processes", 1)
        before = line["images"]
    found = [
        ("images per second, mean", f"{(before - moment.first) / seconds:,.0f}" if seconds else ""),
        ("training", f"{hours(seconds)}; {hours(device)} of all processes together"),
        ("evaluations", hours(sum(line.get("evaluation_seconds", 0) for line in lines))),
    ]
    if peak := max((line.get("peak_memory_gib", 0) for line in logs), default=0):
        found.append(("peak memory of the first process", f"{peak:.1f} GiB"))
    return found


def hours(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 3600:,.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"


def changes(config: Config, number: int) -> list[tuple[str, str]]:
    """Settings that differ from those of the stage before."""
    if number == 0:
        return [("this is the first", "")]
    old, new = (flat(plain(config.stages[n])) for n in (number - 1, number))
    return [(k, f"{old.get(k)} → {new.get(k)}") for k in new | old if old.get(k) != new.get(k)]


def section(title: str, content: str) -> str:
    return f"<h2>{title}</h2>{content}"


def table(rows: list[tuple[str, str]]) -> str:
    cells = (f"<tr><td>{escape(name)}<td>{escape(value)}" for name, value in rows)
    return f"<table>{''.join(cells)}</table>"


def figure(name: str, data: bytes) -> str:
    return f"<figure>{image(data, name)}<figcaption class=quiet>{name}</figcaption></figure>"


def wide(draw: Callable) -> str:
    """The bytes that `draw` writes to a file object."""
    file = io.BytesIO()
    draw(file)
    return image(file.getvalue(), "", "wide")


def image(data: bytes, alt: str, kind: str = "") -> str:
    return (
        f'<img class="{kind}" alt="{alt}" '
        f'src="data:image/png;base64,{base64.b64encode(data).decode()}">'
    )
