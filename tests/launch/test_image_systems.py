"""Configurations of the image systems train from files in the layouts of their data sets, by both
launchers, and however killed."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import pipeline
from dataprep import digits, shard
from dataprep.drawn import cars, figures
from dataprep.manifest import Manifest
from launch import local
from tests.conftest import ROOT
from tests.dataprep.archives import make_cifar
from tests.stages.tiny import final_weights

pytestmark = pytest.mark.long
NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
SMALL = ["shape.channels=[4,8]", "shape.latent=4", "stages.0.images=256", "every.log=32"]
SMALL += ["every.checkpoint=64", "every.pictures=0", "every.evaluation=0", "data.workers=1"]
SMALL += ["evaluation.extractor=random", "evaluation.samples=40", "evaluation.batch=20"]


@pytest.fixture(scope="module")
def cifar(tmp_path_factory) -> Path:
    """A dataset of 80 training and 20 test images, from files as CIFAR's."""
    folder = tmp_path_factory.mktemp("cifar")
    files = {f"data_batch_{i}.bin": 16 for i in range(1, 6)} | {"test_batch.bin": 20}
    make_cifar(folder / "cifar-10-batches-bin", files, NAMES)
    how = ["--max-resolution", "32", "--labels", "stored", "--split", "folder", "--workers", "1"]
    source, out = folder / "cifar-10-batches-bin", folder / "cifar10"
    assert shard.main([str(source), "--out", str(out), *how]) == 0
    manifest = Manifest.load(out)
    assert list(manifest.classes) == NAMES
    assert (manifest.count("train"), manifest.count("test")) == (80, 20)
    return out


def command(data: Path, config: str, folder: Path, *more: str, keys=SMALL) -> list[str]:
    start = [sys.executable, ROOT / "launch" / "local.py", "--config", config, "--processes", "1"]
    return [*map(str, start), "--output", str(folder), f"data.path={data}", *keys, *more]


def killed_at(images: int, command: list[str], folder: Path) -> None:
    """Runs a training until so many images are in its journal, then kills it."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    path = folder / "metrics.jsonl"
    while process.poll() is None and not (
        path.exists() and f'"images": {images}' in path.read_text()
    ):
        time.sleep(0.01)
    process.kill()
    output = process.communicate()[0].decode()
    assert process.returncode == -signal.SIGKILL, output


def test_a_conditional_training_killed_and_started_again_ends_in_the_same_bits(cifar, tmp_path):
    whole, folder = tmp_path / "whole", tmp_path / "run"
    subprocess.run(command(cifar, "cifar10-conditional", whole), check=True, capture_output=True)
    line = command(cifar, "cifar10-conditional", folder)
    killed_at(160, line, folder)
    subprocess.run(line, check=True, capture_output=True)
    assert final_weights(folder) == final_weights(whole)
    model = pipeline.load(whole)
    assert model.classes == 10
    samples = [model.sample(4, seed=0, labels=[label] * 4) for label in (0, 1)]
    assert not torch.equal(*samples)
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert any("fd_random_40" in line for line in lines)


SMALL_CODES = ["shape.resolution=8", "shape.encoder_channels=[4,8]", "shape.decoder_channels=8"]
SMALL_CODES += ["shape.hidden=8", "stages.0.resolution=8", "stages.0.images=256", "every.log=32"]
SMALL_CODES += ["every.checkpoint=64", "every.pictures=0", "engine.zero_stage=1"]


@pytest.fixture(scope="module")
def toy_cars(tmp_path_factory) -> Path:
    """A dataset of 2 drawn cars and one that is held out."""
    folder = tmp_path_factory.mktemp("cars")
    cars.main([str(folder / "mat"), "--count", "3", "--size", "8"])
    how = ["--max-resolution", "8", "--labels", "folder", "--split", "classes", "--workers", "1"]
    how += ["--test-fraction", "0.34", "--out", str(folder / "cars")]
    assert shard.main([str(folder / "mat"), *how]) == 0
    return folder / "cars"


def test_a_translation_training_killed_and_started_again_ends_in_the_same_bits(toy_cars, tmp_path):
    whole, folder = tmp_path / "whole", tmp_path / "run"
    line = command(toy_cars, "toy-cars", whole, keys=SMALL_CODES)
    subprocess.run(line, check=True, capture_output=True)
    line = command(toy_cars, "toy-cars", folder, keys=SMALL_CODES)
    killed_at(160, line, folder)
    subprocess.run(line, check=True, capture_output=True)
    assert final_weights(folder) == final_weights(whole)
    assert pipeline.load(folder).parts == {"class": slice(0, 32), "content": slice(32, 48)}


def test_drawn_and_installed_stand_ins_train(monkeypatch, capsys, tmp_path):
    """Their files pass through readers, splits and labels of the real sets."""
    figures.main([str(tmp_path / "avi"), "--count", "2", "--frames", "20"])
    digits.main([str(tmp_path / "idx")])
    for source, side, labels, split, config, shape in (
        ("avi", 32, "folder", "tail", "toy-kth", "translation"),
        ("idx", 8, "stored", "folder", "digits-conditional", "residual"),
    ):
        out = tmp_path / config
        how = ["--max-resolution", str(side), "--labels", labels, "--split", split]
        assert shard.main([str(tmp_path / source), "--out", str(out), *how, "--workers", "1"]) == 0
        line = command(out, config, tmp_path / "run", "--dry-run", keys=[])
        assert f"kind: {shape}" in said(monkeypatch, capsys, line)
    manifest = Manifest.load(tmp_path / "toy-kth")
    assert (manifest.count("train"), manifest.count("test")) == (36, 4)
    manifest = Manifest.load(tmp_path / "digits-conditional")
    assert manifest.classes == tuple("0123456789")
    assert (manifest.count("train"), manifest.count("test")) == (1300, 497)


def said(monkeypatch, capsys, line: list[str]) -> str:
    """What the command of `line` prints, or ends with, in this process."""
    monkeypatch.setattr(sys, "argv", line[1:])
    try:
        local.main()
    except SystemExit as end:
        return str(end.code)
    return capsys.readouterr().out


@pytest.mark.parametrize("config", ["cifar10", "cifar10-bootstrap", "cifar10-diffaugment"])
def test_other_configurations_are_understood(monkeypatch, capsys, cifar, tmp_path, config):
    line = command(cifar, config, tmp_path / "run", "--dry-run")
    assert "kind: residual" in said(monkeypatch, capsys, line)


def test_what_a_batch_norm_or_a_dataset_does_not_allow_is_said(
    monkeypatch, capsys, cifar, dataset, tmp_path
):
    for change, reason in (
        ("stages.0.micro_batch=16", "micro_batch 16 should be the batch, 32, and one process"),
        (f"data.path={dataset}", "has 0 classes"),
    ):
        line = command(cifar, "cifar10-conditional", tmp_path / "run", change)
        assert reason in said(monkeypatch, capsys, line)
    line = command(cifar, "cifar10", tmp_path / "run")
    line[line.index("--processes") + 1] = "2"
    assert "2 processes cannot share the 1 micro-batches" in said(monkeypatch, capsys, line)
    assert not (tmp_path / "run").exists()


@pytest.mark.slurm
def test_a_training_by_slurm(cifar, slurm_cluster, tmp_path):
    line = command(cifar, "cifar10", tmp_path / "run", "--follow", "--gpus-per-node", "0")
    line[1] = str(ROOT / "launch" / "slurm.py")
    place = line.index("--processes")
    line[place : place + 2] = ["--nodes", "1"]
    assert shutil.which("sbatch")
    subprocess.run(line, check=True, capture_output=True, timeout=240)
    assert final_weights(tmp_path / "run")
