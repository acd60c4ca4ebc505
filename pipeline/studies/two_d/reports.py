"""What each command writes, from the cells that are finished: tables, and the figures to them.

All take the folder of the cells, the folder to write to, and the effort that made them, whose mark
is in every name.
"""

from pathlib import Path

from pipeline.studies.two_d import figures, settings, table
from pipeline.studies.two_d.cells import finished
from pipeline.studies.two_d.data import DISTRIBUTIONS
from pipeline.studies.two_d.settings import Effort


def table2(folder: Path, to: Path, effort: Effort) -> None:
    found = table.table2(folder, effort)
    _write(to, "table2", effort, found, table.table2_markdown(found))
    figure2(folder, to, effort)


def figure2(folder: Path, to: Path, effort: Effort) -> None:
    if not figures.figure2(folder, effort, to / f"figure2{effort.mark}.png"):
        print(f"figure 2: no cell of table2 is finished in {folder}")


def search(folder: Path, to: Path, effort: Effort) -> None:
    every = [settings.search(d, m, effort) for d in DISTRIBUTIONS for m in ("vae", "introvae")]
    lines = {cell.name: table.comparison([r]) for cell in every if (r := finished(folder, cell))}
    _write(to, "search", effort, lines, _sections(lines))


def figure3(folder: Path, to: Path, effort: Effort) -> None:
    every = [settings.figure3(seed, effort) for seed in settings.SEEDS]
    found = [r for cell in every if (r := finished(folder, cell))]
    if not found:
        print(f"figure 3: none of its cells is finished in {folder}")
        return
    lines = {"IntroVAE": table.comparison(found)}
    for of in dict.fromkeys([effort, Effort(effort.precision, settings.FULL)]):
        if r := finished(folder, settings.table2("8gaussians", "soft-introvae", of)):
            lines[f"Soft-IntroVAE, {of.schedule.iterations:,} iterations"] = table.comparison([r])
    _write(to, "figure3", effort, lines, _sections(lines))
    figures.figure3(lines, to / f"figure3{effort.mark}.png")


def questions(folder: Path, to: Path, effort: Effort) -> None:
    lines = {}
    for name in DISTRIBUTIONS:
        for title, cell in settings.questions(name, effort).items():
            if found := finished(folder, cell):
                (line,) = table.comparison([found])
                lines.setdefault(name, []).append({"": title, **line})
    _write(to, "questions", effort, lines, _sections(lines))


def _sections(lines: dict[str, list[dict]]) -> str:
    parts = [f"{name}\n\n{table.comparison_markdown(of_one)}" for name, of_one in lines.items()]
    return "\n\n".join(parts) or "No cell is finished."


def _write(to: Path, name: str, effort: Effort, found: dict, markdown: str) -> None:
    table.write(to / f"{name}{effort.mark}.json", found)
    first = f"{effort.schedule.iterations:,} iterations of each model, {effort.precision}."
    table.write(to / f"{name}{effort.mark}.md", f"{first}\n\n{markdown}")
