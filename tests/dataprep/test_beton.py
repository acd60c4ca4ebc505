"""Our .beton against ffcv itself: its data types, its reader, its loader."""

import numpy as np
import pytest

from dataprep import beton
from dataprep.beton import BetonWriter, Layout


def written(path, layout: Layout, order, slots, labels) -> np.ndarray:
    """A beton whose slots are filled in the given order; returns the pixels (slots, R, R, 3)."""
    shape = (layout.slots, layout.side, layout.side, 3)
    pixels = np.random.default_rng(layout.side).integers(0, 256, shape, np.uint8)
    writer = BetonWriter(path, layout)
    for slot in order:
        writer.put(slot, pixels[slot])
    writer.finish(slots, labels)
    writer.close()
    return pixels


@pytest.mark.parametrize("side", [4, 64, 256, 512, 1024])
def test_no_sample_crosses_a_page_or_another(side):
    layout = Layout(side, slots=70)
    places = layout.place(np.arange(layout.slots))
    ends = places + layout.sample_bytes
    assert places.tolist() == [layout.place(i) for i in range(layout.slots)]
    assert (places // layout.page_bytes == (ends - 1) // layout.page_bytes).all()
    assert (places[1:] >= ends[:-1]).all() and ends[-1] == layout.end
    assert places[0] >= layout.metadata_start + layout.slots * beton.METADATA.itemsize
    assert layout.page_bytes & (layout.page_bytes - 1) == 0 and layout.page_bytes < 2**32


def test_the_order_of_writing_does_not_matter(tmp_path):
    layout = Layout(64, slots=200)  # more than one page
    forwards, backwards = range(200), range(199, -1, -1)
    written(tmp_path / "a.beton", layout, forwards, range(200), [-1] * 200)
    written(tmp_path / "b.beton", layout, backwards, range(200), [-1] * 200)
    assert (tmp_path / "a.beton").read_bytes() == (tmp_path / "b.beton").read_bytes()


def test_ffcv_reads_it(tmp_path):
    from ffcv import types
    from ffcv.loader import Loader
    from ffcv.reader import Reader

    assert types.HeaderType == beton.HEADER
    assert types.FieldDescType == beton.DESCRIPTOR
    assert types.ALLOC_TABLE_TYPE == beton.ALLOCATION
    assert types.CURRENT_VERSION == beton.VERSION

    layout = Layout(64, slots=400)  # three pages; slots 7 and 398 stay empty
    slots = [slot for slot in range(400) if slot not in (7, 398)]
    labels = [slot % 10 - 1 for slot in slots]
    path = tmp_path / "a.beton"
    pixels = written(path, layout, slots, slots, labels)

    reader = Reader(str(path))
    assert reader.field_names == ["image", "label"] and reader.num_samples == 398
    assert reader.metadata_type.itemsize == beton.METADATA.itemsize
    assert [reader.metadata_type.fields[f][1] for f in ("f0", "f1")] == [
        beton.METADATA.fields[f][1] for f in ("image", "label")
    ]
    assert len({place // layout.page_bytes for place in reader.alloc_table["ptr"]}) == 3

    for os_cache in (True, False):
        loader = Loader(str(path), 50, num_workers=1, os_cache=os_cache, drop_last=False)
        batches = [(images.numpy().copy(), found.ravel().tolist()) for images, found in loader]
        images = np.concatenate([images for images, _ in batches])
        np.testing.assert_array_equal(images, pixels[slots])
        assert [label for _, found in batches for label in found] == labels
