"""What decides the bytes of a dataset: its settings, and the versions of libraries."""

import importlib.metadata
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import PIL

from dataprep.manifest import DatasetError

RESOLUTIONS = tuple(2**i for i in range(2, 11))
FORMATS = ("webdataset", "ffcv")
TAR_IMAGES = ("png", "webp", "jpeg")
BETON_IMAGES = ("raw", "jpeg")
LABELS = ("none", "folder", "stored")
CROPS = ("centre", "top", "pad", "refuse")


@dataclass(frozen=True)
class Settings:
    """The settings of a preparation, as in the command line."""

    max_resolution: int = 256
    formats: tuple[str, ...] = FORMATS
    tar_images: str = "png"
    beton_images: str = "raw"
    jpeg_quality: int = 95
    shard_samples: int = 250
    shard_bytes: int | None = None
    split: str = "auto"
    test_fraction: float = 0.1
    labels: str = "none"
    crop: str = "centre"
    image_column: str | None = None
    label_column: str | None = None

    @property
    def sides(self) -> list[int]:
        return [side for side in RESOLUTIONS if side <= self.max_resolution]

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "formats": list(self.formats)}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Settings":
        return cls(**{**content, "formats": tuple(content["formats"])})


def versions() -> dict[str, str]:
    """Versions of everything that decides the bytes."""
    return {
        "dataprep": importlib.metadata.version("soft-introvae-training"),
        "deflate": importlib.metadata.version("deflate"),
        "numpy": np.__version__,
        "pillow": PIL.__version__,
    }


def refuse_changes(where: str, before: dict[str, Any], now: dict[str, Any], way_out: str) -> None:
    """DatasetError that shows the differences between two flat dictionaries, if any."""
    different = [
        f"{name} was {before.get(name)!r} and is now {now.get(name)!r}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
    if different:
        raise DatasetError(f"{where}: {'; '.join(different)}; {way_out}")
