"""Images without variance, overflow of the log-variance, and the decoder's first iteration."""

import pytest
import torch

from pipeline.networks.style.autoencoder import Autoencoder, Grown
from pipeline.networks.style.decoder import Decoder
from pipeline.networks.style.encoder import Encoder
from pipeline.networks.style.layers import standard_deviation
from pipeline.networks.style.shape import Shape
from pipeline.objective import SoftIntroVAE, kl_divergence
from pipeline.optimizer import EqualizedAdam

NARROW = Shape(resolution=256, latent=16, base_channels=4, max_channels=16, mapping_layers=2)


def difficult(side: int) -> torch.Tensor:
    """Images of one value, of nearly one value, and noise, (16, 3, side, side)."""
    constant = [-1.0, 0.0, 1.0, -1 / 255, 1 / 255, 1e-20, 0.3]
    images = [torch.full((3, side, side), value) for value in constant]
    images += [torch.tensor([1.0, -1.0, 0.0])[:, None, None].expand(3, side, side)]
    images += [torch.randn(3, side, side).clamp(-1, 1) * size for size in (1, 1e-3, 1e-7, 1e-20)]
    one_pixel = torch.zeros(3, side, side)
    one_pixel[:, 1, 2] = 1
    edge = torch.where(torch.arange(side) < side // 2, -1.0, 1.0).expand(3, side, side)
    images += [one_pixel, one_pixel * 1e-12, edge, torch.rand(3, side, side).round() * 2 - 1]
    return torch.stack([image.contiguous() for image in images])


def autoencoder() -> Autoencoder:
    torch.manual_seed(0)
    made = Autoencoder(NARROW)
    for name, p in made.named_parameters():
        if "bias" in name or "noise" in name:
            p.data = 0.1 * torch.randn_like(p)
    return made


@pytest.mark.long
@pytest.mark.parametrize("alpha", [1.0, 0.5])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("side", NARROW.resolutions)
def test_gradients_are_finite_on_images_without_variance(side, precision, alpha):
    made = autoencoder()
    model, x = Grown(made, side, alpha, precision), difficult(side)
    objective = SoftIntroVAE(beta_neg=8.0, reconstructions_as_fakes=True, target_gradient=True)
    product, images, terms = objective.encoder_step(model, x)
    product.backward(retain_graph=True)
    product, more = objective.decoder_step(model, x, images)
    product.backward()
    assert all(value.isfinite().all() for value in (terms | more).values())
    for network in (made.encoder, made.decoder):
        found = [p.grad for p in network.active(side) if p.grad is not None]
        # The RGB layer below is in use while fading in alone: a weight and a bias.
        assert len(found) >= len(network.active(side)) - (0 if alpha < 1 else 2)
        assert all(grad.isfinite().all() for grad in found)
    x.requires_grad_()
    kl_divergence(*model.encode(x)).sum().backward()
    assert x.grad.isfinite().all()


def test_the_root_is_exact_where_it_can_be_and_has_no_gradient_at_zero():
    variance = torch.tensor([0.0, 1e-37, 1e-20, 1e-8, 1.0, 3e30], requires_grad=True)
    root = standard_deviation(variance)
    assert torch.equal(root[1:], variance[1:].sqrt()) and root[0] < 2e-19
    root.sum().backward()
    assert variance.grad[0] == 0 and variance.grad.isfinite().all()
    plain = torch.zeros(1, requires_grad=True)
    plain.sqrt().backward()
    assert plain.grad.isinf(), "the root itself has an infinite one, times 0 not a number"


def test_a_bound_on_logvar_holds_and_lets_the_kl_pull_back():
    shape = Shape(resolution=4, latent=8, base_channels=4, max_channels=8, max_logvar=3.0)
    torch.manual_seed(0)
    encoder, free = (
        Encoder(shape),
        Encoder(Shape(resolution=4, latent=8, base_channels=4, max_channels=8)),
    )
    x = torch.randn(4, 3, 4, 4)
    encoder.posterior[-1].bias.data[8:] = torch.linspace(-50, 500, 8)
    free.load_state_dict(encoder.state_dict())
    (mu, bounded), (same_mu, logvar) = encoder(x), free(x)
    assert torch.equal(mu, same_mu) and logvar.max() > 100
    torch.testing.assert_close(bounded, logvar.clamp_max(3.0), rtol=0, atol=3e-5)
    below = logvar < 3
    assert below.any() and torch.equal(bounded[below], logvar[below])
    assert kl_divergence(same_mu, logvar).isinf().all()
    kl_divergence(mu, bounded).sum().backward()
    pull = encoder.posterior[-1].bias.grad[8:]
    assert pull.isfinite().all() and (pull[logvar.min(0).values > 3] > 0).all()


def test_block_0_is_silent_until_its_first_update_and_leaves_that_state_at_once():
    """The constant has no variance at first, so the norm makes it 0 and amplifies its gradient by
    1 / sqrt(1e-8) (spec A.8). Adam's first step is as long as the rate whatever the gradient."""
    torch.manual_seed(0)
    decoder, lr = Decoder(Shape(resolution=8, latent=32, base_channels=16, max_channels=32)), 0.0015
    block, z = decoder.blocks["4"], torch.randn(8, 32)
    w = decoder.styles(z).detach()

    def first_output(noise):
        return block.modulation_1(decoder.const.detach(), style, noise)

    style = block.modulation_1.style(w)
    shift = style[:, 32:, None, None].expand(-1, -1, 4, 4)
    assert torch.equal(first_output(torch.randn(1, 1, 4, 4)), shift), "nothing but what w adds"
    # Where the mean of equal values is rounded, the norm amplifies that, equally in all pixels.
    torch.testing.assert_close(first_output(None), shift, rtol=0, atol=0.01)

    def gradients():
        decoder.zero_grad()
        (decoder(z, 8) - target).square().sum().backward()
        assert all(p.grad.isfinite().all() for p in decoder.active(8) if p.grad is not None)
        return {
            name: p.grad.square().mean().sqrt().item()
            for name, p in (("const", decoder.const), ("conv_2", block.conv_2))
        } | {"bias": block.modulation_1.bias.grad.square().mean().sqrt().item()}

    target = torch.randn(8, 3, 8, 8)
    before = gradients()
    assert before["const"] > 1e3 * before["conv_2"]
    assert before["bias"] < 1e-4 * before["const"], "the norm takes a channel's bias away again"

    parameters = decoder.active(8)
    optimizer = EqualizedAdam(parameters, beta_2=0.99, eps=1e-8)
    optimizer.start()
    optimizer.set_learning_rate(lr)
    optimizer.step()
    assert (decoder.const - 1).abs().max() <= 1.001 * lr
    spread = decoder.const.std(dim=(2, 3))
    assert (spread > 1e-4).all(), "beyond the norm's epsilon after a single step"
    assert not torch.allclose(first_output(None), shift, atol=0.1)
    after = gradients()
    assert after["const"] < 0.2 * before["const"]
