"""Equilibrium of the KL terms of a Soft-IntroVAE, and the weights in its decoder's loss.

**The ceiling of KL.** The encoder lowers L_E of equation 4. Take an image that it cannot tell from
a real one, with reconstruction error R and KL K (sums over values, nats). As a real image it costs
s (beta_rec R + beta_kl K), as a fake 1/alpha exp(-alpha s (beta_rec R + beta_neg K)). The
derivative of the sum with respect to K is

    s beta_kl - s beta_neg exp(-alpha s (beta_rec R + beta_neg K)),

which is zero at

    K* = [ln(beta_neg / beta_kl) / (alpha s) - beta_rec R] / beta_neg.

Beyond K* the exponential is so small that raising the KL of fakes no longer lowers L_E. If real
images need about K* nats themselves, there is no margin between fakes and reals, and no loss
removes the artefacts of samples. A smaller beta_neg raises K*.

**The ratio r** = gamma beta_kl (KL_fake - KL_real) / (beta_rec Rec): the decrease of L_D if samples
get the KL of real images, over the reconstruction term.
"""

import math

from pipeline.objective import SoftIntroVAE

TERMS = {"rec", "kl_real", "kl_fake"}
"""Logged terms that the measures need."""
AT_CEILING = 0.75
"""Fraction of K* from which fakes count as at the ceiling."""
SMALL_RATIO = 0.1
"""r below which the margin is small: up to .04 in runs with artefacts, from .13 on in good ones."""


def kl_ceiling(objective: SoftIntroVAE, values: int, rec: float = 0.0) -> float:
    """K* in nats for images of `values` numbers and reconstruction error `rec` (a sum).

    The default `rec` gives an upper bound. Infinite if beta_neg or beta_kl is 0; at least 0.
    """
    if objective.beta_neg == 0 or objective.beta_kl == 0:
        return math.inf
    s = objective.s if objective.s is not None else 1 / values
    room = math.log(objective.beta_neg / objective.beta_kl) / (objective.alpha * s)
    return max(0.0, (room - objective.beta_rec * rec) / objective.beta_neg)


def decoder_ratio(objective: SoftIntroVAE, rec: float, kl_real: float, kl_fake: float) -> float:
    """r, from batch means; infinite if beta_rec or `rec` is 0."""
    paid = objective.beta_rec * rec
    gained = objective.gamma * objective.beta_kl * (kl_fake - kl_real)
    return gained / paid if paid else math.inf


def measures(objective: SoftIntroVAE, values: int, terms: dict[str, float]) -> dict[str, float]:
    """K*, kl_fake / K*, kl_real / K* and r, from the logged means rec, kl_real and kl_fake."""
    rec, kl_real, kl_fake = (terms[name] for name in ("rec", "kl_real", "kl_fake"))
    ceiling = kl_ceiling(objective, values, rec)
    return {
        "kl_ceiling": ceiling,
        "kl_fake_of_ceiling": kl_fake / ceiling if ceiling else math.inf,
        "kl_real_of_ceiling": kl_real / ceiling if ceiling else math.inf,
        "decoder_ratio": decoder_ratio(objective, rec, kl_real, kl_fake),
    }


def at_ceiling(measured: dict[str, float]) -> bool:
    """Whether KL_fake is near K* and r is small: then samples keep artefacts."""
    near = measured["kl_fake_of_ceiling"] >= AT_CEILING
    return near and measured["decoder_ratio"] <= SMALL_RATIO
