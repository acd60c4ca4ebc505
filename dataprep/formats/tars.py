"""WebDataset tars with the same bytes every time: fixed order, owner and time, ustar headers."""

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from dataprep.runtime.files import HashingFile

MTIME = 946_684_800  # 2000-01-01 UTC: tar complains about 1970
END = bytes(2 * tarfile.BLOCKSIZE)
SIZE, CHECKSUM = slice(124, 136), slice(148, 156)  # where they are in a header


def template() -> bytes:
    """A header that lacks its name, size and checksum."""
    info = tarfile.TarInfo()
    info.mtime = MTIME
    return info.tobuf(tarfile.USTAR_FORMAT)


TEMPLATE = template()


class Member(NamedTuple):
    """One sample of a tar: its key, the ending and bytes of its image, its label or -1."""

    key: str
    ending: str
    image: bytes
    label: int


class TarWriter:
    """One or more tars, written from the first sample to the last.

    They are `name`.tar, and `name`_01.tar, `name`_02.tar ... where there is a limit in bytes to
    each; one that holds a single sample may be larger. `close()` lists them as
    {"path", "samples", "bytes", "sha256"}, with paths relative to `root`.
    """

    def __init__(self, root: Path, name: str, limit: int | None = None):
        self.root, self.name, self.limit = root, name, limit
        self.done: list[dict] = []
        self._open()

    def add(self, key: str, ending: str, image: bytes, label: int) -> None:
        """Append `key`.`ending`, and `key`.cls where `label` is not -1."""
        members = header(f"{key}.{ending}", image), image, padding(image)
        if label >= 0:
            number = str(label).encode()
            members += header(f"{key}.cls", number), number, padding(number)
        size = sum(map(len, members))
        full = self.limit is not None and self.file.bytes + size + len(END) > self.limit
        if full and self.samples:
            self._end()
            self._open()
        for member in members:
            self.file.write(member)
        self.samples += 1

    def close(self) -> list[dict]:
        self._end()
        return self.done

    def abandon(self) -> None:
        self.file.abandon()

    def _open(self) -> None:
        more = f"_{len(self.done):02d}" if self.done else ""
        self.path = f"{self.name}{more}.tar"
        self.file = HashingFile(self.root / self.path)
        self.samples = 0

    def _end(self) -> None:
        self.file.write(END)
        facts = self.file.close()
        self.done.append({"path": self.path, "samples": self.samples, **facts._asdict()})


def header(name: str, content: bytes) -> bytes:
    """The ustar header of a member; by tarfile itself this takes 25 times as long."""
    block = bytearray(TEMPLATE)
    block[: len(name)] = name.encode("ascii")
    block[SIZE] = b"%011o\0" % len(content)
    block[CHECKSUM] = b" " * 8
    block[CHECKSUM] = b"%06o\0 " % sum(block)
    return bytes(block)


def padding(content: bytes) -> bytes:
    return bytes(-len(content) % tarfile.BLOCKSIZE)


def read(path: Path) -> Iterator[Member]:
    """The samples of a tar of ours, one at a time; tarfile.TarError or OSError where damaged."""
    with tarfile.open(path, "r:") as archive:
        pending = None
        while member := archive.next():
            archive.members.clear()  # tarfile keeps a list of all that it has seen
            key, _, ending = member.name.partition(".")
            content = archive.extractfile(member).read()
            if ending == "cls":
                yield pending._replace(label=int(content))
                pending = None
                continue
            if pending:
                yield pending
            pending = Member(key, ending, content, -1)
        if pending:
            yield pending
