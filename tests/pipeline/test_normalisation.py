"""The table of normalisations: each cell under its own name, and what they differ in."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from pipeline import normalisation
from pipeline.config import plain
from pipeline.networks.residual import population
from pipeline.networks.residual.autoencoder import Autoencoder
from pipeline.networks.residual.shape import Shape
from pipeline.records import checkpoints
from pipeline.records.checkpoints import Checkpoint

SHAPE = Shape(resolution=8, channels=[4, 8], latent=4)


def images(batches: int, size: int):
    generator = torch.Generator().manual_seed(0)
    for _ in range(batches):
        yield torch.rand(size, 3, 8, 8, generator=generator) * 2 - 1, None


def save(path, **about):
    torch.manual_seed(0)
    made = Autoencoder(SHAPE)
    weights = made.state_dict()
    about |= {"images": 0, "resolution": 8, "alpha": 1.0, "config": {"shape": plain(SHAPE)}}
    checkpoints.save(path, Checkpoint(weights, weights | made.derived(images), {}, about))
    return path


@pytest.mark.parametrize("converted", [False, True])
def test_each_cell_has_a_name(dataset, tmp_path, converted):
    about = {"converted": {"statistics": "running, as published"}} if converted else {}
    path = save(tmp_path / "run", **about)
    given = ["--checkpoint", path, "--json", tmp_path / "n.json", "--device", "cpu"]
    given += ["evaluation.extractor=random", "evaluation.samples=80"]
    given += [f"data.path={dataset}", "data.loader=webdataset"]
    normalisation.main([str(a) for a in given])
    found = json.loads((tmp_path / "n.json").read_text())["values"]
    names = {"", "_batchstats32", "_runningstats"}
    assert set(found) == {f"fd_random_80{name}" for name in names}
    assert len(set(found.values())) == len(found) and all(np.isfinite(list(found.values())))


def test_running_statistics_are_those_of_torch_over_the_passes_of_a_published_iteration():
    torch.manual_seed(0)
    networks = Autoencoder(SHAPE)
    passes = []
    name, norm = population.norms(networks.decoder)[0]
    norm.register_forward_pre_hook(lambda module, given: passes.append(given[0]))
    step = networks.training_at(8, 1.0, "fp32")
    found = population.of_published_training(step, images)
    assert len(passes) == 8 * population.ITERATIONS
    theirs = nn.BatchNorm2d(norm.weight.numel()).train()
    for x in passes:
        theirs(x)
    torch.testing.assert_close(found[f"{name}.mean"], theirs.running_mean)
    torch.testing.assert_close(found[f"{name}.variance"], theirs.running_var)


class WithBatchNorm(nn.Module):
    """An extractor with a batch norm, as Inception has."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x):
        return self.norm(x.float() / 255).flatten(2).std(2)


def test_an_extractor_by_batches_hides_a_shift_and_keeps_its_statistics():
    network = WithBatchNorm().eval()
    assert normalisation.has_batch_norm(network)
    x = torch.randint(0, 100, (SIZE := 32, 3, 8, 8), dtype=torch.uint8)
    shifted = (x.float() * 2).to(torch.uint8)
    before = {n: t.clone() for n, t in network.state_dict().items() if "running" in n}
    gaps = []
    for wanted in (False, True):
        normalisation.by_batches(network, wanted)
        gaps.append((network(x).mean(0) - network(shifted).mean(0)).abs().max().item())
    assert gaps[1] < 0.01 * gaps[0] and SIZE == normalisation.SIZE
    assert all(torch.equal(network.state_dict()[n], t) for n, t in before.items())


def test_samples_are_cut_as_published():
    x = torch.tensor([-2.0, -1.0, 0.0, 1.0, 3.0])
    assert normalisation.cut(x).tolist() == [0, 0, 127, 255, 255]
