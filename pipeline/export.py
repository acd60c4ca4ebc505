"""Exports encoder and decoder at one resolution to ONNX, checked against torch by onnxruntime.

OUT/encoder.onnx   x (batch, 3, R, R) in [-1, 1] to mu and logvar (batch, latent)
OUT/decoder.onnx   z (batch, latent) to image (batch, 3, R, R), with the fixed noise
OUT/about.json     resolution, alpha, latent, checkpoint, and the largest difference to torch
"""

import json
import logging
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from pipeline import model
from pipeline.networks.family import ModelError
from pipeline.networks.style.trained import Model, styled
from pipeline.records.files import whole

TOLERANCE = 1e-4  # relative to the largest absolute output


class EncoderGraph(nn.Module):
    """x to mu and logvar."""

    def __init__(self, loaded: Model):
        super().__init__()
        self.encoder, self.alpha = loaded.networks.encoder, loaded.alpha

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.encoder(x, self.alpha)


class DecoderGraph(nn.Module):
    """z to an image, with the noise maps as constants."""

    def __init__(self, loaded: Model):
        super().__init__()
        self.decoder = loaded.networks.decoder
        self.resolution, self.alpha = loaded.resolution, loaded.alpha
        self.maps = nn.ParameterList(self.decoder.noise_maps(loaded.resolution))
        self.maps.requires_grad_(False)

    def forward(self, z: Tensor) -> Tensor:
        w = self.decoder.styles(z)
        return self.decoder.synthesize(w, self.resolution, self.alpha, list(self.maps))


def onnx(checkpoint: Path, out: Path, resolution: int | None) -> str:
    """Writes the folder `out`; returns a summary. ModelError if the outputs differ."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if find_spec(package) is None:
            raise ModelError(f"ONNX needs {package}, which is not installed: pip install '.[onnx]'")
    loaded = styled(model.load(checkpoint, resolution=resolution, device="cpu"))
    if loaded.is_alae:
        raise ModelError("ALAE's encoder gives no posterior and cannot be exported")
    generator = torch.Generator().manual_seed(0)
    side = loaded.resolution
    x = torch.rand(3, 3, side, side, generator=generator) * 2 - 1
    z = torch.randn(3, loaded.latent, generator=generator)
    with whole(out) as beside:
        beside.mkdir()
        found = [
            _export(EncoderGraph(loaded), x, beside / "encoder.onnx", "x", ["mu", "logvar"]),
            _export(DecoderGraph(loaded), z, beside / "decoder.onnx", "z", ["image"]),
        ]
        about = {
            "checkpoint": str(checkpoint),
            "images": loaded.about.get("images"),
            "resolution": side,
            "alpha": loaded.alpha,
            "latent": loaded.latent,
            "largest_difference": max(found),
        }
        (beside / "about.json").write_text(json.dumps(about, indent=1) + "\n")
    return f"{out}: encoder and decoder at {side}x{side}, within {max(found):.1e} of torch's"


def _export(graph: nn.Module, given: Tensor, path: Path, name: str, outputs: list[str]) -> float:
    """Exports with a dynamic batch size; returns the largest relative difference to torch."""
    import onnxruntime

    graph.eval()
    batch = torch.export.Dim("batch")
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            graph,
            (given,),
            dynamo=True,
            dynamic_shapes=({0: batch},),
            input_names=[name],
            output_names=outputs,
            external_data=False,
            verbose=False,
        )
        program.save(path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    worst = 0.0
    for part in (given, given[:1]):
        with torch.no_grad():
            expected = graph(part)
        expected = expected if isinstance(expected, tuple) else (expected,)
        for ours, theirs in zip(expected, session.run(outputs, {name: part.numpy()}), strict=True):
            size = max(ours.abs().max().item(), 1e-8)
            worst = max(worst, float(np.abs(ours.numpy() - theirs).max()) / size)
    if not worst <= TOLERANCE:
        raise ModelError(f"outputs of {path.name} differ from torch's by {worst:.1e}")
    return worst
