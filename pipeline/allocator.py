"""The C library's allocator on a CPU."""

import ctypes

# mallopt's parameters in glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> bool:
    """Lets this process reuse freed memory; false where the C library is not glibc.

    By default glibc returns freed blocks of several hundred KiB to the kernel, which then clears
    the pages of every new feature map: 5 to 13 times the time of an element-wise operation of
    2 MiB (benchmarks/README.md). Blocks above 32 MiB, glibc's limit, are still returned.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    done = [mallopt(M_TRIM_THRESHOLD, 2**31 - 1), mallopt(M_MMAP_THRESHOLD, 32 * 2**20)]
    return all(done)
