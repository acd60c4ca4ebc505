"""Frechet distances between sets of images, from features, over all processes."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

from pipeline.records.files import save_tensors, whole


class Statistics:
    """Mean and covariance of features, accumulated over batches in float64 on their device."""

    def __init__(self):
        self.count, self.total, self.products = 0, None, None

    def add(self, features: Tensor) -> None:
        """Features (B, d) of this process; does not wait for the device."""
        f = features.double()
        if self.total is None:
            self.total = f.new_zeros(f.shape[1])
            self.products = f.new_zeros(f.shape[1], f.shape[1])
        self.count += len(f)
        self.total += f.sum(0)
        self.products.addmm_(f.T, f)

    def gather(self, width: int, group) -> tuple[np.ndarray, np.ndarray]:
        """Mean (d,) and unbiased covariance (d, d) over all processes, by one reduction.

        All must call.
        """
        sums = torch.zeros(1 + width + width**2, dtype=torch.float64)
        count, total, products = sums[:1], sums[1 : 1 + width], sums[1 + width :].view(width, width)
        if self.count:
            count.fill_(self.count)
            total.copy_(self.total)
            products.copy_(self.products)
        dist.all_reduce(sums, group=group)
        mean = total / count
        covariance = (products - count * torch.outer(mean, mean)) / (count - 1)
        return mean.numpy(), covariance.numpy()


def statistics(
    batches: Iterator[Tensor | None], features: nn.Module, width: int, group, heartbeat: Callable
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance over the uint8 batches (B, 3, R, R) of all processes.

    Each process passes equally many batches, None where it has no more. All processes call
    `heartbeat` after each batch; it may raise.
    """
    gathered = Statistics()
    for images in batches:
        if images is not None:
            gathered.add(features(images))
        heartbeat()
    return gathered.gather(width, group)


def of_features(features: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of features (N, d) of one process."""
    f = features.double().numpy()
    return f.mean(0), np.cov(f, rowvar=False)


def distance(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]) -> float:
    """|mu_a - mu_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), by torch-fidelity."""
    pair = [{"mu": mean, "sigma": covariance} for mean, covariance in (a, b)]
    return fid_statistics_to_metric(*pair, verbose=False)[KEY_METRIC_FID]


def load_cached(path: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """The statistics that `save` wrote, or None."""
    try:
        tensors = load_file(path)
        return tensors["mean"].numpy(), tensors["covariance"].numpy()
    except (FileNotFoundError, SafetensorError, KeyError):
        return None


def save(path: Path, values: tuple[np.ndarray, np.ndarray]) -> None:
    """Writes statistics for `load_cached`."""
    tensors = dict(zip(("mean", "covariance"), map(torch.from_numpy, values), strict=True))
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as beside:
        save_tensors(tensors, beside)
