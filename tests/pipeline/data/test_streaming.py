"""Tars read in sequence: the same sequence from everywhere, and what a bad store does to it."""

import os
import shutil
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch

from dataprep import store
from dataprep.manifest import DatasetError, Manifest
from dataprep.store import Patience, Stream
from pipeline.data import order
from pipeline.data.config import DataConfig
from pipeline.data.loaders import reader, split_images, training_images
from pipeline.data.streaming import groups
from tests.dataprep.pictures import encoded, picture
from tests.pipeline.data.server import Server, after

CPU = torch.device("cpu")
SHARDS = dict(loader="webdataset", order="shards", window=3, workers=2)
SOON = dict(timeout=0.5, retry_seconds=2)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """66 labelled images in 12 tars of up to 5 for training."""
    folder = tmp_path_factory.mktemp("streaming")
    for i in range(66):
        path = folder / "images" / "abc"[i % 3] / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(picture(i, 16, 16)))
    command = [sys.executable, "dataprep/shard.py", folder / "images", "--out", folder / "dataset"]
    command += ["--max-resolution", "16", "--labels", "folder", "--shard-samples", "5"]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "dataset"


@pytest.fixture
def server(made):
    with Server(made) as server:
        yield server


def batches(path, starts, micro=4, **how):
    config = DataConfig(path=str(path), **(SHARDS | how))
    manifest = Manifest.load(config.path)
    return list(training_images(config, manifest, 16, 5, iter(starts), micro, CPU))


def same(one, other) -> bool:
    pairs = list(zip(one, other, strict=True))
    return all(
        torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels) for a, b in pairs
    )


def train_tars(path):
    return Manifest.load(path).tars(16, "train")


def test_a_pass_shows_every_image_once_window_by_window():
    shards = order.Shards((5, 4, 5, 2, 5, 5, 1), window=3)
    total, starts = 27, np.cumsum((0, 5, 4, 5, 2, 5, 5))
    first, _ = order.samples(1, np.arange(total), total, shards)
    second, _ = order.samples(1, np.arange(total, 2 * total), total, shards)
    for indices in (first, second):
        assert sorted(indices) == list(range(total))
        numbers = np.searchsorted(starts, indices, "right") - 1
        assert [len(set(numbers[a:b])) for a, b in groups(numbers, 3)] == [3, 3, 1]
    assert not (first == second).all()
    middle, _ = order.samples(1, np.arange(20, 40), total, shards)
    assert (middle == np.concatenate([first[20:], second[:13]])).all()


def test_groups_have_few_shards():
    numbers = np.array([1, 1, 2, 1, 3, 3, 4, 1])
    assert groups(numbers, 2) == [(0, 4), (4, 7), (7, 8)]
    assert groups(numbers, 9) == [(0, 8)]
    assert groups(numbers[:0], 2) == [(0, 0)]


def test_the_same_sequence_by_both_loaders_from_files_and_the_web(made, server):
    starts = range(0, 160, 4)  # two passes, and more
    streamed = batches(made, starts)
    assert same(streamed, batches(made, starts, loader="ffcv"))
    assert same(streamed, batches(server.address, starts))
    assert same(streamed[11:], batches(server.address, list(starts)[11:]))
    assert not same(streamed, batches(made, starts, order="global"))


def test_processes_share_the_sequence(made):
    whole = batches(made, range(0, 64, 4))
    for world in (2, 4):
        for rank in range(world):
            share = list(order.starts(0, 64, 16, 4, rank, world))
            assert same(batches(made, share), [whole[start // 4] for start in share])


def test_a_split_is_read_in_order(made, server):
    manifest, found = Manifest.load(made), []
    for path, how in ((made, {"loader": "webdataset"}), (server.address, SHARDS)):
        config = DataConfig(path=str(path), **how)
        indices = np.arange(manifest.count("test"))[1:]
        manifest = Manifest.load(config.path)
        found.append(list(split_images(config, manifest, 8, "test", indices, 3, CPU)))
    assert same(*found)


def test_few_tars_are_held(made, server):
    """Two windows are read ahead, and no more."""
    config = DataConfig(path=server.address, **SHARDS)
    images = training_images(config, Manifest.load(config.path), 16, 5, iter([0, 4]), 4, CPU)
    next(images)
    images.close()
    assert sum(path.endswith(".tar") for path in server.asked) <= 6


def test_an_address_needs_the_order_that_can_be_read_from_it(tmp_path):
    for how in ({}, {"loader": "webdataset"}, {"order": "shards"}):
        with pytest.raises(ValueError, match=r"data\.loader=webdataset data\.order=shards"):
            DataConfig(path="http://127.0.0.1/x", **how)
    with pytest.raises(ValueError, match=r"is a command: set data\.allow_pipe=true"):
        DataConfig(path="pipe:cat /x", **SHARDS)
    with pytest.raises(DatasetError, match="addresses begin with"):
        DataConfig(path="ftp://127.0.0.1/x", **SHARDS)


def test_pipe_runs_a_command_for_each_file_and_no_shell(made, tmp_path):
    path = f"pipe:cat {made}"
    assert same(batches(path, range(0, 20, 4), allow_pipe=True), batches(made, range(0, 20, 4)))
    with pytest.raises(DatasetError, match="cannot be appended to a command"):
        store.join(path, "a.tar; touch x")
    for outside in ("../a.tar", "/etc/passwd"):
        with pytest.raises(DatasetError, match="lies outside"):
            store.join("http://127.0.0.1/x", outside)
    with pytest.raises(DatasetError, match="ended with status 1"):
        store.read(f"pipe:cat {tmp_path}/missing", Patience(1, 0.3))


@pytest.mark.parametrize("lengths", [True, False])
def test_answers_that_end_early_are_gone_on_with(made, server, lengths):
    expected = batches(made, range(0, 60, 4))
    server.truncate, server.lengths = 3000, lengths
    assert same(expected, batches(server.address, range(0, 60, 4), **SOON))
    assert max(server.asked.values()) > 1


def test_a_server_without_ranges_is_read_from_the_front(made, server):
    tar = train_tars(made)[0]
    server.ranges, server.stall = False, 2
    address = f"{server.address}/{tar.path.relative_to(made)}"
    with Stream(address, tar.bytes, Patience(0.3, 5)) as stream:
        assert stream.read() == tar.path.read_bytes()
    assert sum(server.asked.values()) == 3


@pytest.mark.parametrize("fault", ["stall", "status"])
def test_a_store_that_recovers_is_waited_for(made, server, fault, capsys):
    expected = batches(made, range(0, 60, 4))
    server.status, server.stall, server.failures = 503, *((2, 0) if fault == "stall" else (0, 3))
    assert same(expected, batches(server.address, range(0, 60, 4), timeout=0.5, retry_seconds=20))
    said = capsys.readouterr().err
    assert "trying again for 20 s" in said and "goes on after" in said


def test_a_store_that_dies_in_the_middle_and_comes_back(made):
    expected = batches(made, range(0, 120, 4))
    server = Server(made)
    config = DataConfig(path=server.address, **SHARDS, retry_seconds=30)
    manifest = Manifest.load(config.path)
    images = training_images(config, manifest, 16, 5, iter(range(0, 120, 4)), 4, CPU)
    found = [next(images)]
    server.close()
    back = []
    after(1.5, lambda: back.append(Server(made, server.port)))
    found += images
    assert same(expected, found)
    back[0].close()


def test_a_store_that_stays_dead_is_an_error_with_shard_and_address(made):
    server = Server(made)
    config = DataConfig(path=server.address, **SHARDS, **SOON)
    manifest = Manifest.load(config.path)
    server.close()
    images = training_images(config, manifest, 16, 5, iter(range(0, 120, 4)), 4, CPU)
    started = time.monotonic()
    with pytest.raises(DatasetError, match=r"http://127.0.0.1:\d+/webdataset/r016/train-\d+.tar"):
        list(images)
    assert 1.5 < time.monotonic() - started < 10
    for thread in threading.enumerate():  # those that read other shards end, too
        if thread.name.startswith("ThreadPoolExecutor"):
            thread.join(5)
            assert not thread.is_alive()


def test_what_is_refused_is_not_asked_for_again(made, server):
    server.status, server.failures = 403, 1000
    with pytest.raises(DatasetError, match=r"train-\d+.tar: the server says 403"):
        batches(server.address, range(0, 60, 4))
    with pytest.raises(DatasetError, match=r"manifest.json: the server says 404"):
        Manifest.load(f"{server.address}/elsewhere")


def test_a_wrong_checksum_is_refused(made, server, tmp_path):
    server.spoil = True
    with pytest.raises(DatasetError, match=r"train-\d+.tar was altered or is damaged: .* sha256"):
        batches(server.address, range(0, 60, 4))
    broken = shutil.copytree(made, tmp_path / "broken")
    for tar in train_tars(broken):
        data = bytearray(tar.path.read_bytes())
        data[700] ^= 1
        tar.path.write_bytes(data)
    with pytest.raises(DatasetError, match=r"train-\d+.tar was altered or is damaged"):
        batches(broken, range(0, 60, 4))
    for tar in train_tars(broken):
        tar.path.write_bytes(tar.path.read_bytes()[:-1024])
    with (
        Server(broken) as other,
        pytest.raises(DatasetError, match=r"train-\d+.tar: has \d+ bytes instead of \d+"),
    ):
        batches(other.address, range(0, 60, 4))


def test_the_cache_keeps_to_its_size_and_what_is_damaged_is_fetched_anew(made, server, tmp_path):
    size = max(tar.bytes for tar in train_tars(made))
    how = dict(cache=str(tmp_path / "cache"), cache_gib=1)
    expected = batches(made, range(0, 60, 4))
    assert same(expected, batches(server.address, range(0, 60, 4), **how))
    kept = sorted((tmp_path / "cache").glob("*.tar"))
    assert len(kept) == len({tar.sha256 for tar in train_tars(made)})
    asked = server.asked.copy()
    assert same(expected, batches(server.address, range(0, 60, 4), **how))
    assert server.asked - asked == {"/manifest.json": 1}
    kept[0].write_bytes(b"damaged")
    assert same(expected, batches(server.address, range(0, 60, 4), **how))
    assert (server.asked - asked).total() == 3
    how["cache_gib"] = 3 * size / 2**30
    kept[1].unlink()
    batches(server.address, range(0, 60, 4), **how)
    assert sum(tar.stat().st_size for tar in (tmp_path / "cache").glob("*.tar")) <= 3 * size
    assert not list((tmp_path / "cache").glob("*.partial"))


def test_a_full_cache_disk_is_announced_and_reading_goes_on(made, server, tmp_path, capsys):
    how = dict(cache=str(tmp_path / "cache"))
    config = DataConfig(path=server.address, **SHARDS, **how)
    source = reader(config, Manifest.load(config.path), 16, "train", 4)
    source.cache.folder = tmp_path / "gone"  # nothing can be written there
    source.cache.lock = lambda shard: threading.Lock()
    assert len(list(source.batches(np.arange(8)))) == 2
    assert "the shard is not cached" in capsys.readouterr().out


def test_no_more_files_are_open_than_before(made, server):
    before = len(os.listdir("/proc/self/fd"))
    batches(server.address, range(0, 120, 4))
    batches(made, range(0, 120, 4))
    assert len(os.listdir("/proc/self/fd")) <= before + 2
