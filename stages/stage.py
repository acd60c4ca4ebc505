"""One stage: the networks at one resolution, and an engine for each of them."""

import hashlib
from typing import Any

import torch
import torch.distributed as dist

from dataprep.manifest import Manifest
from pipeline import processes, section
from pipeline.data import order
from pipeline.data.loaders import training_images
from pipeline.engines import Engine
from pipeline.networks.family import Networks, weights_kept
from pipeline.objective import Terms
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
        settings, objective, engine = moment.stage, moment.objective, self.config.engine
        networks = self.networks.training_at(settings.resolution, moment.alpha, engine.precision)
        for e in self.engines:
            e.optimizer.set_learning_rate(moment.lr)
        held, terms = [], []
        for _ in range(self.micro_batches):
            section.enter("data")
            start, (x, labels) = next(self.starts), next(self.images)
            section.enter("encoder")
            model = networks.on(x, labels)
            x = model.prepare(x)
            seed_draws(self.config.seed, start, ENCODER)
            scale = self.engines[ENCODER].loss_scale.value
            with weights_kept():
                product, images, values = objective.encoder_step(model, x, scale)
            self.engines[ENCODER].accumulate(product)
            if "kl_fake" in values:
                values["sample_spread"] = spread(images[-1].detach()) / spread(x)
            held.append((start, model, x, images))
            terms.append(values)
        for values in terms:
            section.enter("decoder")
            start, model, x, images = held.pop(0)
            seed_draws(self.config.seed, start, DECODER)
            scale = self.engines[DECODER].loss_scale.value
            product, more = objective.decoder_step(model, x, images, scale)
            self.engines[DECODER].accumulate(product)
            values |= more
        return terms

    def close(self) -> None:
        self.images.close()
        for engine in self.engines:
            engine.close()


def seed_draws(seed: int, start: int, update: int) -> None:
    """Seeds the random draws by the micro-batch and the network that is updated."""
    digest = hashlib.blake2b(f"{seed} {start} {update}".encode(), digest_size=8).digest()
    torch.manual_seed(int.from_bytes(digest, "big"))


def spread(x: torch.Tensor) -> torch.Tensor:
    """How much images (B, 3, R, R) differ: the standard deviation over B, over all of a pixel."""
    return x.var(dim=0, correction=0).mean().sqrt()


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
