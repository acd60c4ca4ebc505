"""The forward passes of a step's micro-batches, for the encoder's and the decoder's update."""

from torch import Tensor

from pipeline.networks.family import ResolutionModel, weights_kept
from pipeline.objective import Objective, Terms


class Updates:
    """Computes the inner products (`pipeline.objective`) of micro-batches, one after the other.

    A step calls `encoder` for each of its micro-batches, then `decoder` for each of them in the
    same order.
    """

    def __init__(self, networks: ResolutionModel, objective: Objective):
        self.networks, self.objective = networks, objective
        self.held: list[tuple[ResolutionModel, Tensor, list[Tensor]]] = []

    def encoder(self, x: Tensor, labels: Tensor | None, scale: float) -> tuple[Tensor, Terms]:
        """The encoder's product and terms for images x (B, 3, R, R) and labels (B,)."""
        model = self.networks.on(x, labels)
        x = model.prepare(x)
        with weights_kept():
            product, images, terms = self.objective.encoder_step(model, x, scale)
        if "kl_fake" in terms:
            terms["sample_spread"] = spread(images[-1].detach()) / spread(x)
        self.held.append((model, x, images))
        return product, terms

    def decoder(self, scale: float) -> tuple[Tensor, Terms]:
        """The decoder's product and terms for the next micro-batch, after the encoder's update."""
        with weights_kept():
            return self.objective.decoder_step(*self.held.pop(0), scale)


def spread(x: Tensor) -> Tensor:
    """How much images (B, 3, R, R) differ: the standard deviation over B, over all of a pixel."""
    return x.var(dim=0, correction=0).mean().sqrt()
