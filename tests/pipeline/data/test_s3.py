"""A dataset in a bucket of a real S3 server (moto's), on 127.0.0.1."""

import sys

import pytest
import torch

from dataprep import store
from dataprep.manifest import DatasetError, Manifest
from dataprep.store import Patience
from pipeline.data.config import DataConfig
from pipeline.data.loaders import training_images

CPU = torch.device("cpu")


@pytest.fixture
def s3(monkeypatch):
    from moto.server import ThreadedMotoServer
    from s3fs import S3FileSystem

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    environment = {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    S3FileSystem.clear_instance_cache()
    yield server
    server.stop()
    S3FileSystem.clear_instance_cache()


@pytest.fixture
def bucket(s3, dataset):
    from s3fs import S3FileSystem

    files = S3FileSystem()
    if not files.exists("s3://faces"):  # moto's servers of a process share what they hold
        files.mkdir("s3://faces")
    for path in [dataset / "manifest.json", *dataset.glob("webdataset/r016/*.tar")]:
        files.put_file(str(path), f"s3://faces/small/{path.relative_to(dataset)}")
    return "s3://faces/small"


def images(path, **how):
    config = DataConfig(
        path=str(path), loader="webdataset", order="shards", timeout=2, retry_seconds=1, **how
    )
    manifest = Manifest.load(config.path)
    return [x for x, _ in training_images(config, manifest, 16, 5, iter(range(0, 60, 6)), 6, CPU)]


def test_the_same_images_from_a_bucket_as_from_files(dataset, bucket, monkeypatch):
    expected = images(dataset)
    for block in (store.BLOCK, 5000):  # one request for each tar, and several
        monkeypatch.setattr(store, "BLOCK", block)
        found = images(bucket)
        assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


def test_what_a_bucket_does_not_have_is_named(bucket):
    with pytest.raises(DatasetError, match=r"s3://faces/other/manifest.json: the store says"):
        Manifest.load("s3://faces/other")
    with pytest.raises(DatasetError, match=r"s3://nowhere/manifest.json: the store says"):
        Manifest.load("s3://nowhere")


def test_a_store_that_does_not_answer_is_named(bucket, s3):
    manifest = Manifest.load(bucket)
    s3.stop()
    address = manifest.tars(16, "train")[0].path
    with pytest.raises(DatasetError, match=r"s3://faces/small/\S+\.tar could not be read for 1 s"):
        store.read(address, Patience(1, 1))


def test_without_s3fs_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(DatasetError, match=r"s3:// needs the package s3fs: pip install s3fs"):
        Manifest.load("s3://faces/small")
