"""Progress: a bar on a terminal, a line every LINE_SECONDS in a log file."""

import sys
import time

from tqdm import tqdm

LINE_SECONDS = 30.0

tqdm.monitor_interval = 0  # no thread: workers are forked


class Progress:
    """Counts images, and the bytes read from the source."""

    def __init__(self, what: str, total: int):
        self.what, self.total = what, total
        self.images = self.bytes = 0
        self.begun = self.shown = time.monotonic()
        self.bar = tqdm(desc=what, total=total, unit="img", disable=not sys.stderr.isatty())

    def add(self, images: int, bytes: int = 0) -> None:
        self.images += images
        self.bytes += bytes
        now = time.monotonic()
        seconds = max(now - self.begun, 1e-9)
        megabytes = f"{self.bytes / 1e6 / seconds:.1f} MB/s"
        self.bar.set_postfix_str(megabytes, refresh=False)
        self.bar.update(images)
        if self.bar.disable and now - self.shown >= LINE_SECONDS:
            self.shown = now
            left = duration((self.total - self.images) * seconds / max(self.images, 1))
            print(
                f"{self.what}: {self.images:,} of {self.total:,} images, "
                f"{self.images / seconds:.0f} images/s, {megabytes}, {left} left",
                file=sys.stderr,
                flush=True,
            )

    def close(self) -> None:
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
