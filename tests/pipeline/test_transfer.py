"""The transfer measure is what it says, on models whose transfer is known."""

import json

import numpy as np
import pytest
import torch

from dataprep import shard
from dataprep.drawn import cars
from pipeline import transfer as command
from pipeline.config import plain
from pipeline.metrics import transfer
from pipeline.metrics.transfer import Seen
from pipeline.networks.translation.autoencoder import Autoencoder
from pipeline.networks.translation.shape import Shape
from pipeline.records import checkpoints
from pipeline.records.checkpoints import Checkpoint


class Perfect:
    """Images of one class value and one view value each, that a model takes apart exactly."""

    device = torch.device("cpu")

    def __init__(self):
        self.parts = {"class": slice(0, 1), "content": slice(1, 2)}

    def encode(self, x):
        return x[:, :2, 0, 0], None

    def decode(self, z):
        return torch.cat([z, torch.zeros(len(z), 1)], 1)[:, :, None, None].expand(-1, -1, 8, 8)


def images() -> Seen:
    classes, views = (part.ravel() for part in np.meshgrid(np.arange(3), np.arange(4)))
    z = torch.tensor(np.stack([classes / 3, views / 4], 1), dtype=torch.float32)
    return Seen(Perfect().decode(z).contiguous(), classes, views)


def test_pairs_differ_in_both_and_have_a_truth():
    seen = images()
    found = transfer.pairs(seen.classes, seen.views, 50, seed=1)
    assert (seen.classes[found.first] != seen.classes[found.second]).all()
    assert (seen.views[found.first] != seen.views[found.second]).all()
    assert (seen.classes[found.truth] == seen.classes[found.first]).all()
    assert (seen.views[found.truth] == seen.views[found.second]).all()
    again = transfer.pairs(seen.classes, seen.views, 50, seed=1)
    assert all((a == b).all() for a, b in zip(found, again, strict=True))
    with pytest.raises(ValueError, match="not several classes"):
        transfer.pairs(np.zeros(4, int), np.arange(4), 5, seed=0)


def test_a_model_that_takes_images_apart_beats_every_yardstick():
    found = transfer.measure(Perfect(), images(), 200, 0, lambda a, b: (a != b).flatten(1).sum(1))
    assert found["mse_transfer"] == found["mse_reconstruction"] == (0, 0)
    assert found["lpips_vgg_transfer"][0] == 0 and found["lpips_vgg_swapped"][0] > 0
    for kind in ("swapped", "class_copied", "content_copied", "mean_image"):
        mean, error = found[f"mse_{kind}"]
        assert mean > 3 * error > 0


def test_probes_tell_which_code_holds_a_factor():
    seen = images()
    given = {
        "class": seen.classes[:, None].astype(float),
        "view": seen.views[:, None].astype(float),
    }
    found = transfer.probes(Perfect(), seen, given, seed=0)
    assert found["r2_class_from_class"] > 0.99 and found["r2_view_from_content"] > 0.99
    assert found["r2_view_from_class"] < 0.5 and found["r2_class_from_content"] < 0.5


def test_the_command_measures_a_checkpoint_on_toy_cars(tmp_path, capsys):
    cars.main([str(tmp_path / "mat"), "--count", "4", "--size", "8"])
    how = ["--labels", "folder", "--split", "classes", "--test-fraction", "0.5", "--workers", "1"]
    how += ["--max-resolution", "8", "--out", str(tmp_path / "data")]
    assert shard.main([str(tmp_path / "mat"), *how]) == 0
    shape = Shape(
        resolution=8, class_latent=4, content_latent=4, encoder_channels=[4, 8], hidden=8,
        decoder_channels=8, error="squared",
    )  # fmt: skip
    torch.manual_seed(0)
    weights = Autoencoder(shape).state_dict()
    about = {"images": 0, "resolution": 8, "alpha": 1.0}
    about["config"] = {"shape": plain(shape), "data": {"path": str(tmp_path / "data")}}
    checkpoints.save(tmp_path / "run", Checkpoint(weights, weights, {}, about))
    given = ["--checkpoint", str(tmp_path / "run"), "--pairs", "100", "--device", "cpu"]
    capsys.readouterr()
    command.main([*given, "--json", str(tmp_path / "t.json")])
    assert "100 pairs of 192 test images" in capsys.readouterr().out
    found = json.loads((tmp_path / "t.json").read_text())
    assert set(found["values"]) == {f"mse_{kind}" for kind in transfer.KINDS}
    assert {"r2_azimuth_from_content", "r2_class_colour_from_class"} <= set(found["probes"])
    with pytest.raises(SystemExit, match="LPIPS needs images of at least 32x32"):
        command.main([*given, "--vgg16", "x"])
