"""Two engines with the graph cut between them equal plain PyTorch with one graph."""

import gc
import os
import subprocess
import sys
import weakref

import pytest
import torch
import torch.distributed as dist

from pipeline.engines import Engine, EngineConfig
from pipeline.networks.style.decoder import Decoder
from pipeline.networks.style.encoder import Encoder
from pipeline.networks.style.shape import Shape
from pipeline.objective import SoftIntroVAE, draw, kl_divergence, squared_error
from pipeline.optimizer import EqualizedAdam
from pipeline.records.checkpoints import CheckpointError
from tests.conftest import ROOT
from tests.processes import run_together

pytestmark = pytest.mark.long

SHAPE = Shape(resolution=16, latent=16, base_channels=8, max_channels=16, mapping_layers=2)
SIDE, MICRO, ACCUMULATION, STEPS, LR = 8, 3, 2, 4, 0.01
OBJECTIVE = SoftIntroVAE(
    beta_rec=1.0, beta_kl=0.5, beta_neg=8.0, reconstructions_as_fakes=True, target_gradient=True
)


def networks() -> tuple[Encoder, Decoder]:
    torch.manual_seed(0)
    pair = Encoder(SHAPE), Decoder(SHAPE)
    for p in pair[1].parameters():
        p.data += 0.1 * torch.randn_like(p)  # off the degenerate start: noise on
    # Where all of a channel is positive the instance norm takes its bias away again: the gradient
    # is then rounding alone, which Adam would blow up to steps of full size.
    pair[1].const.data.normal_()
    return pair


class Model:
    """Encoder and decoder at one side and alpha."""

    def __init__(self, encoder, decoder):
        self.encode = lambda x: encoder(x, alpha=0.7)
        self.decode = lambda z: decoder(z, SIDE, alpha=0.7)
        self.generate = lambda count: self.decode(torch.randn(count, SHAPE.latent))


def image(step: int, j: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1000 * step + j)
    return torch.randn(MICRO, 3, SIDE, SIDE, generator=generator)


def mine() -> range:
    """The micro-batches of a step that this process computes, of the step's 4."""
    return range(dist.get_rank(), 4, dist.get_world_size())


def train_with_engines(zero_stage: int, reduce="fp32", overlap=False) -> list[torch.Tensor]:
    encoder, decoder = networks()
    model, config = Model(encoder, decoder), EngineConfig("fp32", zero_stage, reduce, overlap)
    accumulation = 4 // dist.get_world_size()
    engine_E = Engine(encoder.active(SIDE), config, MICRO, accumulation)
    engine_D = Engine(decoder.active(SIDE), config, MICRO, accumulation)
    engine_E.optimizer.set_learning_rate(LR)
    engine_D.optimizer.set_learning_rate(LR)
    for step in range(STEPS):
        held = []
        for j in mine():
            torch.manual_seed(10 * step + j)
            product, images, _ = OBJECTIVE.encoder_step(model, image(step, j))
            engine_E.accumulate(product)
            held.append(images)
        for j, images in zip(mine(), held, strict=True):
            torch.manual_seed(10 * step + j + 5)
            product, _ = OBJECTIVE.decoder_step(model, image(step, j), images)
            engine_D.accumulate(product)
    assert engine_E.optimizer.steps == engine_D.optimizer.steps == STEPS
    weights = [p.detach().clone() for n in (encoder, decoder) for p in n.parameters()]
    return weights + engine_E.state()["exp_avg_sq"] + engine_D.state()["exp_avg_sq"]


def train_plainly() -> list[torch.Tensor]:
    """Algorithm 1 written as it reads: one process, one graph per update, losses not products."""
    encoder, decoder = networks()
    E, D = Model(encoder, decoder).encode, Model(encoder, decoder).decode
    adam = [EqualizedAdam(n.active(SIDE), 0.99, 1e-8) for n in (encoder, decoder)]
    for a in adam:
        a.start()
        a.set_learning_rate(LR)
    o, s = OBJECTIVE, 1 / (3 * SIDE * SIDE)
    for step in range(STEPS):
        drawn = []
        for j in range(4):
            torch.manual_seed(10 * step + j)
            x = image(step, j)
            mu, logvar = E(x)
            z = draw(mu, logvar)
            x_r = D(z)
            z_f = torch.randn(MICRO, SHAPE.latent)
            state = torch.get_rng_state()
            x_f = D(z_f)
            m, l_ = E(torch.cat([x_r.detach(), x_f.detach()]))
            x_ff = D(draw(m, l_))
            rec_f = squared_error(torch.cat([x_r, x_f.detach()]), x_ff)
            elbo_f = -(o.beta_rec * rec_f + o.beta_neg * kl_divergence(m, l_))
            elbo = -(o.beta_rec * squared_error(x, x_r) + o.beta_kl * kl_divergence(mu, logvar))
            loss = -s * elbo.mean() + 0.5 * (2 * s * elbo_f).exp().mean()
            (loss / 4).backward(inputs=encoder.active(SIDE))
            drawn.append((x, z.detach(), z_f, state, 10 * step + j))
        adam[0].step()
        adam[0].zero_grad()
        for x, z, z_f, state, seed in drawn:
            torch.manual_seed(seed)
            E(x)
            draw(z, z)
            x_r = D(z)
            torch.set_rng_state(state)
            x_f = D(z_f)
            torch.manual_seed(seed + 5)
            kl = kl_divergence(*E(torch.cat([x_r, x_f])))
            loss = s * (o.beta_rec * squared_error(x, x_r).mean() + o.beta_kl * kl.mean())
            (loss / 4).backward(inputs=decoder.active(SIDE))
        adam[1].step()
        adam[1].zero_grad()
    weights = [p.detach() for n in (encoder, decoder) for p in n.parameters()]
    return weights + [
        a.state[p]["exp_avg_sq"]
        for a, n in zip(adam, (encoder, decoder), strict=True)
        for p in n.active(SIDE)
    ]


@pytest.fixture(scope="module")
def plain() -> list[torch.Tensor]:
    return train_plainly()


@pytest.mark.parametrize(
    ("zero_stage", "overlap"), [(0, False), (1, False), (2, False), (1, True), (2, True)]
)
def test_engines_equal_plain_torch_on_two_processes(plain, zero_stage, overlap):
    start = [p for n in networks() for p in n.parameters()]
    for ours in run_together(2, train_with_engines, zero_stage, "fp32", overlap):
        assert len(ours) == len(plain)
        for a, b in zip(ours, plain, strict=True):
            torch.testing.assert_close(a, b, rtol=2e-4, atol=2e-6)
    moved = [(a - b).abs().max().item() for a, b in zip(start, plain, strict=False)]
    assert sum(m > 1e-3 for m in moved) > 0.8 * len(moved) - 20


@pytest.mark.parametrize(("zero_stage", "overlap"), [(0, False), (1, True), (2, False)])
def test_gradients_summed_in_bf16_change_the_updates_by_their_rounding(plain, zero_stage, overlap):
    start = [p.detach() for n in networks() for p in n.parameters()]
    for ours in run_together(2, train_with_engines, zero_stage, "bf16", overlap):
        moved = torch.cat([(a - b).flatten() for a, b in zip(plain, start, strict=False)])
        off = torch.cat([(a - b).flatten() for a, b in zip(ours, plain)][: len(start)])
        assert 1e-4 < off.norm() / moved.norm() < 0.1


def lose_a_link(zero_stage: int) -> list:
    """Whether a closed engine is gone, and what a second one says of its state."""
    parameters, config = networks()[0].active(SIDE), EngineConfig("fp32", zero_stage)
    first = Engine(parameters, config, MICRO, 1)
    inner = first.deepspeed
    first.close()
    second = Engine(parameters, config, MICRO, 1)
    inner.destroy()  # as when Python collects it
    gone = weakref.ref(inner)
    del inner
    gc.collect()
    found = [gone() is None, len(second.state()["exp_avg_sq"])]
    if dist.get_rank() == 1:
        linked = [p for p in parameters if p._hp_mapping is not None]
        linked[-1]._hp_mapping = None
    try:
        second.state()
    except CheckpointError as error:
        found.append(str(error))
    return found


@pytest.mark.parametrize("zero_stage", [1, 2])
def test_a_closed_engine_reaches_no_other_and_lost_state_is_an_error(zero_stage):
    count = len(networks()[0].active(SIDE))
    for gone, whole, said in run_together(2, lose_a_link, zero_stage):
        assert gone and whole == count
        assert f"lost the optimiser's state of 1 of {count} tensors" in said


def adam_with_engines(zero_stage: int) -> list[torch.Tensor]:
    """Three steps of Adam in torch's form; a second engine takes the state over for the last."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Tanh(), torch.nn.Linear(7, 3))
    config = EngineConfig("fp32", zero_stage, beta_1=0.9, beta_2=0.999, eps_corrected=True)
    rank, world = dist.get_rank(), dist.get_world_size()

    def engine():
        made = Engine(list(net.parameters()), config, MICRO, 1)
        made.optimizer.set_learning_rate(LR)
        return made

    def step(by, number):
        by.accumulate(net(adam_batch(number)[rank::world]).square().mean())

    first = engine()
    for number in range(2):
        step(first, number)
    state, counts = first.state(), first.counts()
    assert set(state) == {"exp_avg", "exp_avg_sq"}
    state = {name: [t.clone() for t in values] for name, values in state.items()}
    first.close()
    second = engine()
    second.load_state(state, counts)
    step(second, 2)
    return [p.detach().clone() for p in net.parameters()]


def adam_batch(number: int) -> torch.Tensor:
    return torch.randn(2 * MICRO, 5, generator=torch.Generator().manual_seed(number))


@pytest.mark.parametrize("zero_stage", [0, 1])
def test_beta_1_and_corrected_eps_are_torchs_adam_through_every_part_of_an_engine(zero_stage):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Tanh(), torch.nn.Linear(7, 3))
    adam = torch.optim.Adam(net.parameters(), LR, (0.9, 0.999), 1e-8)
    for number in range(3):
        adam.zero_grad()
        net(adam_batch(number)).square().mean().backward()
        adam.step()
    for ours in run_together(2, adam_with_engines, zero_stage):
        for a, b in zip(ours, net.parameters(), strict=True):
            torch.testing.assert_close(a, b.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("gpu", "chosen"), [(True, "cuda"), (False, "cpu")])
def test_the_accelerator_is_this_machines_and_not_the_submitting_ones(gpu, chosen):
    code = f"import os, torch; torch.cuda.is_available = lambda: {gpu}; import pipeline"
    said = subprocess.run(
        [sys.executable, "-c", f"{code}; print(os.environ['DS_ACCELERATOR'])"],
        env=os.environ | {"DS_ACCELERATOR": "cpu" if gpu else "cuda"},
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert said.stdout.strip() == chosen
