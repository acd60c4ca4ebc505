"""How the networks grow, mix styles and draw noise."""

import pytest
import torch
import torch.nn.functional as F

from pipeline.networks.style.autoencoder import Autoencoder, Grown
from pipeline.networks.style.decoder import style_layers
from pipeline.networks.style.shape import Shape

SHAPE = Shape(resolution=32, latent=8, base_channels=4, max_channels=8, mapping_layers=2)


@pytest.fixture
def autoencoder() -> Autoencoder:
    torch.manual_seed(0)
    made = Autoencoder(SHAPE)
    for name, p in made.named_parameters():
        if "bias" in name or "noise" in name or "const" in name:
            p.data = torch.randn_like(p)
    return made


@pytest.mark.parametrize("side", [8, 16, 32])
def test_a_resolution_fades_in_from_the_one_below(autoencoder, side):
    x, z = torch.randn(2, 3, side, side), torch.randn(2, 8)

    def images(resolution, alpha):
        return autoencoder.decoder(z, resolution, alpha, noise=False)

    below = F.interpolate(images(side // 2, 1.0), scale_factor=2.0)
    torch.testing.assert_close(images(side, 0.0), below)
    torch.testing.assert_close(images(side, 1 - 1e-7), images(side, 1.0), rtol=1e-4, atol=1e-5)
    half = (below + images(side, 1.0)) / 2
    torch.testing.assert_close(images(side, 0.5), half, rtol=1e-4, atol=1e-5)

    def features(x, alpha):
        return autoencoder.encoder.features(x, alpha)

    torch.testing.assert_close(features(x, 0.0), features(F.avg_pool2d(x, 2), 1.0))
    torch.testing.assert_close(features(x, 1 - 1e-7), features(x, 1.0), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(features(x, 0.5), features(x, 1.0))


@pytest.mark.parametrize("side", [4, 8, 16])
def test_active_parameters_are_those_that_get_a_gradient(autoencoder, side):
    x, z = torch.randn(2, 3, side, side), torch.randn(2, 8)
    sum(part.sum() for part in autoencoder.encoder(x, 0.5)).backward()
    autoencoder.decoder(z, side, 0.5).square().sum().backward()
    for network in (autoencoder.encoder, autoencoder.decoder):
        reached = {id(p) for p in network.parameters() if p.grad is not None}
        assert reached == {id(p) for p in network.active(side)}


def test_noise_differs_from_draw_to_draw_and_can_be_left_out(autoencoder):
    z = torch.randn(2, 8)
    with_noise = [autoencoder.decoder(z, 16) for _ in range(2)]
    without = [autoencoder.decoder(z, 16, noise=False) for _ in range(2)]
    assert not torch.equal(*with_noise) and torch.equal(*without)


def test_only_the_direction_of_z_matters(autoencoder):
    z = torch.randn(4, 8)
    torch.testing.assert_close(autoencoder.decoder.styles(z), autoencoder.decoder.styles(3 * z))


def test_mixed_styles_take_coarse_and_fine_from_two_draws(autoencoder):
    torch.manual_seed(2)
    model, decoder = Grown(autoencoder, 16, mixing=1.0), autoencoder.decoder
    cuts, mixed = set(), decoder.mixed
    decoder.mixed = lambda *given: cuts.add(given[2].item()) or mixed(*given)
    for _ in range(60):
        assert model.generate(3).shape == (3, 3, 16, 16)
    assert cuts == {1, 2, 3, 4, 5, 6}
    coarse, fine = decoder.styles(torch.randn(2, 3, 8))
    for cut in cuts:
        rows = [coarse if row < cut else fine for row in range(style_layers(16))]
        torch.manual_seed(3)
        found = mixed(coarse, fine, torch.tensor(cut), 16, 1.0)
        torch.manual_seed(3)
        torch.testing.assert_close(found, decoder.synthesize(torch.stack(rows, 1), 16))


def test_without_mixing_all_rows_are_one_style(autoencoder):
    torch.manual_seed(1)
    plain = Grown(autoencoder, 16).generate(2)
    torch.manual_seed(1)
    z = autoencoder.prior(2)
    torch.testing.assert_close(plain, autoencoder.decoder(z, 16))


def test_the_mean_style_is_that_of_the_prior_and_leaves_the_draws_alone(autoencoder):
    state = torch.get_rng_state()
    mean = autoencoder.mean_style()
    assert torch.equal(state, torch.get_rng_state())
    w = autoencoder.decoder.styles(autoencoder.prior(50_000))
    assert (mean - w.mean(0)).abs().max() < 0.05 * w.std()


def test_half_precision_stays_near(autoencoder):
    x = torch.randn(2, 3, 16, 16)
    full, half = (Grown(autoencoder, 16, 1.0, p).encode(x) for p in ("fp32", "bf16"))
    for a, b in zip(full, half, strict=True):
        assert b.dtype == torch.float32
        assert (a - b).norm() < 0.05 * a.norm()


def test_noise_is_new_for_each_image_and_layer_but_the_first(autoencoder):
    maps = autoencoder.decoder.draw_noise(3, 8)
    assert [tuple(m.shape) for m in maps] == [(1, 1, 4, 4), (3, 1, 4, 4), *[(3, 1, 8, 8)] * 2]
    numbers = torch.cat([m.flatten() for m in maps])
    assert len(numbers.unique()) == len(numbers) == 16 + 48 + 2 * 192
