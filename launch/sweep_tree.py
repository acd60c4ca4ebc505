"""A sweep as text: its trainings with images, hours and states, and what sharing saves."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from launch import failure
from launch.sweep import Part, Sweep
from pipeline.records.journal import Journal
from stages import schedule
from stages.config import Config
from stages.page import hours


def text(sweep: Sweep, states: dict[Path, str]) -> str:
    """The tree of a sweep, each training with its own images and hours.

    `states` are by folder, of those whose state is not in the folder, as of jobs in the queue.
    Hours are by the images per second that trainings of the sweep, or the training of the
    configuration itself beside it, have logged at each resolution.
    """
    folders = [part.folder for part in sweep.parts]
    speed = speeds([*folders, sweep.folder.parent / sweep.name])
    lines = [f"{'images':>13}  {'time':>9}"]
    for depth, part in _walk(sweep, None):
        state = states.get(part.folder) or state_of(part)
        lines.append(
            _row([(part.config, part.start)], speed)
            + f"  {'  ' * depth}{part.name}"
            + (f"  ({state})" if state else "")
        )
    together = [(part.config, part.start) for part in sweep.parts]
    apart = [(part.config, 0) for part in sweep.points]
    lines.append(_row(together, speed) + "  in all")
    if len(together) > len(apart):
        before, after = (seconds(which, speed) for which in (apart, together))
        of = "time"
        if before is None or after is None:
            before, after, of = _images(apart), _images(together), "images"
        saved = f"sharing saves {1 - after / before:.0%} of the {of}"
        lines.append(f"{_row(apart, speed)}  one by one: {saved}")
    if seconds(together, speed) is None:
        lines.append("# times are known once one of these trainings has logged its speed")
    return "\n".join(lines)


def state_of(part: Part) -> str:
    """ "finished", or how far an unfinished training is and why it failed; "" for a new one."""
    if part.finished:
        return "finished"
    at, failed = f"at {part.seen:,} images" if part.seen else "", failure.read(part.folder)
    return ", ".join(filter(None, (at, f"failed, retried: {failed}" if failed else "")))


def speeds(folders: Iterable[Path]) -> dict[int, float]:
    """Images per second by resolution, the mean of what the trainings in `folders` logged."""
    took: dict[int, list[float]] = {}
    for folder in folders:
        for line in Journal(folder / "metrics.jsonl").lines:
            if rate := line.get("images_per_second"):
                took.setdefault(line["resolution"], []).append(1 / rate)
    return {side: len(each) / sum(each) for side, each in took.items()}


def seconds(which: list[tuple[Config, int]], speed: dict[int, float]) -> float | None:
    """Seconds of trainings, each from its image on; None where a speed is not known."""
    total = 0.0
    for config, start in which:
        seen = 0
        for stage in config.stages:
            own = min(stage.images, max(0, seen + stage.images - start))
            seen += stage.images
            if own and stage.resolution not in speed:
                return None
            total += own / speed[stage.resolution] if own else 0
    return total


def _images(which: list[tuple[Config, int]]) -> int:
    return sum(schedule.total(config) - start for config, start in which)


def _row(which: list[tuple[Config, int]], speed: dict[int, float]) -> str:
    took = seconds(which, speed)
    return f"{_images(which):>13,}  {'?' if took is None else hours(took):>9}"


def _walk(sweep: Sweep, parent: Part | None, depth: int = 0) -> Iterator[tuple[int, Part]]:
    for part in sweep.children(parent):
        yield depth, part
        yield from _walk(sweep, part, depth + 1)
