"""The configuration of the dataset and its loader."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from dataprep import store

Positive = Annotated[float, Field(gt=0)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class DataConfig:
    """The dataset and how it is read."""

    path: str
    """The folder that dataprep/shard.py wrote, or its address: http://, https://, s3://, or pipe:
    with a command to which a file's path is appended, and which streams the file
    (pipe:ssh host cat /faces)."""
    loader: Literal["ffcv", "webdataset"] = "ffcv"
    """The file format to read: both hold the same images in the same order."""
    order: Literal["global", "shards"] = "global"
    """global: shuffles all images; needs local files. shards: shuffles the shards, and the images
    within each `window` of shards, so that files are read in sequence. Both loaders give the same
    sequence for the same order."""
    window: Annotated[int, Field(ge=1)] = 8
    """Number of shards shuffled together for data.order=shards; memory holds twice as many."""
    flip: bool = True
    """Mirror half of the images, a new random half in each epoch."""
    verify: Literal["start", "off"] = "start"
    """start: verify the sha256 of each file of a stage before the stage, once per training."""
    workers: Annotated[int, Field(ge=1)] = 4
    """Threads per process that read and decode."""
    cache: str | None = None
    """A local folder that caches shards of an address, shared by the processes of the machine.
    Without it, each process reads every shard from the store in each epoch."""
    cache_gib: Positive = 50
    """Size of the cache in GiB; the least recently used shards are evicted."""
    timeout: Positive = 30
    """Seconds without a byte after which to reconnect to an address."""
    retry_seconds: Positive = 120
    """Seconds of retries of a failing store before the training ends."""
    allow_pipe: bool = False
    """Allow data.path to be a command."""

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
