"""Prints how well the best linear codes reconstruct the test images of a dataset.

    python docs/quality/linear.py data/own --resolution 32

A code of k numbers is the projection on the first k principal components of the training images
(of 10,000 of them at most). On those images, no linear encoder and decoder of k numbers have a
lower squared error. Errors are as in `pipeline.evaluate`: per value in [-1, 1], and in dB, the mean
over images.
"""

import argparse

import numpy as np
import torch
from torch import Tensor

from dataprep.manifest import Manifest
from pipeline.data.config import DataConfig
from pipeline.data.loaders import split_images

MOST = 10_000  # images that are read of each split


def images(path: str, resolution: int, split: str) -> Tensor:
    """The first images of `split` in [-1, 1], (images, values)."""
    manifest, device = Manifest.load(path), torch.device("cpu")
    indices = np.arange(min(manifest.count(split), MOST))
    batches = split_images(DataConfig(path=path), manifest, resolution, split, indices, 100, device)
    return torch.cat([batch.images.flatten(1) for batch in batches])


def errors(train: Tensor, test: Tensor, lengths: list[int]) -> list[tuple[int, float, float]]:
    """(k, mean squared error, PSNR in dB) of the test images by codes of each length k."""
    mean = train.mean(0)
    components = torch.linalg.svd(train - mean, full_matrices=False).Vh
    found = []
    for k in lengths:
        code = (test - mean) @ components[:k].T
        error = (test - mean - code @ components[:k]).square().mean(1)
        found.append((k, error.mean().item(), (10 * torch.log10(4 / error)).mean().item()))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", help="a folder of dataprep/shard.py")
    parser.add_argument("--resolution", type=int, default=32)
    parser.add_argument("--lengths", type=int, nargs="+", default=[32, 64, 128, 256, 512])
    given = parser.parse_args()
    train, test = (images(given.data, given.resolution, split) for split in ("train", "test"))
    print("| numbers | mse | PSNR |\n| --- | --- | --- |")
    for k, mse, psnr in errors(train, test, given.lengths):
        print(f"| {k} | {mse:.4f} | {psnr:.1f} |")


if __name__ == "__main__":
    main()
