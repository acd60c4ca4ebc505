"""What golden numbers of published networks are computed on, and compared by."""

import math

import numpy as np
import torch


def r(k: int, *shape: int) -> torch.Tensor:
    """The fixtures' deterministic fill number k, float64."""
    v = np.sin(12.9898 * np.arange(math.prod(shape), dtype=np.float64) + 78.233 * k) * 43758.5453
    return torch.from_numpy(2 * (v - np.floor(v)) - 1).reshape(shape)


def assert_summary(tensor: torch.Tensor, golden: dict, rel: float = 1e-10) -> None:
    """The first eight values, mean, deviation and largest size, to `rel` of the largest size."""
    flat = tensor.detach().flatten()
    scale = golden["absmax"]
    close = {"rtol": 0.0, "atol": rel * scale}
    torch.testing.assert_close(flat[:8], torch.tensor(golden["first8"], dtype=flat.dtype), **close)
    for name, value in (("mean", flat.mean()), ("std", flat.std()), ("absmax", flat.abs().max())):
        assert abs(value.item() - golden[name]) <= rel * scale, name
