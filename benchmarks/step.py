"""Times a whole step; needs only torch and a copy of the source tree:

    python benchmarks/step.py --out step                  # the table: step.md and step.json
    python benchmarks/step.py --resolutions 64 --precisions bf16 --forms eager --seconds 2

Measures every resolution in fp32 and bf16: our step eager, as CUDA graphs (on a GPU) and compiled
(per block); the published one eager and compiled. The published passes draw again for the decoder
and decode for gamma_r, 33 instead of 24 forward-equivalents, and its layers are those of
`benchmarks/published.py`. A step consists of both updates, both optimisers and the moving average.
Its batch is that of configs/ffhq256.yaml, halved until it fits into memory; on a CPU it is --batch.
Loading is not included. Both steps run in turns, so that other load affects both.

  images/s   from the median of the steps in --seconds, after three warm-up steps; on a CPU per
             second of processor time
  times      median ratio of the published step's time to ours
  GiB        torch's peak memory on a GPU; not measured on a CPU
  kernels    launched in one step on a GPU, by torch's profiler; not measured on a CPU
  of matrix  multiply-accumulates per second (of the ledger), relative to a large matrix product
"""

import argparse
import importlib
import itertools
import json
import platform
import statistics
import sys
import time
import types
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
BATCHES = {4: 512, 8: 256, 16: 128, 32: 64, 64: 32, 128: 32, 256: 16}
PASSES = ("ours", "published")
FORMS = ("eager", "graphs", "compiled")


def networks_alone() -> None:
    """Makes the style networks importable without the project's other dependencies.

    Skips the package file of `pipeline.networks`, which imports every family. If pydantic is not
    installed, replaces it by plain dataclasses, without validation.
    """
    sys.path[0] = str(ROOT)  # was benchmarks/
    package = types.ModuleType("pipeline.networks")
    package.__path__ = [str(ROOT / "pipeline" / "networks")]
    sys.modules["pipeline.networks"] = package
    try:
        importlib.import_module("pydantic")
        return
    except ImportError:
        pass

    def as_dataclass(*_, config=None, frozen=False, **__):
        return dataclass(frozen=frozen)

    def as_field(default=None, default_factory=None, **_):
        return field(default_factory=default_factory) if default_factory else default

    def unchanged(*_, **__):
        return lambda function: function

    stand_in = types.ModuleType("pydantic")
    stand_in.dataclasses = types.ModuleType("pydantic.dataclasses")
    stand_in.dataclasses.dataclass = as_dataclass
    stand_in.Field, stand_in.ConfigDict, stand_in.ValidationError = as_field, dict, ValueError
    stand_in.model_validator = stand_in.field_validator = unchanged
    stand_in.WrapValidator = stand_in.ValidatorFunctionWrapHandler = unchanged
    sys.modules |= {"pydantic": stand_in, "pydantic.dataclasses": stand_in.dataclasses}


networks_alone()

from benchmarks.published import layers_as_published  # noqa: E402
from pipeline import ledger  # noqa: E402
from pipeline.allocator import keep_freed_memory  # noqa: E402
from pipeline.graphs import Graphs  # noqa: E402
from pipeline.networks.family import DTYPES  # noqa: E402
from pipeline.networks.style.autoencoder import Autoencoder  # noqa: E402
from pipeline.networks.style.grown import Grown  # noqa: E402
from pipeline.networks.style.shape import Shape  # noqa: E402
from pipeline.objective import SoftIntroVAE  # noqa: E402
from pipeline.optimizer import EqualizedAdam  # noqa: E402
from pipeline.updates import Updates  # noqa: E402

BETAS = dict(beta_rec=0.1, beta_kl=0.2, beta_neg=512, s=5e-6)
OBJECTIVES = {
    "ours": SoftIntroVAE(**BETAS, reconstructions_as_fakes=True, target_gradient=True),
    "published": SoftIntroVAE(
        **BETAS,
        reconstructions_as_fakes=True,
        target_gradient=True,
        decoder_draws="fresh",
        gamma_r=1e-8,
        gamma_r_reaches="x_ff",
    ),
}


class Step:
    """Both updates of a batch, as in `stages.stage`, without engines."""

    def __init__(self, shape: Shape, side: int, batch: int, precision: str, passes: str, device):
        torch.manual_seed(0)
        self.layers = layers_as_published if passes == "published" else nullcontext
        self.networks = Autoencoder(shape).to(device)
        self.average = [p.detach().clone() for p in self.networks.parameters()]
        self.model = Grown(self.networks, side, precision=precision, mixing=0.9)
        self.parameters = [
            network.active(side) for network in (self.networks.encoder, self.networks.decoder)
        ]
        self.optimizers = [EqualizedAdam(p, beta_2=0.99, eps=1e-8) for p in self.parameters]
        for optimizer in self.optimizers:
            optimizer.start()
            optimizer.set_learning_rate(0.002)
        self.objective = OBJECTIVES[passes]
        x = torch.rand(batch, 3, side, side, device=device) * 2 - 1
        self.updates: Updates | Graphs = Updates(self.model, self.objective)
        ours = passes == "ours"
        layout = torch.channels_last if ours else torch.contiguous_format
        self.x = x.contiguous(memory_format=layout)

    def __call__(self) -> None:
        with self.layers():
            self.both_updates()

    def both_updates(self) -> None:
        product, _ = self.updates.encoder(self.x, None, 1.0)
        self.update(0, product, retain_graph=True)
        del product
        product, _ = self.updates.decoder(1.0)
        self.update(1, product)
        weights = list(self.networks.parameters())
        with torch.no_grad():
            torch._foreach_lerp_(self.average, weights, 1e-3)

    def update(self, which: int, product: Tensor, **how) -> None:
        parameters = self.parameters[which]
        product.backward(inputs=parameters, **how)
        self.optimizers[which].step()
        for p in parameters:
            p.grad = None

    def capture(self) -> None:
        """Replays CUDA graphs of the passes from now on; one step must have run before."""
        self.updates = Graphs(self.updates, self.networks, self.x, None, 1)

    def compile(self) -> None:
        for network in (self.networks.encoder, self.networks.decoder):
            for block in network.blocks.values():
                block.compile(dynamic=False)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def seconds(steps: dict, device: torch.device, at_least: float) -> dict[str, list[float]]:
    """Times of each of `steps`, run in turns: three or more, over `at_least` seconds for each."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(3):
        for step in steps.values():
            step()
    while any(len(t) < 3 or sum(t) < at_least for t in times.values()):
        for name, step in steps.items():
            wait(device)
            started = clock()
            step()
            wait(device)
            times[name].append(clock() - started)
    return times


def matrix_rate(device: torch.device, precision: str) -> float:
    """Multiply-accumulates per second of a large square matrix product."""
    size = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device).to(DTYPES[precision]) for _ in range(2))
    times = seconds({"product": lambda: a @ b}, device, 0.5)["product"]
    return size**3 / statistics.median(times)


def kernels(step) -> int:
    """Number of kernels and copies that one step launches on the GPU."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        step()
        torch.cuda.synchronize()
    return sum(e.device_type == torch.autograd.DeviceType.CUDA for e in profiled.events())


def measure(given, device, side: int, precision: str, form: str, rate: float) -> list[dict]:
    """A row for each of the passes; halves the batch until it fits into memory."""
    shape = Shape(
        resolution=given.side,
        latent=given.latent,
        base_channels=given.channels,
        max_channels=given.max_channels or 8 * given.channels,
    )
    batch = given.batch or (BATCHES[side] if device.type == "cuda" else 1)
    while True:
        steps, peaks = {}, {}
        try:
            for passes in given.passes if form != "graphs" else ("ours",):
                held = torch.cuda.memory_allocated() if device.type == "cuda" else 0
                step = steps[passes] = Step(shape, side, batch, precision, passes, device)
                if form == "compiled":
                    step.compile()
                if device.type == "cuda":
                    torch.cuda.reset_peak_memory_stats()
                    step()
                    if form == "graphs":
                        step.capture()
                        step()
                    peaks[passes] = torch.cuda.max_memory_allocated() - held
            times = seconds(steps, device, given.seconds)
            break
        except torch.cuda.OutOfMemoryError:
            if batch == 1:
                raise
            batch //= 2
    rows = []
    for passes, step in steps.items():
        each = statistics.median(times[passes])
        macs = ledger.micro_batch(shape, OBJECTIVES[passes], side, batch, precision).macs
        row = {"px": side, "precision": precision, "form": form, "passes": passes, "batch": batch}
        row |= {"images_per_s": batch / each, "of_matrix": macs / each / rate}
        if passes == "ours" and "published" in times:
            pairs = zip(times["published"], times["ours"], strict=True)
            row["times"] = statistics.median(theirs / ours for theirs, ours in pairs)
        if device.type == "cuda":
            row |= {"peak_gib": peaks[passes] / 2**30, "kernels": kernels(step)}
        rows.append(row)
    return rows


def table(about: str, rows: list[dict]) -> str:
    """The rows as markdown."""
    names = "px / batch", "precision", "form", "passes", "images/s", "times", "GiB", "kernels"
    lines = [about, "", f"| {' | '.join(names)} | of matrix |", "| --- " * 9 + "|"]
    for r in rows:
        held = f"{r['peak_gib']:.1f} | {r['kernels']:,}" if "kernels" in r else "- | -"
        times = f"{r['times']:.2f}" if "times" in r else "-"
        lines.append(
            f"| {r['px']} / {r['batch']} | {r['precision']} | {r['form']} | {r['passes']} "
            f"| {r['images_per_s']:.4g} | {times} | {held} | {r['of_matrix']:.1%} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--resolutions", type=int, nargs="+", help="(default: 4 to --side)")
    parser.add_argument("--precisions", nargs="+", choices=["fp32", "bf16"])
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=FORMS)
    parser.add_argument("--passes", nargs="+", choices=PASSES, default=PASSES)
    parser.add_argument("--side", type=int, default=256, help="of the largest image (default: 256)")
    parser.add_argument("--channels", type=int, default=64, help="at that side (default: 64)")
    parser.add_argument("--max-channels", type=int, help="(default: 8 times --channels)")
    parser.add_argument("--latent", type=int, default=512, help="(default: 512)")
    parser.add_argument("--batch", type=int, help="images per step (default on a CPU: 1)")
    parser.add_argument("--seconds", type=float, default=5.0, help="duration of timing per row")
    parser.add_argument("--out", type=Path, help="write OUT.md and OUT.json")
    given = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        keep_freed_memory()
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor()
    about = f"torch {torch.__version__}, {name or 'CPU'}, {torch.get_num_threads()} threads"
    precisions = given.precisions or ["fp32", "bf16"]
    rates = {precision: matrix_rate(device, precision) for precision in precisions}
    rows = []
    sides = given.resolutions or [side for side in BATCHES if side <= given.side]
    forms = [form for form in given.forms if form != "graphs" or device.type == "cuda"]
    for side, precision, form in itertools.product(sides, precisions, forms):
        torch._dynamo.reset()
        for row in measure(given, device, side, precision, form, rates[precision]):
            rows.append(row)
            print(json.dumps(row), file=sys.stderr, flush=True)
    text = table(about, rows)
    print(text)
    if given.out:
        given.out.with_suffix(".md").write_text(text)
        found = {"about": about, "macs_per_s": rates, "rows": rows}
        given.out.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
