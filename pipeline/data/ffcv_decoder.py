"""Checks that FFCV lacks: images that cannot be decoded, and invalid entries of a beton's tables.

Importing ffcv takes seconds, so `pipeline.data.ffcv` imports this module only when needed.
"""

from pathlib import Path

import numpy as np
from ffcv.fields.decoders import SimpleRGBImageDecoder
from ffcv.fields.rgb_image import IMAGE_MODES
from ffcv.libffcv import ctypes_memcopy, imdecode, memcpy
from ffcv.pipeline.compiler import Compiler
from ffcv.reader import Reader

from dataprep.manifest import DatasetError
from pipeline.data.decode import AGAIN, sample


class CheckedDecoder(SimpleRGBImageDecoder):
    """Decodes images of one size, and records the index of an image if libjpeg fails.

    FFCV's own decoder would return the previous content of the memory for such an image.
    """

    def __init__(self):
        super().__init__()
        self.damaged = np.full(1, -1, np.int64)

    def generate_code(self):
        read, images = self.memory_read, Compiler.get_iterator()
        from_jpeg, copy = Compiler.compile(imdecode), Compiler.compile(memcpy)
        jpeg = IMAGE_MODES["jpg"]
        noted = self.damaged.ctypes.data  # compiled code can write to an address, not to an array

        def decode(batch, pixels, metadata, storage):
            for place in images(len(batch)):
                number = batch[place]
                about = metadata[number]
                data = read(about["data_ptr"], storage)
                height, width = about["height"], about["width"]
                if about["mode"] == jpeg:
                    whole = (height, width, height, width, 0, 0, 1, 1, False, False)
                    if from_jpeg(data, pixels[place], *whole) != 0:
                        found = np.full(1, number, np.int64)
                        ctypes_memcopy(found.ctypes.data, noted, 8)
                else:
                    copy(data, pixels[place])
            return pixels[: len(batch)]

        decode.is_parallel = True
        return decode


def check_tables(reader: Reader, path: Path, side: int) -> None:
    """DatasetError if a sample's entry in a beton's tables is invalid.

    FFCV copies the number of bytes in the table to the memory of the image without a check.
    """
    about = reader.metadata["f0"]
    place = np.minimum(
        np.searchsorted(reader.alloc_table["ptr"], about["data_ptr"]), len(reader.alloc_table) - 1
    )
    found = reader.alloc_table[place]
    raw = about["mode"] == IMAGE_MODES["raw"]
    sound = (about["width"] == side) & (about["height"] == side)
    sound &= found["ptr"] == about["data_ptr"]
    sound &= found["ptr"] + found["size"] <= path.stat().st_size
    sound &= ~raw | (found["size"] == 3 * side * side)
    if not sound.all():
        raise DatasetError(f"{path}: {sample(int(np.argmin(sound)))} is damaged; {AGAIN}")
