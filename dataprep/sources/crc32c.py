"""CRC-32C (Castagnoli, reflected polynomial 0x82F63B78), and TensorFlow's masking of it.

With numpy: the data is cut into lanes whose remainders are computed side by side, then joined two
and two. A megabyte takes a few ms, where a loop over its bytes would take a tenth of a second.
"""

import functools

import numpy as np

POLYNOMIAL = 0x82F63B78
LANES = 4096


def byte_table() -> np.ndarray:
    """(256,) uint32: the remainder of each byte followed by four zero bytes."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(POLYNOMIAL), table >> 1)
    return table.astype(np.uint32)


TABLE = byte_table()
PLAIN = TABLE.tolist()


def crc32c(data: bytes) -> int:
    """The CRC-32C of `data`."""
    length = len(data) // LANES  # bytes per lane
    if length < 8:
        return bytewise(data, 0xFFFFFFFF) ^ 0xFFFFFFFF
    head = len(data) - length * LANES
    crc = bytewise(data[:head], 0xFFFFFFFF)
    steps = np.frombuffer(data, np.uint8, offset=head).reshape(LANES, length).T.astype(np.uint32)
    remainders = np.zeros(LANES, np.uint32)
    remainders[0] = crc  # the lanes after it start from nothing: remainders are linear
    for step in steps:
        remainders = TABLE[(remainders ^ step) & 255] ^ (remainders >> 8)
    while len(remainders) > 1:
        remainders = shifted(remainders[0::2], length) ^ remainders[1::2]
        length *= 2
    return int(remainders[0]) ^ 0xFFFFFFFF


def bytewise(data: bytes, crc: int) -> int:
    for byte in data:
        crc = PLAIN[(crc ^ byte) & 255] ^ (crc >> 8)
    return crc


def shifted(remainders: np.ndarray, length: int) -> np.ndarray:
    """The remainders after `length` further zero bytes."""
    tables = zeros(length)
    return (
        tables[0][remainders & 255]
        ^ tables[1][remainders >> 8 & 255]
        ^ tables[2][remainders >> 16 & 255]
        ^ tables[3][remainders >> 24]
    )


@functools.lru_cache(maxsize=256)  # images of one size ask for the same twelve
def zeros(length: int) -> np.ndarray:
    """(4, 256) uint32: what `length` zero bytes make of each value of each byte of a remainder.

    Found for single bits first, by repeated squaring.
    """
    bits = np.uint32(1) << np.arange(32, dtype=np.uint32)
    once = TABLE[bits & 255] ^ (bits >> 8)
    result = bits
    while length:
        if length & 1:
            result = applied(once, result)
        once = applied(once, once)
        length >>= 1
    values = np.arange(256, dtype=np.uint32)
    return np.stack([applied(result, values << np.uint32(8 * byte)) for byte in range(4)])


def applied(operator: np.ndarray, values: np.ndarray) -> np.ndarray:
    """`operator`, given by what it makes of each bit, applied to each value."""
    chosen = np.where(values[:, None] >> np.arange(32, dtype=np.uint32) & 1, operator, 0)
    return np.bitwise_xor.reduce(chosen, axis=1).astype(np.uint32)


def masked_crc32c(data: bytes) -> int:
    """What a TFRecord stores: the CRC rotated right by 15 bits, plus a constant."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
