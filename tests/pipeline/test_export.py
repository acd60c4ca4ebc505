"""ONNX networks give what torch's give, for any size of batch."""

import json

import numpy as np
import onnxruntime
import pytest
import torch

import pipeline
from pipeline import convert
from tests.pipeline import trained

pytestmark = pytest.mark.long


@pytest.mark.parametrize(("resolution", "alpha"), [(16, 0.5), (8, 1.0)])
def test_onnx_gives_what_torch_gives(tmp_path, resolution, alpha):
    path = trained.save(tmp_path / "run", resolution=16, alpha=0.5)
    out = tmp_path / "onnx"
    convert.main([str(path), str(out), "--onnx", "--resolution", str(resolution)])
    about = json.loads((out / "about.json").read_text())
    assert (about["resolution"], about["alpha"]) == (resolution, alpha)
    assert 0 < about["largest_difference"] <= 1e-4

    model = pipeline.load(path, resolution=resolution)
    z = model.prior(5, seed=1)
    (images,) = session(out / "decoder.onnx").run(None, {"z": z.numpy()})
    expected = model.decode(z, "fixed")
    np.testing.assert_allclose(images, expected.numpy(), rtol=0, atol=1e-4)
    mu, logvar = session(out / "encoder.onnx").run(["mu", "logvar"], {"x": images})
    for ours, theirs in zip(model.encode(torch.from_numpy(images)), (mu, logvar)):
        np.testing.assert_allclose(theirs, ours.numpy(), rtol=0, atol=1e-4 * ours.abs().max())


def session(path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
