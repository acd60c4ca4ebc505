"""A cell, the unit of work: an ensemble that is trained and evaluated, in its own folder.

A cell depends on no other, so cells can run side by side, on any machines that see the folder; a
lock keeps a second process away. Killed at any moment, a cell continues from its checkpoint, and
ends with an equal result where device and number of threads are the same.
"""

import json
import math
import time
import zlib
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from safetensors.torch import load_file
from tqdm import tqdm

from pipeline.config import flat, plain
from pipeline.objective import Objective
from pipeline.records.files import save_tensors, whole
from pipeline.records.tracking import Tracking, TrackingConfig
from pipeline.studies.two_d import metrics
from pipeline.studies.two_d.data import DISTRIBUTIONS
from pipeline.studies.two_d.networks import Ensemble, Precision
from pipeline.studies.two_d.training import Schedule, Training

EVERY = 500  # iterations from one line and checkpoint to the next


class CellError(Exception):
    """A cell that cannot be run; the message names it and the way out."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Cell:
    """`objectives` times `seeds` models of one distribution."""

    name: str
    distribution: str
    objectives: list[Objective]
    seeds: list[int]
    schedule: Schedule
    precision: Precision = "fp32"

    def members(self) -> list[tuple[int, int]]:
        """(index of the objective, seed) of each model, in the order of the ensemble."""
        return [(i, seed) for i in range(len(self.objectives)) for seed in self.seeds]

    def training(self, device: torch.device | str) -> Training:
        members = self.members()
        objectives = [self.objectives[i] for i, _ in members]
        seeds = [seed for _, seed in members]
        torch.manual_seed(zlib.crc32(self.name.encode()))
        return Training(self.distribution, objectives, seeds, self.schedule, self.precision, device)


def result(folder: Path, cell: Cell) -> dict | None:
    """The result of a cell in `folder` if it is there: {"cell", "models", "terms", "seconds"}."""
    path = folder / cell.name / "result.json"
    if not path.exists():
        return None
    found = json.loads(path.read_text())
    if found["cell"] != plain(cell):
        raise CellError(
            f"{path} was made with other settings: {_differences(found['cell'], plain(cell))}. Ask "
            f"for the same again, or name another --out"
        )
    return found


def _differences(before: dict, now: dict) -> str:
    """What differs between two cells as plain data, as "key was this, is that"."""
    before, now = flat(before), flat(now)
    keys = [k for k in {**before, **now} if before.get(k) != now.get(k)]
    return "; ".join(f"{k} was {before.get(k)}, is {now.get(k)}" for k in keys)


def finished(folder: Path, cell: Cell) -> dict | None:
    """`result`, for reports: prints and skips a cell with other settings."""
    try:
        return result(folder, cell)
    except CellError as error:
        print(f"skipped: {error}", flush=True)
        return None


def models(folder: Path, cell: Cell) -> Ensemble:
    """The trained models of a finished cell."""
    ensemble = Ensemble([seed for _, seed in cell.members()])
    ensemble.load_state_dict(load_file(folder / cell.name / "weights.safetensors"))
    return ensemble


def weights(model: Ensemble) -> dict[str, torch.Tensor]:
    """Weights without the second decoder's."""
    return {k: v for k, v in model.state_dict().items() if not k.startswith("target.")}


def run(cell: Cell, folder: Path, tracking: TrackingConfig, device: str) -> dict | None:
    """Trains and evaluates a cell, or resumes; None where another process runs it."""
    here = folder / cell.name
    here.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(here / "lock", blocking=False):
            return result(folder, cell) or _run(cell, here, tracking, device)
    except Timeout:
        print(f"{cell.name}: another process runs it", flush=True)
        return None


def _run(cell: Cell, here: Path, tracking: TrackingConfig, device: str) -> dict:
    _check_settings(here, cell)
    tracker = Tracking(tracking, here, cell.name, {"distribution": cell.distribution})
    tracker.parameters(flat(plain(cell)))
    training = cell.training(device)
    try:
        terms, seconds = _train(cell, training, here, tracker)
    except KeyboardInterrupt:
        tracker.end("KILLED", whole_training=True)
        raise
    found = {
        "cell": plain(cell),
        "models": _measured(cell, training),
        "terms": terms,
        "seconds": round(seconds, 1),
    }
    _log_results(cell, found, tracker)
    with whole(here / "weights.safetensors") as beside:
        save_tensors({k: v.cpu() for k, v in weights(training.model).items()}, beside)
    with whole(here / "result.json") as beside:
        beside.write_text(json.dumps(found, indent=1) + "\n")
    (here / "checkpoint.safetensors").unlink(missing_ok=True)
    return found


def _check_settings(here: Path, cell: Cell) -> None:
    """CellError where the folder holds a cell with other settings; else writes cell.json."""
    path, ours = here / "cell.json", plain(cell)
    theirs = json.loads(path.read_text()) if path.exists() else ours
    if theirs != ours:
        raise CellError(
            f"{here} holds a cell begun with other settings: {_differences(theirs, ours)}. Ask for "
            f"the same again, or name another --out"
        )
    with whole(path) as beside:
        beside.write_text(json.dumps(ours, indent=1) + "\n")


def _train(cell: Cell, training: Training, here: Path, tracker: Tracking) -> tuple[dict, float]:
    """Trains to the last iteration; returns the last terms and the total seconds."""
    path, spent, terms = here / "checkpoint.safetensors", 0.0, {}
    if path.exists():
        state = load_file(path)
        spent = float(state.pop("seconds"))
        terms = {k[6:]: float(state.pop(k)) for k in list(state) if k.startswith("terms.")}
        training.load_state(state)
        print(f"{cell.name}: resuming at iteration {training.iteration}", flush=True)
    started = time.monotonic() - spent
    last = cell.schedule.iterations
    bar = tqdm(desc=cell.name, total=last, initial=training.iteration, disable=None)
    while training.iteration < last:
        latest = training.step()
        bar.update()
        if training.iteration % EVERY == 0 or training.iteration == last:
            terms = {k: v.item() for k, v in latest.items() if v.isfinite()}
            spent = time.monotonic() - started
            _save(path, training, terms, spent)
            tracker.metrics(training.iteration, terms)
            line = " ".join(f"{name} {value:.4g}" for name, value in terms.items())
            tqdm.write(f"{cell.name} {training.iteration} {spent:.0f}s {line}")
            if not any(training.finite()):
                tqdm.write(f"{cell.name}: all of its models have diverged")
                break
    bar.close()
    return terms, spent


def _save(path: Path, training: Training, terms: dict[str, float], seconds: float) -> None:
    more = {f"terms.{name}": torch.tensor(v, dtype=torch.float64) for name, v in terms.items()}
    more["seconds"] = torch.tensor(seconds, dtype=torch.float64)
    with whole(path) as beside:
        save_tensors({**training.state(), **more}, beside)


def _measured(cell: Cell, training: Training) -> list[dict]:
    """A row for each model, evaluated in float32."""
    model = Ensemble([0] * training.model.count)
    model.load_state_dict(weights(training.model))
    rows = metrics.measure(model.to(training.device), DISTRIBUTIONS[cell.distribution])
    where: list[dict] = [{"objective": i, "seed": seed} for i, seed in cell.members()]
    for place, row in zip(where, rows):
        # JSON knows no NaN
        place |= {name: value if math.isfinite(value) else None for name, value in row.items()}
    return where


def _log_results(cell: Cell, found: dict, tracker: Tracking) -> None:
    last = cell.schedule.iterations
    for row in found["models"]:
        key = f"objective{row['objective']}_seed{row['seed']}"
        values = {k: v for k, v in row.items() if k not in ("objective", "seed") and v is not None}
        tracker.metrics(last, {f"{key}/{name}": value for name, value in values.items()})
    tracker.end("FINISHED", whole_training=True)
