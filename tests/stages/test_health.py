"""What is wrong with a training is noticed, named, and where it may be, tried again."""

import os
import re
from pathlib import Path

import pytest
import torch

from pipeline.engines import Engine
from stages.health import Watch
from tests.stages.tiny import journal, run, said, tiny

pytestmark = pytest.mark.long


class NotFinite:
    """Gradients are not finite in one process, from the `first` product on."""

    def __init__(self, first: int, last: int = 10**9, rank: str = "0"):
        self.first, self.last, self.rank = first, last, rank

    def __call__(self, folder: Path) -> None:
        accumulate, calls = Engine.accumulate, [0]

        def damaged(engine: Engine, product: torch.Tensor) -> None:
            calls[0] += 1
            bad = self.first <= calls[0] < self.last and os.environ["RANK"] == self.rank
            accumulate(engine, product * float("nan") if bad else product)

        Engine.accumulate = damaged


def short(dataset: Path, **changes) -> dict:
    """14 steps at 4x4."""
    content = tiny(dataset, **changes)
    content["stages"] = [content["stages"][0] | {"images": 224}]
    content["evaluation"]["samples"] = 16
    content["every"] = {"log": 16, "pictures": 0, "checkpoint": 48, "evaluation": 0}
    return content


def test_gradients_that_stay_not_finite_end_it_and_the_process_is_named(dataset, tmp_path):
    content = short(dataset, engine__zero_stage=1)
    with pytest.raises(RuntimeError) as caught:
        run(content, tmp_path / "run", 2, before=NotFinite(20, rank="1"))
    wanted = r"each of the last 5 steps of the decoder was left out.*the encoder's gradients, "
    wanted += r"the decoder's gradients on process 1 \(.*faults.step_back=1"
    assert re.search("DivergedError: .*" + wanted, str(caught.value))
    assert said(tmp_path / "run").count("1 steps skipped (gradients not finite)") == 5
    assert journal(tmp_path / "run", "skipped_steps")[-1][1] == 5


def test_it_goes_back_to_a_checkpoint_and_on_with_other_draws(dataset, tmp_path):
    content = short(dataset)
    content["faults"] = {"step_back": 1}
    assert run(content, tmp_path / "run", before=NotFinite(40, 80)) == [0]
    assert "Stepping back, 1 of 1" in said(tmp_path / "run")
    losses = journal(tmp_path / "run", "loss_E")
    assert [images for images, _ in losses] == list(range(16, 225, 16))


def test_each_sign_of_illness_is_warned_of_once_and_not_again_when_resumed():
    well = {"kl_real": 50.0, "kl_fake": 60.0, "sample_spread": 0.8}
    ill = {"kl_real": 2000.0, "kl_fake": 60.0, "sample_spread": 0.01}
    lines, found = [*[well] * 30, *[ill] * 30], []
    watch = Watch([])
    for number, line in enumerate(lines):
        found += [(number, name) for name, _ in watch.read(line)]
    assert found == [
        (30, "kl_real_explodes"), (49, "kl_fake_below_kl_real"), (49, "samples_alike"),
    ]  # fmt: skip
    at_ceiling = well | {"alpha": 1.0, "kl_ceiling": 70.0, "kl_fake_of_ceiling": 0.9}
    watch, fading = Watch([]), at_ceiling | {"alpha": 0.5}
    found = [watch.read(v | {"decoder_ratio": 0.03}) for v in [fading] * 30 + [at_ceiling] * 30]
    assert [number for number, new in enumerate(found) if new] == [49]
    assert found[49][0][0] == "kl_fake_at_ceiling" and "lower beta_neg" in found[49][0][1]
    watch = Watch([])
    assert not any(watch.read(at_ceiling | {"decoder_ratio": 0.4}) for _ in range(30))
    again = Watch(lines)
    assert not any(again.read(line) for line in lines)
