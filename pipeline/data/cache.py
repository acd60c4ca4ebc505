"""A local cache of remote shards, bounded in size and shared by the processes of a machine.

Shards are stored under their sha256, so datasets and trainings can share one folder.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from dataprep.manifest import Shard

LOCKS = 64


class Cache:
    """At most `limit` bytes of shards in `folder`; the least recently used are evicted."""

    def __init__(self, folder: Path, limit: int):
        self.folder, self.limit = folder, limit
        folder.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def lock(self, shard: Shard) -> Iterator[None]:
        """Lets one process of this machine fetch a shard; the others wait and then find it."""
        number = int(shard.sha256[:8], 16) % LOCKS
        with FileLock(self.folder / f"lock-{number:02}"):
            yield

    def find(self, shard: Shard) -> Path | None:
        """The path of a cached shard, or None. Eviction may unlink it; open files stay readable."""
        path = self._path(shard)
        try:
            os.utime(path)
        except FileNotFoundError:
            return None
        return path

    def begin(self, shard: Shard) -> "Copy":
        """A new copy to write to; finish with `keep` or `Copy.leave`."""
        return Copy(self.folder / f"{shard.sha256}.{os.getpid()}.partial")

    def keep(self, shard: Shard, copy: "Copy") -> None:
        """Adds a complete copy, and evicts the least recently used shards."""
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
        """Removes a damaged shard."""
        self._path(shard).unlink(missing_ok=True)

    def _path(self, shard: Shard) -> Path:
        return self.folder / f"{shard.sha256}.tar"


class Copy:
    """A shard that is being written to the cache. A full disk prints one line and is no error."""

    def __init__(self, path: Path):
        self.path, self.file = path, None
        with self._announced():
            self.file = path.open("wb")

    def write(self, data: bytes) -> None:
        if self.file is not None:
            with self._announced():
                self.file.write(data)

    def close(self) -> bool:
        """Closes the file; True if all of it was written."""
        if self.file is not None:
            with self._announced():
                self.file.close()
        return self.file is not None

    def leave(self) -> None:
        """Removes the partial file, unless the copy was kept."""
        self.path.unlink(missing_ok=True)

    @contextmanager
    def _announced(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.file = None
            print(f"{self.path}: {error.strerror}; the shard is not cached", flush=True)
