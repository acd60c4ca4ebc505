"""Evaluation of trained networks: Frechet distance to the training data, reconstruction error."""

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from dataprep.manifest import DatasetError, Manifest
from pipeline import processes
from pipeline.data.batch import Batch
from pipeline.data.config import DataConfig
from pipeline.data.loaders import split_images, to_uint8
from pipeline.metrics import features, frechet
from pipeline.metrics.features import Extractor, FeaturesError
from pipeline.networks.family import ResolutionModel

TIMED = 5  # batches of each process, from which `estimate` extrapolates


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class EvaluationConfig:
    """How trained networks are evaluated."""

    extractor: Literal["inception", "vgg16", "random"] = "inception"
    """Features that are compared; only `inception` gives an FID."""
    weights: str | None = None
    """File of the extractor's weights; null downloads Inception's once."""
    otherwise: Literal["stop", "vgg16", "random"] = "stop"
    """Fallback where the weights are missing: stop, or other features, under their own name."""
    otherwise_weights: str | None = None
    """File of the fallback's weights."""
    samples: Annotated[int, Field(ge=2)] = 50_000
    """Samples that the Frechet distance is taken of; their number is in its name."""
    batch: Annotated[int, Field(ge=1)] = 50
    """Images that one process samples or reads at a time."""
    cache: str | None = None
    """Folder for statistics of the training data; null is `statistics` in the dataset."""


def find_extractor(config: EvaluationConfig) -> tuple[Extractor, str | None]:
    """The extractor to use; where it is a fallback, also a warning with the reason."""
    try:
        return features.find(config.extractor, config.weights), None
    except FeaturesError as error:
        if config.otherwise == "stop":
            raise FeaturesError(
                f"{error}. Or let evaluation.otherwise name features to fall back on"
            ) from None
        other = features.find(config.otherwise, config.otherwise_weights)
        asked = features.METRICS[config.extractor]
        return other, f"no {asked}, but {other.metric} will be measured: {error}"


def check_images(manifest: Manifest) -> None:
    """DatasetError where there are too few images for a covariance of features."""
    if manifest.count("train") < 2:
        raise DatasetError(
            f"{manifest.folder} has 1 training image: a Frechet distance needs 2 at least"
        )


def metric_name(extractor: Extractor, samples: int) -> str:
    """`fid`, `fd_vgg16_1k`, `fd_random_500`: the number of samples unless it is FID's 50,000."""
    return counted(extractor.metric, samples)


def counted(name: str, samples: int) -> str:
    """A metric's name with its number of samples, unless that is 50,000."""
    if samples == 50_000:
        return name
    return f"{name}_{samples // 1000}k" if samples % 1000 == 0 else f"{name}_{samples}"


class Evaluation:
    """Evaluates networks at any resolution of a dataset; a collective of all processes.

    All processes call `heartbeat` after each batch; it may raise to stop.
    """

    def __init__(
        self,
        config: EvaluationConfig,
        data: DataConfig,
        manifest: Manifest,
        device: torch.device,
        heartbeat: Callable[[], None],
    ):
        check_images(manifest)
        self.config, self.data, self.manifest = config, data, manifest
        self.device, self.heartbeat = device, heartbeat
        self.extractor, self.announcement = find_extractor(config)
        # Statistics are float64, and on the host when they are summed over processes.
        self.group: Any = dist.new_group(backend="gloo")
        self.limit: int | None = None  # of samples and images, in `estimate`

    @torch.no_grad()
    def measure(self, model: ResolutionModel, seed: int) -> dict[str, float]:
        """The distance of `samples` samples under its name (rank 0), and `reconstruction_mse`."""
        network = self.extractor.load(self.device)
        width = network(torch.zeros(2, 3, 8, 8, dtype=torch.uint8, device=self.device)).shape[1]
        real = self._reference(model.resolution, network, width)
        samples = self.samples(model, seed)
        made = frechet.statistics(samples, network, width, self.group, self.heartbeat)
        distance = frechet.distance(real, made) if processes.is_first() else float("nan")
        return {
            metric_name(self.extractor, self.config.samples): distance,
            "reconstruction_mse": self._reconstruction_error(model, seed, self.heartbeat),
        }

    @torch.no_grad()
    def estimate(self, model: ResolutionModel, seed: int) -> tuple[float, float]:
        """Seconds of the statistics of the training data, which are measured once, and of the rest
        of `measure`; from the first batches of each part on each process."""
        network = self.extractor.load(self.device)
        side = model.resolution
        width = network(torch.zeros(2, 3, 8, 8, dtype=torch.uint8, device=self.device)).shape[1]
        found: Any = None

        def read(heartbeat: Callable[[], None]) -> None:
            images = (x if x is None else to_uint8(x) for x in self.images(side, "train"))
            frechet.statistics(images, network, width, self.group, heartbeat)

        def sample(heartbeat: Callable[[], None]) -> None:
            nonlocal found
            samples = self.samples(model, seed)
            found = frechet.statistics(samples, network, width, self.group, heartbeat)

        def reconstruct(heartbeat: Callable[[], None]) -> None:
            self._reconstruction_error(model, seed, heartbeat)

        once = self._seconds(read, self.manifest.count("train"))
        each = self._seconds(sample, self.config.samples)
        each += self._seconds(reconstruct, self.manifest.count("test"))
        started = time.monotonic()
        frechet.distance(found, found)
        known = self._statistics_path(side).exists()
        return 0.0 if known else once, each + time.monotonic() - started

    def _seconds(self, part: Callable[[Callable[[], None]], None], count: int) -> float:
        """Seconds of a part of `measure` over `count` items, which calls what it is given after
        each batch. Its first batch and its end (a reader starts, sums are reduced) count once."""
        moments = []

        def heartbeat() -> None:
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            moments.append(time.monotonic())
            self.heartbeat()

        each_round = self.config.batch * processes.world_size()
        self.limit = TIMED * each_round
        started = time.monotonic()
        part(heartbeat)
        seconds = time.monotonic() - started
        self.limit = None
        left = math.ceil(count / each_round) - len(moments)
        if left <= 0:
            return seconds
        return seconds + left * (moments[-1] - moments[0]) / (len(moments) - 1)

    def _rounds(self, count: int) -> Iterator[range | None]:
        """This process's batches of `count` items; None pads to the others' number."""
        batch, world = self.config.batch, processes.world_size()
        count = count if self.limit is None else min(count, self.limit)
        for first in range(processes.rank() * batch, count + world * batch, world * batch):
            if first - processes.rank() * batch >= count:
                return
            yield range(first, min(first + batch, count)) or None

    def samples(self, model: ResolutionModel, seed: int) -> Iterator[Tensor | None]:
        """Samples, the same for any number of processes: each batch has its own seed."""
        for batch in self._rounds(self.config.samples):
            if batch is None:
                yield None
                continue
            torch.manual_seed((seed << 32) + batch.start)
            yield to_uint8(model.generate(len(batch)))

    def images(self, resolution: int, split: str) -> Iterator[Tensor | None]:
        """Like `batches`, without labels."""
        for batch in self.batches(resolution, split):
            yield None if batch is None else batch.images

    def batches(self, resolution: int, split: str) -> Iterator[Batch | None]:
        """This process's batches of a split, as floats; None pads."""
        rounds = list(self._rounds(self.manifest.count(split)))
        mine = [batch for batch in rounds if batch is not None]
        indices = np.concatenate([np.array(b) for b in mine]) if mine else np.empty(0, np.int64)
        yield from split_images(
            self.data, self.manifest, resolution, split, indices, self.config.batch, self.device
        )
        yield from [None] * (len(rounds) - len(mine))

    def _reference(self, resolution: int, network, width: int):
        """Statistics of the training split, not mirrored, measured once per dataset (rank 0).

        They are kept in `evaluation.cache`, or beside the dataset; where that lies at an address,
        in `data.cache` or in ~/.cache/soft-introvae.
        """
        path = self._statistics_path(resolution)
        known = frechet.load_cached(path) if processes.is_first() else None
        flag = torch.tensor([known is not None], dtype=torch.uint8)
        dist.broadcast(flag, 0, group=self.group)
        if flag:
            return known
        images = (x if x is None else to_uint8(x) for x in self.images(resolution, "train"))
        found = frechet.statistics(images, network, width, self.group, self.heartbeat)
        if processes.is_first():
            _keep(path, found)
        return found

    def _statistics_path(self, resolution: int) -> Path:
        beside = self.data.path
        if self.data.remote:
            beside = self.data.cache or Path.home() / ".cache/soft-introvae"
        folder = Path(self.config.cache or Path(beside) / "statistics")
        name = f"{self.extractor.metric}-{self.extractor.digest[:12]}-r{resolution:03}-train"
        return folder / f"{name}-{self.manifest.digest[:12]}.safetensors"

    def _reconstruction_error(
        self, model: ResolutionModel, seed: int, heartbeat: Callable[[], None]
    ) -> float:
        """Mean squared error per value, in [-1, 1] units, of D(mu(x)) over the test split."""
        total = torch.zeros(2, dtype=torch.float64, device=self.device)
        for number, batch in enumerate(self.batches(model.resolution, "test")):
            if batch is not None:
                torch.manual_seed((seed << 32) + number * processes.world_size() + processes.rank())
                x, on = batch.images, model.on(*batch)
                error = (on.decode(on.encode(x)[0]) - x).double().square()
                total += torch.stack([error.sum(), error.new_full((), error.numel())])
            heartbeat()
        total = total.cpu()
        dist.all_reduce(total, group=self.group)
        return (total[0] / total[1]).item()


def _keep(path: Path, found) -> None:
    try:
        frechet.save(path, found)
    except OSError as error:
        print(
            f"statistics of the training data cannot be kept in {path.parent} "
            f"({error.strerror or error}) and will be measured again: name a folder that can be "
            f"written to in evaluation.cache"
        )
