"""Measures how batch norm's statistics change the Frechet distance of residual networks:

    python -m pipeline.normalisation --checkpoint runs/cifar10
    python -m pipeline.normalisation --checkpoint models/cifar10 data.path=data/cifar10 \\
        evaluation.weights=pt_inception-2015-12-05-6726825d.pth

The decoder's batch norm uses population statistics, the statistics of a batch (of 32 draws, which
are then not independent), or running statistics: those of a published file, or for another
checkpoint those that 20 published iterations leave with its weights. The extractor runs in
evaluation mode, and a second time with batch statistics of 32 images if it has batch norm
(Inception). Each combination has a name:

    fid                          population statistics, evaluation mode: the standard FID
    fid_batchstats32             decoder with statistics of batches of 32
    fid_runningstats             decoder with running statistics
    ..._extractor_by_batches32   the same, extractor with statistics of batches of 32
    published_fid_routine        both with statistics of batches of 32, samples truncated to 8 bits:
                                 the routine behind the paper's 4.6 and 4.07 (spec image-systems,
                                 A.6)
"""

import argparse
import functools
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from dataprep.manifest import Manifest
from pipeline import model as models
from pipeline import processes
from pipeline.data.loaders import drawn_images, split_images, to_uint8
from pipeline.evaluate import USER_ERRORS, configure
from pipeline.metrics import frechet
from pipeline.metrics.evaluation import find_extractor, metric_name
from pipeline.networks.family import ModelError
from pipeline.networks.residual import population
from pipeline.records.files import whole

SIZE = 32


def main(arguments: list[str] | None = None) -> None:
    given = parser().parse_intermixed_args(arguments)
    try:
        loaded = models.load(given.checkpoint, device=given.device)
        if loaded.networks.shape.kind != "residual":
            raise ModelError("these networks have no batch norm")
        config = configure(loaded, given.overrides)
        extractor, announcement = find_extractor(config.evaluation)
        if announcement:
            print(f"# {announcement}", flush=True)
        processes.start()
        values = measure(loaded, config, extractor, given.seed)
    except USER_ERRORS as error:
        sys.exit(f"python -m pipeline.normalisation: {error}")
    finally:
        processes.stop()
    for name, value in values.items():
        print(f"  {name:<48}{value:>12.5g}")
    if given.json:
        about = {"checkpoint": str(given.checkpoint), "seed": given.seed, "values": values}
        with whole(given.json) as beside:
            beside.write_text(json.dumps(about, indent=1) + "\n")


@torch.no_grad()
def measure(loaded: Any, config: Any, extractor: Any, seed: int) -> dict[str, float]:
    """The distance of every combination, by name."""
    manifest, count = Manifest.load(config.data.path), config.evaluation.samples
    name = metric_name(extractor, count)
    made, real = samplers(loaded, config, manifest), {}
    network = extractor.load(loaded.device)
    modes = ["", "_extractor_by_batches32"] if has_batch_norm(network) else [""]
    found = {}
    for mode in modes:
        by_batches(network, bool(mode))
        real[mode] = statistics(
            network, training(loaded, config, manifest, seed), "training images"
        )
        for kind, generate in made.items():
            samples = drawn(generate, count, seed, to_uint8)
            key = f"{name}{kind}{mode}"
            found[key] = frechet.distance(real[mode], statistics(network, samples, key))
            if kind == "_batchstats32" and mode:
                samples = drawn(generate, count, seed, cut)
                key = name.replace("fid", "published_fid_routine")
                found[key] = frechet.distance(real[mode], statistics(network, samples, key))
    return found


def samplers(loaded: Any, config: Any, manifest: Manifest) -> dict[str, Callable[[int], Tensor]]:
    """Functions from a count to samples, by the suffix that names their normalisation."""
    networks, side = loaded.networks, loaded.resolution
    images = functools.partial(drawn_images, config.data, manifest, side, 0, loaded.device)
    found = {}
    if loaded.about.get("converted", {}).get("statistics", "").startswith("running"):
        found["_runningstats"] = loaded.measured.generate
        found[""] = networks.at(side, 1.0, networks.derived(images)).generate
    else:
        found[""] = loaded.measured.generate
        torch.manual_seed(0)
        step = networks.training_at(side, 1.0, "fp32")
        moments = population.of_published_training(step, images)
        running = {f"decoder_of_prior.{key}": value for key, value in moments.items()}
        found["_runningstats"] = networks.at(side, 1.0, loaded.derived | running).generate
    classes = networks.shape.classes

    def by_batch(count: int) -> Tensor:
        labels = torch.arange(count, device=loaded.device) % classes if classes else None
        x = torch.empty(count, device=loaded.device)
        return networks.training_at(side, 1.0, "fp32").on(x, labels).generate(count)

    return found | {"_batchstats32": by_batch}


def drawn(generate: Callable, count: int, seed: int, to_bytes: Callable) -> Iterator[Tensor]:
    """uint8 samples in batches of SIZE; the last batch may be smaller."""
    torch.manual_seed(seed)
    for first in range(0, count, SIZE):
        yield to_bytes(generate(min(SIZE, count - first)))


def cut(x: Tensor) -> Tensor:
    """(B, 3, R, R) about [-1, 1] to uint8, clipped and truncated."""
    return ((x + 1) * 127.5).clamp(0, 255).to(torch.uint8)


def training(loaded: Any, config: Any, manifest: Manifest, seed: int) -> Iterator[Tensor]:
    """uint8 training images in a random order."""
    indices = np.random.default_rng(seed).permutation(manifest.count("train"))
    side = loaded.resolution
    for x, _ in split_images(config.data, manifest, side, "train", indices, SIZE, loaded.device):
        yield to_uint8(x)


def statistics(network: nn.Module, batches: Iterator[Tensor], name: str):
    """Mean and covariance of the features of uint8 images."""
    bar = tqdm(batches, desc=name, unit="batch", disable=not sys.stderr.isatty())
    return frechet.of_features(torch.cat([network(x).float().cpu() for x in bar]))


def has_batch_norm(network: nn.Module) -> bool:
    return any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in network.modules())


def by_batches(network: nn.Module, wanted: bool) -> None:
    """Switches the extractor's batch norms to batch statistics; running statistics stay."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.train(wanted)
            module.momentum = 0.0


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m pipeline.normalisation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument(
        "overrides", nargs="*", metavar="key=value", help="data and evaluation keys: data.path=DIR"
    )
    p.add_argument("--checkpoint", required=True, type=Path, help="a checkpoint's or run's folder")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--json", type=Path, metavar="FILE", help="also write the metrics to FILE")
    p.add_argument("--device", help="cpu, cuda, cuda:1 (a GPU if there is one)")
    return p


if __name__ == "__main__":
    main()
