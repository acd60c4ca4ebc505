"""Images for the tests, and independent readers of prepared datasets."""

import io
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]


def picture(seed: int, width: int, height: int) -> np.ndarray:
    """(height, width, 3) uint8: smooth waves, hard edges to both ends of the range, some noise."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x * a + y * b) for a, b in random.uniform(0.02, 0.4, (3, 2))]
    values = 128 + 150 * np.stack(waves, axis=-1) + random.normal(0, 4, (height, width, 3))
    return values.clip(0, 255).astype(np.uint8)


def encoded(pixels: np.ndarray, format: str = "PNG", **how) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format, **how)
    return buffer.getvalue()


def png_chunk(kind: bytes, content: bytes) -> bytes:
    length, check = len(content), zlib.crc32(kind + content)
    return struct.pack(">I", length) + kind + content + struct.pack(">I", check)


def make_folder(
    folder: Path, count: int, side: int = 32, names: str = "face-{:03d}.png", seed: int = 0
) -> Path:
    """`count` PNGs; number i shows picture(seed + i, side, side)."""
    for i in range(count):
        path = folder / names.format(i)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(picture(seed + i, side, side)))
    return folder


def make_zip(path: Path, folder: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*"), reverse=True):  # not in the order of the names
            if file.is_file():
                archive.write(file, file.relative_to(folder))
    return path


def means(pixels: np.ndarray, side: int) -> np.ndarray:
    """Means of square blocks, in float64: (R, R, C) to (side, side, C)."""
    block = len(pixels) // side
    return pixels.astype(np.float64).reshape(side, block, side, block, -1).mean(axis=(1, 3))


def read_tar(path: Path) -> list[tuple[str, bytes]]:
    with tarfile.open(path) as archive:
        return [(member.name, archive.extractfile(member).read()) for member in archive]


def tar_pixels(path: Path) -> list[np.ndarray]:
    images = [content for name, content in read_tar(path) if name.endswith(".png")]
    return [np.asarray(Image.open(io.BytesIO(content))) for content in images]


def all_bytes(folder: Path) -> dict[str, bytes]:
    """Every file below `folder`, by its path inside."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def shard(*args: object) -> subprocess.CompletedProcess:
    """`python dataprep/shard.py ARGS`, as a user types it."""
    command = [sys.executable, "dataprep/shard.py", *map(str, args)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
