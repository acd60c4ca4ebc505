"""Measures the transfer of class and content between test images of known class and view:

    python -m pipeline.transfer --checkpoint runs/cars3d --vgg16 vgg16.safetensors
    python -m pipeline.transfer --checkpoint runs/toy-cars --data data/toy-cars --pairs 2000

Classes are the labels of the dataset (--labels folder), views the names of the images, such as
azimuth-03-elevation-01. pipeline/metrics/transfer.py defines the metrics. Also prints R^2 of linear
regressions of class and view factors on each code.
"""

import argparse
import json
import re
import sys
from pathlib import Path

import numpy as np
import torch

from dataprep.manifest import DatasetError, Manifest
from pipeline import model as models
from pipeline.data.config import DataConfig
from pipeline.data.loaders import split_images
from pipeline.metrics import transfer
from pipeline.metrics.features import FeaturesError
from pipeline.metrics.perceptual import LPIPS, SIDE
from pipeline.metrics.transfer import Seen
from pipeline.networks.family import ModelError
from pipeline.records.checkpoints import CheckpointError
from pipeline.records.files import whole

USER_ERRORS = (CheckpointError, DatasetError, FeaturesError, ModelError, OSError, ValueError)


def main(arguments: list[str] | None = None) -> None:
    given = parser().parse_args(arguments)
    try:
        model = models.load(given.checkpoint, device=given.device)
        if not hasattr(model, "translate"):
            raise ModelError("these networks have one code for class and content")
        if given.vgg16 and model.resolution < SIDE:
            raise ModelError(f"LPIPS needs images of at least {SIDE}x{SIDE}: leave --vgg16 out")
        path = given.data or Path(model.about["config"]["data"]["path"])
        seen, names = images_of_test(path, model.resolution)
        lpips = LPIPS(given.vgg16).to(model.device) if given.vgg16 else None
        values = transfer.measure(model, seen, given.pairs, given.seed, lpips)
        read = transfer.probes(model, seen, factors(seen, names), given.seed)
    except USER_ERRORS as error:
        sys.exit(f"python -m pipeline.transfer: {error}")
    print(f"{given.checkpoint}: {given.pairs:,} pairs of {len(seen.x):,} test images")
    for name, (mean, error) in values.items():
        print(f"  {name:<28}{mean:>10.5f} +- {error:.5f}")
    for name, value in read.items():
        print(f"  {name:<28}{value:>10.3f}")
    if given.json:
        about = {"checkpoint": str(given.checkpoint), "pairs": given.pairs, "seed": given.seed}
        about |= {"dataset_digest": Manifest.load(path).digest, "values": values, "probes": read}
        with whole(given.json) as beside:
            beside.write_text(json.dumps(about, indent=1) + "\n")


def images_of_test(path: Path, resolution: int) -> tuple[Seen, list[str]]:
    """All test images with their classes and views, and the names of the views. DatasetError."""
    manifest = Manifest.load(path)
    if not manifest.classes:
        raise DatasetError(f"{path} has no classes: prepare it with --labels folder")
    lines = (Path(manifest.folder) / "index" / "test.jsonl").read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    shown = [row["name"].rpartition("/")[2] for row in rows]
    names = sorted(set(shown))
    config, cpu = DataConfig(path=str(path), loader="webdataset"), torch.device("cpu")
    batches = split_images(config, manifest, resolution, "test", np.arange(len(rows)), 100, cpu)
    x = torch.cat([images for images, _ in batches])
    classes = np.array([row["label"] for row in rows])
    return Seen(x, classes, np.array([names.index(name) for name in shown])), names


def factors(seen: Seen, names: list[str]) -> dict[str, np.ndarray]:
    """Azimuth and elevation from the names of the views, and the mean colour of each class."""
    colours = seen.x.mean((2, 3)).double().numpy()
    of_class = {c: colours[seen.classes == c].mean(0) for c in np.unique(seen.classes)}
    found = {"class_colour": np.stack([of_class[c] for c in seen.classes])}
    matches = [re.search(r"azimuth-(\d+)-elevation-(\d+)", name) for name in names]
    if all(matches):
        numbers = np.array([[int(match[1]), int(match[2])] for match in matches])[seen.views]
        turn = 2 * np.pi * numbers[:, :1] / (numbers[:, 0].max() + 1)
        found["azimuth"] = np.concatenate([np.sin(turn), np.cos(turn)], 1)
        found["elevation"] = numbers[:, 1:].astype(np.float64)
    return found


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m pipeline.transfer",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--checkpoint", required=True, type=Path, help="a checkpoint's or run's folder")
    p.add_argument("--data", type=Path, help="a prepared dataset (the training's)")
    p.add_argument("--pairs", type=int, default=10_000, help="(%(default)s)")
    p.add_argument("--seed", type=int, default=0, help="seed of the pairs (%(default)s)")
    p.add_argument("--vgg16", type=Path, metavar="FILE", help="safetensors, for lpips_vgg")
    p.add_argument("--json", type=Path, metavar="FILE", help="also write the metrics to FILE")
    p.add_argument("--device", help="cpu, cuda, cuda:1 (a GPU if there is one)")
    return p


if __name__ == "__main__":
    main()
