"""WebDataset tars with the same bytes every time: fixed order, owner and time, ustar headers.

webdataset's TarWriter is not used: it puts labels before images, pads to 10 kB and imports torch.
"""

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from dataprep.runtime.files import HashingFile

MTIME = 946_684_800  # 2000-01-01 UTC: tar complains about 1970
END = bytes(2 * tarfile.BLOCKSIZE)


class Member(NamedTuple):
    """One sample: its key, the extension and bytes of its image, its label or -1."""

    key: str
    extension: str
    image: bytes
    label: int


class TarWriter:
    """Writes samples to `name`.tar and, where `limit` bounds the bytes of a tar, to `name`_01.tar,
    `name`_02.tar ... A tar that holds a single sample may exceed the limit."""

    def __init__(self, root: Path, name: str, limit: int | None = None):
        self.root, self.name, self.limit = root, name, limit
        self.done: list[dict] = []
        self._open()

    def add(self, key: str, extension: str, image: bytes, label: int) -> None:
        """Append `key`.`extension`, and `key`.cls unless `label` is -1."""
        content = member(f"{key}.{extension}", image)
        if label >= 0:
            content += member(f"{key}.cls", str(label).encode())
        full = self.limit and self.file.bytes + len(content) + len(END) > self.limit
        if full and self.samples:
            self._close()
            self._open()
        self.file.write(content)
        self.samples += 1

    def close(self) -> list[dict]:
        """List the tars as {"path", "samples", "bytes", "sha256"}, paths relative to `root`."""
        self._close()
        return self.done

    def _open(self) -> None:
        suffix = f"_{len(self.done):02d}" if self.done else ""
        self.path = f"{self.name}{suffix}.tar"
        self.file = HashingFile(self.root / self.path)
        self.samples = 0

    def _close(self) -> None:
        self.file.write(END)
        facts = self.file.close()
        self.done.append({"path": self.path, "samples": self.samples, **facts._asdict()})


def member(name: str, content: bytes) -> bytes:
    """A file in a tar: header, content, padding."""
    info = tarfile.TarInfo(name)
    info.size, info.mtime = len(content), MTIME
    padding = bytes(-len(content) % tarfile.BLOCKSIZE)
    return b"".join((info.tobuf(tarfile.USTAR_FORMAT), content, padding))


def read(path: Path) -> Iterator[Member]:
    """The samples of a tar written here; tarfile.TarError or OSError if it is damaged."""
    with tarfile.open(path, "r:") as archive:
        sample: Member | None = None
        while info := archive.next():
            archive.members.clear()  # type: ignore[attr-defined]  # tarfile keeps all members
            key, _, extension = info.name.partition(".")
            content = archive.extractfile(info).read()
            if extension == "cls":
                sample = sample._replace(label=int(content))
                continue
            if sample:
                yield sample
            sample = Member(key, extension, content, -1)
        if sample:
            yield sample
