"""The norm and its kernels: against torch's operations, and what the compiler makes of them."""

import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from pipeline.networks.style.norm import norm
from tests.conftest import ROOT
from tests.pipeline.networks.style.norm_cases import CASES, error, network_gradients, outputs


def test_is_what_it_says():
    x = torch.randn(3, 4, 6, 6, dtype=torch.float64)
    bias, strength = (torch.randn(1, 4, 1, 1, dtype=torch.float64) for _ in range(2))
    noise, style = torch.randn(3, 1, 6, 6).double(), torch.randn(3, 8).double()
    y, mean, variance = norm(x, bias, 1e-5, noise, strength, style)
    a = F.leaky_relu(x + strength * noise + bias, 0.2)
    scale, shift = style[:, :, None, None].chunk(2, 1)
    torch.testing.assert_close(y, F.instance_norm(a, eps=1e-5) * (1 + scale) + shift)
    torch.testing.assert_close(mean[..., 0, 0], a.mean((2, 3)))
    torch.testing.assert_close(variance[..., 0, 0], a.var((2, 3), correction=0))
    torch.testing.assert_close(norm(x, bias * 0, 1e-5)[0], F.instance_norm(F.leaky_relu(x, 0.2)))


@pytest.mark.parametrize("noise", [False, True])
@pytest.mark.parametrize("style", [False, True])
def test_gradients(noise, style):
    x = torch.randn(2, 2, 4, 4).double().requires_grad_()
    bias, strength = (torch.randn(1, 2, 1, 1).double().requires_grad_() for _ in range(2))
    styles, maps = torch.randn(2, 4).double().requires_grad_(), torch.randn(2, 1, 4, 4).double()

    def function(x, bias, strength, styles):
        return norm(x, bias, 1e-5, maps if noise else None, strength, styles if style else None)

    assert torch.autograd.gradcheck(function, (x, bias, strength, styles))


def test_a_second_derivative_is_refused():
    x = torch.randn(2, 4, 6, 6, requires_grad=True)
    y, _, _ = norm(x, torch.zeros(1, 4, 1, 1), 1e-5)
    (g,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        g.square().sum().backward()


def test_statistics_of_half_precision_are_taken_in_full():
    x, bias = (100 + torch.randn(2, 3, 16, 16)).bfloat16(), torch.zeros(1, 3, 1, 1)
    y, mean, variance = norm(x, bias, 1e-5)
    assert y.dtype == torch.bfloat16 and mean.dtype == variance.dtype == torch.float32
    torch.testing.assert_close(mean, x.float().mean((2, 3), keepdim=True))
    torch.testing.assert_close(y.float(), F.instance_norm(x.float()), rtol=0.01, atol=0.01)


@pytest.mark.parametrize("case", CASES)
def test_half_precision_is_near_full(case):
    exact = outputs(False, *case, torch.float64, side=16, drawn_as=torch.bfloat16)
    assert error(outputs(False, *case, torch.bfloat16, side=16), exact) < 0.005


@pytest.mark.long
def test_kernels_give_what_their_twin_gives():
    """By Triton's interpreter, which computes in float32."""
    pytest.importorskip("triton")
    command = [sys.executable, "-m", "tests.pipeline.networks.style.norm_cases"]
    subprocess.run(command, cwd=ROOT, env=os.environ | {"TRITON_INTERPRET": "1"}, check=True)


@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03)])
def test_kernels_on_a_gpu(case, dtype, bound):
    place = dict(side=64, channels=96, device="cuda")
    exact = outputs(False, *case, torch.float64, **place, drawn_as=dtype)
    assert error(outputs(True, *case, dtype, **place), exact) < bound


@pytest.mark.gpu
def test_networks_with_kernels_on_a_gpu():
    """The whole graph: a kernel reads gradients that are columns of a larger matrix."""
    exact = network_gradients(False, torch.float64, "cuda")
    assert error(network_gradients(True, torch.float32, "cuda"), exact, least=0.1) < 0.01


POINTERS = {name: "*bf16" for name in ("x", "y", "g_x", "g_y", "noise", "style", "g_style")}
SCALARS = {"C": "i32", "HW": "i32", "eps": "fp32"}
SCALARS |= {f"{of}_stride": "i32" for of in ("noise", "style", "mean", "variance")}
CONSTANTS = dict(NOISE=True, STYLE=True, MEAN=False, VARIANCE=False)
CONSTANTS |= dict(PARTS=64, PIXELS=1024, BLOCK_P=64, BLOCK_C=64)  # 64 channels at 256x256
KERNELS = ["moments_kernel", "normalize_kernel", "gradient_sums_kernel", "gradient_kernel"]


@pytest.mark.long
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("name", KERNELS)
def test_kernels_compile_without_spills(name, capability, tmp_path):
    """Ahead of time, without a GPU: three programs of 128 threads at once on a multiprocessor."""
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from pipeline.networks.style import kernels

    kernel = getattr(kernels, name)
    names = kernel.arg_names
    types = {n: POINTERS.get(n, SCALARS.get(n, "*fp32")) for n in names}
    constants = {(names.index(n),): value for n, value in CONSTANTS.items() if n in names}
    types |= {n: "constexpr" for n in CONSTANTS if n in names}
    aligned = [n for n in names if types[n] not in ("constexpr", "fp32")]
    attributes = {(names.index(n),): [["tt.divisibility", 16]] for n in aligned}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        source = ASTSource(kernel, types, constants, attributes)
        compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32))
    binary = tmp_path / "kernel.cubin"
    binary.write_bytes(compiled.asm["cubin"])
    cuobjdump = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    command = [cuobjdump, "--dump-resource-usage", binary]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    used = {what: int(count) for what, count in re.findall(r"(REG|STACK|LOCAL):(\d+)", said)}
    assert used["STACK"] == used["LOCAL"] == 0, "registers are spilled"
    assert used["REG"] <= 168 and compiled.metadata.shared <= 4096
