"""Which dataset is read, and how."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from dataprep import store

Positive = Annotated[float, Field(gt=0)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class DataConfig:
    """The dataset and how it is read."""

    path: str
    """The folder that dataprep/shard.py made, or its address: http://, https://, s3://, or pipe:
    and a command that streams the file whose path is appended to it (pipe:ssh host cat /faces)."""
    loader: Literal["ffcv", "webdataset"] = "ffcv"
    """The files that are read: both hold the same images, in the same order."""
    order: Literal["global", "shards"] = "global"
    """global: any image may come anywhere in a pass, which needs local files. shards: the shards
    in random order, and the images of each `window` of them mixed, so that they are read in
    sequence. Both loaders give the same sequence for the same of these."""
    window: Annotated[int, Field(ge=1)] = 8
    """Shards that are mixed, under data.order=shards; twice as many are held in memory."""
    flip: bool = True
    """Mirror half of the images, drawn anew in each pass over the data."""
    verify: Literal["start", "off"] = "start"
    """Read each file of a stage against its sha256 before the stage, once in a training: start."""
    workers: Annotated[int, Field(ge=1)] = 4
    """Threads of each process that read and decode."""
    cache: str | None = None
    """A folder of this machine that keeps shards of an address; all its processes share it. Without
    it, each process of a training reads every shard from the store in each pass."""
    cache_gib: Positive = 50
    """Size of the cache; the shards used longest ago are removed."""
    timeout: Positive = 30
    """Seconds without a byte after which a connection to an address is made anew."""
    retry_seconds: Positive = 120
    """Seconds for which a failing store is asked again before the training ends."""
    allow_pipe: bool = False
    """Let data.path be a command."""

    @property
    def remote(self) -> bool:
        """Whether the dataset lies at an address."""
        return store.is_remote(self.path)

    @property
    def patience(self) -> store.Patience:
        return store.Patience(self.timeout, self.retry_seconds)

    @model_validator(mode="after")
    def _can_be_read(self):
        if self.remote and (self.loader != "webdataset" or self.order != "shards"):
            raise ValueError(
                f"{self.path} is read in sequence: set data.loader=webdataset data.order=shards"
            )
        if self.path.startswith("pipe:") and not self.allow_pipe:
            raise ValueError(f"{self.path} is a command: set data.allow_pipe=true to run it")
        return self
