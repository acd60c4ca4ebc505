"""Soft-IntroVAE in one file, with torch only: Algorithm 1 of https://arxiv.org/abs/2012.13253.

    python docs/minimal.py        # two minutes on a CPU core; writes minimal.png

The data are UCI's 1,797 handwritten 8x8 digits, in a file that scikit-learn installs (.venv has it,
as MLflow needs it). Without scikit-learn name the file: python docs/minimal.py digits.csv.gz

tests/docs/test_minimal.py compares losses and gradients with pipeline/objective.py. One term of
the paper is left out: Rec(x_f, x_ff) in L_D. Its weight gamma_r = 1e-8 has no effect in float32.
"""

import gzip
import struct
import sys
import zlib
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

LATENT, BATCH, STEPS, LR = 16, 100, 1500, 1e-3
BETA_REC, BETA_KL, BETA_NEG, ALPHA = 1.0, 0.25, 4.0, 2.0
SCALE = 1 / 64  # s of Algorithm 1: one over the number of values in an image


def encoder() -> nn.Module:
    """x (B, 1, 8, 8) to mu and logvar side by side, (B, 2 LATENT)."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(32, 64, 4, stride=2, padding=1),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        nn.Linear(64 * 4 * 4, 256),
        nn.LeakyReLU(0.2),
        nn.Linear(256, 2 * LATENT),
    )


def decoder() -> nn.Module:
    """z (B, LATENT) to x (B, 1, 8, 8)."""
    return nn.Sequential(
        nn.Linear(LATENT, 256),
        nn.LeakyReLU(0.2),
        nn.Linear(256, 64 * 4 * 4),
        nn.LeakyReLU(0.2),
        nn.Unflatten(1, (64, 4, 4)),
        nn.ConvTranspose2d(64, 32, 4, stride=2, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(32, 1, 3, padding=1),
    )


def encode(E: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """mu and logvar of q(z|x), each (B, LATENT)."""
    mu, logvar = E(x).chunk(2, dim=1)
    return mu, logvar


def draw(mu: Tensor, logvar: Tensor) -> Tensor:
    """A reparameterised sample of N(mu, e^logvar)."""
    return mu + (0.5 * logvar).exp() * torch.randn_like(mu)


def rec(x: Tensor, y: Tensor) -> Tensor:
    """Reconstruction error of each image, (B,)."""
    return (x - y).square().flatten(1).sum(1)


def kl(mu: Tensor, logvar: Tensor) -> Tensor:
    """KL(q(z|x) || N(0, I)) of each image, (B,)."""
    return -0.5 * (1 + logvar - mu.square() - logvar.exp()).sum(1)


def encoder_loss(E: nn.Module, D: nn.Module, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """L_E and z: raises the ELBO of real images and lowers exp(alpha ELBO) of generated ones."""
    mu, logvar = encode(E, x)
    z = draw(mu, logvar)
    real = BETA_REC * rec(x, D(z)) + BETA_KL * kl(mu, logvar)
    x_f = D(noise).detach()
    mu_f, logvar_f = encode(E, x_f)
    fake = BETA_REC * rec(x_f, D(draw(mu_f, logvar_f))) + BETA_NEG * kl(mu_f, logvar_f)
    return (SCALE * real + (-ALPHA * SCALE * fake).exp() / ALPHA).mean(), z.detach()


def decoder_loss(E: nn.Module, D: nn.Module, x: Tensor, z: Tensor, noise: Tensor) -> Tensor:
    """L_D: lowers the reconstruction error of real images and the KL of generated ones."""
    return SCALE * (BETA_REC * rec(x, D(z)) + BETA_KL * kl(*encode(E, D(noise)))).mean()


def update(network: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """One step of `network` only; the gradient passes through the other one unused."""
    parameters = list(network.parameters())
    for p, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        p.grad = gradient
    optimizer.step()


def digits(path: Path) -> Tensor:
    """Images (N, 1, 8, 8) in [-1, 1]."""
    lines = gzip.decompress(path.read_bytes()).decode().split()
    rows = torch.tensor([[float(value) for value in line.split(",")[:64]] for line in lines])
    return rows.view(-1, 1, 8, 8) / 8 - 1


def save_png(path: str, x: Tensor, columns: int = 20) -> None:
    """Writes images (N, 1, 8, 8) as a grey PNG, in rows of `columns`, each pixel as 4x4."""
    sheet = nn.functional.pad(x, (1, 1, 1, 1), value=1.0).unflatten(0, (-1, columns))
    sheet = sheet[:, :, 0].transpose(1, 2).flatten(2).flatten(0, 1)
    sheet = ((sheet * 127.5 + 127.5).clamp(0, 255).to(torch.uint8)).repeat_interleave(4, 0)
    rows = sheet.repeat_interleave(4, 1).tolist()
    header = struct.pack(">2I5B", len(rows[0]), len(rows), 8, 0, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + bytes(row) for row in rows))
    with open(path, "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        for kind, body in ((b"IHDR", header), (b"IDAT", data), (b"IEND", b"")):
            checksum = zlib.crc32(kind + body)
            file.write(struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum))


def main() -> None:
    found = find_spec("sklearn")
    if len(sys.argv) == 1 and found is None:
        sys.exit(
            "scikit-learn is not installed: name the data, python docs/minimal.py digits.csv.gz"
        )
    shipped = [] if found is None else [Path(found.origin).parent / "datasets/data/digits.csv.gz"]
    train, test = digits(Path([*sys.argv[1:], *shipped][0])).split((1500, 297))
    torch.manual_seed(0)
    E, D = encoder(), decoder()
    optimizer_E, optimizer_D = (torch.optim.Adam(network.parameters(), LR) for network in (E, D))
    for step in range(1, STEPS + 1):
        x, noise = train[torch.randint(len(train), (BATCH,))], torch.randn(BATCH, LATENT)
        loss_E, z = encoder_loss(E, D, x, noise)
        update(E, optimizer_E, loss_E)
        loss_D = decoder_loss(E, D, x, z, noise)
        update(D, optimizer_D, loss_D)
        if step % 100 == 0:
            print(f"step {step}  loss_E {loss_E:.4f}  loss_D {loss_D:.4f}")
    with torch.no_grad():
        x, samples = test[:40], D(torch.randn(100, LATENT))
        x_r = D(encode(E, x)[0])
        print(f"mean squared error of 40 test images: {(x - x_r).square().mean():.3f}")
        save_png("minimal.png", torch.cat([x[:20], x_r[:20], x[20:], x_r[20:], samples]))
    print("minimal.png: two times test images above their reconstructions, then samples")


if __name__ == "__main__":
    main()
