"""What each command writes, from the cells that are finished: tables, and the figures to them.

All take the folder of the cells, the folder to write to, the cells asked for, and the precision.
"""

from pathlib import Path

from pipeline.studies.two_d import cells, figures, settings, table
from pipeline.studies.two_d.cells import Cell
from pipeline.studies.two_d.networks import Precision


def table2(folder: Path, to: Path, asked: list[Cell], precision: Precision) -> None:
    found = table.table2(folder, precision)
    table.write(to / "table2.json", found)
    table.write(to / "table2.md", table.table2_markdown(found))
    figure2(folder, to, asked, precision)


def figure2(folder: Path, to: Path, asked: list[Cell], precision: Precision) -> None:
    if not figures.figure2(folder, precision, to / "figure2.png"):
        print(f"figure 2: no cell of table2 is finished in {folder}")


def search(folder: Path, to: Path, asked: list[Cell], precision: Precision) -> None:
    finished = {cell.name: [found] for cell in asked if (found := cells.result(folder, cell))}
    lines = {name: table.comparison(found) for name, found in finished.items()}
    parts = [f"{name}\n\n{table.comparison_markdown(of_one)}" for name, of_one in lines.items()]
    table.write(to / "search.json", lines)
    table.write(to / "search.md", "\n\n".join(parts))


def figure3(folder: Path, to: Path, asked: list[Cell], precision: Precision) -> None:
    finished = [found for cell in asked if (found := cells.result(folder, cell))]
    if not finished:
        print(f"figure 3: none of its cells is finished in {folder}")
        return
    lines = table.comparison(finished)
    soft = cells.result(folder, settings.table2("8gaussians", "soft-introvae", precision))
    table.write(to / "figure3.json", lines)
    table.write(to / "figure3.md", table.comparison_markdown(lines))
    figures.figure3(lines, table.comparison([soft])[0] if soft else None, to / "figure3.png")


def questions(folder: Path, to: Path, asked: list[Cell], precision: Precision) -> None:
    lines = []
    for cell in asked:
        if found := cells.result(folder, cell):
            (line,) = table.comparison([found])
            lines.append({"": settings.title(cell), **line})
    if not lines:
        print(f"questions: none of their cells is finished in {folder}")
        return
    table.write(to / "questions.json", lines)
    table.write(to / "questions.md", table.comparison_markdown(lines))
