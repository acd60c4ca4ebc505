"""Evaluates a trained model:

    python -m pipeline.evaluate --checkpoint runs/ffhq256 --json ffhq256.json --mlflow
    python -m pipeline.evaluate --checkpoint models/ffhq data.path=data/ffhq
    python -m pipeline.evaluate --checkpoint runs/demo evaluation.extractor=vgg16 \\
        evaluation.weights=vgg16.safetensors evaluation.samples=1000 --vgg16 vgg16.safetensors

Compares samples with the training split, and reconstructions with the test split. Data and features
are those of the checkpoint's configuration, unless set after the command.

    fid, fd_vgg16, ...   Frechet distance of features, as in training; the name holds the number of
                         samples unless it is 50,000
    kid, kd_vgg16, ...   kernel distance: mean over 100 pairs of subsets of 1,000 (of all images or
                         samples if there are fewer)
    precision_, recall_  share of samples in the manifold of training images, and the reverse; the
                         manifold is the union of spheres to the third neighbour in feature space
    reconstruction_mse   mean squared error of D(mu(x)), per value in [-1, 1]
    psnr                 of 8-bit reconstructions, in dB, mean over images
    lpips_vgg            LPIPS of reconstructions, with the VGG16 of --vgg16; the name says if they
                         were enlarged
    label_accuracy_      networks with classes: share of samples whose class a linear classifier on
                         features predicts, fitted to training images; also for test images
    fid_5k_of_cat, ...   networks with classes: the distance of one class
    kl_real, kl_rec,     KL(q(z|x) || prior) in nats of test images, of their reconstructions, and
    kl_fake              of as many samples; a healthy model has kl_fake above kl_real
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric
from tqdm import tqdm

from dataprep.manifest import DatasetError, Manifest
from pipeline import model, processes
from pipeline.config import ConfigError, override, parse
from pipeline.data.config import DataConfig
from pipeline.data.loaders import to_uint8
from pipeline.metrics import classes, frechet, perceptual
from pipeline.metrics.evaluation import Evaluation, EvaluationConfig, counted, metric_name
from pipeline.metrics.features import FeaturesError
from pipeline.metrics.perceptual import LPIPS
from pipeline.networks.family import PRECISIONS, ModelError, ResolutionModel
from pipeline.objective import kl_divergence
from pipeline.records import names
from pipeline.records.checkpoints import CheckpointError
from pipeline.records.files import whole
from pipeline.records.tracking import TrackingError, record

MIN_IMAGES = 4  # training images, and samples
USER_ERRORS = (
    CheckpointError, ConfigError, DatasetError, FeaturesError, ModelError, TrackingError, OSError
)  # fmt: skip


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Config:
    """Keys that a user may set after the command."""

    data: DataConfig
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig)


def main(arguments: list[str] | None = None) -> None:
    given = parser().parse_intermixed_args(arguments)
    try:
        loaded = model.load(
            given.checkpoint,
            resolution=given.resolution,
            device=given.device,
            precision=given.precision,
        )
        config = configure(loaded, given.overrides)
        manifest = Manifest.load(config.data.path)
        manifest.check(loaded.resolution)
        check_counts(config, manifest)
        lpips = LPIPS(given.vgg16).to(loaded.device) if given.vgg16 else None
        processes.start()
        values = measure(loaded, config, lpips, given.seed)
        report(loaded, config, values, given)
    except USER_ERRORS as error:
        sys.exit(f"python -m pipeline.evaluate: {error}")
    finally:
        processes.stop()


def configure(loaded: Any, overrides: list[str]) -> Config:
    """The checkpoint's configuration of data and evaluation, with overrides. ConfigError."""
    known = loaded.about["config"]
    content = {part: dict(known.get(part) or {}) for part in ("data", "evaluation")}
    for text in overrides:
        override(content, text)
    return parse(Config, content, "evaluation")


def check_counts(config: Config, manifest: Manifest) -> None:
    """ConfigError if there are too few images for the metrics."""
    for what, count in (
        (f"{manifest.folder} has {{}} training images", manifest.count("train")),
        ("evaluation.samples is {}", config.evaluation.samples),
    ):
        if count < MIN_IMAGES:
            raise ConfigError(
                f"{what.format(count)}: at least {MIN_IMAGES} are needed: precision and recall use "
                "the third neighbour of each"
            )


def measure(loaded: Any, config: Config, lpips: LPIPS | None, seed: int) -> dict[str, float]:
    """All metrics, by name."""
    manifest, asked = Manifest.load(config.data.path), config.evaluation
    evaluation = Evaluation(asked, config.data, manifest, loaded.device, lambda: None)
    if evaluation.announcement:
        print(f"# {evaluation.announcement}", flush=True)
    grown = loaded.measured
    with torch.no_grad():
        network = evaluation.extractor.load(loaded.device)
        images, labels = labelled(evaluation.batches(loaded.resolution, "train"))
        real = gather(images, network, manifest.count("train"), "training images")
        samples = evaluation.samples(grown, seed)
        fake = gather(samples, network, asked.samples, "samples")
        values = distances(real, fake, evaluation)
        if getattr(loaded, "classes", 0):
            values |= of_classes(loaded, evaluation, network, (real, torch.cat(labels)), fake)
        torch.manual_seed(seed)
        return values | of_images(grown, evaluation, lpips)


def labelled(batches) -> tuple[Iterator[Tensor], list[Tensor]]:
    """An iterator of uint8 images, and the list to which it appends their labels."""
    labels: list[Tensor] = []

    def images() -> Iterator[Tensor]:
        for x, of_batch in batches:
            if of_batch is not None:
                labels.append(of_batch.cpu())
            yield to_uint8(x)

    return images(), labels


def of_classes(
    loaded: Any, evaluation: Evaluation, network, real: tuple[Tensor, Tensor], fake: Tensor
) -> dict[str, float]:
    """Label accuracy of samples and of test images, and a distance for each class."""
    kind, names = evaluation.extractor.kind, list(evaluation.manifest.classes)
    images, labels = labelled(evaluation.batches(loaded.resolution, "test"))
    test = gather(images, network, evaluation.manifest.count("test"), "test images")
    made = (fake, classes.in_turn(len(fake), evaluation.config.batch, len(names)))
    of_samples, of_test = classes.label_accuracy(real, (test, torch.cat(labels)), made)
    each = classes.distances(real, made, names)
    metric = metric_name(evaluation.extractor, len(fake) // len(names))
    return {
        f"label_accuracy_{kind}": of_samples,
        f"label_accuracy_{kind}_of_test_images": of_test,
        **{f"{metric}_of_{name}": value for name, value in each.items()},
    }


def gather(batches, network, count: int, name: str) -> Tensor:
    """Features of uint8 images, (N, d) on the CPU."""
    bar = tqdm(total=count, desc=name, unit="img", disable=not sys.stderr.isatty())
    found = []
    for x in batches:
        found.append(network(x).float().cpu())
        bar.update(len(x))
    bar.close()
    return torch.cat(found)


def distances(real: Tensor, fake: Tensor, evaluation: Evaluation) -> dict[str, float]:
    """Frechet and kernel distance, precision and recall of features (N, d)."""
    extractor, count = evaluation.extractor, len(fake)
    kind = extractor.kind
    statistics = [frechet.of_features(features) for features in (real, fake)]
    subset = min(1000, len(real), count)
    kernel = kid_features_to_metric(fake, real, kid_subset_size=subset, verbose=False)
    manifold = prc_features_to_metric(fake, real, save_cpu_ram=True, verbose=False)
    name = "kid" if kind == "inception" else f"kd_{kind}"
    return {
        metric_name(extractor, count): frechet.distance(*statistics),
        counted(name, count): kernel[KEY_METRIC_KID_MEAN],
        counted(f"precision_{kind}", count): manifold["precision"],
        counted(f"recall_{kind}", count): manifold["recall"],
    }


def of_images(
    grown: ResolutionModel, evaluation: Evaluation, lpips: LPIPS | None
) -> dict[str, float]:
    """Metrics of reconstructions and KLs, as means over the test split."""
    found = {name: [] for name in ("reconstruction_mse", "psnr", "kl_real", "kl_rec", "kl_fake")}
    distance = perceptual.name(grown.resolution)
    if lpips is not None:
        found[distance] = []
    count = evaluation.manifest.count("test")
    bar = tqdm(total=count, desc="test images", unit="img", disable=not sys.stderr.isatty())
    for batch in evaluation.batches(grown.resolution, "test"):
        x, on = batch.images, grown.on(*batch)
        mu, logvar = on.encode(x)
        x_r = on.decode(mu)
        seen, made = to_uint8(x), to_uint8(x_r)
        found["reconstruction_mse"].append((x_r - x).double().square().mean((1, 2, 3)))
        error = (seen.double() - made.double()).square().mean((1, 2, 3))
        found["psnr"].append(10 * torch.log10(255**2 / error.clamp_min(1e-10)))
        found["kl_real"].append(kl_divergence(mu, logvar))
        found["kl_rec"].append(kl_divergence(*on.encode(x_r)))
        found["kl_fake"].append(kl_divergence(*on.encode(on.generate(len(x)))))
        if lpips is not None:
            found[distance].append(lpips(seen, made))
        bar.update(len(x))
    bar.close()
    return {name: torch.cat(parts).double().mean().item() for name, parts in found.items()}


def report(loaded: Any, config: Config, values: dict, given: argparse.Namespace) -> None:
    """Prints a table; writes JSON and logs to MLflow if requested."""
    side, images = loaded.resolution, loaded.about.get("images")
    seen = f"{images:,} images seen" if images is not None else "converted"
    print(f"{given.checkpoint} at {side}x{side}, {seen}")
    for name, value in values.items():
        print(f"  {name:<24}{value:>12.5g}")
    about = {
        "checkpoint": str(given.checkpoint),
        "images": images,
        "resolution": side,
        "alpha": loaded.alpha,
        "seed": given.seed,
        "data": config.data.path,
        "dataset_digest": Manifest.load(config.data.path).digest,
        "values": values,
    }
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        with whole(given.json) as beside:
            beside.write_text(json.dumps(about, indent=1) + "\n")
    if given.mlflow is not None:
        manifest = Manifest.load(config.data.path)
        data = names.dataset(manifest, "train", side)
        uri = record(given.mlflow or None, model.find(given.checkpoint), about, data)
        print(f"logged to {uri}")


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m pipeline.evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument(
        "overrides", nargs="*", metavar="key=value", help="data and evaluation keys: data.path=DIR"
    )
    p.add_argument("--checkpoint", required=True, type=Path, help="a checkpoint's or run's folder")
    p.add_argument("--resolution", type=int, help="a trained resolution (largest)")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--vgg16", type=Path, metavar="FILE", help="safetensors, for lpips_vgg")
    p.add_argument("--json", type=Path, metavar="FILE", help="also write the metrics to FILE")
    p.add_argument(
        "--mlflow",
        nargs="?",
        const="",
        metavar="URI",
        help="log to this store, or without URI to the store of the checkpoint's run",
    )
    p.add_argument("--device", help="cpu, cuda, cuda:1 (a GPU if there is one)")
    p.add_argument("--precision", choices=PRECISIONS[:2], default="fp32")
    return p


if __name__ == "__main__":
    main()
