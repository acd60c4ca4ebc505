"""The processes of one training: who am I, who else is there, what do we compute on."""

import os
import socket

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.utils import logger as deepspeed_logger

deepspeed_logger.setLevel("ERROR")
# Without a GPU, DeepSpeed would compile a shared-memory reduction, for a minute, that only its
# inference calls.
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def start() -> torch.device:
    """Joins this process to the others and gives its device.

    Reads RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT; without RANK, the process is
    alone. Errors name the address that did not answer.
    """
    if "RANK" not in os.environ:
        alone = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
        os.environ |= alone | {"MASTER_PORT": str(free_port())}
    device = torch.device("cpu")
    if "OMP_NUM_THREADS" not in os.environ:
        cores = len(os.sched_getaffinity(0))
        torch.set_num_threads(max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
    if torch.cuda.is_available():
        # A scheduler may show each process its own GPU alone, or all of the node's to each.
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
        torch.cuda.set_device(device)
        os.environ["LOCAL_RANK"] = str(device.index)  # by which DeepSpeed finds it
    try:
        deepspeed.init_distributed(
            "nccl" if device.type == "cuda" else "gloo", auto_mpi_discovery=False, verbose=False
        )
    except (RuntimeError, ValueError) as error:
        address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise SystemExit(
            f"process {os.environ['RANK']} of {os.environ['WORLD_SIZE']} on {socket.gethostname()} "
            f"could not join the others at {address}: {error}"
        ) from error
    return device


def fitting_precision(device: torch.device) -> str:
    """bf16 where the chip has instructions for it, else fp16 on a GPU and fp32 on a CPU.

    A CPU computes bf16 without them 3 to 20 times slower than fp32. The choice is rank 0's; all
    processes must call.
    """
    if device.type == "cuda":
        chosen = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    else:
        has_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        chosen = "bf16" if has_bf16 else "fp32"
    agreed = [chosen]
    dist.broadcast_object_list(agreed)
    return agreed[0]


def free_port() -> int:
    """A TCP port of this host that nothing listens on."""
    with socket.socket() as s:
        s.bind(("", 0))
        return s.getsockname()[1]


def rank() -> int:
    return dist.get_rank()


def world_size() -> int:
    return dist.get_world_size()


def is_first() -> bool:
    """Whether this is rank 0, which alone writes and talks."""
    return rank() == 0


def stop() -> None:
    """Leaves the group of processes."""
    if dist.is_initialized():
        dist.destroy_process_group()
