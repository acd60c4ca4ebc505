"""What the machines of a training are doing, by node: processors, memory, GPUs."""

import os
import socket

import psutil
import torch
import torch.distributed as dist

from pipeline import processes


class System:
    """Usage of each node, since the last reading; every process must take part in `read`."""

    def __init__(self, group):
        # Of a process that is shown its own GPU alone, LOCAL_RANK is 0, too.
        local = os.environ.get("SLURM_LOCALID", os.environ.get("LOCAL_RANK", "0"))
        self.group, self.first = group, local == "0"
        psutil.cpu_percent()  # from here on
        self.gpus = list(range(torch.cuda.device_count())) if self.first else []
        self.missing = None
        try:
            for gpu in self.gpus:
                torch.cuda.utilization(gpu)
        except ModuleNotFoundError:
            self.gpus = []
            self.missing = "tracking.system_metrics has no GPUs: pip install nvidia-ml-py"

    def read(self) -> dict[str, float]:
        """`system/NODE/name` of all nodes, in rank 0; elsewhere nothing."""
        here = self.usage() if self.first else {}
        everything: list[dict[str, float]] = [{} for _ in range(processes.world_size())]
        dist.gather_object(here, everything if processes.is_first() else None, group=self.group)
        return {k: v for part in everything for k, v in part.items()}

    def usage(self) -> dict[str, float]:
        """Of this node; its GPUs by the numbers that torch gives them."""
        node, memory = socket.gethostname(), psutil.virtual_memory()
        found = {"cpu_percent": psutil.cpu_percent(), "memory_gib": memory.used / 2**30}
        for gpu in self.gpus:
            free, total = torch.cuda.mem_get_info(gpu)
            found[f"gpu{gpu}_percent"] = torch.cuda.utilization(gpu)
            found[f"gpu{gpu}_memory_gib"] = (total - free) / 2**30
            found[f"gpu{gpu}_watt"] = torch.cuda.power_draw(gpu) / 1000
        return {f"system/{node}/{name}": value for name, value in found.items()}
