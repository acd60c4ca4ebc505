"""MLflow: a run for a training, in it a run for each stage; the same runs when it is resumed."""

import json
import time
from pathlib import Path

from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from pipeline.records.mlflow_access import TrackingError, address, open_store, reason
from pipeline.records.outbox import NAME, Outbox
from pipeline.records.store import KIND, PARENT, RECORD, Store, dataset_input
from pipeline.say import say

LAST_WAIT = 20.0  # seconds at the end of a training for unsent entries


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class TrackingConfig:
    """Where runs are recorded."""

    uri: str | None = None
    """An MLflow tracking server or store; none is `mlflow.db` beside the run's folder."""
    experiment: str = "soft-introvae"
    """The MLflow experiment that holds the runs."""
    system_metrics: bool = False
    """Also log what each node's processors, memory and GPUs (with nvidia-ml-py) are doing."""


def store(config: TrackingConfig, folder: Path) -> str:
    """The tracking URI of a run in `folder`."""
    return address(config.uri, folder)


def where(uri: str, experiment: str) -> str:
    """How to see the list of an experiment's trainings, as a line.

    In MLflow 3.17 an experiment that is opened from the UI's front page shows its GenAI view, the
    experiment's own kind notwithstanding; the address here says which one is meant.
    """
    served = uri.startswith("http")
    server = uri.rstrip("/") if served else "http://127.0.0.1:5000"
    start = "" if served else f"mlflow ui --backend-store-uri {uri}  then "
    address = f"{server}/#/experiments/{experiment}/runs?workflowType=machine_learning"
    return f"to see it in MLflow:  {start}{address}"


class Tracking:
    """Logs one training to MLflow; for one process only.

    Only the start of a new training waits for the store: a mistyped address is an error. All else
    goes to a queue that a thread sends, and costs the training no time. What MLflow has already,
    as when a stretch is trained again after a kill, is not sent twice.
    """

    def __init__(self, config: TrackingConfig, folder: Path, name: str, tags: dict[str, str]):
        self.folder, self.run, self.tags = folder.resolve(), PARENT, tags
        mlflow_store = Store(config.uri, self.folder, config.experiment, say)
        self.uri = mlflow_store.shown
        if mlflow_store.is_new:
            try:
                mlflow_store.open(PARENT, name, tags)
            except (MlflowException, OSError) as error:
                raise TrackingError(
                    f"the MLflow store {self.uri} cannot be used: {reason(error)}; "
                    "start the server, or name another in tracking.uri"
                ) from error
        self.where = where(self.uri, mlflow_store.known.get("experiment_id", "1"))
        self.outbox = Outbox(self.folder / NAME, mlflow_store.send, f"MLflow at {self.uri}", say)
        self._put("open", PARENT, name=name, tags=tags, time=_now())

    def stage(self, resolution: int, name: str, parameters: dict, data: dict) -> None:
        """Begins the run of the stage at `resolution`, and ends that of the stage before.

        `data` is what it reads: {name, digest, source, profile}.
        """
        if self.run not in (PARENT, str(resolution)):
            self._end(self.run, "FINISHED")
        self.run = str(resolution)
        source = {k: v for k, v in self.tags.items() if k.startswith("mlflow.source")}
        tags = {"resolution": self.run, **source}
        name = f"{name} {resolution}x{resolution}"
        self._put("open", self.run, name=name, tags=tags, time=_now())
        self.parameters(parameters)
        self.dataset(data)

    def parameters(self, parameters: dict) -> None:
        self._put("params", self.run, values={k: str(v) for k, v in parameters.items()})

    def dataset(self, data: dict) -> None:
        """What the run reads: {name, digest, source, profile}."""
        self._put("dataset", self.run, data=data, context="training")

    def metrics(self, images: int, values: dict[str, float], on_parent: bool = False) -> None:
        """Values at `images` images seen, on the stage's run or the training's."""
        points = [[key, value, _now(), images] for key, value in values.items()]
        self._put("metrics", PARENT if on_parent else self.run, points=points)

    def picture(self, images: int, key: str, path: Path, on_parent: bool = False) -> None:
        """A file of the training's folder, shown at `images` images seen."""
        run = PARENT if on_parent else self.run
        self._put("picture", run, images=images, key=key, path=self._inside(path), time=_now())

    def artifact(self, path: Path, folder: str | None = None, on_parent: bool = True) -> None:
        """A file in the training's folder, for the training's run or the stage's."""
        self._put(
            "artifact", PARENT if on_parent else self.run, path=self._inside(path), folder=folder
        )

    def model(self, name: str, images: int, checkpoint: Path, data: dict, values: dict) -> None:
        """The stage's checkpoint, by reference, with its values measured on `data`."""
        name = "".join(c if c.isalnum() or c in "-_ " else "-" for c in name)
        tags = {"checkpoint": str(checkpoint.resolve()), "images": str(images)}
        params = {"resolution": self.run, "dataset": data["name"], "dataset.digest": data["digest"]}
        self._put("model", self.run, name=name, tags=tags, params=params, data=data, values=values)

    def tag(self, key: str, value: str) -> None:
        """A tag of the training's run and the stage's."""
        for run in {PARENT, self.run}:
            self._put("tag", run, key=key, value=value)

    def end(self, status: str, whole_training: bool) -> None:
        """FINISHED, FAILED, KILLED or SCHEDULED (to be resumed), of the stage or of all."""
        self._end(self.run, status)
        if whole_training:
            self._end(PARENT, status)
        flush(self.outbox, self.folder, LAST_WAIT)

    def abandon(self) -> None:
        """Sends nothing more: another process logs this training now."""
        self.outbox.close()

    def _end(self, run: str, status: str) -> None:
        self._put("end", run, status=status, time=_now())

    def _put(self, what: str, run: str, **more) -> None:
        self.outbox.put({"what": what, "run": run, **more})

    def _inside(self, path: Path) -> str:
        """A path relative to the training's folder, which may be moved before it is sent."""
        return str(path.resolve().relative_to(self.folder))


def flush(outbox: Outbox, folder: Path, seconds: float) -> int:
    """Waits for the thread, ends it, and prints how to send what is unsent, if anything is."""
    if left := outbox.drain(seconds):
        say(
            f"{outbox.name} lacks {left} entries ({outbox.problem}); they are in "
            f"{outbox.path}. To send them later:  python -m pipeline.flush {folder}"
        )
    outbox.close()
    return left


def record(uri: str | None, checkpoint: Path, about: dict, data: dict) -> str:
    """A run of an evaluation: `about["values"]` as metrics, the rest as tags. Gives the store.

    `data` is what it compared with. Without `uri` the store is that of the training that the
    checkpoint is of, and the run is put under the training's. TrackingError.
    """
    folder = checkpoint.resolve().parent.parent
    known = folder / RECORD
    training = json.loads(known.read_text()) if known.exists() else None
    own = address(training["uri"], folder) if training else None
    store_uri = uri or own
    if store_uri is None:
        raise TrackingError(f"{checkpoint} belongs to no training in MLflow: name a store's URI")
    client, side = open_store(store_uri), about["resolution"]
    tags = {k: str(v) for k, v in about.items() if k != "values"}
    tags |= {"mlflow.source.name": "pipeline/evaluate.py", "mlflow.source.type": "LOCAL"}
    try:
        if own == store_uri:
            experiment = client.get_run(training["parent"]).info.experiment_id
            tags["mlflow.parentRunId"] = training["parent"]
        else:
            name = TrackingConfig().experiment
            found = client.get_experiment_by_name(name)
            experiment = found.experiment_id if found else client.create_experiment(name, tags=KIND)
        run = client.create_run(experiment, tags=tags, run_name=f"evaluation {side}x{side}").info
        client.log_inputs(run.run_id, [dataset_input(data, "evaluation")])
        same = {"dataset_name": data["name"], "dataset_digest": data["digest"][:36]}
        step = about["images"] or 0
        metrics = [Metric(k, v, _now(), step, **same) for k, v in about["values"].items()]
        client.log_batch(run.run_id, metrics=metrics)
        client.set_terminated(run.run_id)
    except MlflowException as error:
        raise TrackingError(
            f"the MLflow store {store_uri} cannot be used: {reason(error)}"
        ) from error
    return store_uri


def _now() -> int:
    """Milliseconds since 1970, as MLflow counts."""
    return int(time.time() * 1000)
