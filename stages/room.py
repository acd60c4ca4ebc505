"""Waits for room on a full disk, to write what a training needs to start."""

import errno
import time
from collections.abc import Callable

import torch
import torch.distributed as dist

from pipeline import processes
from pipeline.say import say

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
RETRY = 60.0  # seconds


def written(what: str, write: Callable[[], None], device: torch.device) -> None:
    """Rank 0 calls `write`, and retries while the disk is full; all processes must call.

    A requeued job thus waits for room instead of failing. Other errors are raised.
    """
    reported = False
    while True:
        done = torch.zeros(1, device=device)
        if processes.is_first():
            try:
                write()
                done += 1
            except OSError as error:
                if error.errno not in FULL:
                    raise
                if not reported:
                    say(
                        f"{what} cannot be written: {error.strerror}; trying again every "
                        f"{RETRY:.0f} s until there is room"
                    )
                reported = True
        dist.broadcast(done, 0)  # and none waits for longer than RETRY
        if done:
            return
        time.sleep(RETRY)
