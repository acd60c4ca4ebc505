"""Four trainings, two values with two seeds each, compared from MLflow."""

import json

import pytest
from PIL import Image

from pipeline import compare
from pipeline.records.tracking import Tracking, TrackingConfig

DATA = {"name": "faces train", "digest": "d", "source": "/data", "profile": {}}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of trainings at 4x4 and 8x8; at 8x8 the last has come only half as far."""
    root = tmp_path_factory.mktemp("runs")
    for beta, seed, offset in ((8, 0, 0.0), (8, 1, 2.0), (64, 0, 5.0), (64, 1, 5.0)):
        folder = root / f"beta{beta}seed{seed}"
        folder.mkdir()
        tracking = Tracking(TrackingConfig(), folder, folder.name, {"sweep.id": "betas"})
        tracking.parameters({"objective.beta_neg": beta, "seed": seed, "tracking.uri": seed})
        for side, first in ((4, 0), (8, 200)):
            tracking.stage(side, folder.name, {"lr": 0.1}, DATA)
            for images in (100, 200)[: 1 if (side, beta, seed) == (8, 64, 1) else 2]:
                at = first + images
                speed = {"speed/images_per_second": 50.0, "speed/processes": 2}
                tracking.metrics(at, speed)
                values = {f"fid/r{side:03}": 10 + offset + images / 100, f"fid_best/r{side:03}": 1}
                tracking.metrics(at, values, on_parent=True)
        tracking.end("FINISHED", whole_training=True)
    return root


def test_a_row_is_a_configuration_at_equal_images_with_the_spread_of_its_seeds(runs, capsys):
    folders = [str(path) for path in sorted(runs.glob("beta*"))]
    compare.main([*folders, "--format", "json"])
    found = json.loads(capsys.readouterr().out)
    assert found["metric"] == "fid" and found["differ"] == ["objective.beta_neg"]
    first, second, third, _ = found["rows"]
    assert [first["resolution"], first["configuration"]] == [8, "objective.beta_neg=8"]
    assert first["at_images"] == 300 and first["at"] == [11, 13]  # where all four were measured
    assert first["last"] == [[400, 12], [400, 14]] and first["best"] == [[300, 11], [300, 13]]
    assert second["configuration"] == "objective.beta_neg=64" and second["at"] == [16, 16]
    assert [images for images, _ in second["last"]] == [400, 300]
    assert first["images_per_second"] == [50, 50]
    assert first["device_hours"] == pytest.approx([200 / 50 * 2 / 3600] * 2)
    assert third["resolution"] == 4 and third["at_images"] == 200


def test_a_sweep_as_table_markdown_and_plot(runs, capsys, tmp_path):
    uri = f"sqlite:///{runs / 'mlflow.db'}"
    compare.main(["--sweep", "betas", "--uri", uri, "--plot", str(tmp_path / "plot.png")])
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 5 and "12 ± 1.4 (2)" in said[1] and "300 to 400" in said[2]
    compare.main(["beta8seed0", "beta64seed0", "--uri", uri, "--format", "markdown"])
    assert capsys.readouterr().out.splitlines()[2].startswith("| 8x8 | objective.beta_neg=8 | 12 |")
    with Image.open(tmp_path / "plot.png") as picture:
        assert picture.width > 1000


def test_what_cannot_be_compared_is_said(runs, tmp_path):
    uri = f"sqlite:///{runs / 'mlflow.db'}"
    for arguments, message in (
        (["nothing", "--uri", uri], "nothing is neither the folder of a training nor a run's id"),
        (["--sweep", "none", "--uri", uri], "no training with the tag sweep.id = none"),
        (["beta8seed0", "--uri", uri, "--metric", "kid"], "none of these trainings has kid"),
        ([], "name trainings, or a sweep"),
    ):
        with pytest.raises(SystemExit, match=message):
            compare.main(arguments)
