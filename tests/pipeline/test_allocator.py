"""A process that keeps freed memory touches fewer new pages."""

import subprocess
import sys

import pytest

SCRIPT = """
import ctypes, resource, sys
from pipeline.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
c = ctypes.CDLL(None)
c.malloc.restype, c.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
c.free.argtypes = [ctypes.c_void_p]
def maps():
    held = [c.malloc(24 * 2**20) for _ in range(4)]
    for block in held:
        ctypes.memset(block, 1, 24 * 2**20)
    for block in reversed(held):
        c.free(block)
for _ in range(2):
    maps()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
maps()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_freed_memory_is_used_again():
    faults = {}
    for how in ("keep", "default"):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, check=True
        )
        faults[how] = int(done.stdout)
    pages = 4 * 24 * 2**20 // 4096
    assert faults["keep"] < 0.05 * pages < 0.5 * pages < faults["default"]
