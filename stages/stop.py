"""Stopping on a signal, all processes at the same step."""

import signal

import torch
import torch.distributed as dist


class Stopped(Exception):  # noqa: N818 (not an error)
    """The processes have agreed to stop because of the signal `number`."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.number = number


class StopSignals:
    """Waits for a signal to any process, and tells all of them at once.

    Each `check` starts an exchange and reads the one that the check before started, so that it
    costs no waiting; a signal thus stops all processes within two checks.
    """

    SIGNALS = (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)

    def __init__(self, group):
        self.group, self.caught, self.exchange = group, 0, None
        self.before = {number: signal.signal(number, self._catch) for number in self.SIGNALS}

    def _catch(self, number, frame) -> None:
        if self.caught == number == signal.SIGINT:
            raise KeyboardInterrupt  # a second Ctrl-C does not wait
        self.caught = self.caught or number

    def check(self) -> None:
        """Stopped if a process has had a signal; all processes must call equally often."""
        if self.exchange is not None:
            number, work = self.exchange
            work.wait()
            if number.item():
                raise Stopped(int(number.item()))
        number = torch.tensor([self.caught])
        self.exchange = (
            number,
            dist.all_reduce(number, op=dist.ReduceOp.MAX, group=self.group, async_op=True),
        )

    def release(self) -> None:
        """Gives the signals back to whoever had them."""
        if self.exchange is not None:
            self.exchange[1].wait()
            self.exchange = None
        for number, handler in self.before.items():
            signal.signal(number, handler)
