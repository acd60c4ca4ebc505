"""Stops all processes at the same step on a signal."""

import signal

import torch
import torch.distributed as dist


class Stopped(Exception):  # noqa: N818 (not an error)
    """The processes stop because of the signal `number`."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.number = number


class StopSignals:
    """Broadcasts a signal that any process receives.

    Each `check` starts an all-reduce and reads the one that the previous check started, so it does
    not wait; a signal stops all processes within two checks.
    """

    SIGNALS = (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)

    def __init__(self, group):
        self.group, self.received, self.reduction = group, 0, None
        self.previous = {number: signal.signal(number, self._catch) for number in self.SIGNALS}

    def _catch(self, number, frame) -> None:
        if self.received == number == signal.SIGINT:
            raise KeyboardInterrupt  # a second Ctrl-C stops at once
        self.received = self.received or number

    def check(self) -> None:
        """Raises Stopped if a process received a signal; all processes must call equally often."""
        if self.reduction is not None:
            number, work = self.reduction
            work.wait()
            if number.item():
                raise Stopped(int(number.item()))
        number = torch.tensor([self.received])
        self.reduction = (
            number,
            dist.all_reduce(number, op=dist.ReduceOp.MAX, group=self.group, async_op=True),
        )

    def release(self) -> None:
        """Restores the previous signal handlers."""
        if self.reduction is not None:
            self.reduction[1].wait()
            self.reduction = None
        for number, handler in self.previous.items():
            signal.signal(number, handler)
