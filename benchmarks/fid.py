"""Times the parts of an evaluation by a Frechet distance, and the whole of N samples:

    python benchmarks/fid.py --samples 50000 --extractor inception --weights INCEPTION.pth
    python benchmarks/fid.py --samples 500 --batch 100 --resolution 32    # on a CPU

The networks are style networks with initial weights. Rows of the table, each with images/s and its
share of the whole evaluation:

  samples      images drawn by the decoder, as uint8
  features     of those images
  statistics   sums and products of the features, in float64 on the device
  distance     on the host, once: eigenvalues of a product of two covariances
  other        the rest of the whole: work of the host between the batches, the copy at the end

Each part is timed alone, with the device idle before and after it; "whole" is the loop of
`pipeline.metrics.frechet.statistics` without such waits, then the distance. If the parts overlap,
"other" is negative. Reading images and the reconstruction error are not included.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.data.loaders import to_uint8
from pipeline.metrics import features, frechet
from pipeline.networks.family import DTYPES
from pipeline.networks.style.autoencoder import Autoencoder
from pipeline.networks.style.shape import Shape


def timed(function: Callable, device: torch.device):
    """(result, seconds), with the device idle before and after."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    result = function()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return result, time.perf_counter() - started


@torch.no_grad()
def measure(given, device: torch.device) -> dict[str, float]:
    """Seconds of each part and of the whole, for `given.samples` samples."""
    shape = Shape(
        resolution=given.resolution,
        base_channels=given.channels,
        max_channels=8 * given.channels,
    )
    model = Autoencoder(shape).to(device).at(given.resolution, precision=given.precision)
    network = features.find(given.extractor, given.weights).load(device)
    batches = [given.batch] * (given.samples // given.batch)

    def draw() -> Tensor:
        return to_uint8(model.generate(given.batch))

    def samples() -> Iterator[Tensor]:
        for _ in batches:
            yield draw()

    found = network(draw())  # warms up
    width = found.shape[1]
    seconds = dict.fromkeys(["samples", "features", "statistics"], 0.0)
    sums = frechet.Statistics()
    for _ in range(min(len(batches), given.rounds)):
        x, t_samples = timed(draw, device)
        f, t_features = timed(lambda x=x: network(x), device)
        _, t_sums = timed(lambda f=f: sums.add(f), device)
        for name, t in zip(seconds, (t_samples, t_features, t_sums), strict=True):
            seconds[name] += t
    seconds = {n: t * len(batches) / min(len(batches), given.rounds) for n, t in seconds.items()}
    made, loop = timed(
        lambda: frechet.statistics(samples(), network, width, None, lambda: None), device
    )
    _, seconds["distance"] = timed(lambda: frechet.distance(made, made), device)
    seconds["other"] = loop + seconds["distance"] - sum(seconds.values())
    seconds["whole"] = loop + seconds["distance"]
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=20, help="batches to time each part with")
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--channels", type=int, default=64, help="at the resolution (default: 64)")
    parser.add_argument("--precision", choices=DTYPES, default="fp32", help="of the decoder")
    parser.add_argument("--extractor", choices=features.METRICS, default="random")
    parser.add_argument("--weights", help="file of the extractor's weights")
    parser.add_argument("--out", type=Path, help="also write OUT as JSON")
    given = parser.parse_args()
    given.samples -= given.samples % given.batch
    if given.samples < given.batch:
        parser.error("--samples must be at least --batch")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    seconds = measure(given, device)
    dist.destroy_process_group()
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    print(
        f"{name}, torch {torch.__version__}, {torch.get_num_threads()} threads, "
        f"{given.samples:,} samples of {given.resolution}x{given.resolution} in batches of "
        f"{given.batch}, {given.extractor} features\n"
    )
    print("| part | s | images/s | share |\n| --- | --- | --- | --- |")
    for part, s in seconds.items():
        rate = "" if part in ("distance", "other") else f"{given.samples / s:,.0f}"
        print(f"| {part} | {s:.3g} | {rate} | {s / seconds['whole']:.0%} |")
    if given.out:
        given.out.write_text(json.dumps(vars(given) | {"out": None, "seconds": seconds}) + "\n")


if __name__ == "__main__":
    main()
