"""What each command writes, from the cells that are finished: tables, and the figures to them.

All take the folder of the cells, the folder to write to, the cells asked for, and the effort that
made them, whose mark is in every name.
"""

from pathlib import Path

from pipeline.studies.two_d import cells, figures, settings, table
from pipeline.studies.two_d.cells import Cell
from pipeline.studies.two_d.settings import Effort


def table2(folder: Path, to: Path, asked: list[Cell], effort: Effort) -> None:
    found = table.table2(folder, effort)
    _write(to, "table2", effort, found, table.table2_markdown(found))
    figure2(folder, to, asked, effort)


def figure2(folder: Path, to: Path, asked: list[Cell], effort: Effort) -> None:
    if not figures.figure2(folder, effort, to / f"figure2{effort.mark}.png"):
        print(f"figure 2: no cell of table2 is finished in {folder}")


def search(folder: Path, to: Path, asked: list[Cell], effort: Effort) -> None:
    finished = {cell.name: [found] for cell in asked if (found := cells.result(folder, cell))}
    lines = {name: table.comparison(found) for name, found in finished.items()}
    parts = [f"{name}\n\n{table.comparison_markdown(of_one)}" for name, of_one in lines.items()]
    _write(to, "search", effort, lines, "\n\n".join(parts))


def figure3(folder: Path, to: Path, asked: list[Cell], effort: Effort) -> None:
    finished = [found for cell in asked if (found := cells.result(folder, cell))]
    if not finished:
        print(f"figure 3: none of its cells is finished in {folder}")
        return
    lines = table.comparison(finished)
    soft = cells.result(folder, settings.table2("8gaussians", "soft-introvae", effort))
    line = table.comparison([soft])[0] if soft else None
    _write(to, "figure3", effort, lines, table.comparison_markdown(lines))
    figures.figure3(lines, line, to / f"figure3{effort.mark}.png")


def questions(folder: Path, to: Path, asked: list[Cell], effort: Effort) -> None:
    lines = []
    for cell in asked:
        if found := cells.result(folder, cell):
            (line,) = table.comparison([found])
            lines.append({"": settings.title(cell, effort), **line})
    if not lines:
        print(f"questions: none of their cells is finished in {folder}")
        return
    _write(to, "questions", effort, lines, table.comparison_markdown(lines))


def _write(to: Path, name: str, effort: Effort, found: dict | list, markdown: str) -> None:
    table.write(to / f"{name}{effort.mark}.json", found)
    effort_line = f"{effort.schedule.iterations:,} iterations of each model, {effort.precision}."
    table.write(to / f"{name}{effort.mark}.md", f"{effort_line}\n\n{markdown}")
