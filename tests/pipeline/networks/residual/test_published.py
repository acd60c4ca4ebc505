"""Published residual checkpoints become ours and come back the same."""

import pytest
import torch

import pipeline
from pipeline import convert
from pipeline.networks.residual.autoencoder import Autoencoder
from pipeline.networks.residual.shape import Shape
from pipeline.records import checkpoints


def content(shape: Shape) -> dict:
    """A file's content: weights by the published names, and PyTorch's buffers of batch norm."""
    torch.manual_seed(0)
    made = Autoencoder(shape)
    found = {name: torch.randn_like(t) for name, t in made.state_dict().items()}
    for name in [n for n in found if ".bn" in n or ".main.1." in n]:
        layer, _, kind = name.rpartition(".")
        if kind == "weight":
            found[f"{layer}.running_mean"] = torch.randn_like(found[name])
            found[f"{layer}.running_var"] = torch.rand_like(found[name]) + 0.5
            found[f"{layer}.num_batches_tracked"] = torch.tensor(77)
    return {"epoch": 250, "model": found}


@pytest.mark.parametrize(
    "shape",
    [
        Shape(resolution=16, channels=[4, 8], latent=4),
        Shape(resolution=16, channels=[4, 8, 8], latent=4, classes=10),
        Shape(resolution=28, channels=[4, 8], latent=4, image_channels=1),
    ],
)
def test_there_and_back_every_tensor_is_the_same(tmp_path, shape):
    published = content(shape)
    torch.save(published, tmp_path / "published.pth")
    convert.main([str(tmp_path / "published.pth"), str(tmp_path / "ours")])
    about = checkpoints.load(tmp_path / "ours").about
    assert about["converted"]["statistics"] == "running, as published"
    convert.main([str(tmp_path / "ours"), str(tmp_path / "back.pth"), "--to-reference"])
    back = torch.load(tmp_path / "back.pth", weights_only=True)["model"]
    assert back.keys() == published["model"].keys()
    assert all(torch.equal(back[name], t) for name, t in published["model"].items())


def test_names_as_parallel_training_writes_them(tmp_path):
    published = content(Shape(resolution=16, channels=[4, 8], latent=4))
    torch.save(published, tmp_path / "plain.pth")
    published["model"] = {f"module.{name}": t for name, t in published["model"].items()}
    torch.save(published, tmp_path / "module.pth")
    found = []
    for name in ("plain", "module"):
        convert.main([str(tmp_path / f"{name}.pth"), str(tmp_path / name)])
        found.append(checkpoints.load(tmp_path / name).weights)
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(t, found[1][name]) for name, t in found[0].items())


def test_a_converted_model_normalises_by_the_running_statistics(tmp_path):
    shape = Shape(resolution=16, channels=[4, 8], latent=4)
    published = content(shape)
    torch.save(published, tmp_path / "published.pth")
    convert.main([str(tmp_path / "published.pth"), str(tmp_path / "ours")])
    model = pipeline.load(tmp_path / "ours")
    x = torch.rand(2, 3, 16, 16)
    features = model.measured.encoder.main[0](x)
    bn = torch.nn.BatchNorm2d(4).eval()
    bn.load_state_dict({n: published["model"][f"encoder.main.1.{n}"] for n in bn.state_dict()})
    torch.testing.assert_close(model.measured.encoder.main[1](features), bn(features))


def test_what_does_not_fit_is_named(tmp_path):
    published = content(Shape(resolution=16, channels=[4, 8], latent=4))
    del published["model"]["decoder.main.predict.bias"]
    torch.save(published, tmp_path / "published.pth")
    with pytest.raises(SystemExit, match=r"decoder\.main\.predict\.bias should be \(3,\)"):
        convert.main([str(tmp_path / "published.pth"), str(tmp_path / "ours")])
    torch.save({"epoch": 1, "model": {"x": torch.zeros(1)}}, tmp_path / "other.pth")
    with pytest.raises(SystemExit, match="no residual encoder and decoder"):
        convert.main([str(tmp_path / "other.pth"), str(tmp_path / "ours")])
