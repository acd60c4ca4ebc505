"""docs/quality/linear.py."""

import importlib.util
from pathlib import Path

import pytest
import torch

PATH = Path(__file__).parents[2] / "docs" / "quality" / "linear.py"


def test_a_code_of_all_dimensions_is_exact_and_a_shorter_one_loses_the_rest():
    spec = importlib.util.spec_from_file_location("linear", PATH)
    linear = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(linear)
    torch.manual_seed(0)
    scales = torch.tensor([3.0, 2.0, 1.0]).double()
    train = torch.randn(64, 3).double() * scales @ torch.randn(3, 12).double()
    found = linear.errors(train, train, [1, 2, 3])
    lost = torch.linalg.svdvals(train - train.mean(0)).square() / train.numel()
    assert [k for k, _, _ in found] == [1, 2, 3]
    assert found[0][1] == pytest.approx(lost[1:].sum().item())
    assert found[1][1] == pytest.approx(lost[2:].sum().item())
    assert found[2][1] < 1e-20 and found[2][2] > found[0][2]
