"""What a translation model transfers, measured where the truth is known (spec image-systems, C.5).

Test images are of classes that the training never saw, each class from the same views. For pairs
(a, v), (b, w) with a != b and v != w, the class of the first and the content of the second should
give the image (a, w). Beside that error stand those of doing nothing: the yardsticks. Transfer
counts where it beats both copies and the swapped roles.

    transfer        D([class of (a, v), content of (b, w)])
    swapped         D([class of (b, w), content of (a, v)]): nothing says which code takes what
    reconstruction  D(codes of (a, w)): no transfer can be expected to be better
    class_copied    (a, v) itself
    content_copied  (b, w) itself
    mean_image      the mean of all test images
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.data.loaders import to_uint8

BATCH = 64
KINDS = ("transfer", "swapped", "reconstruction", "class_copied", "content_copied", "mean_image")
RIDGE = 1e-3


class Seen(NamedTuple):
    """Test images x (N, 3, R, R) in [-1, 1], and of each the number of its class and its view."""

    x: Tensor
    classes: np.ndarray
    views: np.ndarray


class Pairs(NamedTuple):
    """Indices of (a, v), (b, w) and of the truth (a, w), each (count,)."""

    first: np.ndarray
    second: np.ndarray
    truth: np.ndarray


def pairs(classes: np.ndarray, views: np.ndarray, count: int, seed: int) -> Pairs:
    """`count` pairs drawn with replacement; ValueError where no class has two views in common."""
    place = {pair: i for i, pair in enumerate(zip(classes.tolist(), views.tolist(), strict=True))}
    rng, found = np.random.default_rng(seed), []
    for _ in range(100):
        drawn = rng.integers(0, len(classes), (2 * count, 2))
        for i, j in drawn.tolist():
            truth = place.get((classes[i], views[j]))
            if truth is not None and classes[i] != classes[j] and views[i] != views[j]:
                found.append((i, j, truth))
        if len(found) >= count:
            return Pairs(*np.array(found[:count]).T)
    raise ValueError("the test images are not several classes from the same views")


@torch.no_grad()
def measure(
    model: Any, seen: Seen, count: int, seed: int, lpips: Callable | None
) -> dict[str, tuple[float, float]]:
    """Mean and standard error over `count` pairs, by measure and kind: `mse_transfer`, per value in
    [-1, 1], and `lpips_vgg_transfer` where `lpips` compares uint8 images."""
    drawn = pairs(seen.classes, seen.views, count, seed)
    codes = encode(model, seen.x)
    mean = seen.x.mean(0, keepdim=True)
    found: dict[str, list[Tensor]] = {}
    for first in range(0, count, BATCH):
        a, b, truth = (torch.from_numpy(part[first : first + BATCH]) for part in drawn)
        wanted = seen.x[truth].to(model.device)
        made = {
            "transfer": model.decode(joined(model, codes[a], codes[b])),
            "swapped": model.decode(joined(model, codes[b], codes[a])),
            "reconstruction": model.decode(codes[truth]),
            "class_copied": seen.x[a],
            "content_copied": seen.x[b],
            "mean_image": mean.expand(len(a), -1, -1, -1),
        }
        for kind in KINDS:
            x = made[kind].to(wanted)
            error = (x - wanted).double().square().mean((1, 2, 3))
            found.setdefault(f"mse_{kind}", []).append(error)
            if lpips is not None:
                distance = lpips(to_uint8(x), to_uint8(wanted)).double()
                found.setdefault(f"lpips_vgg_{kind}", []).append(distance)
    values = {name: torch.cat(parts).cpu() for name, parts in found.items()}
    return {n: (v.mean().item(), v.std().item() / len(v) ** 0.5) for n, v in values.items()}


def encode(model: Any, x: Tensor) -> Tensor:
    """mu of images, (N, latent)."""
    return torch.cat([model.encode(part)[0] for part in x.split(BATCH)])


def joined(model: Any, of_class: Tensor, of_content: Tensor) -> Tensor:
    """The class code of the first before the content code of the second."""
    parts = model.parts
    return torch.cat([of_class[:, parts["class"]], of_content[:, parts["content"]]], dim=1)


def probes(model: Any, seen: Seen, factors: dict[str, np.ndarray], seed: int) -> dict[str, float]:
    """R^2 of each factor (N, k) from each code: ridge regression, fitted on half, read on half."""
    codes = encode(model, seen.x).double().cpu().numpy()
    order = np.random.default_rng(seed).permutation(len(codes))
    fit, read = np.array_split(order, 2)
    found = {}
    for name, part in model.parts.items():
        code = codes[:, part]
        given = np.concatenate(
            [(code - code[fit].mean(0)) / code[fit].std(0), np.ones((len(code), 1))], 1
        )
        square = given[fit].T @ given[fit] + RIDGE * len(fit) * np.eye(given.shape[1])
        for factor, values in factors.items():
            weights = np.linalg.solve(square, given[fit].T @ values[fit])
            left = np.square(values[read] - given[read] @ weights).sum()
            all_of_it = np.square(values[read] - values[fit].mean(0)).sum()
            found[f"r2_{factor}_from_{name}"] = float(1 - left / all_of_it)
    return found
