"""Files that appear whole or not at all."""

import hashlib
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path` for a file or folder, and renames it at the end.

    The content is flushed to the disk before the rename; where writing fails, nothing is left.
    An existing file is replaced; an existing folder must be removed before.
    """
    beside = path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}.partial")
    try:
        yield beside
        for part in [*beside.rglob("*"), beside] if beside.is_dir() else [beside]:
            _sync(part)
        beside.rename(path)
        _sync(path.parent)
    except BaseException:
        shutil.rmtree(beside) if beside.is_dir() else beside.unlink(missing_ok=True)
        raise


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """A safetensors file of them; OSError where it cannot be written (theirs is no OSError).

    safetensors makes files that only their owner may read; this one gets what the umask leaves.
    """
    path.touch()
    mode = path.stat().st_mode
    try:
        save_file(tensors, path)
    except SafetensorError as error:
        raise OSError(str(error)) from error
    path.chmod(mode)


def sha256(path: Path) -> str:
    """sha256 of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
