"""A folder on this machine that keeps shards of a store, up to a size; its processes share it.

A shard is kept under its sha256, so that one folder serves any number of datasets and trainings.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from dataprep.manifest import Shard

LOCKS = 64


class Cache:
    """At most `limit` bytes of shards in `folder`; the ones used last are kept."""

    def __init__(self, folder: Path, limit: int):
        self.folder, self.limit = folder, limit
        folder.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def lock(self, shard: Shard) -> Iterator[None]:
        """One process of this machine at a time fetches a shard; the others find it then."""
        number = int(shard.sha256[:8], 16) % LOCKS
        with FileLock(self.folder / f"lock-{number:02}"):
            yield

    def find(self, shard: Shard) -> Path | None:
        """The path of a shard that is kept. It may vanish at any time; who has it open can read."""
        path = self._path(shard)
        try:
            os.utime(path)
        except FileNotFoundError:
            return None
        return path

    def begin(self, shard: Shard) -> "Copy":
        """A copy to be written, and then to be kept or left."""
        return Copy(self.folder / f"{shard.sha256}.{os.getpid()}.partial")

    def keep(self, shard: Shard, copy: "Copy") -> None:
        """Takes in a copy that is whole, and removes what was used longest ago."""
        if not copy.close():
            return
        copy.path.rename(self._path(shard))
        kept = []
        for path in self.folder.glob("*.tar"):
            try:
                about = path.stat()
            except FileNotFoundError:
                continue  # another process has removed it
            kept.append((about.st_mtime_ns, about.st_size, path))
        total = sum(size for _, size, _ in kept)
        for _, size, path in sorted(kept):
            if total <= self.limit:
                break
            path.unlink(missing_ok=True)
            total -= size

    def drop(self, shard: Shard) -> None:
        """Removes a shard, as it is damaged."""
        self._path(shard).unlink(missing_ok=True)

    def _path(self, shard: Shard) -> Path:
        return self.folder / f"{shard.sha256}.tar"


class Copy:
    """A shard on its way into the cache. A disk that takes no more is announced once, no error."""

    def __init__(self, path: Path):
        self.path, self.file = path, None
        with self._announced():
            self.file = path.open("wb")

    def write(self, data: bytes) -> None:
        if self.file is not None:
            with self._announced():
                self.file.write(data)

    def close(self) -> bool:
        """Whether all of it is written."""
        if self.file is not None:
            with self._announced():
                self.file.close()
        return self.file is not None

    def leave(self) -> None:
        """Removes what was written, unless it was kept."""
        self.path.unlink(missing_ok=True)

    @contextmanager
    def _announced(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.file = None
            print(f"{self.path}: {error.strerror}; the shard is not kept", flush=True)
