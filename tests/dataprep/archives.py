"""Makes sources for the tests, without the code under test."""

import json
import struct
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet

CASTAGNOLI = 0x82F63B78


def make_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    import io

    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def make_parquet(
    path: Path,
    images: list[bytes | None],
    paths: list[str] | None = None,
    labels: list | None = None,
    classes: list[str] | None = None,
    rows: int = 4,
) -> Path:
    """An image set as Hugging Face stores it, `rows` to a row group."""
    columns = {
        "image": pyarrow.array(
            [{"bytes": data, "path": p} for data, p in zip(images, paths or [None] * len(images))],
            pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())]),
        )
    }
    if labels is not None:
        columns["label"] = pyarrow.array(labels)
    table = pyarrow.table(columns)
    if classes is not None:
        features = {"image": {"_type": "Image"}, "label": {"names": classes, "_type": "ClassLabel"}}
        meta = json.dumps({"info": {"features": features}}).encode()
        table = table.replace_schema_metadata({"huggingface": meta})
    pyarrow.parquet.write_table(table, path, row_group_size=rows)
    return path


def make_tfrecord(
    path: Path, images: Iterable[np.ndarray], labels: list[int] | None = None
) -> Path:
    """FFHQ's TFRecords, byte by byte: (H, W, 3) pixels as an Example of `shape` and `data`."""
    with path.open("wb") as file:
        for i, pixels in enumerate(images):
            planes = pixels.transpose(2, 0, 1)
            features = feature("data", 1, field(1, planes.tobytes()))
            packed = field(1, b"".join(map(number, planes.shape)))
            features += feature("shape", 3, packed)
            if labels is not None:  # not packed, as protocol buffers 2 wrote it
                features += feature("label", 3, bytes([1 << 3]) + number(labels[i] % 2**64))
            file.write(record(field(1, features)))
    return path


def make_cifar(
    folder: Path, files: dict[str, int], classes: list[str], hundred: bool = False
) -> tuple[list[np.ndarray], list[int]]:
    """CIFAR's binary files with so many records each; their images and labels, in this order.

    An image has the colour of its class, and noise."""
    folder.mkdir(parents=True, exist_ok=True)
    names = "fine_label_names.txt" if hundred else "batches.meta.txt"
    (folder / names).write_text("".join(f"{name}\n" for name in classes) + "\n")
    rng, images, labels = np.random.default_rng(0), [], []
    for name, count in files.items():
        with (folder / name).open("wb") as file:
            for i in range(count):
                label = i % len(classes)
                image = rng.integers(0, 60, (32, 32, 3), dtype=np.uint8)
                image[..., label % 3] += 190
                file.write(bytes([7, label]) if hundred else bytes([label]))
                file.write(image.transpose(2, 0, 1).tobytes())
                images.append(image)
                labels.append(label)
    return images, labels


def record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + masked(length) + data + masked(data)


def feature(name: str, kind: int, values: bytes) -> bytes:
    """An entry of the map of features; `kind` 1 is a list of bytes, 3 of integers."""
    return field(1, field(1, name.encode()) + field(2, field(kind, values)))


def field(key: int, content: bytes) -> bytes:
    return bytes([key << 3 | 2]) + number(len(content)) + content


def number(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def masked(data: bytes) -> bytes:
    """The masked CRC-32C, bit by bit as its definition says."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (CASTAGNOLI if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return struct.pack("<L", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
