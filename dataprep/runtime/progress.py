"""How far it is: a bar on a terminal, a line now and then in a log file."""

import sys
import time
from collections.abc import Hashable

from tqdm import tqdm

BAR_SECONDS = 0.1
LINE_SECONDS = 30.0

tqdm.monitor_interval = 0  # no thread beside ours


class Progress:
    """Images and bytes done by tasks that go on side by side, may die and begin again."""

    def __init__(self, what: str, total: int, done: int = 0):
        self.what, self.total, self.before = what, total, done
        self.images = self.bytes = 0
        self.tasks: dict[Hashable, tuple[int, int]] = {}
        self.begun = self.shown = time.monotonic()
        self.bar = None
        if sys.stderr.isatty():
            self.bar = tqdm(total=total, initial=done, unit="img", desc=what)

    def at(self, task: Hashable, images: int, bytes: int) -> None:
        """A task has done so much since it began (0, 0 where it begins again)."""
        before = self.tasks.get(task, (0, 0))
        self.tasks[task] = images, bytes
        self.images += images - before[0]
        self.bytes += bytes - before[1]
        self.show()

    def end(self, task: Hashable, images: int, bytes: int) -> None:
        self.at(task, images, bytes)
        del self.tasks[task]

    def show(self) -> None:
        now = time.monotonic()
        if now - self.shown < (LINE_SECONDS if self.bar is None else BAR_SECONDS):
            return
        self.shown = now
        if self.bar is not None:
            self.bar.set_postfix_str(f"{self.megabytes:.1f} MB/s", refresh=False)
            self.bar.n = self.before + self.images
            self.bar.refresh()
            return
        rate = self.images / (now - self.begun)
        left = self.total - self.before - self.images
        eta = f", {duration(left / rate)} left" if rate else ""
        print(
            f"{self.what}: {self.before + self.images:,} of {self.total:,} images, "
            f"{rate:.0f} images/s, {self.megabytes:.1f} MB/s{eta}",
            file=sys.stderr,
            flush=True,
        )

    @property
    def megabytes(self) -> float:
        """MB read from the source per second."""
        return self.bytes / 1e6 / max(time.monotonic() - self.begun, 1e-9)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.n = self.before + self.images
            self.bar.close()


def duration(seconds: float) -> str:
    """Seconds in words: 45 s, 12 min, 3.4 h, 2.1 days."""
    for size, unit in ((86400, "days"), (3600, "h")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"


def size(bytes: float) -> str:
    """Bytes in words: 12 kB, 3.4 MB, 13.8 GB."""
    for power, unit in ((12, "TB"), (9, "GB"), (6, "MB")):
        if bytes >= 10**power:
            return f"{bytes / 10**power:.1f} {unit}"
    return f"{bytes / 1e3:.0f} kB"
