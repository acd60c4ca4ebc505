"""Counts the cost of a step instead of timing it: needs no GPU and repeats exactly.

    python benchmarks/ledger.py [--config ffhq256] [--chip H100] [--micro-batch 4]
    python benchmarks/ledger.py --resolution 256 --operations    # one stage, by kind of kernel

For each stage of a configuration, in eager mode as on a GPU and after the fade-in: multiply-
accumulates per image, and per micro-batch the bytes that kernels read and write, the number of
kernels, the peak memory of one process (`pipeline/ledger.py` defines the counts) and the roofline
time. The roofline runs the kernels one after the other, each limited by the peak rate of the chip's
matrix units or of its memory; it is a lower bound. Optimiser, average and loading are not counted.
Without --micro-batch, the batch of a step is one micro-batch.
"""

import argparse
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import parse, read
from pipeline.ledger import Ledger, micro_batch
from stages.config import Config
from stages.scale import scaled

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


@dataclass(frozen=True)
class Chip:
    """Dense peak rates of the manufacturer's data sheet."""

    flops: dict[str, float]
    """Per second, by precision; fp32 does not use the matrix units, as TF32 is off."""
    bytes: float
    """Bytes per second of the device memory."""

    def reaching(self, matrix: float, memory: float) -> "Chip":
        """The chip where kernels reach these shares of its peak rates."""
        return Chip({p: rate * matrix for p, rate in self.flops.items()}, self.bytes * memory)

    def seconds(self, ledger: Ledger, precision: str) -> float:
        return ledger.seconds(self.flops[precision] / 2, self.bytes)


# NVIDIA's data sheets "H100 Tensor Core GPU" (SXM), "H200 Tensor Core GPU" (SXM) and "A100 Tensor
# Core GPU" (SXM, 80 GB); those of Hopper print rates with sparsity, twice the rates here.
CHIPS = {
    "H100": Chip({"bf16": 989.4e12, "fp16": 989.4e12, "fp32": 67e12}, 3.35e12),
    "H200": Chip({"bf16": 989.4e12, "fp16": 989.4e12, "fp32": 67e12}, 4.8e12),
    "A100": Chip({"bf16": 312e12, "fp16": 312e12, "fp32": 19.5e12}, 2.039e12),
}


def operations(ledger: Ledger, chip: Chip, precision: str) -> list[tuple[str, int, int, float]]:
    """(name, kernels, bytes, seconds) of each kind of kernel, the slowest first."""
    kinds = defaultdict(lambda: [0, 0, 0.0])
    for kernel in ledger.rows:
        kind = kinds[kernel.name]
        kind[0] += 1
        kind[1] += kernel.bytes
        kind[2] += kernel.seconds(chip.flops[precision] / 2, chip.bytes)
    found = [(name, *values) for name, values in kinds.items()]
    return sorted(found, key=lambda row: -row[3])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--config", default="ffhq256", help="a YAML file, or a name in configs/")
    parser.add_argument("--chip", choices=CHIPS, default="H100")
    parser.add_argument(
        "--shares", type=float, nargs=2, default=(1.0, 1.0), metavar=("MATRIX", "MEMORY"),
        help="of the peak rates, that kernels reach (default: 1 1)",
    )  # fmt: skip
    parser.add_argument("--precision", choices=["bf16", "fp16", "fp32"], default="bf16")
    parser.add_argument("--micro-batch", type=int, help="images (default: the batch of a step)")
    parser.add_argument("--resolution", type=int, help="only this stage")
    parser.add_argument("--plain", action="store_true", help="without the Triton kernels")
    parser.add_argument("--operations", action="store_true", help="also list the kinds of kernels")
    given = parser.parse_args()
    named = CONFIGS / f"{given.config}.yaml"
    path = named if named.exists() else given.config
    config = parse(Config, scaled(read(path, given.overrides)), str(path))
    chip, hours, flops = CHIPS[given.chip].reaching(*given.shares), 0.0, 0.0
    reached = ""
    if given.shares != (1.0, 1.0):
        reached = " at {:.0%} of its matrix rate and {:.0%} of its bandwidth".format(*given.shares)
    how = "without the kernels" if given.plain else "with the kernels"
    print(
        f"{given.config}, {given.precision}, {how} of norm, roofline of one {given.chip}{reached}\n"
    )
    print("| px / images | G MAC per image | GiB moved | kernels | peak GiB | ms | images/s |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for stage in config.stages:
        if given.resolution not in (None, stage.resolution):
            continue
        side, images = stage.resolution, given.micro_batch or stage.batch
        ledger = micro_batch(
            config.shape, config.objective, side, images, given.precision, not given.plain
        )
        seconds = chip.seconds(ledger, given.precision)
        hours += seconds / images * stage.images / 3600
        flops += 2 * ledger.macs / images * stage.images
        print(
            f"| {side} / {images} | {ledger.macs / images / 1e9:.2f} "
            f"| {ledger.bytes / 2**30:.1f} | {ledger.kernels:,} | {ledger.peak / 2**30:.2f} "
            f"| {seconds * 1e3:.1f} | {images / seconds:,.0f} |",
            flush=True,
        )
        if given.operations:
            for name, kernels, moved, s in operations(ledger, chip, given.precision):
                print(f"    {name:<32} {kernels:>6,} {moved / 2**30:>8.2f} GiB {s * 1e3:>8.2f} ms")
    print(f"\nThese stages: {flops / 1e18:.1f} EFLOP, {hours:.1f} h at the roofline")


if __name__ == "__main__":
    main()
