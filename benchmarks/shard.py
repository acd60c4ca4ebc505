"""Compares dataprep/shard.py with a plain loop, on the same images in the same run:

    python benchmarks/shard.py                              # drawn faces, 1,000 of each kind
    python benchmarks/shard.py --photos faces.zip --images 300

The sources are 256x256 JPEG, and 1024x1024 PNG made from them by enlarging and adding noise. The
outputs are all seven resolutions from 4 to 256, as WebDataset tars and FFCV files.

  plain       Pillow in one process: decode, resize seven times, ShardWriter with its default PNG;
              then ffcv's DatasetWriter with one worker over the shards of each resolution
  decoding    Pillow decodes each image and discards it
  shard.py    this project with 1 and with 2 workers, including start-up and fsync

Every figure is the best of --repeat. "CPU" is the processor time of all processes; on a shared
machine it is more reliable than the wall clock.
"""

import argparse
import contextlib
import ctypes
import io
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
SIDES = [2**i for i in range(2, 9)]
PR_SET_CHILD_SUBREAPER = 36  # makes orphaned workers children of this process
GRAIN = 2.0  # noise, standard deviation in grey levels: smooth images compress too well as PNG


def make_sources(folder: Path, images: int, photos: Path | None) -> dict[str, Path]:
    """Writes a folder of images of each kind; returns {kind: folder}."""
    sources = {"JPEG 256": folder / "jpeg", "PNG 1024": folder / "png"}
    for path in sources.values():
        path.mkdir()
    random = np.random.default_rng(0)
    for i, jpeg in enumerate(photos_of(photos, images) if photos else drawn(images)):
        (sources["JPEG 256"] / f"{i:06d}.jpg").write_bytes(jpeg)
        large = Image.open(io.BytesIO(jpeg)).convert("RGB").resize((1024, 1024), Image.BICUBIC)
        grainy = np.asarray(large) + random.normal(0, GRAIN, (1024, 1024, 1))
        large = Image.fromarray(grainy.clip(0, 255).astype(np.uint8))
        large.save(sources["PNG 1024"] / f"{i:06d}.png", compress_level=3)
    return sources


def drawn(images: int):
    from dataprep.drawn import faces

    random = np.random.default_rng(1)
    for i in range(images):
        pixels = np.asarray(faces.draw(0, i)) + random.normal(0, GRAIN, (256, 256, 1))
        buffer = io.BytesIO()
        image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
        image.save(buffer, "JPEG", quality=90)
        yield buffer.getvalue()


def photos_of(path: Path, images: int):
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith((".jpg", ".jpeg")))
        for name in names[:images]:
            yield archive.read(name)


def decoding(source: Path, out: Path) -> None:
    for path in sorted(source.iterdir()):
        with Image.open(path) as image:
            image.load()


def plain(source: Path, out: Path) -> None:
    """The plain loop. `main` imports ffcv and webdataset before the timing starts."""
    import ffcv
    import webdataset

    out.mkdir()
    writers = {
        side: webdataset.ShardWriter(str(out / f"r{side:03d}-%06d.tar"), verbose=0)
        for side in SIDES
    }
    for i, path in enumerate(sorted(source.iterdir())):
        image = Image.open(path).convert("RGB")
        for side, writer in writers.items():
            small = image.resize((side, side), Image.LANCZOS)
            writer.write({"__key__": f"{i:09d}", "png": small, "cls": 0})
    for side, writer in writers.items():
        writer.close()
        fields = {"image": ffcv.fields.RGBImageField("raw"), "label": ffcv.fields.IntField()}
        beton = ffcv.writer.DatasetWriter(str(out / f"r{side:03d}.beton"), fields, num_workers=1)
        beton.from_webdataset([str(p) for p in sorted(out.glob(f"r{side:03d}-*.tar"))], decoded)


def decoded(dataset):
    return dataset.decode("pil").to_tuple("png", "cls")


def ours(workers: int, source: Path, out: Path) -> None:
    command = [sys.executable, "dataprep/shard.py", source, "--out", out]
    command += ["--workers", str(workers), "--split", "fraction"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)


WAYS: dict[str, Callable[[Path, Path], None]] = {
    "plain": plain,
    "decoding": decoding,
    "shard.py, 1 worker": partial(ours, 1),
    "shard.py, 2 workers": partial(ours, 2),
}


def timed(way: Callable[[Path, Path], None], source: Path, folder: Path) -> tuple[float, float]:
    """Wall-clock seconds and processor seconds."""
    out = folder / "out"
    begun, used = time.perf_counter(), processor_time()
    way(source, out)
    taken = time.perf_counter() - begun
    used = processor_time() - used
    shutil.rmtree(out, ignore_errors=True)
    return taken, used


def processor_time() -> float:
    """Processor seconds of this process and of its finished descendants."""
    time.sleep(0.3)  # workers end a moment after their parent, and are adopted by this process
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--photos", type=Path, help="a zip of 256x256 JPEG to use")
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--folder", help="working folder [the system's temporary folder]")
    args = parser.parse_args()
    import ffcv.fields
    import ffcv.writer  # noqa: F401
    import webdataset  # noqa: F401

    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    with tempfile.TemporaryDirectory(dir=args.folder) as temporary:
        folder = Path(temporary)
        sources = make_sources(folder, args.images, args.photos)
        print(
            f"| {args.images} images | way | s | images/s | CPU s | images/CPU s "
            "| times the plain loop | times decoding |"
        )
        print("|" + " --- |" * 8, flush=True)
        for kind, source in sources.items():
            clock, cpu = (dict.fromkeys(WAYS, float("inf")) for _ in range(2))
            for _ in range(args.repeat):
                for name, way in WAYS.items():
                    taken, used = timed(way, source, folder)
                    clock[name], cpu[name] = min(clock[name], taken), min(cpu[name], used)
            for name in WAYS:
                print(
                    f"| {kind} | {name} | {clock[name]:.2f} | {args.images / clock[name]:.0f} "
                    f"| {cpu[name]:.2f} | {args.images / cpu[name]:.0f} "
                    f"| {cpu['plain'] / cpu[name]:.2f} | {cpu[name] / cpu['decoding']:.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
