"""What more GPUs bring: images per second, efficiency, and how much communication is hidden.

    python benchmarks/scaling.py [--config ffhq256] [key=value]          # calculated, without a GPU
    python benchmarks/scaling.py --communication 32                      # the same, by engine.*
    python launch/slurm.py --nodes 4 --rehearse data.path=DATA | tee -a FILE          # measured
    python benchmarks/scaling.py --rehearsals FILE                       # both, side by side

CALCULATED is a bound. From the ledger, each kernel takes its roofline time on the chip, multiplied
by --times. To that come Adam, the average, and the communication that no backward pass hides. With
engine.graphs=false, each kernel begins at least --host microseconds after the one before, and
engine.overlap sends a part of the gradients as soon as it is complete; CUDA graphs take no time to
launch, and give all gradients at once. Within a node of eight GPUs bytes go over NVLink, between
nodes over its --links of 400 Gbit/s, at full rate and without latency. With more GPUs than can
share the batches, `scale` doubles (stages/scale.py).

MEASURED are rehearsals (--rehearse), with loader and average, by any number of processes, on a
cluster or with launch/local.py. FILE holds what they printed. Efficiency is images per second
and process, relative to one process with the same configuration.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT))

from benchmarks.ledger import CHIPS, CONFIGS, Chip  # noqa: E402
from pipeline import ledger  # noqa: E402
from pipeline.config import parse, read  # noqa: E402
from pipeline.engines import OVERLAPPED_PARTS, EngineConfig  # noqa: E402
from stages import passes, schedule  # noqa: E402
from stages.config import Config  # noqa: E402
from stages.scale import scaled  # noqa: E402

NVLINK = 450e9  # bytes per second and direction of a GPU: the data sheets of H100 and H200
LINK = 400e9 / 8
NODE = 8  # GPUs
BYTES = {"fp32": 4, "bf16": 2}
# ZeRO stage, precision of the reduction, overlap (without CUDA graphs)
FORMS = [(1, "fp32", False), (1, "fp32", True), (1, "bf16", True), (0, "fp32", False),
         (0, "bf16", False)]  # fmt: skip

count = cache(ledger.micro_batch)


@dataclass(frozen=True)
class Machine:
    """GPUs in nodes."""

    chip: Chip
    times: float
    """Time of a kernel, relative to its roofline."""
    host: float
    """Seconds between the launches of two kernels that are in no CUDA graph."""
    links: int
    """Of 400 Gbit/s, of each node."""

    def ends(self, rows: list[ledger.Kernel], precision: str, graphs: bool) -> list[float]:
        """Seconds until the first n kernels have ended, for n from 0."""
        rate, end, found = self.chip.flops[precision] / 2, 0.0, [0.0]
        for launched, kernel in enumerate(rows, start=1):
            end = end if graphs else max(end, launched * self.host)
            end += self.times * kernel.seconds(rate, self.chip.bytes)
            found.append(end)
        return found

    def bandwidth(self, gpus: int) -> float:
        """Bytes per second that each GPU sends in a ring of so many."""
        return NVLINK if gpus <= NODE else LINK * self.links


class Step(NamedTuple):
    """A calculated step of a stage."""

    images_per_s: float
    sent: int
    """Bytes that each GPU sends."""
    communication: float
    """Seconds."""
    hidden: float
    """The share of that which a backward pass hides."""


def step_of(config: Config, number: int, gpus: int, machine: Machine) -> Step:
    """A step of stage `number` on so many GPUs."""
    stage, engine = config.stages[number], config.engine
    images = stage.micro_batch or stage.batch // gpus
    micro_batches = stage.batch // images // gpus
    precision = "bf16" if engine.precision == "auto" else engine.precision
    objective = schedule.objective_at(config, stage, config.vae_images)
    counted = count(
        config.shape, objective, stage.resolution, images, precision.replace("fp16", "bf16")
    )
    graphs, bandwidth = engine.graphs and precision != "fp16", machine.bandwidth(gpus)
    times = machine.ends(counted.rows, precision, graphs)
    sent, hidden, moved = 0, 0.0, 3.0 * counted.weights  # by the average
    for ready in counted.ready:
        sizes = [elements for elements, _ in ready]
        gradients, weights = sent_per_step(sum(sizes), engine, micro_batches, gpus)
        sent += gradients + weights
        if engine.overlap and not graphs:
            last = gradients / (micro_batches if engine.zero_stage == 2 else 1) / bandwidth
            part = max(*sizes, sum(sizes) // OVERLAPPED_PARTS)
            complete = [(elements, times[kernels]) for elements, kernels in ready]
            hidden += last - left_over(complete, part, last / sum(sizes))
        moved += 5 * 4 * sum(sizes) / (gpus if engine.zero_stage else 1)  # by Adam
    seconds = micro_batches * times[-1] + moved / machine.chip.bytes + sent / bandwidth - hidden
    share = hidden * bandwidth / sent if sent else 0.0
    return Step(stage.batch / seconds, sent, sent / bandwidth, share)


def sent_per_step(
    parameters: int, config: EngineConfig, micro_batches: int, world: int
) -> tuple[int, int]:
    """Bytes that an engine of so many parameters sends in a step: (gradients, weights).

    DeepSpeed 0.19 reduces gradients with an all-reduce at every ZeRO stage, at stage 2 for each of
    the micro-batches. From stage 1 on it then gathers the float32 weights.
    """
    ring = (world - 1) / world
    times = micro_batches if config.zero_stage == 2 else 1
    gradients = 2 * ring * parameters * BYTES[config.reduce] * times
    weights = ring * parameters * 4 if config.zero_stage else 0
    return round(gradients), round(weights)


def left_over(complete: Sequence[tuple[int, float]], part: int, each: float) -> float:
    """Seconds after the last gradient is complete until all are sent, `part` elements at a time.

    `complete` has elements and time of each gradient, `each` is the time to send one element.
    """
    free, filled, time = 0.0, 0, 0.0
    for elements, then in complete:
        if filled + elements > part:
            free, filled = max(free, time) + filled * each, 0
        filled, time = filled + elements, then
    return max(free, time) + filled * each - time


def shared_by(content: dict, gpus: int) -> tuple[Config, int]:
    """The configuration with the smallest scale by which so many GPUs share all batches."""
    for doubled in range(12):
        scale = content.get("scale", 1) << doubled
        config = parse(Config, scaled(content | {"scale": scale}), "scaling")
        try:
            config.check_processes(gpus)
            return config, scale
        except ValueError:
            continue
    sys.exit(f"no scale lets {gpus} GPUs share the batches equally: use a power of two")


def table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """In markdown."""
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def scaling(content: dict, machine: Machine, counts: list[int]) -> str:
    """Images per second and efficiency of each stage, and the hours of all, by number of GPUs."""
    configs = [shared_by(content, gpus) for gpus in counts]
    steps = [
        [step_of(config, number, gpus, machine) for number in range(len(config.stages))]
        for gpus, (config, _) in zip(counts, configs, strict=True)
    ]
    alone, _ = shared_by(content, 1)
    rows = []
    for number, stage in enumerate(alone.stages):
        one, cells = step_of(alone, number, 1, machine).images_per_s, []
        for gpus, found in zip(counts, steps, strict=True):
            rate = found[number].images_per_s
            cells.append(f"{rate:,.0f} ({rate / gpus / one:.0%})")
        rows.append([f"{stage.resolution}", *cells])
    hours = [
        sum(s.images / f.images_per_s for s, f in zip(config.stages, found, strict=True)) / 3600
        for (config, _), found in zip(configs, steps, strict=True)
    ]
    rows.append(["scale", *(f"{scale}" for _, scale in configs)])
    rows.append(["hours", *(f"{h:.1f}" for h in hours)])
    return table(["px / GPUs", *map(str, counts)], rows)


def communication(content: dict, machine: Machine, gpus: int) -> str:
    """A step's communication and images per second, for each form of the reduction."""
    config, _ = shared_by(content, gpus)
    names, rows = ["px"], [[f"{stage.resolution}"] for stage in config.stages]
    for zero_stage, reduce, overlap in FORMS:
        form: dict = {"zero_stage": zero_stage, "reduce": reduce, "overlap": overlap}
        engine = replace(config.engine, graphs=not overlap, **form)
        names.append(f"ZeRO {zero_stage}, {reduce}{', overlapped' if overlap else ''}")
        for number, row in enumerate(rows):
            found = step_of(replace(config, engine=engine), number, gpus, machine)
            row.append(
                f"{found.sent / 1e6:,.0f} MB, {found.communication * 1e3:.1f} ms, "
                f"{found.hidden:.0%}; {found.images_per_s:,.0f}"
            )
    return table(names, rows)


class Measured(NamedTuple):
    """A stage of a rehearsal."""

    config: str
    device: str
    """And the precision."""
    resolution: int
    processes: int
    images_per_s: float


def measured(text: str) -> list[Measured]:
    """The stages of all rehearsals in what they printed (launch/rehearsal_table.py)."""
    found, config, device, processes = [], "", "", 0
    for line in text.splitlines():
        if title := re.match(r"rehearsal of (.+): processes (\d+), nodes \d+, (.+)", line):
            config, processes, device = title[1], int(title[2]), title[3]
        elif stage := re.match(r" *(\d+)x\1 +([\d,]+) ", line):
            rate = float(stage[2].replace(",", ""))
            found.append(Measured(config, device, int(stage[1]), processes, rate))
    return found


def side_by_side(text: str, content: dict, machine: Machine, chip: str) -> str:
    """Each measured stage, and what is calculated where its configuration and chip are ours."""
    stages, rows = measured(text), []
    alone = {stage[:3]: stage.images_per_s for stage in stages if stage.processes == 1}
    for stage in stages:
        one, calculated = alone.get(stage[:3]), "-"
        share = f" ({stage.images_per_s / stage.processes / one:.0%})" if one else ""
        if chip in stage.device and stage.config == content["name"]:
            config, _ = shared_by(content, stage.processes)
            number = [s.resolution for s in config.stages].index(stage.resolution)
            step = step_of(config, number, stage.processes, machine)
            calculated = f"{step.images_per_s:,.0f}"
        rate = f"{stage.images_per_s:,.0f}{share}"
        rows.append([stage.config, stage.device, f"{stage.resolution}", f"{stage.processes}"])
        rows[-1] += [rate, calculated]
    names = ("configuration", "device", "px", "processes", "images/s measured", "calculated")
    return table(names, rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("overrides", nargs="*", metavar="key=value")
    add("--config", default="ffhq256", help="a YAML file, or a name in configs/")
    add("--gpus", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64, 128, 256])
    add("--communication", type=int, metavar="GPUS", help="forms of the reduction, on so many GPUs")
    add("--rehearsals", type=Path, metavar="FILE", help="measurements, to print beside")
    add("--chip", choices=CHIPS, default="H100")
    add("--times", type=float, default=1.0, help="time of a kernel, relative to its roofline [1]")
    add("--host", type=float, default=60.0, help="microseconds between launches, no graphs [60]")
    add("--links", type=int, default=1, help="links of 400 Gbit/s of each node [1]")
    given = parser.parse_intermixed_args()
    named = CONFIGS / f"{given.config}.yaml"
    content = passes.counted(read(named if named.exists() else given.config, given.overrides))
    machine = Machine(CHIPS[given.chip], given.times, given.host / 1e6, given.links)
    print(
        f"CALCULATED: {content['name']}, {given.chip}, kernels at {given.times:g} times their "
        f"roofline, {given.host:g} us between launches without CUDA graphs, {given.links} x 400 "
        f"Gbit/s between nodes\n"
    )
    if given.rehearsals:
        print(side_by_side(given.rehearsals.read_text(), content, machine, given.chip))
    elif given.communication:
        print(f"{given.communication} GPUs: a step's bytes, time, share hidden; images/s\n")
        print(communication(content, machine, given.communication))
    else:
        print("images/s (efficiency)\n")
        print(scaling(content, machine, given.gpus))


if __name__ == "__main__":
    main()
