"""Frechet distances are right, bear honest names, and do not depend on who computes them."""

import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dataprep.manifest import Manifest
from pipeline.data.config import DataConfig
from pipeline.metrics import evaluation, features, frechet
from pipeline.metrics.evaluation import Evaluation, EvaluationConfig, find_extractor, metric_name
from pipeline.metrics.features import Extractor, FeaturesError
from pipeline.networks.style.autoencoder import Autoencoder
from pipeline.networks.style.shape import Shape
from tests.processes import run_together
from tests.traffic import Traffic, fake_group

pytestmark = pytest.mark.long

RANDOM = Extractor("random", None, "random-1")


def test_the_distance_of_two_gaussians_is_the_formula():
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(4, 4)) for _ in range(2))
    a, b = a @ a.T, b @ b.T
    mean = rng.normal(size=(2, 4))
    root = np.linalg.cholesky(a)
    cross = np.linalg.eigvalsh(root.T @ b @ root)
    formula = np.sum((mean[0] - mean[1]) ** 2) + np.trace(a + b) - 2 * np.sqrt(cross).sum()
    assert frechet.distance((mean[0], a), (mean[1], b)) == pytest.approx(formula)
    assert frechet.distance((mean[0], a), (mean[0], a)) == pytest.approx(0, abs=1e-6)


def gathered(count: int):
    """Statistics of 10 batches shared by the processes."""
    import torch.distributed as dist

    data = torch.from_numpy(np.random.default_rng(1).normal(size=(10, 6, 3)))
    found = frechet.Statistics()
    for batch in data[dist.get_rank() :: count]:
        found.add(batch)
    return [torch.from_numpy(part) for part in found.gather(3, None)]


def test_statistics_are_those_of_all_processes():
    data = np.random.default_rng(1).normal(size=(60, 3))
    for count in (1, 2):
        for mean, covariance in run_together(count, gathered, count):
            np.testing.assert_allclose(mean, data.mean(0))
            np.testing.assert_allclose(covariance, np.cov(data, rowvar=False))


@pytest.mark.parametrize(
    ("kind", "samples", "name"),
    [
        ("inception", 50_000, "fid"),
        ("inception", 1000, "fid_1k"),
        ("vgg16", 50_000, "fd_vgg16"),
        ("random", 250, "fd_random_250"),
    ],
)
def test_a_number_is_named_for_what_it_is(kind, samples, name):
    assert metric_name(Extractor(kind, None, ""), samples) == name


def test_without_inception_the_run_stops_or_says_what_it_measures_instead(tmp_path):
    wrong = tmp_path / "inception.pth"
    wrong.write_bytes(b"not the weights")
    config = EvaluationConfig(weights=str(wrong))
    with pytest.raises(FeaturesError, match="does not hold the Inception weights of 2015-12-05"):
        find_extractor(config)
    config = EvaluationConfig(weights=str(tmp_path / "nowhere.pth"), otherwise="random")
    extractor, announcement = find_extractor(config)
    assert extractor.metric == "fd_random"
    assert announcement.startswith("no fid, but fd_random will be measured")
    assert "nowhere.pth" in announcement


def test_inception_that_cannot_be_fetched_is_said_so(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(features, "URL_INCEPTION_V3", "http://127.0.0.1:9/weights-6726825d.pth")
    with pytest.raises(FeaturesError, match="could not be fetched"):
        find_extractor(EvaluationConfig())


def test_inception_runs_on_weights_of_its_shape(tmp_path):
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    with pytest.MonkeyPatch.context() as patch:  # its constructor insists on weights
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        empty = tmp_path / "empty.pth"
        torch.save({}, empty)
        tensors = FeatureExtractorInceptionV3("x", ["2048"], str(empty)).state_dict()
    torch.save(tensors, tmp_path / "weights.pth")
    network = features.Inception(tmp_path / "weights.pth").eval()
    with torch.no_grad():
        found = network(torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8))
    assert found.shape == (2, 2048) and found.isfinite().all()


def test_vgg16_features(tmp_path):
    import timm

    network = timm.create_model("vgg16", pretrained=False, num_classes=0)
    tensors = {n: t for n, t in network.state_dict().items() if n.startswith("features.")}
    path = tmp_path / "vgg16.safetensors"
    save_file({name: t.half() for name, t in tensors.items()}, path)
    module = features.find("vgg16", str(path)).load(torch.device("cpu"))
    images = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    assert module(images).shape == (2, 512)
    del tensors["features.0.weight"]
    save_file(tensors, path)
    with pytest.raises(FeaturesError, match=r"lacks features.0.weight"):
        features.find("vgg16", str(path)).load(torch.device("cpu"))


def measured(dataset: str, cache: str) -> dict:
    """An untrained pair's values, as every process of a training gets them."""
    torch.manual_seed(0)
    shape = Shape(resolution=16, latent=8, base_channels=4, max_channels=8, mapping_layers=2)
    model = Autoencoder(shape).at(16)
    config = EvaluationConfig(extractor="random", samples=70, batch=16, cache=cache)
    data, device = DataConfig(path=dataset, loader="webdataset"), torch.device("cpu")
    pulses = []
    tool = Evaluation(config, data, Manifest.load(dataset), device, lambda: pulses.append(1))
    with Traffic() as traffic:
        values = tool.measure(model, seed=3)
    return values | {"pulses": len(pulses), "collectives": [name for name, _ in traffic.rows]}


def test_the_same_values_for_any_number_of_processes_and_from_the_cache(dataset, tmp_path):
    (alone,) = run_together(1, measured, str(dataset), str(tmp_path / "a"))
    first, second = run_together(2, measured, str(dataset), str(tmp_path / "b"))
    (again,) = run_together(1, measured, str(dataset), str(tmp_path / "b"))
    names = ("fd_random_70", "reconstruction_mse")
    for other in (first, again):
        assert [other[n] for n in names] == pytest.approx([alone[n] for n in names], rel=1e-6)
    assert alone["fd_random_70"] > 0.1 and 0 < alone["reconstruction_mse"] < 4
    assert first["pulses"] == second["pulses"] > 0
    assert again["pulses"] < alone["pulses"], "the statistics were not taken from the cache"
    # Whether the reference is known, its statistics, those of samples, the reconstruction error.
    assert first["collectives"] == ["broadcast", *["allreduce"] * 3]
    assert again["collectives"] == ["broadcast", *["allreduce"] * 2]


def seconds(dataset: str, cache: str) -> list[list[float]]:
    """[estimated, taken] of the training data's statistics, and of the rest of an evaluation."""
    model = Autoencoder(Shape(resolution=16, latent=8, base_channels=4, max_channels=8)).at(16)
    config = EvaluationConfig(extractor="random", samples=100, batch=1, cache=cache)
    data, device = DataConfig(path=dataset, loader="ffcv", workers=1), torch.device("cpu")
    tool = Evaluation(config, data, Manifest.load(dataset), device, lambda: None)
    tool.estimate(model, seed=0)  # FFCV compiles
    estimated, times = tool.estimate(model, seed=0), [time.monotonic()]
    for _ in range(2):  # the second finds the statistics
        tool.measure(model, seed=0)
        times.append(time.monotonic())
    first, rest = times[1] - times[0], times[2] - times[1]
    return [[estimated[0], first - rest], [estimated[1], rest]]


def test_a_reader_that_takes_long_to_start_is_estimated_to_start_once(dataset, tmp_path):
    (found,) = run_together(1, seconds, str(dataset), str(tmp_path))
    # FFCV's reader takes 0.2 s and more to start, and 1 ms for an image.
    for estimated, taken in found:
        assert estimated < 4 * taken + 1, found


@pytest.mark.parametrize("world", [3, 32, 256])
def test_samples_are_shared_evenly(world):
    tool, shares = SimpleNamespace(config=EvaluationConfig(), limit=None), []
    for rank in range(world):
        with fake_group(world, rank):
            shares.append(list(Evaluation._rounds(tool, 50_000)))
    assert len({len(share) for share in shares}) == 1, "heartbeats are collectives"
    batches = [batch for share in shares for batch in share if batch is not None]
    assert sorted(i for batch in batches for i in batch) == list(range(50_000))
    images = [sum(len(batch) for batch in share if batch) for share in shares]
    assert max(images) - min(images) <= tool.config.batch


def test_damaged_statistics_are_measured_again(tmp_path):
    path = tmp_path / "s.safetensors"
    assert frechet.load_cached(path) is None
    frechet.save(path, (np.zeros(2), np.eye(2)))
    mean, covariance = frechet.load_cached(path)
    assert mean.tolist() == [0, 0] and covariance.tolist() == [[1, 0], [0, 1]]
    path.write_bytes(path.read_bytes()[:20])
    assert frechet.load_cached(path) is None


def test_a_cache_that_cannot_be_written_is_announced(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    evaluation._keep(tmp_path / "file" / "s.safetensors", (np.zeros(2), np.eye(2)))
    assert "evaluation.cache" in capsys.readouterr().out


def test_random_features_tell_images_apart(dataset):
    network = RANDOM.load(torch.device("cpu"))
    flat = torch.full((40, 3, 8, 8), 128, dtype=torch.uint8)
    noise = torch.randint(0, 256, (40, 3, 8, 8), dtype=torch.uint8)
    assert (network(flat).mean(0) - network(noise).mean(0)).abs().max() > 0.1
