"""Samples of classes: a linear judge, and a distance for each class."""

import pytest
import torch

from pipeline.metrics import classes


def clouds(shift: float, per_class: int = 200) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of three classes, each around a corner of its own."""
    generator = torch.Generator().manual_seed(int(10 * shift))
    labels = torch.arange(3).repeat(per_class)
    f = torch.randn(3 * per_class, 4, generator=generator)
    f[torch.arange(len(f)), labels] += 6
    return f + shift, labels


def test_a_sample_that_shows_its_class_is_given_it():
    real, test, fake = clouds(0.0), clouds(0.1), clouds(0.2)
    shown, of_test = classes.label_accuracy(real, test, fake)
    assert shown > 0.98 and of_test > 0.98
    mixed = (fake[0], fake[1].roll(1))
    assert classes.label_accuracy(real, test, mixed)[0] < 0.02


def test_each_class_has_its_distance():
    real, fake = clouds(0.0), clouds(0.0)
    fake[0][fake[1] == 2] += 3.0
    found = classes.distances(real, fake, ["a", "b", "c", "d"])
    assert set(found) == {"a", "b", "c"}  # none of class d
    assert found["a"] == pytest.approx(0, abs=1e-4) and found["c"] == pytest.approx(36, rel=0.01)


def test_labels_of_samples_are_those_that_networks_give_a_batch():
    assert classes.in_turn(7, 4, 3).tolist() == [0, 1, 2, 0, 0, 1, 2]
