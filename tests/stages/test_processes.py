"""A training computes the same with any number of processes.

Sums in another order differ in their last bits. The decoder has biases before instance norms, whose
gradients can be zero but for such bits, and Adam makes steps of full length of any gradient; and at
the published start its constant is all ones, so that the norm behind it divides by almost nothing.
Within tens of steps two runs would differ visibly, as two runs on different machines do. So these
start in general position, with an eps of Adam that rounding errors do not reach.
"""

import math
import signal
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

from pipeline import processes
from pipeline.config import parse
from pipeline.networks.style.autoencoder import Autoencoder
from pipeline.processes import rank, start
from pipeline.records import checkpoints
from pipeline.records.checkpoints import Checkpoint
from stages.config import Config
from stages.stage import Meter
from tests.processes import run_together
from tests.stages.tiny import StopAt, journal, run, tiny

pytestmark = pytest.mark.long

LOSSES = ("loss_E", "loss_D", "rec", "kl_real", "kl_fake")


def fifty_steps(dataset: Path, **changes) -> dict:
    """A configuration of 50 steps at the published learning rate."""
    content = tiny(dataset, **changes)
    content["engine"]["eps"] = 1e-3
    for stage in content["stages"]:
        stage |= {"images": 400, "lr": 0.0015}
    content["every"] = {"log": 16, "pictures": 0, "checkpoint": 0, "evaluation": 0}
    return content


def begin(folder: Path, content: dict) -> Path:
    """The folder of a run whose networks start in general position."""
    torch.manual_seed(0)
    autoencoder = Autoencoder(parse(Config, content, "tiny").shape)
    with torch.no_grad():
        for name, p in autoencoder.decoder.named_parameters():
            if name == "const" or name.endswith(("noise", "bias")):
                p.normal_(0, 1 if name == "const" else 0.1)
    weights = autoencoder.state_dict()
    start = Checkpoint(weights, weights | {"mean_style": torch.zeros(8)}, {}, {"images": 0})
    checkpoints.save(checkpoints.path_of(folder / "checkpoints", 0), start)
    return folder


@pytest.fixture(scope="module")
def alone(dataset, tmp_path_factory) -> Path:
    """The run of one process."""
    content = fifty_steps(dataset)
    folder = begin(tmp_path_factory.mktemp("runs") / "alone", content)
    assert run(content, folder) == [0]
    return folder


def assert_same_losses(folder: Path, other: Path) -> None:
    for name in LOSSES:
        ours, theirs = journal(folder, name), journal(other, name)
        assert [images for images, _ in ours] == [images for images, _ in theirs]
        assert [v for _, v in ours] == pytest.approx([v for _, v in theirs], rel=1e-4), name
    assert ours[-1][0] == 800


@pytest.mark.parametrize(("processes", "zero_stage"), [(2, 0), (2, 1), (4, 2)])
def test_many_processes_compute_what_one_does(dataset, alone, tmp_path, processes, zero_stage):
    content = fifty_steps(dataset, engine__zero_stage=zero_stage)
    folder = begin(tmp_path / "run", content)
    assert run(content, folder, processes) == [0] * processes
    assert_same_losses(folder, alone)


def test_gradients_summed_in_bf16_change_losses_by_a_few_thousandths(dataset, alone, tmp_path):
    content = fifty_steps(dataset, engine__reduce="bf16")
    folder = begin(tmp_path / "run", content)
    assert run(content, folder, 2) == [0, 0]
    for name in LOSSES:
        ours, theirs = ([v for _, v in journal(f, name)] for f in (folder, alone))
        assert ours == pytest.approx(theirs, rel=0.02), name
        assert ours != pytest.approx(theirs, rel=1e-6), "summed in bf16"


def read_meter() -> dict[str, float]:
    start()
    meter, values = Meter(), (1.0, float("inf")) if rank() else (2.0, 6.0)
    meter.add([{"rec": torch.tensor(v), "kl_real": torch.tensor(float("nan"))} for v in values])
    return meter.read()


def test_a_precision_without_instructions_is_said(monkeypatch):
    monkeypatch.setattr(processes, "has_bf16", lambda device: False)
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert "engine.precision=fp32" in processes.slow_precision(cpu, "bf16")
    assert "engine.precision=fp16" in processes.slow_precision(gpu, "bf16")
    assert processes.slow_precision(cpu, "fp32") is None
    monkeypatch.setattr(processes, "has_fp16", lambda device: device.type == "cuda")
    assert "engine.precision=fp32" in processes.slow_precision(cpu, "fp16")
    assert processes.slow_precision(gpu, "fp16") is None
    monkeypatch.setattr(processes, "has_bf16", lambda device: True)
    assert processes.slow_precision(cpu, "bf16") is None


def test_a_mean_is_of_what_is_finite():
    for found in run_together(2, read_meter):
        assert found["rec"] == 3 and math.isnan(found["kl_real"])


def test_a_signal_stops_all_with_a_checkpoint_and_one_continues(dataset, alone, tmp_path):
    content = fifty_steps(dataset)
    folder = begin(tmp_path / "run", content)
    assert run(content, folder, processes=2, before=StopAt(560)) == [signal.SIGUSR2] * 2
    newest = max(int(p.name) for p in (folder / "checkpoints").iterdir())
    assert 560 <= newest < 800
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("soft-introvae").experiment_id
    (parent,) = client.search_runs([experiment], "attributes.run_name = 'tiny'")
    assert parent.info.status == "SCHEDULED"
    assert run(content, folder) == [0]
    assert len(client.search_runs([experiment])) == 3
    assert client.get_run(parent.info.run_id).info.status == "FINISHED"
    assert_same_losses(folder, alone)
