"""A step replayed as CUDA graphs computes what a step of single launches computes."""

import pytest
import torch

from pipeline import networks
from pipeline.graphs import Graphs, Known, aliases
from pipeline.networks import StyleShape
from pipeline.networks.family import ModelError
from pipeline.networks.residual import shape as residual
from pipeline.networks.translation import shape as translation
from pipeline.objective import VAE, SoftIntroVAE
from pipeline.updates import Updates

STYLE = StyleShape(resolution=16, latent=8, base_channels=4, max_channels=8, mapping_layers=2)
OBJECTIVE = SoftIntroVAE(beta_neg=4.0, reconstructions_as_fakes=True, target_gradient=True)


def built(shape, device):
    made = networks.build(shape)
    made.initialize(1)
    return made.to(device)


def step(updates, parameters, batches, seed: int) -> list[torch.Tensor]:
    """The gradients, products and terms of both updates, summed over micro-batches."""
    found = []
    for which, update in enumerate((updates.encoder, updates.decoder)):
        for number, (x, labels) in enumerate(batches):
            torch.manual_seed(1000 * seed + 10 * number + which)
            product, terms = update(x, labels, 1.0) if which == 0 else update(1.0)
            product.backward(inputs=parameters[which], retain_graph=True)
            found += [product.detach(), *(terms[name] for name in sorted(terms))]
        for p in parameters[which]:
            found += [] if p.grad is None else [p.grad]
            p.grad = None
    return found


def test_known_gradients_reach_their_parameters():
    parameters = [torch.ones(3, requires_grad=True), torch.ones(2, 2, requires_grad=True)]
    gradients = [torch.arange(3.0), torch.full((2, 2), 7.0)]
    product = Known.apply(torch.tensor(5.0), gradients, *parameters)
    (product / 4).backward()
    assert product == 5
    for p, g in zip(parameters, gradients, strict=True):
        assert torch.equal(p.grad, g / 4) and p.grad is not g


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_tensor_alpha_is_a_number(precision):
    pair, x = built(STYLE, "cpu"), torch.rand(2, 3, 16, 16)
    found = []
    for alpha in (0.3, torch.tensor(0.3)):
        updates = Updates(pair.training_at(16, alpha, precision), OBJECTIVE)
        found.append(step(updates, pair.parameters_at(16), [(x, None)], 3))
    torch.testing.assert_close(*found, rtol=1e-6, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.parametrize("alpha", [0.3, 1.0])
@pytest.mark.parametrize("objective", [VAE(), OBJECTIVE])
@pytest.mark.parametrize("micro_batches", [1, 3])
def test_style_networks(objective, alpha, micro_batches):
    device = torch.device("cuda")
    pair = built(STYLE, device)
    parameters = pair.parameters_at(16)
    batches = [(torch.rand(4, 3, 16, 16, device=device), None) for _ in range(micro_batches)]
    at = torch.zeros((), device=device) if alpha < 1 else alpha

    def updates(alpha):
        return Updates(pair.training_at(16, alpha, "fp32"), objective)

    step(updates(alpha), parameters, batches, 0)  # chooses algorithms
    held = [p.expand_as(p).grad_fn.next_functions for ps in parameters for p in ps]  # as DeepSpeed
    graphs = Graphs(updates(at), pair, *batches[0], micro_batches)
    assert held and pair.parameters_at(16) == parameters
    for seed in (1, 2, 3):
        if alpha < 1:
            alpha = 0.2 * seed
            at.fill_(alpha)
        ours = step(graphs, parameters, batches, seed)
        torch.testing.assert_close(
            ours, step(updates(alpha), parameters, batches, seed), rtol=1e-3, atol=1e-5
        )
        with torch.no_grad():  # as an update does
            for p in (*parameters[0], *parameters[1]):
                p.add_(torch.full_like(p, 1e-3))


RESIDUAL = {"resolution": 16, "channels": [8, 16], "latent": 8}
OTHERS = {
    "conditional": residual.Shape(**RESIDUAL, classes=10),
    "augmented bootstrap": residual.Shape(**RESIDUAL, augment=True, target_every=100),
    "translation": translation.Shape(error="squared"),
}


@pytest.mark.gpu
@pytest.mark.parametrize("shape", OTHERS.values(), ids=OTHERS)
def test_other_families(shape):
    device, side = torch.device("cuda"), shape.resolution
    pair = built(shape, device)
    labels = torch.arange(4, device=device) if shape.classes else None
    batches = [(torch.rand(4, 3, side, side, device=device), labels)]
    parameters = pair.parameters_at(side)

    def updates():
        return Updates(pair.training_at(side, 1.0, "fp32"), OBJECTIVE)

    step(updates(), parameters, batches, 0)
    graphs = Graphs(updates(), pair, *batches[0], 1)
    for seed in (1, 2):
        ours, plain = (step(u, parameters, batches, seed) for u in (graphs, updates()))
        torch.testing.assert_close(ours, plain, rtol=1e-2, atol=1e-4)


@pytest.mark.gpu
def test_a_pass_that_reads_a_value_is_refused():
    class Reads(Updates):
        def encoder(self, x, labels, scale):
            return x.sum() * float(x.sum()), {"loss": x.sum()}

    pair = built(STYLE, torch.device("cuda"))
    updates = Reads(pair.training_at(16, 1.0, "fp32"), OBJECTIVE)
    with pytest.raises(ModelError, match=r"engine\.graphs=false"):
        Graphs(updates, pair, torch.ones(2, 3, 16, 16, device="cuda"), None, 1)
    assert all(isinstance(p, torch.nn.Parameter) for p in pair.parameters())


def test_aliases_share_memory_and_leave_the_parameters():
    pair = built(STYLE, "cpu")
    before = list(pair.parameters())
    before[1].requires_grad_(False)
    with aliases(pair) as leaves:
        inside = list(pair.parameters())
        assert [p.requires_grad for p in inside] == [p.requires_grad for p in before]
        assert [leaves[p] for p in before] == inside and inside[0] is not before[0]
        inside[0].data.fill_(3)
    assert all(a is b for a, b in zip(pair.parameters(), before, strict=True))
    assert (before[0] == 3).all()
