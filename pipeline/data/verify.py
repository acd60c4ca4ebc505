"""Verifies each file of a stage once against its sha256 in the manifest.

Raw images have no checksums, so a flipped bit would otherwise go undetected into the training.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import torch.distributed as dist

from dataprep.manifest import DatasetError, Manifest
from pipeline.records.files import whole

BLOCK = 16 << 20  # bytes


def verify(
    manifest: Manifest, loader: str, resolution: int, record: Path, group: dist.ProcessGroup,
    heartbeat: Callable[[], None],
) -> int:  # fmt: skip
    """Verifies the files of a resolution that `loader` uses; returns the bytes read by all.

    Every process of `group` must call; each reads its share, and calls `heartbeat` between blocks.
    The file `record` lists verified files; they are not read again while size and time are
    unchanged. DatasetError, on all processes, names the damaged files.
    """
    rank, world = dist.get_rank(group), dist.get_world_size(group)
    shared: list = [_known(record) if rank == 0 else None]
    dist.broadcast_object_list(shared, group=group)
    listed = [
        file
        for file in manifest.content["files"]
        if (file["format"], file["resolution"]) == (loader, resolution)
    ]
    states = {file["path"]: _state(manifest.folder / file["path"], file) for file in listed}
    due = [file for file in listed if shared[0].get(file["path"]) != states[file["path"]]]
    due.sort(key=lambda file: -file["bytes"])
    wrong = []
    for file in due[rank::world]:
        path = manifest.folder / file["path"]
        try:
            if sha256(path, heartbeat) != file["sha256"]:
                wrong.append(f"{path} was altered: its sha256 is not that of {manifest.folder}")
        except OSError as error:
            wrong.append(f"{path} cannot be read: {error.strerror or error}")
    every: list = [None] * world
    dist.all_gather_object(every, wrong, group=group)
    if wrong := sorted(line for lines in every for line in lines):
        more = f" (and {len(wrong) - 3} more)" if len(wrong) > 3 else ""
        raise DatasetError(
            f"{'; '.join(wrong[:3])}{more}. Copy it again, or find all damage with "
            f"dataprep/shard.py --verify {manifest.folder}; data.verify=off would train on it"
        )
    if rank == 0 and due:
        with contextlib.suppress(OSError), whole(record) as beside:  # without it, verified again
            beside.write_text(json.dumps(shared[0] | states, indent=1) + "\n")
    return sum(file["bytes"] for file in due)


def sha256(path: Path, heartbeat: Callable[[], None]) -> str:
    """The sha256 of a file, in hexadecimal; calls `heartbeat` between blocks. OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
            heartbeat()
    return digest.hexdigest()


def _state(path: Path, file: dict) -> list:
    """The expected sha256, and the size and time of the file, None if it is missing."""
    try:
        about = path.stat()
    except OSError:
        return [file["sha256"], None, None]
    return [file["sha256"], about.st_size, about.st_mtime_ns]


def _known(record: Path) -> dict[str, list]:
    try:
        return json.loads(record.read_text())
    except (OSError, ValueError):
        return {}
