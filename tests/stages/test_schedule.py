"""The schedule is the published one (spec C.3, C.4), without its slips."""

from pathlib import Path

import pytest

from pipeline.config import load
from pipeline.objective import VAE, SoftIntroVAE
from stages import schedule
from stages.config import Config

CONFIGS = Path(__file__).parents[2] / "configs"
FFHQ, CELEBA = (load(Config, CONFIGS / f"{name}.yaml") for name in ("ffhq256", "celebahq256"))
EPOCH = 60_000


def test_ffhq_steps_are_those_of_the_table():
    steps = [stage.images // stage.batch for stage in FFHQ.stages]
    table = [1872, 3744, 7488, 14992, 30000, 30000, 765000]
    # The published code drops an incomplete batch at the end of each pass; ours does not end.
    assert steps == [pytest.approx(t, rel=0.002) for t in table]
    assert steps[4:] == table[4:]
    assert schedule.total(FFHQ) == 300 * EPOCH


def test_celeba_steps_are_those_of_the_table():
    table = [1680, 3390, 6780, 13590, 27180, 27180, 217440]
    steps = [stage.images // stage.batch for stage in CELEBA.stages]
    assert steps == [pytest.approx(t, rel=0.012) for t in table]


@pytest.mark.parametrize(
    ("epoch", "side", "alpha", "lr", "batch", "beta_neg"),
    [
        (0.0, 4, 1, 0.0015, 512, None),
        (1.0, 4, 1, 0.0015, 512, 2048),
        (16.0, 8, 0, 0.0015, 256, 2048),
        (20.0, 8, 0.5, 0.0015, 256, 2048),
        (24.0, 8, 1, 0.0015, 256, 2048),
        (48.0, 32, 0, 0.0015, 64, 1024),
        (64.0, 64, 0, 0.0015, 32, 512),
        (96.0, 256, 0, 0.002, 16, 512),
        (98.0, 256, 0.146447, 0.002, 16, 512),
        (104.0, 256, 1, 0.002, 16, 512),
        (299.9, 256, 1, 0.002, 16, 512),
    ],
)
def test_ffhq_at_an_epoch(epoch, side, alpha, lr, batch, beta_neg):
    moment = schedule.at(FFHQ, round(epoch * EPOCH))
    assert (moment.stage.resolution, moment.stage.lr, moment.stage.batch) == (side, lr, batch)
    assert moment.alpha == pytest.approx(alpha, abs=1e-6)
    assert getattr(moment.objective, "beta_neg", None) == beta_neg


def test_alpha_grows_from_exactly_0_to_exactly_1():
    first = schedule.at(FFHQ, 16 * EPOCH)
    assert first.alpha == 0.0 and first.first == 16 * EPOCH and first.last == 32 * EPOCH
    alphas = [schedule.at(FFHQ, 16 * EPOCH + i).alpha for i in range(0, 8 * EPOCH, 1000)]
    assert alphas == sorted(alphas) and alphas[-1] < 1.0
    assert schedule.at(FFHQ, 24 * EPOCH).alpha == 1.0


def test_the_vae_of_the_start_carries_s():
    vae = schedule.at(FFHQ, 0).objective
    assert isinstance(vae, VAE) and vae.s == 5e-6 and (vae.beta_rec, vae.beta_kl) == (0.1, 0.2)
    assert isinstance(schedule.at(FFHQ, EPOCH).objective, SoftIntroVAE)


def test_at_the_end_the_last_stage_holds():
    assert schedule.at(FFHQ, schedule.total(FFHQ)).number == 6
    assert schedule.ends(FFHQ) == {960_000 * i for i in range(1, 7)} | {18_000_000}


def test_what_is_due_comes_once_for_each_multiple():
    steps = range(48, 48 * 100, 48)
    due = [images for images in steps if schedule.due(images, 48, 100)]
    assert len(due) == steps[-1] // 100
    assert all(images % 100 < 48 for images in due)
    assert not any(schedule.due(images, 48, 0) for images in steps)
