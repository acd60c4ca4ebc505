"""Data that changed after it was prepared is found before it is trained on."""

import shutil
from pathlib import Path

import torch.distributed as dist

from dataprep.manifest import DatasetError, Manifest
from pipeline.data.verify import verify
from tests.processes import run_together


def read_together(folder: Path, record: Path) -> list:
    """Bytes read at 8x8 the first time and the second time, and the messages about a
    flipped bit and about a missing file."""
    made, calls, found = Manifest.load(folder), [], []
    for _ in range(2):
        group = dist.group.WORLD
        found.append(verify(made, "ffcv", 8, record, group, lambda: calls.append(1)))
        dist.barrier()
    if dist.get_rank() == 0:
        path = made.beton(8, "test")
        content = bytearray(path.read_bytes())
        content[-10] ^= 1
        path.write_bytes(content)
    dist.barrier()
    try:
        verify(made, "ffcv", 8, record, group, lambda: None)
    except DatasetError as error:
        found.append(str(error))
    verify(made, "webdataset", 8, record, group, lambda: None)
    dist.barrier()
    if dist.get_rank() == 0:
        made.beton(8, "test").unlink()
    dist.barrier()
    try:
        verify(made, "ffcv", 8, record, group, lambda: None)
    except DatasetError as error:
        found.append(str(error))
    return [*found, len(calls)]


def test_a_flipped_bit_is_named_on_all_processes_and_good_files_are_read_once(dataset, tmp_path):
    folder = shutil.copytree(dataset, tmp_path / "dataset")
    files = Manifest.load(folder).content["files"]
    size = sum(f["bytes"] for f in files if (f["format"], f["resolution"]) == ("ffcv", 8))
    for first, second, said, missing, calls in run_together(
        2, read_together, folder, tmp_path / "verified.json"
    ):
        assert (first, second, calls) == (size, 0, 1)  # one file each
        assert "r008-test.beton was altered" in said and "--verify" in said
        assert "r008-test.beton cannot be read: No such file" in missing
