"""Each file of a stage, read once against the sha256 that the manifest has of it.

A bit that flipped on a disk or on the way there is otherwise trained on in silence: raw images have
no checksums of their own.
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
    """Reads the files of a resolution that `loader` uses; how many bytes were read by all.

    Every process of `group` must call and reads its share; it calls `heartbeat` between blocks.
    Files that have been read before, and have not changed in size or time since, are not read
    again: `record`, a file, remembers them. DatasetError, on all processes, names what is wrong.
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
        if sha256(path, heartbeat) != file["sha256"]:
            wrong.append(f"{path} was altered: its sha256 is not that of {manifest.folder}'s list")
    every: list = [None] * world
    dist.all_gather_object(every, wrong, group=group)
    if wrong := sorted(line for lines in every for line in lines):
        more = f" (and {len(wrong) - 3} more)" if len(wrong) > 3 else ""
        raise DatasetError(
            f"{'; '.join(wrong[:3])}{more}. Copy it again, or find all damage with "
            f"dataprep/shard.py --verify {manifest.folder}; data.verify=off would train on it"
        )
    if rank == 0 and due:
        with contextlib.suppress(OSError), whole(record) as beside:  # then it is read again
            beside.write_text(json.dumps(shared[0] | states, indent=1) + "\n")
    return sum(file["bytes"] for file in due)


def sha256(path: Path, heartbeat: Callable[[], None]) -> str:
    """Of a file's content, in hexadecimal; where it cannot be read, why."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
                heartbeat()
    except OSError as error:
        return f"unreadable: {error}"
    return digest.hexdigest()


def _state(path: Path, file: dict) -> list:
    """What changes where a file is written to: and what it was compared with."""
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
