"""The training loop through all stages; resumable at any number of images seen."""

import gc
import signal
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from timm.utils import ModelEmaV3
from torch import Tensor

from dataprep.manifest import Manifest
from pipeline import networks, processes, section
from pipeline.config import ConfigError
from pipeline.data.loaders import drawn_images
from pipeline.data.verify import verify
from pipeline.metrics.evaluation import Evaluation, metric_name
from pipeline.networks.family import ResolutionModel
from pipeline.records import checkpoints
from pipeline.records.checkpoints import Checkpoint
from pipeline.records.journal import Journal
from pipeline.records.system import System
from pipeline.say import say
from stages import beginning, health, plan, schedule, state
from stages.config import Config
from stages.health import DivergedError
from stages.report import Report
from stages.room import written
from stages.run_folder import RunFolder
from stages.stage import Meter, Stage
from stages.stop import Stopped, StopSignals
from stages.watchdog import Watchdog

WATCHED = "processes"  # in the run's folder
OTHER_DRAWS = 1_000_003  # added to the seed for each step back


def train(config: Config, folder: Path, branch: str | None = None, until: int | None = None) -> int:
    """Trains to the end, or to `until` images seen, the end of a stage; 0, or the number of the
    signal that has stopped all processes.

    Every process of the training calls this. A training that `folder` holds is continued from its
    newest whole checkpoint, with any number of processes; with the same number to the same bits.
    `branch` is as of `beginning.branch`, where the training itself has to branch off.
    """
    if any(stage.micro_batch is None for stage in config.stages):
        raise ConfigError("a stage has no micro_batch: launch/memory.py gives it one")
    device = processes.start(config.faults.long_timeout, dumps=folder / WATCHED)
    if branch is not None:
        config = branched(config, folder, branch, device)
    config = plan.of_dataset(config, Manifest.load(config.data.path).digest)
    config = beginning.begun_with(config, folder)
    if config.engine.precision == "auto":
        known = plan.read(folder)
        chosen = known.engine.precision if known else "auto"
        config = plan.with_precision(config, chosen)
        config = plan.with_precision(config, processes.fitting_precision(device))
    if processes.is_first():
        say(f"precision {config.engine.precision}")
        if slow := processes.slow_precision(device, config.engine.precision):
            say(slow)
        if device.type == "cuda" and config.engine.graphs and (reason := config.engine.no_graphs()):
            say(f"with {reason}, kernels are launched one by one: CUDA graphs are not used")
    written("config.yaml", lambda: RunFolder(folder).keep_config(config), device)
    stopped_by = 0
    last = schedule.total(config) if until is None else until
    for part, part_end in plan.parts(config):
        end, begin = min(part_end, last), plan.position(folder)
        if stopped_by or (end < schedule.total(config) and begin >= end):
            continue
        part.check_processes(processes.world_size(), begin, end)
        stopped_by = Trainer(part, folder, device, end).run()
    return stopped_by


def branched(config: Config, folder: Path, branch: str, device: torch.device) -> Config:
    """`config` with the history of a branch, which rank 0 makes; all processes must call."""

    def make() -> None:
        beginning.branch(branch, folder)
        digest = Manifest.load(config.data.path).digest
        plan.write(folder, plan.continued(config, folder, digest, replan=True))

    written("the branch", make, device)
    found = plan.read(folder)
    assert found is not None
    return found


class Trainer:
    """State of a training in one process: the networks, their averages, images seen."""

    def __init__(self, config: Config, folder: Path, device: torch.device, end: int):
        self.config, self.device, self.end = config, device, end
        self.manifest = Manifest.load(config.data.path)
        config.check_classes(len(self.manifest.classes))
        plan.of_dataset(config, self.manifest.digest)  # ConfigError for another dataset
        torch.manual_seed(config.seed)
        self.networks = networks.build(config.shape)
        self.networks.initialize(config.seed)
        self.networks.to(device)
        self.ema = ModelEmaV3(self.networks)
        self.folder, self.meter = RunFolder(folder), Meter()
        self.images, self.saved = 0, 0
        self.stage: Stage | None = None
        self.resumed: Checkpoint | None = None
        self.found_derived: tuple[int, dict[str, Tensor]] = (-1, {})
        self.unwritten = False  # the newest checkpoint was due and is not there
        self.draws = 0  # how often it stepped back after it diverged
        self.signals = StopSignals(dist.new_group(backend="gloo"))
        self.evaluation = Evaluation(
            config.evaluation, config.data, self.manifest, device, self.heartbeat
        )
        written("claimed-by", self.folder.claim, device)
        self.watchdog = Watchdog(folder / WATCHED, config.faults)
        self.resume()
        self.system = System(self.signals.group) if config.tracking.system_metrics else None
        journal = Journal(folder / "metrics.jsonl")
        written("metrics.jsonl", lambda: journal.rewind(self.images), device)
        self.report: Report | None = None

    def open_report(self) -> None:
        if processes.is_first():
            self.report = Report(self.config, self.folder, self.manifest, self.images)
            self.report.notify(self.evaluation.announcement)
            self.report.notify(self.system.missing if self.system else None)

    def run(self) -> int:
        self.open_report()
        status = "FAILED"
        try:
            # What is due belongs to the stage that ended; of a new branch, to the other run.
            new_branch = plan.is_new_branch(self.config, self.images) and self.images < self.end
            if self.report and self.images and not new_branch:
                self.report.start_stage(schedule.at(self.config, self.images - 1))
            if not new_branch:
                self.run_due()
            while self.images < self.end:
                try:
                    self.step()
                    self.run_due()
                except DivergedError as error:
                    self.step_back(error)
                self.signals.check()
            if self.saved != self.images:
                self.checkpoint()  # another configuration follows
            finished = self.images >= schedule.total(self.config)
            status = "FINISHED" if finished else "SCHEDULED"
            return 0
        except Stopped as stopped:
            status = "SCHEDULED" if stopped.number == signal.SIGUSR2 else "KILLED"
            self.notify(f"stopping on {stopped} at {self.images:,} images")
            self.take_time("checkpoint")
            self.checkpoint()
            return stopped.number
        finally:
            self.watchdog.stop()
            if self.report:
                self.report.end(status)
            self.close_stage()
            self.signals.release()

    def step(self) -> None:
        """Steps both networks and their averages."""
        moment = schedule.at(self.config, self.images)
        try:
            if self.stage is None or self.stage.number != moment.number:
                self.start_stage(moment)
            self.meter.add(self.stage.step(moment))
        except RuntimeError as error:
            if not health.is_out_of_memory(error):
                raise
            raise health.out_of_memory(self.config, moment, error) from error
        self.ema.decay = 0.5 ** (moment.stage.batch / self.config.ema_half_life)
        self.ema.update(self.networks)
        self.images += moment.stage.batch
        self.networks.stepped(self.images, moment.stage.batch)
        self.watchdog.step_done()

    def take_time(self, what: str) -> None:
        """Names what begins now, and allows it and the next step `faults.long_timeout`."""
        section.enter(what)
        self.watchdog.take_time()

    def heartbeat(self) -> None:
        """Between batches of an evaluation, in all processes at once."""
        section.enter("evaluate")
        self.signals.check()

    def start_stage(self, moment: schedule.Moment) -> None:
        """Starts the stage of `moment`: new engines over grown networks, new optimiser state.

        The state stays where the stage before had the same resolution.
        """
        self.take_time("start of a stage")
        stays = moment.number and moment.stage.resolution == self.resolution_before(moment)
        if self.stage is not None and stays:
            self.resumed = Checkpoint({}, {}, *state.gather(self.networks, self.stage))
        self.close_stage()
        self.verify(moment.stage.resolution)
        config = replace(self.config, seed=self.config.seed + OTHER_DRAWS * self.draws)
        self.stage = Stage(config, moment, self.images, self.networks, self.manifest)
        if self.resumed is not None and (stays or self.images > moment.first):
            state.load_engines(self.networks, self.stage, self.resumed)
        self.resumed = None
        if self.report:
            self.report.start_stage(moment)

    def verify(self, resolution: int) -> None:
        """Reads the data of a resolution once against its checksums; DatasetError."""
        data, record = self.config.data, self.folder.path / "verified.json"
        if data.verify == "off" or data.remote:
            return
        started, group = time.monotonic(), self.signals.group
        heartbeat = partial(section.enter, "verify")
        read = verify(self.manifest, data.loader, resolution, record, group, heartbeat)
        if read:
            seconds = time.monotonic() - started
            self.notify(
                f"data at {resolution}x{resolution}: {read:,} bytes as prepared ({seconds:.0f} s)"
            )

    def step_back(self, error: DivergedError) -> None:
        """Returns to the newest checkpoint and continues with other random draws, if configured.

        Raises `error` where it is not.
        """
        found = bool(processes.is_first() and checkpoints.newest_first(self.folder.checkpoints))
        found = torch.tensor([found])
        dist.broadcast(found, 0, group=self.signals.group)
        if not found or self.draws >= self.config.faults.step_back:
            raise error
        self.notify(f"{error}. Stepping back, {self.draws + 1} of {self.config.faults.step_back}")
        draws = self.draws + 1
        self.close_stage()
        self.meter = Meter()
        self.resume()
        self.draws = draws
        if self.report:
            self.report.rewind(self.images)

    def close_stage(self) -> None:
        """Closes the stage and collects its engines, whose memory the next ones need."""
        if self.stage is not None:
            self.stage.close()
            self.stage = None
            gc.collect()

    def resolution_before(self, moment: schedule.Moment) -> int:
        return self.config.stages[moment.number - 1].resolution

    def run_due(self) -> None:
        """Runs what is due at this step: log, pictures, checkpoint, evaluation, in this order."""
        if not self.images:
            return
        moment = schedule.at(self.config, self.images - 1)  # of the step that ended here
        batch, every = moment.stage.batch, moment.every
        ends = self.images == moment.last
        if self.meter.terms and (ends or schedule.due(self.images, batch, every.log)):
            section.enter("log")
            self.log(moment)
        if ends or schedule.due_growing(self.images - moment.first, batch, every.pictures):
            self.take_time("pictures")
            self.pictures(moment)
        saved = self.saved == self.images
        again = self.unwritten and schedule.due(self.images, batch, every.log)
        if not saved and (ends or again or schedule.due(self.images, batch, every.checkpoint)):
            section.enter("checkpoint")
            self.checkpoint()
            self.watchdog.step_done()  # it ends in all processes at once
        if ends or schedule.due(self.images, batch, every.evaluation):
            self.take_time("evaluate")
            self.evaluate(moment)
            self.watchdog.step_done()

    def log(self, moment: schedule.Moment) -> None:
        values = self.meter.read()
        engines = self.stage.engines
        skipped = max(e.skipped for e in engines)
        values |= {"alpha": moment.alpha, "lr": moment.lr, "skipped_steps": skipped}
        if self.system:
            values |= self.system.read()
        if self.report:
            self.report.log(self.images, moment, values, max(e.recent[1] for e in engines))
        health.check(engines, values, self.meter.broken, moment, self.images, self.signals.group)

    @torch.no_grad()
    def pictures(self, moment: schedule.Moment) -> None:
        if self.report:
            self.report.pictures(self.images, self.averaged(moment))

    def averaged(self, moment: schedule.Moment) -> ResolutionModel:
        """The moving averages at the resolution of `moment`."""
        derived = self.derived(moment)
        return self.ema.module.at(moment.stage.resolution, moment.alpha, derived)

    def derived(self, moment: schedule.Moment) -> dict[str, Tensor]:
        """What follows from the moving averages and from training images, found once for each
        number of images seen."""
        if self.found_derived[0] != self.images:
            side, seed = moment.stage.resolution, self.config.seed
            given = (self.config.data, self.manifest, side, seed, self.device)
            found = self.ema.module.derived(partial(drawn_images, *given))
            self.found_derived = (self.images, found)
        return self.found_derived[1]

    def evaluate(self, moment: schedule.Moment) -> None:
        """Evaluates the averaged networks, unless the journal has it from before a kill."""
        name = metric_name(self.evaluation.extractor, self.config.evaluation.samples)
        known = torch.tensor([bool(self.report and self.report.has(self.images, name))])
        dist.broadcast(known, 0, group=self.signals.group)
        if known:
            return
        started = time.monotonic()
        values = self.evaluation.measure(self.averaged(moment), self.config.seed)
        if self.report:
            self.report.evaluation(self.images, moment, values, time.monotonic() - started)

    def checkpoint(self) -> None:
        """Writes a checkpoint: all processes gather its parts, rank 0 writes."""
        optimizer, engines = state.gather(self.networks, self.stage)
        self.saved, written_down = self.images, True
        if self.report:
            content = self.content(optimizer, engines)
            written_down = self.report.checkpoint(self.images, content)
        flag = torch.tensor([written_down])
        dist.broadcast(flag, 0, group=self.signals.group)
        self.unwritten = not flag

    def content(self, optimizer: dict[str, Tensor], engines: dict) -> Checkpoint:
        """What a checkpoint holds, on rank 0."""
        moment = schedule.at(self.config, max(0, self.images - 1))
        weights = self.networks.state_dict()
        ema = self.ema.module.state_dict() | self.derived(moment)
        about = {"resolution": moment.stage.resolution, "alpha": moment.alpha, **engines}
        about["draws"] = self.draws
        return Checkpoint(weights, ema, optimizer, about)

    def resume(self) -> None:
        """Resumes from the newest valid checkpoint that rank 0 finds."""
        path, found = (
            state.newest(self.folder.checkpoints, self.notify)
            if processes.is_first()
            else (None, None)
        )
        chosen = [path]
        dist.broadcast_object_list(chosen, group=self.signals.group)
        (path,) = chosen
        if path is None:
            self.begin()
            return
        found = found or checkpoints.load(path)
        self.load_weights(found.weights, found.ema, path)
        self.images, self.resumed = found.about["images"], found
        self.saved = self.images
        self.draws = found.about.get("draws", 0)
        self.notify(f"continuing at {self.images:,} images from {path}")

    def begin(self) -> None:
        """Starts at image 0, with the weights and averages of `config.init` if it is set."""
        path = beginning.init_checkpoint(self.config)
        if path is None:
            return
        about = checkpoints.read_about(path)
        weights, ema = (checkpoints.read_part(path, about, part) for part in ("weights", "ema"))
        self.load_weights(weights or ema, ema or weights, path)
        self.notify(f"beginning with the weights of {path}")

    def load_weights(self, weights: dict[str, Tensor], ema: dict[str, Tensor], path: Path) -> None:
        self.found_derived = (-1, {})
        state.load_weights(self.networks, weights, path)
        state.load_weights(self.ema.module, ema, path)

    def notify(self, line: str) -> None:
        if processes.is_first():
            say(line)
