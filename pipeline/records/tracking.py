"""MLflow: a run for a training, in it a run for each stage; the same runs when it is resumed."""

import json
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

# A server that is down must not hold up the training for minutes; see `Tracking._send`.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from PIL.Image import Image
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from pipeline.records.files import whole

PATIENCE = 60  # seconds between tries to reach a server that was found down
PARENT = ""  # the training's run, among the stages' resolutions


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class TrackingConfig:
    """Where runs are recorded."""

    uri: str | None = None
    """An MLflow tracking server or store; none is `mlflow.db` beside the run's folder."""
    experiment: str = "soft-introvae"
    """The MLflow experiment that holds the runs."""


class TrackingError(Exception):
    """A tracking server or store that cannot be used; the message names it and the way out."""


def store(config: TrackingConfig, folder: Path) -> str:
    """The tracking URI of a run in `folder`."""
    return config.uri or f"sqlite:///{folder.resolve().parent / 'mlflow.db'}"


class Tracking:
    """Tells MLflow of one training; only one process may have it.

    What a server that is down could not be told is kept and told later, runs included. What it has
    been told before, as when a stretch is trained again after a kill, it is not told twice.
    """

    def __init__(self, config: TrackingConfig, folder: Path, name: str, tags: dict[str, str]):
        self.config, self.folder = config, folder
        self.uri, self.record = store(config, folder), folder / "mlflow.json"
        self.unsent: list[partial] = []
        self.down_since: float | None = None
        self.told: dict[tuple[str, str], int] = {}
        known = json.loads(self.record.read_text()) if self.record.exists() else {}
        self.known = known if known.get("uri") == self.uri else {"uri": self.uri, "stages": {}}
        self.about, self.ids, self.run = {PARENT: (name, tags)}, {}, PARENT
        try:
            with _alone_at(self.uri):
                self.client = MlflowClient(self.uri)
                self._id(PARENT)
        except (MlflowException, OSError, NotImplementedError) as error:
            if "parent" in self.known and not _is_refusal(error):
                self._announce(error)  # a training that is resumed does not depend on a server
                return
            raise TrackingError(
                f"the MLflow store {self.uri} cannot be used: {_first_line(error)}; start the "
                f"server, or name another in tracking.uri"
            ) from error

    def stage(self, resolution: int, name: str, parameters: dict) -> None:
        """What follows belongs to the run of the stage at `resolution`; the one before is over."""
        if self.run not in (PARENT, str(resolution)):
            self._send(self._end, self.run, "FINISHED")
        self.run = str(resolution)
        self.about[self.run] = (f"{name} {resolution}x{resolution}", {"resolution": self.run})
        if self.run not in self.known["stages"]:
            self.parameters(parameters)
        self.flush()

    def parameters(self, parameters: dict) -> None:
        params = [Param(key, str(value)) for key, value in parameters.items()]
        for first in range(0, len(params), 100):  # MLflow's limit for one call
            self._send(self._log, self.run, params=params[first : first + 100])

    def metrics(self, images: int, values: dict[str, float], on_parent: bool = False) -> None:
        """Values at `images` images seen, on the stage's run or the training's."""
        now = int(time.time() * 1000)
        new = [Metric(key, value, now, images) for key, value in values.items()]
        self._send(self._measure, PARENT if on_parent else self.run, new)

    def picture(self, images: int, key: str, picture: Image) -> None:
        """A picture of the stage, at `images` images seen."""
        self._send(self._show, self.run, images, key, picture)

    def artifact(self, path: Path) -> None:
        """A file, for the training's run."""
        self._send(self._keep, path)

    def tag(self, key: str, value: str) -> None:
        """A tag of the training's run and the stage's."""
        for run in {PARENT, self.run}:
            self._send(self._log, run, tags=[RunTag(key, value)])

    def end(self, status: str, whole_training: bool) -> None:
        """FINISHED, FAILED, KILLED or SCHEDULED (to be resumed), of the stage or of all."""
        self._send(self._end, self.run, status)
        if whole_training:
            self._send(self._end, PARENT, status)
        self.flush()

    def _send(self, what: Callable, *args, **kwargs) -> None:
        self.unsent.append(partial(what, *args, **kwargs))
        if self.down_since is None or time.monotonic() - self.down_since > PATIENCE:
            self.flush()

    def flush(self) -> None:
        """Tells all that is untold, in order, and announces when the server is down or back."""
        while self.unsent:
            try:
                self.unsent[0]()
            except (MlflowException, OSError) as error:
                if not _is_refusal(error):
                    self._announce(error)
                    return
                what = self.unsent[0].func.__name__.strip("_")
                print(f"MLflow at {self.uri} refused to {what}: {_first_line(error)}", flush=True)
            self.unsent.pop(0)
        if self.down_since is not None:
            print(f"MLflow at {self.uri} answers again", flush=True)
        self.down_since = None

    def _announce(self, error: Exception) -> None:
        if self.down_since is None:
            print(
                f"MLflow at {self.uri} does not answer ({_first_line(error)}); training goes on, "
                f"and it will be told later",
                flush=True,
            )
        self.down_since = time.monotonic()

    # What is sent; each raises MlflowException or OSError where it fails.

    def _log(self, run: str, **what) -> None:
        self.client.log_batch(self._id(run), **what)

    def _measure(self, run: str, metrics: list[Metric]) -> None:
        new = [m for m in metrics if m.step > self._last_step(run, m.key)]
        if new:
            self.client.log_batch(self._id(run), metrics=new)
        self.told |= {(run, m.key): m.step for m in new}

    def _last_step(self, run: str, key: str) -> int:
        if (run, key) not in self.told:
            try:
                history = self.client.get_metric_history(self._id(run), key)
            except MlflowException as error:
                if not _is_refusal(error):
                    raise
                history = []
            self.told[run, key] = max((point.step for point in history), default=-1)
        return self.told[run, key]

    def _show(self, run: str, images: int, key: str, picture: Image) -> None:
        shown = self.known.setdefault("pictures", {}).setdefault(self._id(run), {})
        if images > shown.get(key, -1):
            self.client.log_image(self._id(run), picture, key=key, step=images)
            shown[key] = images
            self._keep_record()

    def _keep(self, path: Path) -> None:
        self.client.log_artifact(self._id(PARENT), str(path))

    def _end(self, run: str, status: str) -> None:
        self.client.set_terminated(self._id(run), status=status)

    def _id(self, run: str) -> str:
        """The id of PARENT's run or a stage's: made, or taken up again, where it is first used."""
        if run not in self.ids:
            name, tags = self.about[run]
            known, key = (self.known, "parent") if run == PARENT else (self.known["stages"], run)
            if run != PARENT:
                tags = {"mlflow.parentRunId": self._id(PARENT), **tags}
            self.ids[run] = known[key] = self._open(known.get(key), name, tags)
            self._keep_record()
        return self.ids[run]

    def _open(self, known: str | None, name: str, tags: dict[str, str]) -> str:
        """The run `known` taken up again where the store has it, else a new one."""
        if known is not None:
            try:
                self.client.update_run(known, status="RUNNING")
                self.client.log_batch(known, tags=[RunTag(k, v) for k, v in tags.items()])
                return known
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
        tags = {"mlflow.runName": name, **tags}
        return self.client.create_run(self._experiment(), tags=tags, run_name=name).info.run_id

    def _experiment(self) -> str:
        found = self.client.get_experiment_by_name(self.config.experiment)
        if found is not None:
            return found.experiment_id
        artifacts = None
        if self.config.uri is None:
            artifacts = (self.folder.resolve().parent / "mlflow-artifacts").as_uri()
        return self.client.create_experiment(self.config.experiment, artifacts)

    def _keep_record(self) -> None:
        with whole(self.record) as beside:
            beside.write_text(json.dumps(self.known, indent=1) + "\n")


def _alone_at(uri: str) -> AbstractContextManager:
    """A lock beside an SQLite store: two processes cannot make its tables at once."""
    path = uri.removeprefix("sqlite:///")
    return FileLock(f"{path}.lock") if path != uri else nullcontext()


def record(uri: str | None, checkpoint: Path, about: dict) -> str:
    """A run of an evaluation: `about["values"]` as metrics, the rest as tags. Gives the store.

    Without `uri` the store is that of the training that the checkpoint is of, and the run is put
    under the training's. TrackingError.
    """
    known = checkpoint.resolve().parent.parent / "mlflow.json"
    training = json.loads(known.read_text()) if known.exists() else {}
    store_uri = uri or training.get("uri")
    if store_uri is None:
        raise TrackingError(f"{checkpoint} is of no training that MLflow knows: name a store's URI")
    client, side = MlflowClient(store_uri), about["resolution"]
    tags = {k: str(v) for k, v in about.items() if k != "values"}
    try:
        if training.get("uri") == store_uri:
            experiment = client.get_run(training["parent"]).info.experiment_id
            tags["mlflow.parentRunId"] = training["parent"]
        else:
            name = TrackingConfig().experiment
            found = client.get_experiment_by_name(name)
            experiment = found.experiment_id if found else client.create_experiment(name)
        run = client.create_run(experiment, tags=tags, run_name=f"evaluation {side}x{side}").info
        now, step = int(time.time() * 1000), about["images"] or 0
        metrics = [Metric(k, v, now, step) for k, v in about["values"].items()]
        client.log_batch(run.run_id, metrics=metrics)
        client.set_terminated(run.run_id)
    except MlflowException as error:
        raise TrackingError(
            f"the MLflow store {store_uri} cannot be used: {_first_line(error)}"
        ) from error
    return store_uri


def _is_refusal(error: Exception) -> bool:
    """Whether the server understood and said no: asking again would not help."""
    return isinstance(error, MlflowException) and 400 <= error.get_http_status_code() < 500


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
