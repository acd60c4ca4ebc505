"""Inputs of `norm`, and all that comes out of it and of the networks; as a program, the kernels
against their twin.

TRITON_INTERPRET=1 python -m tests.pipeline.networks.style.norm_cases
"""

import itertools

import torch
from torch import Tensor

from pipeline.networks.style import norm as module
from pipeline.networks.style.autoencoder import Autoencoder
from pipeline.networks.style.shape import Shape

# (batch of the noise or None, with style)
CASES = list(itertools.product([None, 1, 3], [False, True]))


def outputs(
    use_kernels: bool,
    noise: int | None,
    style: bool,
    dtype: torch.dtype,
    side: int = 8,
    channels: int = 6,
    device: str = "cpu",
    drawn_as: torch.dtype | None = None,
) -> list[Tensor]:
    """y, mean, variance, and the gradients of all that takes one, for one fixed draw.

    `drawn_as` rounds maps and styles to another dtype before they are given as `dtype`.
    """
    generator = torch.Generator().manual_seed(1)
    parameters = torch.float64 if dtype == torch.float64 else torch.float32

    def drawn(*shape: int, kind: torch.dtype = dtype, rounded: bool = True) -> Tensor:
        x = torch.randn(shape, generator=generator, dtype=torch.float64)
        x = x.to(drawn_as if drawn_as and rounded and kind == dtype else kind).to(device, kind)
        return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x

    x, styles = drawn(3, channels, side, side), drawn(3, 2 * channels)
    vector = (1, channels, 1, 1)
    bias, strength = (drawn(*vector, kind=parameters, rounded=False) for _ in range(2))
    maps = drawn(noise, 1, side, side) if noise else None
    leaves = [x, bias] + [strength] * bool(noise) + [styles] * style
    for leaf in leaves:
        leaf.requires_grad_()
    before, module.USE_KERNELS = module.USE_KERNELS, use_kernels
    try:
        found = module.norm(x, bias, 1e-5, maps, strength, styles if style else None)
        loss = sum((y * drawn(*y.shape, kind=y.dtype)).sum() for y in found[: 1 if style else 3])
        return [*found, *torch.autograd.grad(loss, leaves)]
    finally:
        module.USE_KERNELS = before


def network_gradients(use_kernels: bool, dtype: torch.dtype, device: str = "cpu") -> list[Tensor]:
    """Gradients of both networks' parameters, of a batch of three reconstructions."""
    autoencoder = Autoencoder(Shape(resolution=16, latent=8, base_channels=4, max_channels=8))
    autoencoder.initialize(0)
    for name, p in autoencoder.named_parameters():
        if name.endswith("noise"):
            p.data.fill_(0.1)
    autoencoder.to(device, dtype)
    encoder, decoder = autoencoder.encoder, autoencoder.decoder
    generator = torch.Generator().manual_seed(1)
    x, along = (torch.randn(3, 3, 16, 16, generator=generator).to(device, dtype) for _ in range(2))
    maps = [m.to(dtype) for m in decoder.noise_maps(16)]
    before, module.USE_KERNELS = module.USE_KERNELS, use_kernels
    try:
        mu, logvar = encoder(x)
        y = decoder.synthesize(decoder.styles(mu), 16, noise=maps)
        ((y * along).sum() + (mu * logvar).sum()).backward()
        return [p.grad for p in autoencoder.parameters() if p.grad is not None]
    finally:
        module.USE_KERNELS = before


def error(found: list[Tensor], expected: list[Tensor], least: float = 0) -> float:
    """The largest difference of a tensor, relative to its Euclidean length or to `least`."""
    pairs = zip(found, expected, strict=True)
    return max(((a.double() - b).norm() / b.norm().clamp_min(least)).item() for a, b in pairs)


def main() -> None:
    module.kernels.PIXELS = 128  # two parts of two blocks each
    for noise, style in CASES:
        ours = outputs(True, noise, style, torch.float32, side=16)
        worst = error(ours, outputs(False, noise, style, torch.float64, side=16))
        print(noise, style, worst)
        assert worst < 1e-5
    exact = network_gradients(False, torch.float64)
    # The first block's norm cancels the gradients of its own bias and noise.
    worst = error(network_gradients(True, torch.float32), exact, least=0.1)
    print("networks", worst)
    assert worst < 1e-3


if __name__ == "__main__":
    main()
