"""What rank 0 writes down of a training: lines, journal, pictures, MLflow, checkpoints."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL.Image import Image
from tqdm import tqdm

from dataprep.manifest import Manifest
from pipeline import balance
from pipeline.config import flat, plain
from pipeline.data.loaders import split_images, to_uint8
from pipeline.networks.family import ResolutionModel
from pipeline.objective import SoftIntroVAE
from pipeline.pictures.grids import grid, reconstructions
from pipeline.records import checkpoints
from pipeline.records.checkpoints import Checkpoint
from pipeline.records.files import whole
from pipeline.records.journal import Journal
from pipeline.records.tracking import Tracking
from stages import plots, schedule
from stages.config import Config
from stages.health import Watch
from stages.run_folder import RunFolder

COLUMNS, SHOWN = 8, 32
PATIENCE = 5  # logs in a row at the ceiling of KL before the user is warned
VERSION = "version.txt"  # beside a copy of the code
TOOK = "evaluation_seconds"  # in the lines of the journal that are evaluations


class Report:
    """The one place that writes; it checks that the run is still this process's before it does."""

    def __init__(self, config: Config, folder: RunFolder, manifest: Manifest, images: int):
        self.config, self.folder, self.manifest = config, folder, manifest
        self.journal = Journal(folder.path / "metrics.jsonl")
        self.journal.rewind(images)
        self.watch = Watch(self.journal.lines)
        self.tracking = Tracking(config.tracking, folder.path, config.name, tags(manifest))
        self.tracking.parameters(flat(plain(config)))
        plots.schedule(config, folder.pictures / "schedule.png")
        self.bar = tqdm(
            total=schedule.total(config),
            initial=images,
            unit="img",
            unit_scale=True,
            disable=not sys.stderr.isatty(),
        )
        self.since, self.since_images = time.monotonic(), images
        self.at_ceiling = 0

    def say(self, line: str | None) -> None:
        if line:
            tqdm.write(line, file=sys.stdout)
            sys.stdout.flush()

    @contextlib.contextmanager
    def going_on(self, what: str):
        """A disk that takes no more is announced, and training goes on."""
        try:
            yield
        except OSError as error:
            self.say(f"{what} cannot be written: {error.strerror or error}; training goes on")

    def enter(self, moment: schedule.Moment) -> None:
        """A stage begins or is taken up again; MLflow is told of it what it may have missed."""
        side = moment.stage.resolution
        self.bar.set_description(f"{side}x{side}")
        parameters = flat(plain(moment.stage))
        parameters["kl_ceiling"] = schedule.ceiling(self.config, moment.stage)
        self.tracking.stage(side, self.config.name, parameters)
        for line in self.journal.lines:
            if line["resolution"] == side:
                self.tell(line, moment)
        self.at_ceiling = 0
        self.start_clock(moment.first)

    def write(self, images: int, moment: schedule.Moment, values: dict[str, float]) -> None:
        """Into the journal, and from there to MLflow."""
        with self.going_on(f"metrics.jsonl at {images:,} images"):
            self.journal.write(images, moment.stage.resolution, values)
        self.tell(self.journal.lines[-1], moment)

    def tell(self, line: dict, moment: schedule.Moment) -> None:
        """A line of the journal, to MLflow; the training's run has what is measured at the end."""
        values = {k: v for k, v in line.items() if k not in ("images", "resolution", TOOK)}
        self.tracking.metrics(line["images"], values)
        if TOOK in line and line["images"] == moment.last:
            final = {f"{name}/{line['resolution']}": value for name, value in values.items()}
            self.tracking.metrics(line["images"], final, on_parent=True)

    def start_clock(self, images: int) -> None:
        self.since, self.since_images = time.monotonic(), max(images, self.bar.n)

    def rewind(self, images: int) -> None:
        """Forgets what lies after `images`, which is about to be trained anew."""
        with self.going_on("metrics.jsonl"):
            self.journal.rewind(images)
        self.bar.update(images - self.bar.n)
        self.start_clock(images)

    def log(
        self, images: int, moment: schedule.Moment, values: dict[str, float], skipped: int
    ) -> None:
        """A line; `skipped` steps were left out since the one before."""
        now = time.monotonic()
        rate = (images - self.since_images) / (now - self.since)
        values = values | {"images_per_second": rate} | self.balance(moment, values)
        if torch.cuda.is_available():
            values["peak_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
        self.write(images, moment, values)
        self.bar.update(images - self.bar.n)
        side = moment.stage.resolution
        shown = ("loss_E", "loss_D", "rec", "kl_real", "kl_rec", "kl_fake")
        terms = "  ".join(f"{name} {values[name]:.4g}" for name in shown if name in values)
        self.say(
            f"{images:>11,}  {side}x{side}  alpha {moment.alpha:.2f}  {terms}  {rate:.0f} img/s"
            + (f"  {skipped} steps left out (gradients not finite)" if skipped else "")
        )
        for name, warning in self.watch.read(values):
            self.say(f"{images:>11,}  {side}x{side}  WARNING: {warning}")
            self.tracking.tag(f"health.{name}", f"from {images:,} images on: {warning}")
        self.start_clock(images)

    def balance(self, moment: schedule.Moment, values: dict[str, float]) -> dict[str, float]:
        """Measures of `pipeline.balance`; warns after PATIENCE logs in a row at the ceiling."""
        objective = moment.objective
        if not isinstance(objective, SoftIntroVAE) or not values.keys() >= balance.TERMS:
            return {}
        measured = balance.measures(objective, 3 * moment.stage.resolution**2, values)
        warning = balance.warning(objective, measured) if moment.alpha == 1 else None
        self.at_ceiling = self.at_ceiling + 1 if warning else 0
        if self.at_ceiling == PATIENCE:
            self.say(f"warning: {warning}")
        return measured

    def pictures(self, images: int, model: ResolutionModel) -> None:
        """Fixed test images over their reconstructions, and samples of fixed draws."""
        self.folder.check()
        started, side = time.monotonic(), model.resolution
        count = min(SHOWN, self.manifest.count("test"))
        x, _ = next(
            split_images(
                self.config.data,
                self.manifest,
                side,
                "test",
                np.arange(count),
                count,
                model.device,
            )
        )
        torch.manual_seed(self.config.seed)
        pictures = {
            "reconstructions": reconstructions(
                to_uint8(x), to_uint8(model.decode(model.encode(x)[0])), COLUMNS
            ),
            "samples": grid(to_uint8(model.generate(2 * SHOWN)), COLUMNS),
        }
        for name, picture in pictures.items():
            self.show(images, f"{name}-{side:03}", picture)
        self.since += time.monotonic() - started

    def show(self, images: int, name: str, picture: Image) -> None:
        path = self.folder.pictures / f"{name}-{images:09}.png"
        with self.going_on(path.name), whole(path) as beside:
            picture.save(beside, format="png")
        self.tracking.picture(images, name, picture)

    def knows(self, images: int, name: str) -> bool:
        return self.journal.has(images, name)

    def evaluation(
        self, images: int, moment: schedule.Moment, values: dict, seconds: float
    ) -> None:
        """Values measured in `seconds`."""
        side = moment.stage.resolution
        self.write(images, moment, values | {TOOK: seconds})
        said = "  ".join(f"{name} {value:.5g}" for name, value in values.items())
        self.say(f"{images:>11,}  {side}x{side}  {said}  ({seconds:.0f} s)")
        self.since += seconds

    def checkpoint(self, images: int, checkpoint: Checkpoint) -> None:
        """Writes a checkpoint and removes older ones; those at the ends of stages stay."""
        self.folder.check()
        started, folder = time.monotonic(), self.folder.checkpoints
        checkpoint.about.update(
            images=images, config=plain(self.config), dataset_digest=self.manifest.digest
        )
        path = checkpoints.path_of(folder, images)
        with self.going_on(f"the checkpoint at {images:,} images, {path},"):
            if not path.exists():
                checkpoints.save(path, checkpoint)
            checkpoints.prune(folder, keep=schedule.ends(self.config))
        self.since += time.monotonic() - started

    def end(self, status: str) -> None:
        self.bar.close()
        with self.going_on("losses.png"):
            plots.losses(self.journal, self.folder.pictures / "losses.png")
        for name in ("schedule.png", "losses.png"):
            self.tracking.artifact(self.folder.pictures / name)
        self.tracking.end(status, whole_training=True)


def version() -> str | None:
    """The commit of the code that runs; of a copy made for a job, that which was copied."""
    copied = Path(__file__).parent.parent / VERSION
    if copied.exists():
        return copied.read_text()
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        said = subprocess.run(git, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return said.stdout.strip() or None


def tags(manifest: Manifest) -> dict[str, str]:
    """What produced a run: data, code, job."""
    found = {"dataset.digest": manifest.digest, "dataset": str(manifest.folder.resolve())}
    if code := version():
        found["git"] = code
    if "SLURM_JOB_ID" in os.environ:
        found["slurm.job_id"] = os.environ["SLURM_JOB_ID"]
    return found
