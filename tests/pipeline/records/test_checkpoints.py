"""Checkpoints are whole or absent, and damage is found before it is used."""

import json

import pytest
import torch

from pipeline.records import checkpoints
from pipeline.records.checkpoints import Checkpoint, CheckpointError
from tests.processes import files_of_at_most


def make(images: int = 7) -> Checkpoint:
    tensors = {"a.b": torch.randn(3, 4), "c": torch.randn(2, 4, 4).transpose(0, 1)}
    return Checkpoint(tensors, {"a.b": torch.ones(3)}, {"c": torch.zeros(1)}, {"images": images})


def test_round_trip(tmp_path):
    made = make()
    checkpoints.save(tmp_path / "c" / "000000007", made)
    found = checkpoints.load(tmp_path / "c" / "000000007")
    assert found.about["images"] == 7 and "torch" in found.about["versions"]
    for part in checkpoints.PARTS:
        ours, theirs = getattr(made, part), getattr(found, part)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("file", ["weights.safetensors", "ema.safetensors", "checkpoint.json"])
def test_a_flipped_bit_is_found(tmp_path, file):
    path = tmp_path / "000000007"
    checkpoints.save(path, make())
    content = bytearray((path / file).read_bytes())
    content[len(content) // 2] ^= 1
    (path / file).write_bytes(content)
    with pytest.raises(CheckpointError, match=str(path)):
        checkpoints.load(path)


def test_a_missing_part_and_another_format_are_named(tmp_path):
    path = tmp_path / "000000007"
    checkpoints.save(path, make())
    about = json.loads((path / "checkpoint.json").read_text())
    (path / "checkpoint.json").write_text(json.dumps(about | {"format": "other"}))
    with pytest.raises(CheckpointError, match="format other"):
        checkpoints.load(path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        checkpoints.load(tmp_path / "000000008")


def test_a_disk_that_takes_no_more_is_an_os_error_and_leaves_nothing_behind(tmp_path):
    large = Checkpoint({"a": torch.zeros(20_000)}, {}, {}, {"images": 7})
    with files_of_at_most(50_000), pytest.raises(OSError, match="too large"):
        checkpoints.save(tmp_path / "000000007", large)
    assert list(tmp_path.iterdir()) == []


def test_pruning_keeps_the_newest_and_the_ends_of_stages(tmp_path):
    for images in (10, 20, 30, 40, 50):
        checkpoints.save(checkpoints.path_of(tmp_path, images), make(images))
    (tmp_path / ".000000060.host-1.partial").mkdir()
    (tmp_path / ".000000005.removed").mkdir()
    checkpoints.set_aside(tmp_path / "000000030")
    checkpoints.prune(tmp_path, keep={20})
    names = {"000000050", "000000040", "000000030.damaged", "000000020"}
    assert {p.name for p in tmp_path.iterdir()} == names
    found = [int(p.name) for p in checkpoints.newest_first(tmp_path)]
    assert found == [50, 40, 20]
