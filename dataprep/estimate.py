"""--dry-run: estimates counts, sizes and time from a few images."""

import shutil
import tempfile
import time
from pathlib import Path

from dataprep.images.decode import BadImageError
from dataprep.plan import Plan, Sample, Unit
from dataprep.prepare import ListingProgress, print_plan
from dataprep.runtime.progress import duration, size
from dataprep.settings import Settings
from dataprep.units import Images, Writers

MEASURED = 32


def estimate(source: str, out: Path, settings: Settings, workers: int) -> None:
    """Print counts, sizes on the disk and time; nothing is written to `out`."""
    with tempfile.TemporaryDirectory(prefix="dry-run-") as temporary:
        folder = Path(temporary)
        plan = Plan.make(source, settings, folder / "plan", ListingProgress())
        print_plan(plan)
        measured = measure(plan, folder)
    print(measured.text(plan, out, workers))


class Measurement:
    """Bytes by (format, side), seconds, and counts of the images that were tried."""

    def __init__(self) -> None:
        self.good = self.bad = self.not_square = 0
        self.seconds = 0.0
        self.source_bytes = 0
        self.bytes: dict[tuple[str, int], int] = {}

    def text(self, plan: Plan, out: Path, workers: int) -> str:
        images = sum(plan.counts.values())
        if not self.good:
            return f"none of the {self.bad} images tried can be used"
        scale = images / (self.good + self.bad)
        lines = [f"from {self.good + self.bad} images tried, {self.bad} of them unusable:"]
        if self.not_square:
            crop = plan.settings.crop
            lines.insert(0, f"{self.not_square} of them are not square (--crop {crop})")
        sides, formats = plan.settings.sides, plan.settings.formats
        lines.append("  side  " + "".join(f"{format:>12}" for format in formats))
        for side in sides:
            sizes = (size(self.bytes[format, side] * scale) for format in formats)
            lines.append(f"  {side:>4}  " + "".join(f"{text:>12}" for text in sizes))
        total = sum(self.bytes.values()) * scale
        parts = sum(b for (format, _), b in self.bytes.items() if format == "ffcv") * scale
        here = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
        free = shutil.disk_usage(here).free
        fits = "" if total + parts < free else ": NOT ENOUGH"
        rate = (self.good + self.bad) / self.seconds
        lines += [
            f"on the disk: {size(total)}, and {size(parts)} more temporarily; "
            f"{size(free)} are free{fits}",
            f"time: {duration(images / rate / workers)} with {workers} workers "
            f"({rate:.0f} images/s each)",
            f"read from the source: {size(self.source_bytes * scale)}",
        ]
        return "\n".join(lines)


def measure(plan: Plan, folder: Path) -> Measurement:
    """Make MEASURED images, evenly spread over the source, as a worker does."""
    measured, images = Measurement(), Images(plan)
    writers = Writers(folder, plan.settings, Unit("train", 0))
    begun = time.perf_counter()
    for sample in spread(plan):
        try:
            data = images.read(sample)
            measured.source_bytes += len(data)
            levels, square = images.levels(sample, data)
        except BadImageError:
            measured.bad += 1
            continue
        measured.good += 1
        measured.not_square += not square
        for side, pixels in levels:
            writers.add(sample, side, pixels)
    files, parts = writers.close()
    measured.seconds = time.perf_counter() - begun
    for file in files + parts:
        what = file["format"], file["resolution"]
        measured.bytes[what] = measured.bytes.get(what, 0) + file["bytes"]
    return measured


def spread(plan: Plan) -> list[Sample]:
    """The first samples of units evenly spread over the plan."""
    count = min(MEASURED, len(plan.units))
    chosen = [plan.units[i * len(plan.units) // count] for i in range(count)]
    each = -(-MEASURED // count)
    return [s for unit in chosen for s, _ in zip(plan.samples(unit), range(each))]
