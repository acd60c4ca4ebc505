"""A packed model: for pipeline.load, for MLflow's pyfunc, and for readers."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import pipeline
from pipeline import pack
from tests.pipeline import trained


@pytest.fixture
def run(tmp_path):
    """The folder of a run with a checkpoint at 16x16, its picture and its numbers."""
    folder = tmp_path / "faces"
    trained.save(folder / "checkpoints")
    (folder / "pictures").mkdir()
    Image.new("RGB", (9, 9)).save(folder / "pictures" / "reconstructions-016-000000064.png")
    line = {"images": 64, "resolution": 16, "fd_random_40": 12.5, "evaluation_seconds": 1.0}
    (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    return folder


@pytest.mark.long
def test_the_folder_is_loaded_by_us_and_by_mlflow_alike(run, tmp_path, capsys):
    out = tmp_path / "packed"
    pack.main(["--checkpoint", str(run), "--out", str(out)])
    assert f"{out}: 16x16, 64 images seen" in capsys.readouterr().out
    shutil.rmtree(run)
    ours = pipeline.load(out)
    z = ours.prior(2, seed=1)
    expected = ours.decode(z, noise="fixed", psi=0.5)
    program = f"""
import mlflow, numpy as np
model = mlflow.pyfunc.load_model({str(out)!r})
z = np.load({str(tmp_path / "z.npy")!r})
images = model.predict(z, params={{"psi": 0.5}})
found = model.predict(images)
np.savez({str(tmp_path / "out.npz")!r}, images=images, **found)
"""
    np.save(tmp_path / "z.npy", z.numpy()[:, :, None, None])
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path)
    with np.load(tmp_path / "out.npz") as found:
        torch.testing.assert_close(torch.from_numpy(found["images"]), expected)
        mu, logvar = ours.encode(expected)
        torch.testing.assert_close(torch.from_numpy(found["mu"]), mu)
        torch.testing.assert_close(torch.from_numpy(found["logvar"]), logvar)
    assert not [p for p in out.rglob("*") if p.suffix in (".pkl", ".pickle", ".pt", ".pth")]


def test_its_card_has_the_numbers_by_their_honest_names_and_all_its_pictures(run, tmp_path):
    out = tmp_path / "packed"
    pack.main(["--checkpoint", str(run), "--out", str(out)])
    card = (out / "README.md").read_text()
    assert "| fd_random_40 | 12.5 | Fréchet distance of other features" in card and "no FID" in card
    assert "Do not use it" in card
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", card)
    assert pictures == ["samples.png", "reconstructions.png"]
    assert all((out / name).exists() for name in pictures)


def test_it_is_registered_by_choice(run, tmp_path, capsys):
    import mlflow

    out, uri = tmp_path / "packed", f"sqlite:///{tmp_path / 'mlflow.db'}"
    more = ["--register", "faces", "--alias", "best", "--uri", uri]
    pack.main(["--checkpoint", str(run), "--out", str(out), *more])
    assert "models:/faces/1, models:/faces@best" in capsys.readouterr().out
    client = mlflow.MlflowClient(uri)
    assert client.get_model_version_by_alias("faces", "best").source == out.as_uri()
    with pytest.raises(SystemExit, match="exists: name a folder that does not"):
        pack.main(["--checkpoint", str(run), "--out", str(out)])
