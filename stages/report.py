"""The output of a training, by rank 0: lines, journal, pictures, MLflow, checkpoints."""

import contextlib
import sys
import time
from dataclasses import replace

import torch
from tqdm import tqdm

from dataprep.manifest import Manifest
from pipeline import balance, processes
from pipeline.config import flat, plain
from pipeline.networks.family import ResolutionModel
from pipeline.objective import SoftIntroVAE
from pipeline.records import checkpoints, names
from pipeline.records.checkpoints import Checkpoint
from pipeline.records.files import whole
from pipeline.records.journal import Journal
from pipeline.records.tracking import Tracking
from stages import origin, page, pictures, plan, plots, schedule
from stages.config import Config
from stages.health import Watch
from stages.run_folder import LostRunError, RunFolder

SECONDS = "evaluation_seconds"  # in the lines of the journal that are evaluations


class Report:
    """The only writer of a run; it checks first that this process still owns the run."""

    def __init__(self, config: Config, folder: RunFolder, manifest: Manifest, images: int):
        self.config, self.folder, self.manifest = config, folder, manifest
        self.journal = Journal(folder.path / "metrics.jsonl")
        self.journal.rewind(images)
        self.watch = Watch(self.journal.lines)
        tags = origin.tags(manifest) | origin.lineage(plan.read(folder.path) or config)
        self.tracking = Tracking(config.tracking, folder.path, config.name, tags)
        self.notify(self.tracking.where)
        self.tracking.parameters(flat(plain(replace(config, history=[]))))
        self.tracking.dataset(names.dataset(manifest, "train"))
        with self.tolerating_full_disk("schedule.png"):
            plots.schedule(config, folder.pictures / "schedule.png")
        self.bar = tqdm(
            total=schedule.total(config),
            initial=images,
            unit="img",
            unit_scale=True,
            disable=not sys.stderr.isatty(),
        )
        self.since, self.since_images = time.monotonic(), images

    def notify(self, line: str | None) -> None:
        if line:
            with contextlib.suppress(OSError):  # as of pipeline.say
                tqdm.write(line, file=sys.stdout)
                sys.stdout.flush()

    @contextlib.contextmanager
    def tolerating_full_disk(self, what: str):
        """Prints a write error, such as a full disk; training continues."""
        try:
            yield
        except OSError as error:
            self.notify(f"{what} cannot be written: {error.strerror or error}; training continues")

    def start_stage(self, moment: schedule.Moment) -> None:
        """Begins or resumes a stage; sends to MLflow what it may have missed of it."""
        side = moment.stage.resolution
        self.bar.set_description(f"{side}x{side}")
        data = names.dataset(self.manifest, "train", side)
        parameters = flat(plain(moment.stage))
        parameters["kl_ceiling"] = schedule.ceiling(self.config, moment.stage)
        self.tracking.stage(side, self.config.name, parameters, data)
        for line in self.journal.lines:
            self.track(line, of_stage=line["resolution"] == side)
        if any(SECONDS in line and line["images"] == moment.last for line in self.journal.lines):
            self.finish(moment, again=True)
        self.start_clock(moment.first)

    def write(self, images: int, moment: schedule.Moment, values: dict[str, float]) -> None:
        """Writes a line to the journal and to MLflow."""
        self.folder.check()
        with self.tolerating_full_disk(f"metrics.jsonl at {images:,} images"):
            self.journal.write(images, moment.stage.resolution, values)
        self.track(self.journal.lines[-1])

    def track(self, line: dict, of_stage: bool = True) -> None:
        """Sends a line of the journal to MLflow; evaluations also to the training's run."""
        images, side = line["images"], line["resolution"]
        if SECONDS in line:
            values = names.with_best(self.evaluations(side, images))
            on_parent = {names.at_resolution(k, side): v for k, v in values.items()}
            self.tracking.metrics(images, on_parent, on_parent=True)
        else:
            values = {names.grouped(k): v for k, v in measured(line).items()}
        if of_stage:
            self.tracking.metrics(images, values)

    def evaluations(self, side: int, until: int) -> list[tuple[int, dict[str, float]]]:
        """(images, values) of the evaluations at a resolution."""
        return [
            (line["images"], measured(line))
            for line in self.journal.lines
            if SECONDS in line and line["resolution"] == side and line["images"] <= until
        ]

    def start_clock(self, images: int) -> None:
        self.since, self.since_images = time.monotonic(), max(images, self.bar.n)

    def rewind(self, images: int) -> None:
        """Drops what was logged after `images`, which will be trained again."""
        with self.tolerating_full_disk("metrics.jsonl"):
            self.journal.rewind(images)
        self.bar.update(images - self.bar.n)
        self.start_clock(images)

    def log(
        self, images: int, moment: schedule.Moment, values: dict[str, float], skipped: int
    ) -> None:
        """Logs a line; `skipped` is the number of skipped steps since the last line."""
        now = time.monotonic()
        rate = (images - self.since_images) / (now - self.since)
        values = values | {"images_per_second": rate, "processes": processes.world_size()}
        values |= self.balance(moment, values)
        if torch.cuda.is_available():
            values["peak_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
        self.write(images, moment, values)
        self.bar.update(images - self.bar.n)
        side = moment.stage.resolution
        terms_shown = ("loss_E", "loss_D", "rec", "kl_real", "kl_rec", "kl_fake")
        terms = "  ".join(f"{name} {values[name]:.4g}" for name in terms_shown if name in values)
        self.notify(
            f"{images:>11,}  {side}x{side}  alpha {moment.alpha:.2f}  {terms}  {rate:.0f} img/s"
            + (f"  {skipped} steps skipped (gradients not finite)" if skipped else "")
        )
        for name, warning in self.watch.read(values):
            self.notify(f"{images:>11,}  {side}x{side}  WARNING: {warning}")
            self.tracking.tag(f"health.{name}", f"from {images:,} images on: {warning}")
        self.start_clock(images)

    def balance(self, moment: schedule.Moment, values: dict[str, float]) -> dict[str, float]:
        """Measures of `pipeline.balance`, which `health.Watch` reads."""
        objective = moment.objective
        if not isinstance(objective, SoftIntroVAE) or not values.keys() >= balance.TERMS:
            return {}
        return balance.measures(objective, 3 * moment.stage.resolution**2, values)

    def pictures(self, images: int, model: ResolutionModel) -> None:
        """Writes images to files and MLflow; at the ends of stages also to the training's run."""
        self.folder.check()
        started, side = time.monotonic(), model.resolution
        ends = images in schedule.ends(self.config)
        drawn = pictures.of(model, self.config.data, self.manifest, self.config.seed)
        for name, picture in drawn.items():
            path = self.folder.pictures / f"{name}-{side:03}-{images:09}.png"
            with self.tolerating_full_disk(path.name):
                with whole(path) as beside:
                    picture.save(beside, format="png")
                self.tracking.picture(images, name, path)
                if ends:
                    self.tracking.picture(images, name, path, on_parent=True)
        self.since += time.monotonic() - started

    def has(self, images: int, name: str) -> bool:
        return self.journal.has(images, name)

    def evaluation(
        self, images: int, moment: schedule.Moment, values: dict, seconds: float
    ) -> None:
        """Logs an evaluation that took `seconds`."""
        side = moment.stage.resolution
        self.write(images, moment, values | {SECONDS: seconds})
        values_text = "  ".join(f"{name} {value:.5g}" for name, value in values.items())
        self.notify(f"{images:>11,}  {side}x{side}  {values_text}  ({seconds:.0f} s)")
        self.since += seconds
        if images == moment.last:
            self.finish(moment)

    def finish(self, moment: schedule.Moment, again: bool = False) -> None:
        """Writes the report of a finished stage, and logs its checkpoint as a model to MLflow.

        `again` where it has been done, unless a kill came before.
        """
        started, side = time.monotonic(), moment.stage.resolution
        path = self.folder.reports / f"stage-{side:03}.html"
        with self.tolerating_full_disk(path.name):
            if not (again and path.exists()):  # a stage that was extended has an older one
                text = page.of(
                    self.config, self.manifest, self.journal, moment, self.folder.pictures
                )
                with whole(path) as beside:
                    beside.write_text(text, encoding="utf-8")
            self.tracking.artifact(path, on_parent=False)
            self.tracking.artifact(path, "stages")
        checkpoint = checkpoints.path_of(self.folder.checkpoints, moment.last)
        if checkpoint.exists():
            data = names.dataset(self.manifest, "train", side)
            values = self.evaluations(side, moment.last)[-1][1]
            name = f"{self.config.name}-r{side:03}"
            self.tracking.model(name, moment.last, checkpoint, data, values)
        self.since += time.monotonic() - started

    def checkpoint(self, images: int, checkpoint: Checkpoint) -> bool:
        """Writes a checkpoint and removes older ones; those at the ends of stages stay.

        Whether the disk took it.
        """
        self.folder.check()
        started, folder = time.monotonic(), self.folder.checkpoints
        checkpoint.about.update(
            images=images, config=plain(self.config), dataset_digest=self.manifest.digest
        )
        path = checkpoints.path_of(folder, images)
        with self.tolerating_full_disk(f"the checkpoint at {images:,} images, {path},"):
            if not path.exists():
                checkpoints.save(path, checkpoint)
            checkpoints.prune(folder, keep=schedule.ends(self.config))
        self.since += time.monotonic() - started
        return path.exists()

    def end(self, status: str) -> None:
        """Writes the last plots and ends MLflow's run, unless another process owns the run."""
        self.bar.close()
        try:
            self.folder.check()
        except LostRunError:
            self.tracking.abandon()
            return
        for name in ("schedule.png", "losses.png"):
            with self.tolerating_full_disk(name):
                if name == "losses.png":
                    plots.losses(self.journal, self.folder.pictures / name)
                self.tracking.artifact(self.folder.pictures / name)
        self.tracking.end(status, whole_training=True)


def measured(line: dict) -> dict[str, float]:
    """The values of a journal line, without images, resolution and seconds."""
    return {k: v for k, v in line.items() if k not in ("images", "resolution", SECONDS)}
