"""The configuration of a training: everything that decides what is computed, in one tree."""

from itertools import pairwise
from typing import Annotated, Any

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from pipeline.config import ConfigError
from pipeline.data.config import DataConfig
from pipeline.engines import EngineConfig
from pipeline.metrics.evaluation import EvaluationConfig
from pipeline.networks import Shape, StyleShape
from pipeline.objective import Objective, SoftIntroVAE
from pipeline.records.tracking import TrackingConfig

STRICT = ConfigDict(extra="forbid")
Images = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(gt=0)]


@dataclass(frozen=True, config=STRICT)
class Every:
    """Images between two of the same; 0 is never. All but logs also come at the end of a stage."""

    log: Annotated[int, Field(gt=0)] = 10_000
    """Losses, learning rate and speed."""
    pictures: Images = 10_000
    """Samples, reconstructions and interpolations: after so many images of a stage, and then after
    twice, four times, ... as many."""
    checkpoint: Images = 100_000
    """Checkpoints; older ones are removed, those at the ends of stages stay."""
    evaluation: Images = 0
    """The metrics of `evaluation`."""


@dataclass(frozen=True, config=STRICT)
class StageConfig:
    """The training at one resolution."""

    resolution: Annotated[int, Field(ge=4)]
    """Side of the images; each stage has that of the stage before, or the next larger one."""
    images: Annotated[int, Field(gt=0)]
    """Images seen in this stage, those of the fade-in included. A file may say `passes` and
    `fade_passes` for `images` and `fade`: passes over the training images, as published."""
    batch: Annotated[int, Field(gt=0)]
    """Images of one step, over all processes."""
    lr: Annotated[float, Field(gt=0)]
    """Learning rate of both networks."""
    micro_batch: Annotated[int, Field(gt=0)] | None = None
    """Images in one forward pass of one process; null is the most that fit the memory at the first
    start. config.yaml then has the number, and the run keeps it. batch / micro_batch is the largest
    number of processes; all smaller divisors of it compute the same but for the order of sums, and
    so not to the last bit. Fewer images need less memory, and change random draws only. Decoded
    images are kept until the decoder's update: a step of 16 images at 256x256 holds 9.5 GiB in one
    micro-batch, 6.4 in two, 4.9 in four, 4.5 in eight (counted, bf16); 9.2, 4.9, 2.7 and 1.6 with
    objective.decoder_draws=fresh, which keeps none and changes the training."""
    fade: Images = 0
    """Images over which the resolution is faded in."""
    warmup: Images = 0
    """Images from the stage's start over which the learning rate rises from 0."""
    beta_neg: float | None = None
    """In the place of the objective's."""
    beta_2: Annotated[float, Field(gt=0, lt=1)] | None = None
    """In the place of the engine's."""
    eps: Annotated[float, Field(gt=0)] | None = None
    """In the place of the engine's."""
    every: Every | None = None
    """In the place of the training's."""

    @model_validator(mode="after")
    def _divides(self):
        if self.micro_batch and self.batch % self.micro_batch:
            raise ValueError(f"micro_batch {self.micro_batch} does not divide batch {self.batch}")
        if self.images % self.batch:
            raise ValueError(f"batch {self.batch} does not divide images {self.images}")
        if self.fade > self.images:
            raise ValueError(f"fade {self.fade} is longer than the stage's {self.images} images")
        return self


@dataclass(frozen=True, config=STRICT)
class FaultsConfig:
    """What is done when something goes wrong. May differ when a training is resumed."""

    timeout: Seconds = 150
    """Without any progress, within a step, a checkpoint, or before the next step, until a training
    ends that hangs."""
    long_timeout: Seconds = 1800
    """The same at the first step of a stage and around pictures and evaluations."""

    step_back: Annotated[int, Field(ge=0)] = 0
    """How often a training that diverged returns to its newest checkpoint and continues with other
    random draws and another order of images."""


@dataclass(frozen=True, config=STRICT)
class Change:
    """A change of configuration during a training; see `stages.plan`."""

    images: Annotated[int, Field(gt=0)]
    """Images seen when it was made."""
    changes: list[str]
    """What changed, to be read."""
    was: dict[str, Any]
    """The sections of the configuration that changed, as they were before."""


@dataclass(frozen=True, config=STRICT)
class Origin:
    """The checkpoint with which a training began: by branching off another run, or of `init`."""

    run: str
    """The folder of its run; of a model, its own."""
    images: Images | None
    """Images seen at that checkpoint; null if unknown, as of published files."""
    checkpoint: str
    """sha256 of its checkpoint.json, which has the sha256 of the rest."""
    weights_only: bool = False
    """Whether only weights and averages came from it, at image 0 (`init`)."""
    dataset: str | None = None
    """Digest of the data set that it was trained on, where it has one."""
    mlflow_run: str | None = None
    """Id of that training's MLflow run, where it has one."""
    mlflow_experiment: str | None = None
    """Id of its experiment."""


@dataclass(frozen=True, config=STRICT)
class Config:
    """One training."""

    name: str
    """Of the run's folder below runs/, and of its run in MLflow."""
    data: DataConfig
    stages: Annotated[list[StageConfig], Field(min_length=1)]
    shape: Shape = Field(default_factory=StyleShape)
    objective: Annotated[Objective, Field(discriminator="method")] = Field(
        default_factory=SoftIntroVAE
    )
    vae_images: Images = 0
    """Images at the start that train a VAE with the objective's betas and s."""
    engine: EngineConfig = Field(default_factory=EngineConfig)
    ema_half_life: Annotated[int, Field(gt=0)] = 10_000
    """Images after which a weight counts half in the moving average that samples are made with."""
    every: Every = Field(default_factory=Every)
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig)
    tracking: TrackingConfig = Field(default_factory=TrackingConfig)
    faults: FaultsConfig = Field(default_factory=FaultsConfig)
    seed: int = 0
    """Of initial weights, data order and all random draws."""
    init: str | None = None
    """A run, checkpoint or converted model whose weights and averages the training begins with."""
    sweep: str | None = None
    """The sweep that the training belongs to (`--sweep`)."""
    dataset_digest: str | None = None
    """The dataset's; written by the training."""
    history: list[Change] = Field(default_factory=list)
    """How the configuration came about; written by the training (`--replan`)."""
    origin: Origin | None = None
    """Where the training began; written by the training (`--branch`, `--init`)."""

    @model_validator(mode="after")
    def _grows(self):
        sides, possible = [stage.resolution for stage in self.stages], self.shape.resolutions
        if not set(sides) <= set(possible):
            raise ValueError(
                f"stages of {sides} do not fit networks of shape.resolution {self.shape.resolution}"
            )
        first, growing = possible.index(sides[0]), list(dict.fromkeys(sides))
        if sides != sorted(sides) or growing != possible[first : first + len(growing)]:
            raise ValueError(f"stages should follow the resolutions {possible}, not {sides}")
        if first == 0 and self.stages[0].fade:
            raise ValueError(
                f"the stage at {sides[0]}x{sides[0]} has nothing to fade in from: fade should be 0"
            )
        for before, stage in pairwise(self.stages):
            if before.resolution == stage.resolution and stage.fade:
                raise ValueError(
                    f"the second stage at {stage.resolution}x{stage.resolution} has nothing to "
                    f"fade in: fade should be 0"
                )
        for stage in self.stages:
            if self.shape.WHOLE_BATCHES and stage.micro_batch not in (None, stage.batch):
                raise ValueError(
                    f"micro_batch {stage.micro_batch} should be the batch, {stage.batch}, and one "
                    f"process train: {self.shape.WHOLE_BATCHES}"
                )
        if not isinstance(self.objective, SoftIntroVAE) and any(
            stage.beta_neg is not None for stage in self.stages
        ):
            raise ValueError(f"beta_neg of a stage has no meaning to {self.objective.method}")
        return self

    def check_classes(self, count: int) -> None:
        """ConfigError if shape.classes is neither 0 nor the dataset's `count`."""
        if self.shape.classes not in (0, count):
            raise ConfigError(
                f"shape.classes is {self.shape.classes}, and {self.data.path} has {count} classes"
            )

    def check_processes(self, world: int, begin: int = 0, end: int | None = None) -> None:
        """ValueError where `world` processes cannot share the batch of each stage equally, of those
        that train between `begin` and `end` images seen."""
        last = 0
        for stage in self.stages:
            first, last = last, last + stage.images
            if last <= begin or (end is not None and first >= end):
                continue
            micro_batches = stage.batch // (stage.micro_batch or 1)
            if self.shape.WHOLE_BATCHES:
                micro_batches = 1
            if micro_batches % world:
                raise ValueError(
                    f"{world} processes cannot share the {micro_batches} micro-batches of a step "
                    f"at {stage.resolution}x{stage.resolution} (batch {stage.batch}, micro_batch "
                    f"{stage.micro_batch}): use a number of processes that divides "
                    f"{micro_batches}, or another micro_batch"
                )
