"""Which dataset is read, and how."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class DataConfig:
    """The dataset and how it is read."""

    path: str
    """The folder that dataprep/shard.py made."""
    loader: Literal["ffcv", "webdataset"] = "ffcv"
    """The files that are read: both hold the same images, in the same order."""
    flip: bool = True
    """Mirror half of the images, drawn anew in each pass over the data."""
    workers: Annotated[int, Field(ge=1)] = 4
    """Threads of each process that read and decode."""
