"""One stage: the networks at one resolution, and an engine for each of them."""

import hashlib
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from dataprep.manifest import Manifest
from pipeline import processes, section
from pipeline.data import order
from pipeline.data.loaders import training_images
from pipeline.engines import Engine
from pipeline.graphs import Graphs
from pipeline.networks.family import Alpha, Networks
from pipeline.objective import Objective, Terms
from pipeline.updates import Updates
from stages import schedule
from stages.config import Config
from stages.schedule import Moment

ENCODER, DECODER = 0, 1


class Stage:
    """Trains networks at `moment`'s resolution, from `images` images seen on."""

    def __init__(
        self,
        config: Config,
        moment: Moment,
        images: int,
        networks: Networks,
        manifest: Manifest,
    ):
        self.config, self.number, self.networks = config, moment.number, networks
        settings, rank, world = moment.stage, processes.rank(), processes.world_size()
        self.micro_batches = settings.batch // settings.micro_batch // world
        side, device = settings.resolution, networks.device
        engine = schedule.engine_of(config, settings)
        self.engines = [
            Engine(parameters, engine, settings.micro_batch, self.micro_batches)
            for parameters in networks.parameters_at(side)
        ]
        self.kind: tuple[Objective, bool] | None = None
        """Objective and whether it fades in, of the step before."""
        self.graphs: Graphs | None = None
        self.alpha = torch.zeros((), device=device)
        # Two iterators: the loader reads ahead of the steps.
        self.starts, ahead = (
            order.starts(images, moment.last, settings.batch, settings.micro_batch, rank, world)
            for _ in range(2)
        )
        self.images: Any = training_images(
            config.data, manifest, side, config.seed, ahead, settings.micro_batch, device
        )

    def step(self, moment: Moment) -> list[Terms]:
        """One update of each network (Algorithm 1); the terms of this process's micro-batches."""
        for e in self.engines:
            e.optimizer.set_learning_rate(moment.lr)
        starts, terms, updates = [], [], None
        for _ in range(self.micro_batches):
            section.enter("data")
            start, (x, labels) = next(self.starts), next(self.images)
            section.enter("encoder")
            updates = updates or self.updates(moment, x, labels)
            seed_draws(self.config.seed, start, ENCODER)
            product, values = updates.encoder(x, labels, self.engines[ENCODER].loss_scale.value)
            self.engines[ENCODER].accumulate(product)
            starts.append(start)
            terms.append(values)
        for start, values in zip(starts, terms, strict=True):
            section.enter("decoder")
            seed_draws(self.config.seed, start, DECODER)
            product, more = updates.decoder(self.engines[DECODER].loss_scale.value)
            self.engines[DECODER].accumulate(product)
            values |= more
        return terms

    def updates(self, moment: Moment, x: Tensor, labels: Tensor | None) -> Updates | Graphs:
        """The passes at `moment`, for micro-batches like `x` and `labels`.

        With `engine.graphs`, the first step of each kind launches its kernels one by one, which
        compiles them and chooses algorithms; the second is captured.
        """
        engine, kind = self.config.engine, (moment.objective, moment.alpha < 1)
        first, self.kind = kind != self.kind, kind
        if first or x.device.type != "cuda" or not engine.graphs or engine.no_graphs():
            self.graphs = None
            return self.launched(moment, moment.alpha)
        if self.graphs is None:
            updates = self.launched(moment, self.alpha if moment.alpha < 1 else 1.0)
            self.graphs = Graphs(updates, self.networks, x, labels, self.micro_batches)
        self.alpha.fill_(moment.alpha)
        return self.graphs

    def launched(self, moment: Moment, alpha: Alpha) -> Updates:
        """The passes at `moment`, whose kernels are launched one by one."""
        side, precision = moment.stage.resolution, self.config.engine.precision
        return Updates(self.networks.training_at(side, alpha, precision), moment.objective)

    def close(self) -> None:
        self.images.close()
        self.graphs = None
        for engine in self.engines:
            engine.close()


def seed_draws(seed: int, start: int, update: int) -> None:
    """Seeds the random draws by the micro-batch and the network that is updated."""
    digest = hashlib.blake2b(f"{seed} {start} {update}".encode(), digest_size=8).digest()
    torch.manual_seed(int.from_bytes(digest, "big"))


class Meter:
    """Means of terms over micro-batches, steps and processes, between two logs.

    Over finite values: the engines skip steps that are not finite (`skipped_steps`). A mean is NaN
    where no value is finite.
    """

    def __init__(self):
        self.terms: list[Terms] = []
        self.broken: list[str] = []
        """Terms of this process with a non-finite value before the last reading."""

    def add(self, terms: list[Terms]) -> None:
        self.terms += terms

    def read(self) -> dict[str, float]:
        """The means since the last reading; all processes must call."""
        names = sorted(set.intersection(*(set(t) for t in self.terms)))
        values = torch.stack([torch.stack([t[name] for name in names]) for t in self.terms])
        finite = values.isfinite()
        sums = torch.stack([values.where(finite, 0).sum(dim=0), finite.sum(dim=0)])
        dist.all_reduce(sums)
        self.terms = []
        self.broken = [name for name, ok in zip(names, finite.all(dim=0), strict=True) if not ok]
        return dict(zip(names, (sums[0] / sums[1]).tolist(), strict=True))
