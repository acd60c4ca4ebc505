"""The MLflow store of a training: a method for each kind of entry, safe to repeat."""

import json
import sqlite3
import time
from functools import cached_property
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LoggedModelOutput,
    Metric,
    Param,
    RunTag,
)
from mlflow.exceptions import MlflowException
from PIL import Image

from pipeline.records.files import whole
from pipeline.records.mlflow_access import (
    TrackingError,
    address,
    is_client_error,
    is_deleted,
    open_store,
    reason,
    store_lock,
    without_password,
)

PARENT = ""  # the training's run, among the stages' resolutions
RECORD = "mlflow.json"
DESCRIPTION = "mlflow.note.content"  # markdown; a user may edit it
KIND = {"mlflow.experimentKind": "custom_model_development"}  # or the UI hides the list of runs
LONGEST = 6000  # characters of a parameter
CUT = " ... (cut: config.yaml has all of it)"


class _Missing(Exception):  # noqa: N818 (printed, not raised further)
    """The subject of an entry does not exist any more."""


class Store:
    """The runs of one training in one store, found again by `mlflow.json` in its folder.

    An entry that can be retried raises TrackingError; one that the store rejects is printed.
    """

    def __init__(self, uri: str | None, folder: Path, experiment: str, notify=print):
        self.folder, self.experiment, self.notify = folder, experiment, notify
        self.uri, self.own = address(uri, folder), uri is None
        self.shown = without_password(self.uri)
        record = folder / RECORD
        known = json.loads(record.read_text()) if record.exists() else {}
        if known.get("uri") not in (uri, self.uri):
            known = {}
        self.known = {"stages": {}, "models": {}, **known, "uri": uri, "experiment": experiment}
        self.about: dict[str, tuple[str, dict[str, str]]] = {}
        self.ids: dict[str, str] = {}  # of the runs that this process has opened
        self.made: set[str] = set()  # the ids among them of new runs
        self.last: dict[tuple[str, str], int] = {}  # step, of a run's metric or picture

    @property
    def is_new(self) -> bool:
        """Whether no run of the training is known there."""
        return "parent" not in self.known

    def send(self, entries: list[dict]) -> None:
        """Sends entries of one kind and run. TrackingError where a retry may succeed."""
        entry = dict(entries[0])
        if entry["what"] == "metrics":
            entry["points"] = [point for e in entries for point in e["points"]]
        what, run = entry.pop("what"), entry["run"]
        try:
            try:
                getattr(self, what)(**entry)
            except MlflowException as error:
                if not (is_deleted(error) and run in self.about):
                    raise
                self.open(run, *self.about[run])  # deleted while the training ran
                getattr(self, what)(**entry)
        except (MlflowException, OSError) as error:
            if not is_client_error(error):
                raise TrackingError(reason(error)) from error
            self.notify(f"MLflow at {self.shown} refused {what}: {reason(error)}")
        except (_Missing, ValueError) as error:
            self.notify(f"MLflow at {self.shown} has not got {what}: {error}")

    # The kinds of entry. Times are in ms since 1970.

    def open(self, run: str, name: str, tags: dict[str, str], time: int | None = None) -> None:
        """Opens the training's run (PARENT) or a stage's: the known one, or a new one."""
        self.about[run] = name, tags
        if run != PARENT:
            tags = {"mlflow.parentRunId": self._id(PARENT), **tags}
        known = self.known.get("parent") if run == PARENT else self.known["stages"].get(run)
        if known is None and run != PARENT and self._id(PARENT) not in self.made:
            known = self._unrecorded(run)
        if known and self._is_there(known):
            self.client.update_run(known, status="RUNNING")
            new = [RunTag(k, v) for k, v in tags.items() if k != DESCRIPTION]
            self.client.log_batch(known, tags=new)
            found = known
        else:
            if known:
                self.notify(
                    f"MLflow at {self.shown} has no run {known} any more: {name} gets a new one"
                )
            tags = {"mlflow.runName": name, **tags}
            made = self.client.create_run(self._experiment(), time, tags, name)
            found = made.info.run_id
            self.known["experiment_id"] = made.info.experiment_id
            self.made.add(found)
            self.last = {k: v for k, v in self.last.items() if k[0] != run}
        self.ids[run] = found
        if run == PARENT:
            self.known["parent"] = found
            if known not in (None, found):
                for stage in self.known["stages"].values():
                    self._move_under(stage, found)
        else:
            self.known["stages"][run] = found
        self._keep_record()

    def params(self, run: str, values: dict[str, str]) -> None:
        """Parameters; what MLflow holds with another value (it keeps the first) is a tag."""
        id = self._id(run)
        there = self.client.get_run(id).data.params
        cut = {key: shortened(value) for key, value in values.items()}
        new = [Param(k, v) for k, v in cut.items() if k not in there]
        changed = [RunTag(f"changed.{k}", v) for k, v in cut.items() if there.get(k, v) != v]
        for first in range(0, len(new), 100):  # MLflow's limit for one call
            self.client.log_batch(id, params=new[first : first + 100])
        if changed:
            self.client.log_batch(id, tags=changed)

    def metrics(self, run: str, points: list[list]) -> None:
        """Points [name, value, time, images]; those at or before the last one there are known."""
        new = []
        for name, value, at, images in points:
            if images > self._last_step(run, name):
                new.append(Metric(name, value, at, images))
                self.last[run, name] = images
        try:
            for first in range(0, len(new), 1000):
                self.client.log_batch(self._id(run), metrics=new[first : first + 1000])
        except Exception as error:
            self.last = {k: v for k, v in self.last.items() if k[0] != run}  # queried again
            if len(new) == 1 or not is_client_error(error) or is_deleted(error):
                raise
            for point in points:  # one of them is refused, with a name that MLflow does not take
                self.send([{"what": "metrics", "run": run, "points": [point]}])

    def picture(self, run: str, images: int, key: str, path: str, time: int) -> None:
        """A picture among the others of the same key, which the UI steps through."""
        if images <= self._last_picture(run, key):
            return
        with Image.open(self._file(path)) as picture:
            self.client.log_image(self._id(run), picture, key=key, step=images, timestamp=time)
        self.last[run, f"images/{key}"] = images

    def artifact(self, run: str, path: str, folder: str | None = None) -> None:
        """A file of the training's folder."""
        self.client.log_artifact(self._id(run), str(self._file(path)), folder)

    def dataset(self, run: str, data: dict, context: str) -> None:
        """What a run reads: {name, digest, source, profile}."""
        self.client.log_inputs(self._id(run), [dataset_input(data, context)])

    def model(
        self, run: str, name: str, tags: dict, params: dict, data: dict, values: dict
    ) -> None:
        """A checkpoint as a LoggedModel, by reference, with its metrics, linked to the data."""
        id, images = self._id(run), int(tags["images"])
        record = f"{run} at {images}"  # a stage may be extended
        if self.known["models"].get(record):
            return
        experiment = self.client.get_run(id).info.experiment_id
        same = f"name = '{name}' AND source_run_id = '{id}'"
        found = self.client.search_logged_models([experiment], filter_string=same)
        found = [m for m in found if m.tags.get("images") == str(images)]
        model = found[0] if found else self.client.create_logged_model(
            experiment, name=name, source_run_id=id, tags=tags, params=params,
            model_type="soft-introvae",
        )  # fmt: skip
        points = []
        for key, value in values.items():
            # The same point as the run's, so that its curve has it once.
            history = self.client.get_metric_history(id, key)
            at = next((p.timestamp for p in history if p.step == images), int(time.time() * 1000))
            points.append(
                Metric(key, value, at, images, model.model_id, data["name"], data["digest"][:36])
            )
        self.client.log_batch(id, metrics=points)
        self.client.finalize_logged_model(model.model_id, "READY")
        self.client.log_outputs(id, [LoggedModelOutput(model.model_id, images)])
        self.known["models"][record] = model.model_id
        self._keep_record()

    def tag(self, run: str, key: str, value: str) -> None:
        self.client.set_tag(self._id(run), key, value)

    def end(self, run: str, status: str, time: int) -> None:
        self.client.set_terminated(self._id(run), status=status, end_time=time)

    # What they share.

    @cached_property
    def client(self) -> MlflowClient:
        return open_store(self.uri)

    def _id(self, run: str) -> str:
        known = self.known.get("parent") if run == PARENT else self.known["stages"].get(run)
        if (found := self.ids.get(run, known)) is None:
            raise _Missing(f"it belongs to {run or 'a training'}, of which there is no run")
        return found

    def _unrecorded(self, stage: str) -> str | None:
        """A stage's run that was made just before a kill."""
        experiment = self.client.get_run(self._id(PARENT)).info.experiment_id
        parent = f"tags.`mlflow.parentRunId` = '{self._id(PARENT)}'"
        found = self.client.search_runs([experiment], f"{parent} AND tags.resolution = '{stage}'")
        # An evaluation of the stage's checkpoint has these tags, too, and its checkpoint's.
        ids = [run.info.run_id for run in found if "checkpoint" not in run.data.tags]
        return ids[0] if ids else None

    def _is_there(self, id: str) -> bool:
        try:
            info = self.client.get_run(id).info
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return False
        if self.own:
            self._move_artifacts(info.artifact_uri)
        return info.lifecycle_stage == "active"

    def _experiment(self) -> str:
        """Its id; made where there is none, and marked as what it is."""
        client = self.client  # opening takes the lock, too
        with store_lock(self.uri):
            found = client.get_experiment_by_name(self.experiment)
            if found is None:
                where = (self.folder.parent / "mlflow-artifacts").as_uri() if self.own else None
                try:
                    return client.create_experiment(self.experiment, where, tags=KIND)
                except MlflowException as error:
                    if error.error_code != "RESOURCE_ALREADY_EXISTS":
                        raise
                    # Another training has just made it on the same server.
                    found = client.get_experiment_by_name(self.experiment)
        if found.lifecycle_stage != "active":
            raise TrackingError(
                f"the experiment {self.experiment} was deleted: restore it by  "
                f"MLFLOW_TRACKING_URI={self.shown} mlflow experiments restore --experiment-id "
                f"{found.experiment_id}  or name another in tracking.experiment"
            )
        if not found.tags.keys() >= KIND.keys():
            for key, value in KIND.items():
                client.set_experiment_tag(found.experiment_id, key, value)
        return found.experiment_id

    def _move_under(self, run: str, parent: str) -> None:
        """A stage's run, under a training's that is new; one that was deleted, too, is left."""
        try:
            self.client.set_tag(run, "mlflow.parentRunId", parent)
        except MlflowException as error:
            if not is_client_error(error):
                raise

    def _move_artifacts(self, artifacts: str) -> None:
        """MLflow keeps whole paths: where folder and store were moved, those of pictures, too."""
        name = "mlflow-artifacts"
        old, new = artifacts.partition(f"/{name}/")[0], self.folder.parent.as_uri()
        if old == new or f"/{name}/" not in artifacts or not (self.folder.parent / name).is_dir():
            return
        places = ("experiments", "artifact_location"), ("runs", "artifact_uri")
        places += (("logged_models", "artifact_location"),)
        with (
            store_lock(self.uri),
            sqlite3.connect(self.uri.removeprefix("sqlite:///")) as database,
        ):
            for table, column in places:
                database.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                    f"WHERE substr({column}, 1, ?) = ?",
                    (new, len(old) + 1, len(old) + 1, f"{old}/"),
                )
        database.close()
        self.notify(f"MLflow's pictures were in {old}; {self.uri} looks for them in {new} now")

    def _last_step(self, run: str, name: str) -> int:
        if (run, name) not in self.last:
            self.last[run, name] = -1
            if self._id(run) not in self.made:
                try:
                    history = self.client.get_metric_history(self._id(run), name)
                except MlflowException as error:
                    del self.last[run, name]
                    if not is_client_error(error):
                        raise
                    history = []
                self.last[run, name] = max((point.step for point in history), default=-1)
        return self.last[run, name]

    def _last_picture(self, run: str, key: str) -> int:
        if (run, f"images/{key}") not in self.last:
            names = []
            if self._id(run) not in self.made:
                found = self.client.list_artifacts(self._id(run), "images")
                names = [Path(image.path).name for image in found]
            steps = [int(n.split("+")[2]) for n in names if n.startswith(f"{key}+step+")]
            self.last[run, f"images/{key}"] = max(steps, default=-1)
        return self.last[run, f"images/{key}"]

    def _file(self, path: str) -> Path:
        if not (self.folder / path).exists():
            raise _Missing(f"{self.folder / path} is not there")
        return self.folder / path

    def _keep_record(self) -> None:
        with whole(self.folder / RECORD) as beside:
            beside.write_text(json.dumps(self.known, indent=1) + "\n")


def shortened(value: str) -> str:
    """A parameter's value as MLflow takes it."""
    return value if len(value) <= LONGEST else value[: LONGEST - len(CUT)] + CUT


def dataset_input(data: dict, context: str) -> DatasetInput:
    """A data set {name, digest, source, profile} as MLflow wants it; its digests are shorter."""
    found = Dataset(
        data["name"],
        data["digest"][:36],
        "local",
        json.dumps({"uri": data["source"]}),
        profile=json.dumps(data["profile"]),
    )
    return DatasetInput(found, [InputTag("mlflow.data.context", context)])
