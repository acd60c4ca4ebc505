"""Ensembles of perceptrons against perceptrons."""

import pytest
import torch
from torch import nn

from pipeline.studies.two_d.networks import Ensemble, Perceptrons, Readout


def plain(network: Perceptrons, k: int) -> nn.Sequential:
    """Model k of an ensemble as torch has it."""
    layers = []
    for weight, bias in zip(network.weights, network.biases):
        layer = nn.Linear(weight.shape[1], weight.shape[2])
        layer.weight.data, layer.bias.data = weight.data[k].T.clone(), bias.data[k, 0].clone()
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def test_each_model_is_a_perceptron_of_four_hidden_layers():
    ensemble = Ensemble([3, 8])
    assert [w.shape[1:] for w in ensemble.encoder.weights] == [
        (2, 256), (256, 256), (256, 256), (256, 256), (256, 4)
    ]  # fmt: skip
    x = torch.randn(10, 2)
    mu, logvar = ensemble.encode(x)
    for k in range(2):
        expected = plain(ensemble.encoder, k)(x[k::2])
        torch.testing.assert_close(torch.cat([mu, logvar], 1)[k::2], expected)
        torch.testing.assert_close(ensemble.decode(x)[k::2], plain(ensemble.decoder, k)(x[k::2]))


def test_gradients_are_those_of_each_model_alone():
    network = Perceptrons([0, 1, 2], 2, 4, "fp32")
    x = torch.randn(3, 6, 2, requires_grad=True)
    network(x).square().sum().backward()
    for k in range(3):
        alone, own = plain(network, k), x.detach()[k].requires_grad_()
        alone(own).square().sum().backward()
        torch.testing.assert_close(x.grad[k], own.grad)
        for i, layer in enumerate(alone[::2]):
            torch.testing.assert_close(network.weights[i].grad[k], layer.weight.grad.T)
            torch.testing.assert_close(network.biases[i].grad[k, 0], layer.bias.grad)


def test_readout():
    h, weight, bias = (torch.randn(s).double() for s in [(2, 5, 3), (2, 3, 4), (2, 1, 4)])
    torch.testing.assert_close(Readout.apply(h, weight, bias), h @ weight + bias)
    inputs = [t.requires_grad_() for t in (h, weight, bias)]
    assert torch.autograd.gradcheck(Readout.apply, inputs)


def test_initial_weights_are_those_of_torch_and_of_the_seed_alone():
    together, alone = Ensemble([5, 6, 7]), Ensemble([6])
    for a, b in zip(together.parameters(), alone.parameters()):
        assert torch.equal(a[1], b[0])
    for network in (together.encoder, together.decoder):
        for weight, bias in zip(network.weights, network.biases):
            bound = weight.shape[1] ** -0.5
            for values in (weight, bias):
                assert 0.3 * bound < values.abs().max() <= bound
    weight = together.encoder.weights[1]
    assert weight.std().item() == pytest.approx((1 / 256 / 3) ** 0.5, rel=0.02)
    assert not torch.equal(together.encoder.weights[1], together.decoder.weights[1])


def test_bf16_products_are_near_those_in_float32():
    x = torch.randn(2, 500, 2)
    exact, rounded = (Perceptrons([0, 1], 2, 4, p)(x) for p in ("fp32", "bf16"))
    assert rounded.dtype == torch.float32
    error = (exact - rounded).abs().max() / exact.abs().max()
    assert 1e-5 < error < 0.02, "equal would mean that bfloat16 was not used"
