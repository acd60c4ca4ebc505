"""Layers against what they stand for, and at the edges where gradients used to break."""

import math

import pytest
import torch

from pipeline.networks.family import autocast, weights_kept
from pipeline.networks.style.decoder import Decoder
from pipeline.networks.style.encoder import Encoder
from pipeline.networks.style.layers import (
    Linear,
    blur,
    conv_weight,
    downsample_conv,
    upsample_conv,
)
from pipeline.networks.style.shape import Shape

SMALL = Shape(resolution=32, latent=8, base_channels=4, max_channels=8, mapping_layers=2)


@pytest.mark.parametrize("conv", [downsample_conv, upsample_conv])
@pytest.mark.parametrize("side", [4, 10])
def test_fused_resampling_is_the_plain_one(conv, side):
    x = torch.randn(2, 3, side, side, dtype=torch.float64, requires_grad=True)
    w = torch.randn(5, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    results = []
    for fused in (False, True):
        y = conv(x, w, fused=fused)
        results.append([y, *torch.autograd.grad(y.square().sum(), [x, w])])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    assert y.shape == (2, 5, *[side // 2 if conv is downsample_conv else 2 * side] * 2)


def test_blur_weights_and_darkens_the_border():
    x = torch.zeros(1, 2, 5, 5)
    x[:, :, 2, 2] = 16
    assert blur(x)[0, 1, 1:4, 1:4].tolist() == [[1, 2, 1], [2, 4, 2], [1, 2, 1]]
    assert blur(torch.ones(1, 1, 4, 4))[0, 0, 0].tolist() == [9 / 16, 12 / 16, 12 / 16, 9 / 16]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_weights_prepared_once_give_the_same_image_and_gradients(precision):
    torch.manual_seed(0)
    decoder = Decoder(SMALL)
    w, noise = torch.randn(3, SMALL.latent), decoder.noise_maps(SMALL.resolution)

    def image() -> torch.Tensor:
        with autocast(w.device, precision):
            return decoder.synthesize(w, SMALL.resolution, noise=noise)

    apart = [image(), image()]
    with weights_kept():
        together = [image(), image()]
    for ours, theirs in zip(together, apart, strict=True):
        assert torch.equal(ours, theirs)
    found, expected = (
        torch.autograd.grad(sum(y.square().sum() for y in images), decoder.blocks["8"].conv_1)
        for images in (together, apart)
    )
    tolerance = {"rtol": 0.02, "atol": 0.1} if precision == "bf16" else {}
    torch.testing.assert_close(found, expected, **tolerance)


@pytest.mark.parametrize("side", SMALL.resolutions)
@pytest.mark.parametrize("grey", [-1.0, 0.0, 1.0])
def test_a_constant_image_has_finite_gradients(side, grey):
    torch.manual_seed(0)
    encoder = Encoder(SMALL)
    x = torch.full((2, 3, side, side), grey, requires_grad=True)
    sum(part.square().sum() for part in encoder(x)).backward()
    assert x.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in encoder.parameters() if p.grad is not None)


def test_equalised_learning_rates_follow_the_fan_in():
    assert Linear(8, 2, gain=1.0).weight.lr_coefficient == pytest.approx(8**-0.5)
    assert Linear(8, 2, lr_mul=0.1).weight.lr_coefficient == pytest.approx(0.1 * 0.5)
    assert Linear(8, 2, lr_mul=0.1).bias.lr_coefficient == 0.1
    assert conv_weight(16, 2, 3).lr_coefficient == pytest.approx(math.sqrt(2) / 12)
    weight = conv_weight(64, 512, 3)
    assert weight.std().item() == pytest.approx(weight.lr_coefficient, rel=0.02)
    for network in (Encoder(SMALL), Decoder(SMALL)):
        assert all(p.lr_coefficient > 0 for p in network.parameters())
