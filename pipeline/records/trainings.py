"""Trainings read back from MLflow: distances over images seen, parameters, speed and cost."""

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from pipeline.records import names
from pipeline.records.mlflow_access import TrackingError, address, reason
from pipeline.records.store import RECORD


@dataclass(frozen=True)
class Training:
    """One training of the store."""

    id: str
    name: str
    status: str
    params: dict[str, str]
    distances: dict[str, dict[int, list[tuple[int, float]]]]
    """(images seen, value) by metric and resolution."""
    speed: dict[int, float]
    """Images per second by resolution, while it trained (without evaluations)."""
    device_hours: dict[int, float]
    """Hours of all its processes together, by resolution, while they trained."""


def store_of(runs: list[str], uri: str | None) -> str:
    """The store asked for, else that of the first run that is a folder, else runs/mlflow.db."""
    for folder in map(Path, runs):
        if uri is None and (folder / RECORD).exists():
            uri = address(json.loads((folder / RECORD).read_text())["uri"], folder)
    return uri or address(None, Path("runs") / "any")


def find(client: MlflowClient, runs: list[str], sweep: str | None) -> list[Training]:
    """Trainings by folder, run id or name; or those of a sweep. TrackingError."""
    try:
        everywhere = [e.experiment_id for e in client.search_experiments()]
        if sweep is not None:
            found = _search(client, everywhere, f"tags.`sweep.id` = '{_quoted(sweep)}'")
            if not found:
                raise TrackingError(f"MLflow has no training with the tag sweep.id = {sweep}")
        else:
            found = [run for name in runs for run in _named(client, everywhere, name)]
        unique = {run.info.run_id: run for run in found}
        return [_read(client, everywhere, run) for run in unique.values()]
    except MlflowException as error:
        raise TrackingError(f"MLflow cannot be read: {reason(error)}") from error


def _named(client: MlflowClient, experiments: list[str], name: str) -> list[Run]:
    record = Path(name) / RECORD
    if record.exists():
        name = json.loads(record.read_text())["parent"]
    try:
        return [client.get_run(name)]
    except MlflowException:
        found = _search(client, experiments, f"attributes.run_name = '{_quoted(name)}'")
        if not found:
            raise TrackingError(
                f"{name} is neither the folder of a training nor a run's id or name in MLflow"
            ) from None
        return found


def _search(client: MlflowClient, experiments: list[str], what: str) -> list[Run]:
    """Trainings, that is, runs with no run above them."""
    found, page = [], None
    while True:
        part = client.search_runs(experiments, what, page_token=page)
        found += [run for run in part if "mlflow.parentRunId" not in run.data.tags]
        if not (page := part.token):
            return found


def _quoted(text: str) -> str:
    if "'" in text:
        raise TrackingError(f"{text!r}: a name should have no quotes")
    return text


def _read(client: MlflowClient, experiments: list[str], run: Run) -> Training:
    distances: dict[str, dict[int, list[tuple[int, float]]]] = {}
    for key in run.data.metrics:
        name, _, side = key.partition("/r")
        if side.isdigit() and names.is_distance(name) and "_best" not in name:
            history = client.get_metric_history(run.info.run_id, key)
            points = sorted((point.step, point.value) for point in history)
            distances.setdefault(name, {})[int(side)] = points
    below = f"tags.`mlflow.parentRunId` = '{run.info.run_id}'"
    speed, hours = {}, {}
    for stage in client.search_runs(experiments, below):
        if side := stage.data.tags.get("resolution"):
            speed[int(side)], hours[int(side)] = _cost(client, stage)
    return Training(
        run.info.run_id, run.info.run_name, run.info.status, run.data.params, distances, speed,
        hours,
    )  # fmt: skip


def _cost(client: MlflowClient, stage: Run) -> tuple[float, float]:
    """Images per second and device hours of a stage, from its logs."""
    rates = _history(client, stage, "speed/images_per_second")
    processes = _history(client, stage, "speed/processes")
    if not rates:
        return float("nan"), float("nan")
    logs = sorted(rates)
    first = logs[0] - (logs[1] - logs[0] if len(logs) > 1 else logs[0])
    seconds = device = 0.0
    for before, after in pairwise([max(0, first), *logs]):
        took = (after - before) / rates[after]
        seconds, device = seconds + took, device + took * processes.get(after, 1)
    return (logs[-1] - max(0, first)) / seconds, device / 3600


def _history(client: MlflowClient, run: Run, key: str) -> dict[int, float]:
    if key not in run.data.metrics:
        return {}
    return {p.step: p.value for p in client.get_metric_history(run.info.run_id, key)}
