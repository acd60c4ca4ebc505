"""Faults in one process that nothing outside can bring about; Python imports this at its start.

FAULT_NAN="RANK FIRST LAST"    gradients of these micro-batches of a rank are NaN
FAULT_CLOCK="RANK SECONDS"     the clock of a rank jumps by an hour, so long after its start
"""

import os
import sys
import time
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder


class _Engines(MetaPathFinder):
    """Changes pipeline.engines once it is imported."""

    def find_spec(self, name, path=None, target=None):
        if name != "pipeline.engines":
            return None
        spec = PathFinder.find_spec(name, path, target)
        execute = spec.loader.exec_module

        def then_change(module):
            execute(module)
            _spoil(module.Engine)

        spec.loader.exec_module = then_change
        return spec


def _spoil(engine) -> None:
    rank, first, last = os.environ["FAULT_NAN"].split()
    accumulate, calls = engine.accumulate, [0]

    def damaged(self, product):
        calls[0] += 1
        bad = os.environ.get("RANK") == rank and int(first) <= calls[0] < int(last)
        accumulate(self, product * float("nan") if bad else product)

    engine.accumulate = damaged


def _jump() -> None:
    rank, after = os.environ["FAULT_CLOCK"].split()
    began, now, now_ns = time.monotonic(), time.time, time.time_ns

    def ahead() -> int:
        late = time.monotonic() - began > float(after)
        return 3600 * (late and os.environ.get("RANK") == rank)

    time.time = lambda: now() + ahead()
    time.time_ns = lambda: now_ns() + ahead() * 10**9


if "FAULT_NAN" in os.environ:
    sys.meta_path.insert(0, _Engines())
if "FAULT_CLOCK" in os.environ:
    _jump()
