"""The objectives: Soft-IntroVAE (paper, equation 4 and Algorithm 1), IntroVAE (equation 2), VAE.

An objective depends on no network architecture. A `Model` encodes, decodes and generates; from it
and a batch, an objective computes two scalars whose gradients train the encoder and the decoder.

The graph is cut at z and at x. For each network an objective returns not the loss but an inner
product with the same gradient, <network's outputs, d loss / d outputs>. Its gradient reaches only
that network's parameters. `torch.autograd.grad` propagates through the other network without
storing gradients. Both updates therefore share the images decoded for the encoder's update.

`encoder_step` returns (inner product for the encoder, images, terms). `decoder_step`, called after
the encoder's update, returns (inner product for the decoder, terms). Terms are detached batch
means, by name. `scale` multiplies the gradients propagated through half-precision networks, and is
divided out again; the inner products are unscaled.

A coefficient may be a tensor (K,) instead of a number, for a batch of K models that train together
(`pipeline.studies.two_d.networks`): the samples n = k, K + k, 2 K + k, ... belong to model k.
"""

from functools import reduce
from typing import Annotated, Any, Literal, Protocol

import torch
import torch.nn.functional as F
from pydantic import ConfigDict, Field, ValidatorFunctionWrapHandler, WrapValidator
from pydantic.dataclasses import dataclass
from torch import Tensor


def _number_or_tensor(value: Any, number: ValidatorFunctionWrapHandler) -> float | Tensor:
    return value if isinstance(value, Tensor) else number(value)


Terms = dict[str, Tensor]
NonNegative = Annotated[float, Field(ge=0), WrapValidator(_number_or_tensor)]
Positive = Annotated[float, Field(gt=0), WrapValidator(_number_or_tensor)]
STRICT = ConfigDict(extra="forbid")


class Model(Protocol):
    """The interface of a pair of networks for an objective. All tensors are at least float32.

    Optional attributes of a model:

    `decode_again`, with the signature of `decode`: a second decoder that computes x_ff (the
    bootstrap form of Soft-IntroVAE, spec H);
    `reconstruction_error(x, y)`: replaces `squared_error`;
    `parts`, {name: slice of the latent}: the terms then include the KL of real images per part.
    """

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, ...) to mu and logvar of q(z|x), each (B, d)."""

    def decode(self, z: Tensor) -> Tensor:
        """z (B, d) to x (B, ...)."""

    def generate(self, count: int) -> Tensor:
        """`count` samples x (count, ...) decoded from fresh draws of the prior."""


def squared_error(x: Tensor, y: Tensor) -> Tensor:
    """The sum over all but the batch of (x - y)^2, (B,): -log p(x|z) up to factor and constant."""
    return F.mse_loss(x, y, reduction="none").sum(tuple(range(1, x.dim())))


def kl_divergence(mu: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mu, e^logvar) || N(0, I)) in nats, (B,)."""
    return 0.5 * torch.addcmul(logvar.expm1() - logvar, mu, mu).sum(1)


def draw(mu: Tensor, logvar: Tensor) -> Tensor:
    """A reparameterised sample of N(mu, e^logvar), (B, d)."""
    return torch.addcmul(mu, (0.5 * logvar).exp(), torch.randn_like(mu))


def leaf(x: Tensor) -> Tensor:
    """x detached from its graph, as a leaf that requires a gradient."""
    return x.detach().requires_grad_()


_without_weights = False


def weights_wanted() -> bool:
    """Whether the backward pass in progress needs the gradients of weights. `gradients` does not;
    a `torch.autograd.Function` is not told by PyTorch."""
    return not _without_weights


def gradients(loss: Tensor, leaves: list[Tensor], scale: float, keep: bool = False) -> list[Tensor]:
    """d loss / d leaf for each leaf, none a weight; the loss is scaled for this pass only."""
    global _without_weights
    _without_weights = True
    try:
        found = torch.autograd.grad(loss if scale == 1 else loss * scale, leaves, retain_graph=keep)
    finally:
        _without_weights = False
    return [g / scale for g in found] if scale != 1 else list(found)


def inner_product(outputs: list[Tensor], gradients: list[Tensor]) -> Tensor:
    """The scalar sum of <output, gradient>; its derivative by an output is the gradient given."""
    return reduce(torch.add, [(y * g).sum() for y, g in zip(outputs, gradients, strict=True)])


def of_samples(coefficient: float | Tensor, values: Tensor) -> float | Tensor:
    """`coefficient` per sample of `values` (N,): a tensor (K,) is repeated to (N,)."""
    if isinstance(coefficient, Tensor):
        return coefficient.repeat(len(values) // len(coefficient))
    return coefficient


def weighted_mean(coefficient: float | Tensor, values: Tensor) -> Tensor:
    """The batch mean of coefficient * value."""
    if isinstance(coefficient, Tensor):
        return (of_samples(coefficient, values) * values).mean()
    return coefficient * values.mean()


@dataclass(frozen=True, config=STRICT)
class VAE:
    """L = s (beta_rec Rec + beta_kl KL), for both networks (equation 1 with betas)."""

    method: Literal["vae"] = "vae"
    beta_rec: NonNegative = 1.0
    """Weight of the reconstruction error."""
    beta_kl: NonNegative = 1.0
    """Weight of the KL of real images."""
    s: Annotated[float, Field(gt=0)] | None = None
    """Scale of the whole loss; null is 1 / (number of values in an image)."""

    def encoder_step(self, model: Model, x: Tensor, scale: float = 1.0):
        mu, logvar = model.encode(x)
        z = draw(mu, logvar)
        z_cut = leaf(z)
        x_r = model.decode(z_cut)
        s = scale_of(self, x)
        rec, kl = error(model, x, x_r), kl_divergence(mu, logvar)
        loss, reached = weighted_mean(s * self.beta_rec, rec), weighted_mean(s * self.beta_kl, kl)
        (g,) = gradients(loss, [z_cut], scale, keep=True)
        terms = {
            "loss_E": (loss + reached).detach(),
            "rec": rec.detach().mean(),
            "kl_real": kl.detach().mean(),
            **kl_of_parts(model, mu, logvar),
        }
        return inner_product([z], [g]) + reached, [x_r], terms

    def decoder_step(self, model: Model, x: Tensor, images: list[Tensor], scale: float = 1.0):
        (x_r,) = images
        x_cut = leaf(x_r)
        loss = weighted_mean(scale_of(self, x) * self.beta_rec, error(model, x, x_cut))
        return inner_product([x_r], gradients(loss, [x_cut], 1.0)), {"loss_D": loss.detach()}


@dataclass(frozen=True, config=STRICT)
class IntroVAE:
    """The hinge on the KL of generated images (equation 2), as losses to minimise.

    L_E = s (beta_rec Rec + beta_kl KL + beta_neg [m - KL_f]+), batch mean of per-sample losses
    L_D = s (beta_rec Rec + beta_neg KL_f)

    The hinge applies to each sample, as in the equation; IntroVAE's code applies it to the batch
    mean.
    """

    margin: Positive
    """m, in nats."""
    method: Literal["introvae"] = "introvae"
    beta_rec: NonNegative = 1.0
    """Weight of the reconstruction error."""
    beta_kl: NonNegative = 1.0
    """Weight of the KL of real images."""
    beta_neg: NonNegative = 1.0
    """Weight of the hinge in L_E, and of the KL of generated images in L_D."""
    s: Annotated[float, Field(gt=0)] | None = None
    """Scale of the whole loss; null is 1 / (number of values in an image)."""
    reconstructions_as_fakes: bool = True
    """Use reconstructions as half of the fakes, as in the IntroVAE paper."""

    def encoder_step(self, model: Model, x: Tensor, scale: float = 1.0):
        mu, logvar = model.encode(x)
        z = draw(mu, logvar)
        z_cut = leaf(z)
        images = [model.decode(z_cut), model.generate(len(x))]
        mu_f, logvar_f = model.encode(fakes(self, images).detach())
        s = scale_of(self, x)
        rec, kl = error(model, x, images[0]), kl_divergence(mu, logvar)
        kl_f = kl_divergence(mu_f, logvar_f)
        hinge = (of_samples(self.margin, kl_f) - kl_f).clamp_min(0)
        loss = weighted_mean(s * self.beta_rec, rec)
        (g,) = gradients(loss, [z_cut], scale, keep=True)
        reached = weighted_mean(s * self.beta_kl, kl) + weighted_mean(s * self.beta_neg, hinge)
        terms = {
            "loss_E": (loss + reached).detach(),
            "rec": rec.detach().mean(),
            "kl_real": kl.detach().mean(),
            **kl_of_parts(model, mu, logvar),
            **by_kind(self, "kl", kl_f),
        }
        return inner_product([z], [g]) + reached, images, terms

    def decoder_step(self, model: Model, x: Tensor, images: list[Tensor], scale: float = 1.0):
        cut = [leaf(y) for y in images]
        kl_f = kl_divergence(*model.encode(fakes(self, cut)))
        s, rec = scale_of(self, x), error(model, x, cut[0])
        loss = weighted_mean(s * self.beta_rec, rec) + weighted_mean(s * self.beta_neg, kl_f)
        product = inner_product(images, gradients(loss, cut, scale))
        return product, {"loss_D": loss.detach()}


@dataclass(frozen=True, config=STRICT)
class SoftIntroVAE:
    """Equation 4 and Algorithm 1, as losses to minimise; means over the batch.

    L_E = s (beta_rec Rec(x, x_r) + beta_kl KL(x))
          + 1/alpha exp(-alpha s (beta_rec Rec(x_f, x_ff) + beta_neg KL(x_f)))
    L_D = s (beta_rec Rec(x, x_r) + gamma (beta_kl KL(x_f) + gamma_r beta_rec Rec(x_f, x_ff)))

    The exponential is taken per sample; x_r = D(z), z ~ q(z|x), and x_f is a generated image.
    Both updates use the same z and x_f, as in Algorithm 1, unless `decoder_draws` is fresh.
    """

    method: Literal["soft-introvae"] = "soft-introvae"
    beta_rec: NonNegative = 1.0
    """Weight of the reconstruction error."""
    beta_kl: NonNegative = 1.0
    """Weight of the KL: of real images in L_E, of generated ones in L_D."""
    beta_neg: NonNegative = 256.0
    """Weight of the KL within the exponential; of the order of the latent's length."""
    alpha: Positive = 2.0
    """Factor in exp(alpha ELBO): a larger alpha reduces the weight of fakes of low ELBO faster."""
    gamma: NonNegative = 1.0
    """Weight of the generated images in L_D."""
    gamma_r: NonNegative = 0.0
    """Weight of the generated images' reconstruction error in L_D. The paper's 1e-8 is below the
    resolution of float32 and costs two decoder passes (spec B.6-5), so the default is 0."""
    gamma_r_reaches: Literal["x_f", "x_ff", "x_f and z_ff"] = "x_f"
    """The path of that error's gradient to the decoder. x_f: through x_f, x_ff constant, as in
    Algorithm 1. x_ff: through x_ff, x_f constant, as in the published code (spec B.6-4). x_f and
    z_ff: through x_f directly and through z_ff, as with a second decoder (spec H)."""
    reconstructions_as_fakes: bool = False
    """Use reconstructions as half of the fakes (spec B.6-1)."""
    target_gradient: bool = False
    """Propagate the gradient of Rec(x_r, x_rr) to the encoder also through its target x_r, as the
    published code does (spec B.2-4). Has an effect only with reconstructions_as_fakes."""
    decoder_draws: Literal["shared", "fresh"] = "shared"
    """The z and x_f of the decoder's update. shared: those of the encoder's update, as in Algorithm
    1 and in the published residual networks. fresh: drawn again, z from q(z|x) of the updated
    encoder, as in the published style networks (spec B.3); costs 27 passes instead of 24. At 8x8,
    shared draws gave a smaller margin kl_fake - kl_real at equal reconstruction and distance."""
    s: Annotated[float, Field(gt=0)] | None = None
    """Scale of the ELBO; null is 1 / (number of values in an image), as in Algorithm 1."""

    def encoder_step(self, model: Model, x: Tensor, scale: float = 1.0):
        mu, logvar = model.encode(x)
        z = draw(mu, logvar)
        z_cut = leaf(z)
        images = [model.decode(z_cut), model.generate(len(x))]
        x_f = fakes(self, images)
        mu_f, logvar_f = model.encode(x_f.detach())
        z_f = draw(mu_f, logvar_f)
        cut = [z_cut, leaf(z_f), leaf(mu_f), leaf(logvar_f)]
        x_ff = decode_again(model, cut[1])
        s = scale_of(self, x)
        rec, kl = error(model, x, images[0]), kl_divergence(mu, logvar)
        target = x_f if self.target_gradient else x_f.detach()
        rec_f, kl_f = error(model, target, x_ff), kl_divergence(*cut[2:])
        weights = [of_samples(-self.alpha * s * b, kl_f) for b in (self.beta_rec, self.beta_neg)]
        exp_elbo = (weights[0] * rec_f + weights[1] * kl_f).exp()
        loss = weighted_mean(s * self.beta_rec, rec) + weighted_mean(1 / self.alpha, exp_elbo)
        shared = self.decoder_draws == "shared"
        products = gradients(loss, cut, scale, keep=shared)
        reached = weighted_mean(s * self.beta_kl, kl)
        product = inner_product([z, z_f, mu_f, logvar_f], products) + reached
        terms = {
            "loss_E": (loss + reached).detach(),
            "rec": rec.detach().mean(),
            "kl_real": kl.detach().mean(),
            **kl_of_parts(model, mu, logvar),
            **by_kind(self, "kl", kl_f),
            **by_kind(self, "exp_elbo", exp_elbo),
        }
        return product, images if shared else [y.detach() for y in images], terms

    def decoder_step(self, model: Model, x: Tensor, images: list[Tensor], scale: float = 1.0):
        if self.decoder_draws == "fresh":
            with torch.no_grad():
                z = draw(*model.encode(x))
            images = [model.decode(z), model.generate(len(x))]
        cut = [leaf(y) for y in images]
        x_f = fakes(self, cut)
        mu_f, logvar_f = model.encode(x_f)
        s = scale_of(self, x)
        rec, kl_f = error(model, x, cut[0]), kl_divergence(mu_f, logvar_f)
        loss = weighted_mean(s * self.beta_rec, rec)
        loss = loss + weighted_mean(s * self.gamma * self.beta_kl, kl_f)
        outputs = list(images)
        if isinstance(self.gamma_r, Tensor) or self.gamma_r:
            z_f = draw(mu_f, logvar_f)
            if self.gamma_r_reaches != "x_f and z_ff":
                z_f = z_f.detach()
            with torch.set_grad_enabled(self.gamma_r_reaches != "x_f"):
                x_ff = decode_again(model, z_f)
            if self.gamma_r_reaches == "x_ff":
                x_f = x_f.detach()
                outputs.append(x_ff)
                x_ff = leaf(x_ff)
                cut.append(x_ff)
            weight = s * self.gamma * self.gamma_r * self.beta_rec
            loss = loss + weighted_mean(weight, error(model, x_f, x_ff))
        return inner_product(outputs, gradients(loss, cut, scale)), {"loss_D": loss.detach()}


Objective = VAE | IntroVAE | SoftIntroVAE


def scale_of(objective: Objective, x: Tensor) -> float:
    """s: as configured, else 1 / (number of values in an image of x)."""
    return objective.s if objective.s is not None else 1.0 / x[0].numel()


def decode_again(model: Model, z: Tensor) -> Tensor:
    """x_ff, by the model's second decoder if it has one."""
    return getattr(model, "decode_again", model.decode)(z)


def error(model: Model, x: Tensor, y: Tensor) -> Tensor:
    """Rec(x, y), (B,): the model's reconstruction error if it has one, else the squared error."""
    return getattr(model, "reconstruction_error", squared_error)(x, y)


def kl_of_parts(model: Model, mu: Tensor, logvar: Tensor) -> Terms:
    """Batch means kl_NAME of the KL of each of the model's `parts`, if it has any."""
    return {
        f"kl_{name}": kl_divergence(mu[:, part], logvar[:, part]).detach().mean()
        for name, part in getattr(model, "parts", {}).items()
    }


def fakes(objective: IntroVAE | SoftIntroVAE, images: list[Tensor]) -> Tensor:
    """The fakes among (reconstructions, samples): both, concatenated, or the samples."""
    return torch.cat(images) if objective.reconstructions_as_fakes else images[1]


def by_kind(objective: IntroVAE | SoftIntroVAE, name: str, values: Tensor) -> Terms:
    """Batch means of `values`, (B,) or (2B,) as `fakes` orders them: name_rec and name_fake."""
    if not objective.reconstructions_as_fakes:
        return {f"{name}_fake": values.detach().mean()}
    rec, fake = values.detach().chunk(2)
    return {f"{name}_rec": rec.mean(), f"{name}_fake": fake.mean()}
