"""Videos as AVI files, each frame an image: KTH's, person01_handwaving_d4_uncomp.avi.

If KTH's list 00sequences.txt is beside a video, or in the folder above, and names it, only frames
in the listed ranges are images. Frames count from 1, as there.

An entry's place: [frame].
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dataprep.images.encode import bmp
from dataprep.manifest import DatasetError
from dataprep.sources.entry import Entry, Options, Skipped

LIST = "00sequences.txt"


def library():
    """PyAV; DatasetError if it is not installed."""
    try:
        import av
    except ImportError:
        raise DatasetError("videos are read with PyAV: pip install av") from None
    return av


def entries(path: Path, options: Options) -> Iterator[Entry | Skipped]:
    """Every frame, or those listed. DatasetError."""
    count, listed = sum(1 for _ in frames(path)), ranges(path)
    wanted = {number for first, last in listed for number in range(first, last + 1)}
    if wanted and max(wanted) > count:
        raise DatasetError(f"{path} has {count} frames, and {LIST} wants frame {max(wanted)}")
    for number in range(1, count + 1):
        name = f"frame-{number:05d}"
        if listed and number not in wanted:
            yield Skipped(name, f"frame that {LIST} does not list")
        else:
            yield Entry(name, [number])


def ranges(path: Path) -> list[tuple[int, int]]:
    """The ranges (first, last) of frames that the list has for a video; [] without a list."""
    name = path.stem.removesuffix("_uncomp")
    for folder in (path.parent, path.parent.parent):
        if (folder / LIST).is_file():
            text = (folder / LIST).read_text("utf-8", "replace")
            found = re.search(rf"^\s*{re.escape(name)}\s+frames\s+(.*)$", text, re.MULTILINE)
            pairs = re.findall(r"(\d+)\s*-\s*(\d+)", found[1]) if found else []
            return sorted({(int(first), int(last)) for first, last in pairs})
    return []


def frames(path: Path) -> Iterator:
    """The decoded frames, in order. DatasetError."""
    av = library()
    try:
        with av.open(str(path)) as video:
            yield from video.decode(video=0)
    except (av.error.FFmpegError, IndexError) as error:
        raise DatasetError(
            f"{path} cannot be decoded as a video ({error}): download it again"
        ) from None


class Archive:
    """Reads the frames of a video, fastest in their order."""

    def __init__(self, path: Path):
        self.path, self.frames, self.next = path, iter(()), 0

    def read(self, entry: Entry) -> bytes:
        """A frame as the bytes of a BMP file; OSError if it cannot be read."""
        (number,) = entry.place
        if not 0 < self.next <= number:
            self.frames, self.next = frames(self.path), 1
        while self.next <= number:
            frame: Any = next(self.frames, None)
            if frame is None:
                self.next = 0
                raise OSError("cut off with the video")
            self.next += 1
        return bmp(frame.to_ndarray(format="rgb24"))

    def close(self) -> None:
        self.frames, self.next = iter(()), 0
