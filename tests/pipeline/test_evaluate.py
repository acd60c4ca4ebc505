"""pipeline.evaluate: its numbers are those of training and of their definitions."""

import json

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from PIL import Image

from dataprep import shard
from dataprep.manifest import DatasetError, Manifest
from pipeline import evaluate
from pipeline.config import plain
from pipeline.data.config import DataConfig
from pipeline.metrics.evaluation import Evaluation, EvaluationConfig
from pipeline.networks.residual.autoencoder import Autoencoder as Residual
from pipeline.networks.residual.shape import Shape as ResidualShape
from pipeline.records import checkpoints
from pipeline.records.checkpoints import Checkpoint
from tests.dataprep.archives import make_cifar
from tests.pipeline import trained
from tests.processes import run_together

pytestmark = pytest.mark.long


def run(dataset: str, checkpoint: str, out: str, *more: str) -> dict:
    """The values of the command, and what a training would have measured."""
    given = ["--checkpoint", checkpoint, "--json", out, "--seed", "3", *more]
    config = ["extractor=random", "samples=70", "batch=16"]
    given += [f"evaluation.{text}" for text in config]
    evaluate.main([*given, f"data.path={dataset}", "data.loader=webdataset"])
    with open(out) as file:
        return json.load(file)


def trainings(dataset: str, checkpoint: str) -> dict:
    from pipeline import load

    config = EvaluationConfig(extractor="random", samples=70, batch=16)
    data = DataConfig(path=dataset, loader="webdataset")
    tool = Evaluation(config, data, Manifest.load(dataset), torch.device("cpu"), lambda: None)
    model = load(checkpoint)
    return tool.measure(model.networks.at(16), seed=3)


def test_the_numbers(dataset, tmp_path):
    path = trained.save(tmp_path / "run")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    out = str(tmp_path / "numbers.json")
    (found,) = run_together(1, run, str(dataset), str(path), out, "--mlflow", uri)
    (expected,) = run_together(1, trainings, str(dataset), str(path))
    values = found["values"]
    assert values["fd_random_70"] == pytest.approx(expected["fd_random_70"], rel=1e-4)
    assert values["reconstruction_mse"] == pytest.approx(expected["reconstruction_mse"], rel=0.05)
    names = ("kd_random_70", "precision_random_70", "recall_random_70", "psnr")
    assert all(np.isfinite(values[name]) for name in names)
    assert all(0 <= values[name] <= 1 for name in names[1:3])
    assert all(values[f"kl_{name}"] > 0 for name in ("real", "rec", "fake"))
    assert found["dataset_digest"] == Manifest.load(dataset).digest and found["images"] == 64

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("soft-introvae").experiment_id
    (logged,) = client.search_runs([experiment])
    assert logged.data.metrics == pytest.approx(values)
    assert logged.data.tags["resolution"] == "16"


def few(folder, train: int):
    """A dataset of `train` training images and one test image."""
    source = folder / "images"
    source.mkdir()
    for i in range(train + 1):
        name = f"{i if i < train else 60_000:05d}.png"
        Image.fromarray(np.full((16, 16, 3), 10 * i, np.uint8)).save(source / name)
    how = ["--max-resolution", "16", "--workers", "1"]
    assert shard.main([str(source), "--out", str(folder / "dataset"), *how]) == 0
    return folder / "dataset"


def test_too_few_images_are_told_at_the_start(tmp_path):
    path, dataset = trained.save(tmp_path / "run"), few(tmp_path, 3)
    for arguments, reason in (
        ([], "dataset has 3 training images: at least 4 are needed"),
        (["evaluation.samples=3"], "training images"),
    ):
        with pytest.raises(SystemExit) as stopped:
            evaluate.main(["--checkpoint", str(path), f"data.path={dataset}", *arguments])
        assert reason in stopped.value.code


def test_too_few_samples_are_told_at_the_start(tmp_path, dataset):
    path = trained.save(tmp_path / "run")
    with pytest.raises(SystemExit, match=r"evaluation\.samples is 3: at least 4 are needed"):
        evaluate.main(["--checkpoint", str(path), f"data.path={dataset}", "evaluation.samples=3"])


def test_one_training_image_is_refused(tmp_path):
    manifest = Manifest.load(few(tmp_path, 1))
    config = EvaluationConfig(extractor="random", samples=70, batch=16)
    data = DataConfig(path=str(manifest.folder), loader="webdataset")
    with pytest.raises(DatasetError, match="has 1 training image: a Frechet distance needs 2"):
        Evaluation(config, data, manifest, torch.device("cpu"), lambda: None)


def test_what_is_missing_is_said(tmp_path):
    path = trained.save(tmp_path / "run")
    for arguments, reason in (
        ([], "'data.path' is missing"),
        (["data.path=nowhere"], "does not exist"),
        (["data.pth=x"], "did you mean 'path'"),
    ):
        with pytest.raises(SystemExit) as stopped:
            evaluate.main(["--checkpoint", str(path), *arguments])
        assert reason in stopped.value.code


def test_networks_with_classes_are_measured_by_class(tmp_path):
    names = ["red", "green", "blue"]
    make_cifar(tmp_path / "files", {"data_batch_1.bin": 60, "test_batch.bin": 12}, names)
    how = ["--max-resolution", "32", "--labels", "stored", "--split", "folder", "--workers", "1"]
    out = tmp_path / "data"
    assert shard.main([str(tmp_path / "files"), "--out", str(out), *how]) == 0
    torch.manual_seed(0)
    shape = ResidualShape(channels=[4, 8], latent=4, classes=3)
    made = Residual(shape)
    weights = made.state_dict()
    x = torch.rand(2, 32, 3, 32, 32) * 2 - 1
    derived = made.derived(lambda batches, size: ((part, torch.arange(32) % 3) for part in x))
    about = {"images": 0, "resolution": 32, "alpha": 1.0, "config": {"shape": plain(shape)}}
    checkpoints.save(tmp_path / "run", Checkpoint(weights, weights | derived, {}, about))
    given = (str(out), str(tmp_path / "run"), str(tmp_path / "n.json"))
    (found,) = run_together(1, run, *given)
    values = found["values"]
    assert values["label_accuracy_random_of_test_images"] > 0.9, "each class has its colour"
    assert 0 <= values["label_accuracy_random"] <= 1
    assert {f"fd_random_23_of_{name}" for name in names} <= set(values)
