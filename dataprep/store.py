"""Files at an address: a folder, http(s)://, s3://, or a command that streams them (pipe:).

The standard library alone, and s3fs where an address begins with s3://.

    http://host/faces          http://host/faces/manifest.json is read from it, and so on
    s3://bucket/faces          with keys and endpoint from the usual variables and files (AWS_*)
    pipe:ssh host cat /faces   runs `ssh host cat /faces/manifest.json`; no shell sees it here
"""

import http.client
import io
import os
import random
import re
import select
import shlex
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import NamedTuple

from dataprep.errors import DatasetError

REMOTE = ("http://", "https://", "s3://", "pipe:")
BLOCK = 1 << 22  # bytes of one request to S3
LONGEST_DELAY = 10.0  # seconds between two attempts
TRY_AGAIN = {408, 425, 429}  # and all from 500 on; other HTTP errors are final
PIPED = re.compile(r"[A-Za-z0-9._/-]+")  # what may be appended to a command


class StoreError(DatasetError):
    """A store that does not give a file; the message has its address, the reason, the way out."""


class Patience(NamedTuple):
    """How long a store may fail."""

    timeout: float = 30.0
    """Seconds without a byte after which a connection is given up."""
    retry: float = 120.0
    """Seconds of failed attempts after which the file is given up."""


def is_remote(address: str) -> bool:
    """Whether `address` is not a path. StoreError where its scheme is not known."""
    scheme = re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", address)
    if scheme and not address.startswith(REMOTE):
        raise StoreError(f"{address}: addresses begin with {', '.join(REMOTE)}; or name a folder")
    return address.startswith(REMOTE)


def join(address: str, path: str) -> str:
    """The address of the file `path` of a dataset at `address`; StoreError if it lies elsewhere."""
    if path.startswith("/") or ".." in path.split("/"):
        raise StoreError(f"{address}: its manifest names {path!r}, which lies outside of it")
    if address.startswith("pipe:") and not PIPED.fullmatch(path):
        raise StoreError(f"{address}: {path!r} cannot be appended to a command")
    if address.startswith("http"):
        path = urllib.parse.quote(path)
    return f"{address.rstrip('/')}/{path}"


def read(address: str, patience: Patience = Patience()) -> bytes:  # noqa: B008
    """All of a file at an address; StoreError."""
    with Stream(address, None, patience) as stream:
        return stream.read()


class Stream(io.RawIOBase):
    """A file at an address, from front to back.

    Where a connection breaks, stalls or ends early, a new one goes on from there. `size` is the
    file's in bytes where that is known: without it, an answer that does not tell its length is
    taken for whole. StoreError when attempts have failed for `patience.retry` seconds, when the
    store refuses, or, from another thread's call of `stopped.set()`, at the next byte.
    """

    def __init__(
        self,
        address: str,
        size: int | None = None,
        patience: Patience = Patience(),  # noqa: B008
        stopped: threading.Event | None = None,
    ):
        self.address, self.size, self.patience = address, size, patience
        self.stopped = stopped or threading.Event()
        self.connect = CONNECTIONS[re.match("[a-z0-9]+", address).group()]
        self.connection: Web | S3 | Command | None = None
        self.place, self.attempts = 0, 0
        self.failing_since: float | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        while True:
            try:
                data = self._read(len(buffer))
            except RefusedError as error:
                raise StoreError(f"{self.address}: {error}") from None
            except (OSError, http.client.HTTPException) as error:
                self._failed(error)
                continue
            self._recovered()
            buffer[: len(data)] = data
            return len(data)

    def _read(self, count: int) -> bytes:
        if self.stopped.is_set():
            raise RefusedError("is not needed any more")
        if self.size is not None and self.place >= self.size:
            return b""
        if self.connection is None:
            self.connection = self.connect(self.address, self.place, self.patience.timeout)
            size = self.connection.size
            if self.size is None:
                self.size = size
            if size is not None and size != self.size:
                raise RefusedError(f"has {size} bytes instead of {self.size}: copy it again")
            while self.connection.place < self.place:  # it begins at the front again
                ahead = min(1 << 16, self.place - self.connection.place)
                if not self._take(ahead):
                    raise OSError("ended early")
        data = self._take(count)
        if not data and self.size is not None and self.place < self.size:
            raise OSError(f"ended after {self.place} of {self.size} bytes")
        self.place += len(data)
        return data

    def _take(self, count: int) -> bytes:
        data = self.connection.read(count)
        self.connection.place += len(data)
        return data

    def _failed(self, error: Exception) -> None:
        """Waits for the next attempt; StoreError where there have been enough."""
        self._disconnect()
        reason = getattr(error, "reason", error) or type(error).__name__
        now = time.monotonic()
        if self.failing_since is None:
            self.failing_since = now
            say(f"{self.address}: {reason}; trying again for {self.patience.retry:g} s")
        self.attempts += 1
        failing = now - self.failing_since
        if failing >= self.patience.retry:
            raise StoreError(
                f"{self.address} could not be read for {failing:.0f} s, in {self.attempts} "
                f"attempts: {reason}; see whether the store is up, or raise data.retry_seconds"
            ) from None
        delay = min(0.1 * 2**self.attempts, LONGEST_DELAY) * random.uniform(0.5, 1)
        self.stopped.wait(min(delay, self.patience.retry - failing))

    def _recovered(self) -> None:
        if self.failing_since is not None:
            say(f"{self.address}: goes on after {time.monotonic() - self.failing_since:.1f} s")
            self.failing_since, self.attempts = None, 0

    def _disconnect(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def close(self) -> None:
        self._disconnect()
        super().close()


class RefusedError(Exception):
    """What another attempt would not mend."""


class Web:
    """http(s)://: one answer, from byte `start` on where the server can do that."""

    def __init__(self, address: str, start: int, timeout: float):
        headers = {"Range": f"bytes={start}-"} if start else {}
        request = urllib.request.Request(address, headers=headers)
        try:
            self.answer = urllib.request.urlopen(request, timeout=timeout)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code < 500 and error.code not in TRY_AGAIN:
                raise RefusedError(f"the server says {error.code} {error.reason}") from None
            raise OSError(f"the server says {error.code} {error.reason}") from None
        except urllib.error.URLError as error:
            if isinstance(error.reason, ssl.SSLCertVerificationError):
                raise RefusedError(error.reason) from None
            raise
        except http.client.InvalidURL as error:
            raise RefusedError(error) from None
        length = self.answer.headers.get("Content-Length")
        self.place = 0
        if self.answer.status == 206:
            found = re.match(r"bytes (\d+)-", self.answer.headers.get("Content-Range", ""))
            if found is None or int(found.group(1)) != start:
                self.answer.close()
                raise OSError("the server sends another range than was asked for")
            self.place = start
        self.size = None if length is None else self.place + int(length)

    def read(self, count: int) -> bytes:
        return self.answer.read(count)

    def close(self) -> None:
        self.answer.close()


class S3:
    """s3://, by s3fs: a request for each block."""

    def __init__(self, address: str, start: int, timeout: float):
        try:
            from s3fs import S3FileSystem
        except ImportError:
            raise RefusedError("s3:// needs the package s3fs: pip install s3fs") from None
        once = {"max_attempts": 0}
        self.files = S3FileSystem(
            config_kwargs={"connect_timeout": timeout, "read_timeout": timeout, "retries": once},
            use_listings_cache=False,
        )
        self.files.retries = 1
        self.address, self.place, self.block = address, start, b""
        self.size = self._ask(lambda: self.files.info(address)["size"])

    def read(self, count: int) -> bytes:
        if not self.block and self.place < self.size:
            last = min(self.place + BLOCK, self.size)
            self.block = self._ask(
                lambda: self.files.cat_file(self.address, start=self.place, end=last)
            )
        data, self.block = self.block[:count], self.block[count:]
        return data

    @staticmethod
    def _ask(question):
        try:
            return question()
        except (FileNotFoundError, PermissionError) as error:
            raise RefusedError(f"the store says: {error}") from None
        except Exception as error:  # those of botocore and aiohttp have no base in common
            if type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError"):
                raise RefusedError(f"{error}: set AWS_ACCESS_KEY_ID and its kin") from None
            raise OSError(f"{type(error).__name__}: {error}") from None

    def close(self) -> None:
        pass


class Command:
    """pipe: what a command writes; it begins at the front each time."""

    def __init__(self, address: str, start: int, timeout: float):
        self.words, self.timeout = shlex.split(address.removeprefix("pipe:")), timeout
        self.place, self.size = 0, None
        try:
            self.process = subprocess.Popen(
                self.words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
            )
        except (OSError, IndexError) as error:
            raise RefusedError(f"cannot be started: {error}") from None

    def read(self, count: int) -> bytes:
        if not select.select([self.process.stdout], [], [], self.timeout)[0]:
            raise OSError(f"{self.words[0]} has written nothing for {self.timeout:g} s")
        data = os.read(self.process.stdout.fileno(), count)
        if not data and self.process.wait(self.timeout):
            raise OSError(f"{self.words[0]} ended with status {self.process.returncode}")
        return data

    def close(self) -> None:
        self.process.stdout.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


CONNECTIONS: dict[str, type[Web] | type[S3] | type[Command]] = {
    "http": Web,
    "https": Web,
    "s3": S3,
    "pipe": Command,
}


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
