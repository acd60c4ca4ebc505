"""From a folder or a zip of images to a dataset at every resolution, in two formats:

    python dataprep/shard.py SOURCE --out DIR

Every image is decoded once, cropped to its central square and resized to --max-resolution and every
lower power of two down to 4 (dataprep/pyramid.py). DIR then holds lossless WebDataset tars, FFCV
files and manifest.json (dataprep/manifest.py describes it), and appears whole or not at all: all is
made in DIR/.partial and moved out at the end, the manifest last.
"""

import argparse
import hashlib
import importlib.metadata
import shutil
import sys
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from tqdm import tqdm

from dataprep import manifest, split, tars
from dataprep.beton import BetonWriter, Layout
from dataprep.manifest import DatasetError, Manifest
from dataprep.plan import Sample, plan, write_index
from dataprep.pyramid import BadImageError, decode, pyramid
from dataprep.sources import Folder, Zip, open_source

RESOLUTIONS = tuple(2**i for i in range(2, 11))
SHARD_SAMPLES = 1000
PARTIAL = ".partial"
PARTS = ("index", "webdataset", "ffcv")


def prepare(
    source: Folder | Zip,
    out: Path,
    max_resolution: int = 256,
    asked: str = "auto",
    test_fraction: float = 0.1,
    labels: str = "none",
) -> Manifest:
    """Prepare the dataset `out` from `source`; `asked` is the --split, `labels` "none" or "folder".

    DatasetError for anything that stands in the way; then `out` holds no manifest.
    """
    partial = make_room(out)
    names = source.names()
    if not names:
        raise DatasetError(f"{source.path} holds no images (files ending in .jpg, .png, .webp ...)")
    samples, rule, why, classes = plan(names, asked, test_fraction, labels)
    counts = {part: len(found) for part, found in samples.items()}
    print(f"{len(names)} images: {counts['train']} train, {counts['test']} test ({rule}: {why})")

    sides = [side for side in RESOLUTIONS if side <= max_resolution]
    files = []
    pause = 0.1 if sys.stderr.isatty() else 30  # seconds: a log file gets few lines
    with tqdm(total=len(names), unit="img", desc="preparing", mininterval=pause) as bar:
        for part, found in samples.items():
            files += write_split(source, partial, part, found, sides, bar)

    how = {"rule": rule, "asked": asked, "why": why}
    content = {
        "made_with": versions(),
        "source": {"name": source.path.resolve().name, "images": len(names)},
        "settings": {"max_resolution": max_resolution, "labels": labels},
        "split": how | ({"test_fraction": test_fraction} if rule == "fraction" else {}),
        "resolutions": sides,
        "samples": counts,
        "classes": classes,
        "files": files,
    }
    manifest.write(partial, content)
    publish(partial, out)
    return Manifest.load(out)


def write_split(
    source: Folder | Zip,
    folder: Path,
    part: str,
    samples: Sequence[Sample],
    sides: Sequence[int],
    bar: tqdm,
) -> list[dict[str, Any]]:
    """Write the tars, betons and index of the split `part`; returns their manifest entries."""
    files = []
    paths = {side: f"ffcv/r{side:03d}-{part}.beton" for side in sides}
    betons = {
        side: BetonWriter(folder / path, Layout(side, len(samples))) for side, path in paths.items()
    }
    for number, start in enumerate(range(0, len(samples), SHARD_SAMPLES)):
        shard = samples[start : start + SHARD_SAMPLES]
        files += write_shard(source, folder, part, number, shard, betons, bar)
    for side, beton in betons.items():
        beton.finish([sample.slot for sample in samples], [sample.label for sample in samples])
        beton.close()
        facts = measured(folder / paths[side], samples)
        files.append(entry(paths[side], "ffcv", side, part, **facts))
    index = f"index/{part}.jsonl"
    write_index(folder / index, samples)
    files.append(entry(index, "index", None, part, **measured(folder / index, samples)))
    return files


def write_shard(
    source: Folder | Zip,
    folder: Path,
    part: str,
    number: int,
    samples: Sequence[Sample],
    betons: dict[int, BetonWriter],
    bar: tqdm,
) -> list[dict[str, Any]]:
    """Decode `samples` into tar `number` of each resolution and their slots in `betons`."""
    paths = {side: f"webdataset/r{side:03d}/{part}-{number:06d}.tar" for side in betons}
    for path in paths.values():
        (folder / path).parent.mkdir(exist_ok=True)
    writers = {side: tars.TarWriter(folder / path) for side, path in paths.items()}
    for sample in samples:
        for side, pixels in levels(source, sample.name, max(betons)):
            writers[side].add(sample.key, tars.png(pixels), sample.label)
            betons[side].put(sample.slot, pixels)
        bar.update()
    return [
        entry(path, "webdataset", side, part, **writers[side].close())
        for side, path in paths.items()
    ]


def levels(
    source: Folder | Zip, name: str, max_resolution: int
) -> Iterator[tuple[int, np.ndarray]]:
    """(side, pixels) of one image at every resolution; DatasetError names the image."""
    try:
        yield from pyramid(decode(source.read(name)), max_resolution, RESOLUTIONS[0])
    except BadImageError as error:
        raise DatasetError(f"{source.path}: {name}: {error}; repair it or leave it out") from None
    except OSError as error:
        raise DatasetError(f"{source.path}: {name} cannot be read: {error}") from None


def entry(path: str, format: str, side: int | None, part: str, **facts: Any) -> dict[str, Any]:
    """A file as the manifest lists it; `facts` are its samples, bytes and sha256."""
    return {"path": path, "format": format, "resolution": side, "split": part, **facts}


def measured(path: Path, samples: Sequence[Sample]) -> dict[str, Any]:
    """The facts of a finished file, read once for its sha256."""
    hashed = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            hashed.update(block)
        return {"samples": len(samples), "bytes": file.tell(), "sha256": hashed.hexdigest()}


def versions() -> dict[str, str]:
    """Versions of all that decides the bytes written."""
    return {
        "dataprep": importlib.metadata.version("soft-introvae-training"),
        "numpy": np.__version__,
        "pillow": PIL.__version__,
        "zlib": zlib.ZLIB_RUNTIME_VERSION,
    }


def make_room(out: Path) -> Path:
    """An empty DIR/.partial; what an interrupted run left is removed.

    DatasetError where `out` holds a dataset, or anything else that is not ours to remove.
    """
    partial = out / PARTIAL
    if (out / manifest.NAME).exists():
        raise DatasetError(f"{out} holds a prepared dataset: choose another --out or remove it")
    if out.exists() and not out.is_dir():
        raise DatasetError(f"{out} is not a folder: choose another --out")
    if partial.is_dir():
        for part in (*PARTS, PARTIAL):  # .partial last: it is what makes the others ours
            if (out / part).exists():
                shutil.rmtree(out / part)
    elif out.exists() and any(out.iterdir()):
        raise DatasetError(f"{out} is not empty: choose another --out")
    for part in PARTS:
        (partial / part).mkdir(parents=True)
    return partial


def publish(partial: Path, out: Path) -> None:
    """Move the finished parts to their places, the manifest last: with it the dataset is there."""
    for part in (*PARTS, manifest.NAME):
        (partial / part).rename(out / part)
    partial.rmdir()


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line, with impossible values refused."""
    parser = argparse.ArgumentParser(
        description="Prepare a dataset from images.",
        epilog="Splits: ffhq by the official ids (60,000 train, 10,000 test), celebahq 29,000 and "
        "1,000 by number, fraction by a hash of each name; auto takes what fits and says so.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("source", metavar="SOURCE", type=Path, help="folder tree or zip of images")
    add("--out", metavar="DIR", type=Path, required=True, help="folder to make")
    add("--max-resolution", type=int, choices=RESOLUTIONS, default=256, help="highest resolution")
    add("--split", choices=("auto", *split.RULES), default="auto", help="rule for train and test")
    add(
        "--test-fraction", metavar="F", type=float, default=0.1, help="share of test under fraction"
    )
    add(
        "--labels",
        choices=("none", "folder"),
        default="none",
        help="folder: each folder is a class",
    )
    args = parser.parse_args(argv)
    if not 0 < args.test_fraction < 1:
        parser.error(f"--test-fraction {args.test_fraction:g}: it lies between 0 and 1")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; 0 where the dataset is made, 1 with a message where it could not be."""
    args = arguments(argv)
    try:
        source = open_source(args.source)
        made = prepare(
            source, args.out, args.max_resolution, args.split, args.test_fraction, args.labels
        )
    except (DatasetError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    total = sum(file["bytes"] for file in made.content["files"])
    print(f"{args.out}: {total / 1e6:.1f} MB, digest {made.digest[:16]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
