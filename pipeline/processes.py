"""The process group of a training: rank, world size, device."""

import os
import socket
from datetime import timedelta
from pathlib import Path

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.utils import logger as deepspeed_logger

from pipeline.allocator import keep_freed_memory

deepspeed_logger.setLevel("ERROR")
# Without a GPU, DeepSpeed would spend a minute compiling a shared-memory reduction that only its
# inference uses.
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False

# NCCL's flight recorder: number of collectives kept, without C++ stacks, which can deadlock.
RECORDER = {
    "TORCH_FR_BUFFER_SIZE": "2000",
    "TORCH_FR_DUMP_ON_TIMEOUT": "1",
    "TORCH_NCCL_DUMP_ON_TIMEOUT": "1",
    "TORCH_INCLUDE_STACK_TRACE": "0",
}


def start(timeout: float = 1800, dumps: Path | None = None) -> torch.device:
    """Joins the process group and returns this process's device.

    `timeout`, in seconds, applies to collectives until `set_timeout`. When a collective times out,
    NCCL writes its last collectives to the folder `dumps`.

    Reads RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT; without RANK, the world size is
    1. SystemExit names the address that did not answer.
    """
    if "RANK" not in os.environ:
        alone = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
        os.environ |= alone | {"MASTER_PORT": "0"}  # the store takes any free port
    device = torch.device("cpu")
    if "OMP_NUM_THREADS" not in os.environ:
        cores = len(os.sched_getaffinity(0))
        torch.set_num_threads(max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
    if torch.cuda.is_available():
        # A process sees one GPU or all of the node, as the scheduler is configured.
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
        torch.cuda.set_device(device)
        os.environ["LOCAL_RANK"] = str(device.index)  # DeepSpeed reads it
    else:
        keep_freed_memory()
    if dumps is not None:
        for name, value in RECORDER.items():
            os.environ.setdefault(name, value)
        os.environ.setdefault("TORCH_FR_DUMP_TEMP_FILE", str(dumps / "nccl-"))  # and the rank
    try:
        deepspeed.init_distributed(
            "nccl" if device.type == "cuda" else "gloo",
            auto_mpi_discovery=False,
            verbose=False,
            timeout=timedelta(seconds=timeout),
        )
    except (RuntimeError, ValueError) as error:
        address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise SystemExit(
            f"process {os.environ['RANK']} of {os.environ['WORLD_SIZE']} on {socket.gethostname()} "
            f"could not join the others at {address}: {error}"
        ) from error
    return device


def has_bf16(device: torch.device) -> bool:
    """Whether this process's device has bf16 instructions."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def fitting_precision(device: torch.device) -> str:
    """bf16 if the device has instructions for it, else fp16 on a GPU and fp32 on a CPU.

    Rank 0 chooses; all processes must call.
    """
    without = "fp16" if device.type == "cuda" else "fp32"
    agreed = ["bf16" if has_bf16(device) else without]
    dist.broadcast_object_list(agreed)
    return agreed[0]


def has_fp16(device: torch.device) -> bool:
    """Whether this process's device has fp16 instructions."""
    if device.type == "cuda":
        return True
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_fp16_supported()


def slow_precision(device: torch.device, precision: str) -> str | None:
    """A warning if the device has no instructions for the chosen precision, else None."""
    if precision == "fp16" and not has_fp16(device):
        return (
            "this processor has no instructions for fp16, and computes in it more slowly than with "
            "engine.precision=fp32"
        )
    if precision != "bf16" or has_bf16(device):
        return None
    if device.type == "cuda":
        return "this GPU has no instructions for bf16: engine.precision=fp16 is faster on it"
    return (
        "this processor has no instructions for bf16, and computes in it 3 to 20 times slower than "
        "with engine.precision=fp32"
    )


def set_timeout(seconds: float) -> None:
    """Sets the time-out of collectives in all groups."""
    # Public since torch 2.15.
    setter = getattr(dist, "set_timeout", None) or dist.distributed_c10d._set_pg_timeout
    for group in list(dist.distributed_c10d._world.pg_map):
        setter(timedelta(seconds=seconds), group)


def free_port() -> int:
    """A free TCP port of this host."""
    with socket.socket() as s:
        s.bind(("", 0))
        return s.getsockname()[1]


def rank() -> int:
    return dist.get_rank()


def world_size() -> int:
    return dist.get_world_size()


def is_first() -> bool:
    """Whether this is rank 0, the only one that writes and prints."""
    return rank() == 0


def stop() -> None:
    """Leaves the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()
