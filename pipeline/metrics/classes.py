"""What samples of classes are worth (spec image-systems, B): whether they show their class, and how
far each class is from its training images."""

import numpy as np
import torch
from torch import Tensor

from pipeline.metrics import frechet

RIDGE = 1e-2


def classifier(features: Tensor, labels: Tensor, classes: int):
    """A linear map from features (N, d) to classes, by ridge regression: (M, d) to labels (M,).

    It learns nothing but this map, and so judges no better than its features do.
    """
    f = features.double()
    mean, scale = f.mean(0), f.std(0).clamp_min(1e-8)

    def given(x: Tensor) -> Tensor:
        x = (x.double() - mean) / scale
        return torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1)

    x, wanted = given(features), torch.eye(classes, dtype=torch.float64)[labels]
    square = x.T @ x + RIDGE * len(x) * torch.eye(x.shape[1], dtype=x.dtype)
    weights = torch.linalg.solve(square, x.T @ wanted)
    return lambda other: (given(other) @ weights).argmax(1)


def label_accuracy(
    real: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], fake: tuple[Tensor, Tensor]
) -> tuple[float, float]:
    """Shares of samples and of test images, features and labels each, that a classifier of training
    images gives their label to."""
    judge = classifier(*real, classes=int(real[1].max()) + 1)
    return tuple((judge(f) == labels).double().mean().item() for f, labels in (fake, test))


def distances(
    real: tuple[Tensor, Tensor], fake: tuple[Tensor, Tensor], names: list[str]
) -> dict[str, float]:
    """The Frechet distance of each class that has two samples of each kind, by its name."""
    found = {}
    for number, name in enumerate(names):
        parts = [features[labels == number] for features, labels in (real, fake)]
        if min(map(len, parts)) > 1:
            statistics = [frechet.of_features(part) for part in parts]
            found[name] = frechet.distance(*statistics)
    return found


def in_turn(count: int, batch: int, classes: int) -> Tensor:
    """The labels of `count` samples made `batch` at a time, of all classes in turn."""
    sizes = [min(batch, count - first) for first in range(0, count, batch)]
    return torch.from_numpy(np.concatenate([np.arange(size) % classes for size in sizes]))
