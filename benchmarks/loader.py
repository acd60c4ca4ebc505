"""Measures images per second per core of both loaders, and their start-up on large datasets:

    python benchmarks/loader.py speed SOURCE            # a source of dataprep/shard.py
    python benchmarks/loader.py shards --counts 100 10000 100000

speed: reads the images of SOURCE at 32, 64, 128 and 256 px, in tars of 50, by FFCV and WebDataset,
in both orders, from files and over HTTP from a server in another process. The baseline is torch's
DataLoader over a folder of the same images, as PNG and as JPEG, with Pillow. All yield randomly
mirrored floats in [-1, 1] in batches of 32; one thread reads and decodes.

shards: reads generated tars of ten 4x4 images.

Each row of a table is measured in a new process. "Per core" divides by the processor time of all
threads, which depends less on other load than the wall clock. "First batch" excludes imports and
compilation.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from dataprep import manifest
from dataprep.formats.tars import TarWriter, read
from dataprep.manifest import Manifest

ROOT = Path(__file__).resolve().parent.parent
SIDES, BATCH = (32, 64, 128, 256), 32


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    speed = commands.add_parser("speed")
    speed.add_argument("source")
    speed.add_argument("--images", type=int, default=600, help="number measured at each size [600]")
    shards = commands.add_parser("shards")
    shards.add_argument("--counts", type=int, nargs="+", default=[100, 10_000, 100_000])
    one = commands.add_parser("one", help="one line of a table, as JSON")
    one.add_argument("what", choices=("loader", "folder"))
    one.add_argument("how", type=json.loads)
    given = parser.parse_args()
    if given.command == "one":
        print(json.dumps((measure_loader if given.what == "loader" else measure_folder)(given.how)))
        return
    with tempfile.TemporaryDirectory() as folder:
        if given.command == "speed":
            table_of_speed(given.source, given.images, Path(folder))
        else:
            table_of_shards(given.counts, Path(folder))


def in_a_process(what: str, **how) -> list[dict]:
    """The output of the command `one` in a new process with one thread."""
    command = [sys.executable, __file__, "one", what, json.dumps(how)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def table_of_speed(source: str, images: int, folder: Path) -> None:
    command = [sys.executable, ROOT / "dataprep/shard.py", source, "--out", folder / "dataset"]
    command += ["--max-resolution", str(SIDES[-1]), "--shard-samples", "50"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    made = Manifest.load(folder / "dataset")
    for side in SIDES:
        unpack(made, side, folder / "files")
    rows = {}
    for kind in ("png", "jpg"):
        name = f"DataLoader, {kind.upper()} files"
        rows[name] = in_a_process("folder", path=str(folder / "files"), kind=kind, images=images)
    with serving(folder / "dataset") as address:
        for name, path, loader, order in (
            ("FFCV, global", folder / "dataset", "ffcv", "global"),
            ("FFCV, shards", folder / "dataset", "ffcv", "shards"),
            ("WebDataset, global", folder / "dataset", "webdataset", "global"),
            ("WebDataset, shards", folder / "dataset", "webdataset", "shards"),
            ("WebDataset, shards, HTTP", address, "webdataset", "shards"),
        ):
            rows[name] = in_a_process(
                "loader", path=str(path), loader=loader, order=order, sides=SIDES, images=images
            )
    baseline = [line["per_core"] for line in rows["DataLoader, PNG files"]]
    print("| images/s per core (of the first line) |", *(f"{side} px |" for side in SIDES), end=" ")
    print("first batch, s | memory, MiB |\n|" + " --- |" * (len(SIDES) + 3))
    for name, lines in rows.items():
        cells = [
            f"{line['per_core']:,.0f} ({line['per_core'] / base:.2f})"
            for line, base in zip(lines, baseline)
        ]
        first, memory = lines[-1]["first"], max(line["memory"] for line in lines)
        print("|", " | ".join([name, *cells, f"{first:.2f}", f"{memory:,.0f}"]), "|")


def unpack(made: Manifest, side: int, folder: Path) -> None:
    """Writes the training images as files, to `side`/png and `side`/jpg."""
    for kind in ("png", "jpg"):
        (folder / str(side) / kind).mkdir(parents=True)
    for tar in made.tars(side, "train"):
        for member in read(Path(tar.path)):
            (folder / str(side) / "png" / f"{member.key}.png").write_bytes(member.image)
            with Image.open(BytesIO(member.image)) as image:
                image.save(folder / str(side) / "jpg" / f"{member.key}.jpg", quality=95)


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serves `folder` on 127.0.0.1 from another process; yields the address."""
    command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1"]
    process = subprocess.Popen(
        [*command, "--directory", folder], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    port = process.stdout.readline().split(b" port ")[1].split()[0].decode()
    yield f"http://127.0.0.1:{port}"
    process.kill()
    process.wait()


def measure_loader(how: dict) -> list[dict]:
    """Images per second per core, first batch and memory of a loader, at each of its sides."""
    import torch

    from pipeline.data.config import DataConfig
    from pipeline.data.loaders import training_images

    torch.set_num_threads(1)
    config = DataConfig(path=how["path"], loader=how["loader"], order=how["order"], workers=1)
    before, lines = memory(), []
    for side in how["sides"]:

        def batches(side=side):
            made = Manifest.load(config.path)
            starts = iter(range(0, 10**9, BATCH))
            return training_images(config, made, side, 0, starts, BATCH, torch.device("cpu"))

        lines.append(timed(batches, how["images"], before, warm=how["loader"] == "ffcv"))
    return lines


def measure_folder(how: dict) -> list[dict]:
    """The same for a plain torch DataLoader over a folder of images."""
    import torch
    from torch.utils.data import DataLoader, Dataset

    torch.set_num_threads(1)

    class Folder(Dataset):
        def __init__(self, folder: Path):
            self.paths = sorted(folder.iterdir())

        def __len__(self):
            return len(self.paths)

        def __getitem__(self, index):
            with Image.open(self.paths[index]) as image:
                x = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 127.5 - 1
            return x.flip(2) if torch.rand(()) < 0.5 else x

    before, lines = memory(), []
    for side in SIDES:

        def batches(side=side):
            loader = DataLoader(
                Folder(Path(how["path"], str(side), how["kind"])), BATCH, shuffle=True
            )
            while True:
                yield from loader

        lines.append(timed(batches, how["images"], before))
    return lines


def timed(batches: Callable[[], Iterator], images: int, before: float, warm: bool = False) -> dict:
    if warm:  # FFCV compiles for each size
        next(batches())
    started = time.perf_counter(), time.process_time()
    source = batches()
    next(source)
    first, first_cpu = time.perf_counter() - started[0], time.process_time() - started[1]
    begun, seen = time.process_time(), 0
    while seen < images:
        batch = next(source)
        seen += len(batch[0] if isinstance(batch, tuple) else batch)
    seconds = time.process_time() - begun
    source.close()
    line = {"per_core": seen / seconds if seconds else 0, "first": first, "first_cpu": first_cpu}
    return line | {"memory": memory() - before}


def memory() -> float:
    """Peak memory of this process in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def table_of_shards(counts: list[int], folder: Path) -> None:
    print("| tars | order | first batch, s | of it CPU | memory, MiB |")
    print("| --- | --- | --- | --- | --- |")
    for count in counts:
        made = many(count, folder / str(count))
        for order in ("global", "shards"):
            (line,) = in_a_process(
                "loader", path=str(made), loader="webdataset", order=order, sides=[4], images=0
            )
            cells = f"{line['first']:.2f} | {line['first_cpu']:.2f} | {line['memory']:,.0f}"
            print(f"| {count:,} | {order} | {cells} |", flush=True)
        shutil.rmtree(made)


def many(count: int, folder: Path) -> Path:
    """A dataset of `count` equal tars of ten 4x4 images."""
    folder.mkdir()
    writer = TarWriter(folder, "tar")
    for i in range(10):
        image = BytesIO()
        Image.new("RGB", (4, 4), (20 * i, 0, 0)).save(image, "png")
        writer.add(f"{i:08}", "png", image.getvalue(), -1)
    (about,) = writer.close()
    content = (folder / about.pop("path")).read_bytes()
    files = []
    for i in range(count):
        path = f"{i // 1000:03}/{i:06}.tar"
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_bytes(content)
        how = {"format": "webdataset", "resolution": 4, "split": "train"}
        files.append({"path": path, **how, **about})
    samples = {"train": 10 * count, "test": 0}
    made = {"resolutions": [4], "samples": samples, "classes": [], "files": files}
    manifest.write(folder, made)
    return folder


if __name__ == "__main__":
    main()
