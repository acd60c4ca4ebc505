"""Our .beton against ffcv itself: its data types, its reader, its loader."""

import gc

import numpy as np
import pytest

from dataprep.formats import beton
from dataprep.formats.beton import Part, PartWriter
from dataprep.images import encode
from dataprep.images.decode import decode
from tests.dataprep.pictures import picture


@pytest.fixture(autouse=True)
def no_garbage():
    """Python 3.11's parser fails where what numba leaves behind is collected in its midst."""
    yield
    gc.collect()


def make_parts(folder, counts, images, labels) -> list[Part]:
    """Parts with so many of the images and labels each."""
    parts, images, labels = [], iter(images), iter(labels)
    for number, count in enumerate(counts):
        writer = PartWriter(folder / f"part-{number}")
        for _ in range(count):
            writer.add(next(images), next(labels))
        assert writer.close()["samples"] == count
        parts.append(Part(folder / f"part-{number}", count))
    return parts


@pytest.mark.parametrize("size", [48, 3 * 64**2, 3 * 256**2, 3 * 1024**2, None])
def test_no_sample_crosses_a_page_or_another(size):
    sizes = np.random.default_rng(0).integers(1, 300_000, 70).tolist()
    if size is not None:
        sizes = [size] * 70
    page, offsets, end = beton.layout(np.array(sizes))
    ends = offsets + sizes
    assert (offsets // page == (ends - 1) // page).all()
    assert (offsets[1:] >= ends[:-1]).all() and ends[-1] == end
    assert offsets[0] >= beton.METADATA_START + 70 * beton.METADATA.itemsize
    assert page & (page - 1) == 0 and page < 2**32


def test_the_division_into_parts_does_not_matter(tmp_path):
    random = np.random.default_rng(0)
    images = [random.bytes(size) for size in random.integers(1, 60_000, 120)]
    facts = set()
    for counts in ([120], [50, 0, 70], [0, 1, 119], [40, 40, 40]):
        parts = make_parts(tmp_path, counts, images, range(120))
        facts.add(beton.assemble(tmp_path / "a.beton", parts, 64, "jpeg"))
    assert len(facts) == 1


def test_ffcv_reads_raw(tmp_path):
    from ffcv import types
    from ffcv.loader import Loader
    from ffcv.reader import Reader

    assert types.HeaderType == beton.HEADER
    assert types.FieldDescType == beton.DESCRIPTOR
    assert types.ALLOC_TABLE_TYPE == beton.ALLOCATION
    assert types.CURRENT_VERSION == beton.VERSION

    pixels = np.random.default_rng(1).integers(0, 256, (400, 64, 64, 3), np.uint8)
    labels = [i % 10 - 1 for i in range(400)]
    parts = make_parts(tmp_path, [150, 0, 250], (p.tobytes() for p in pixels), labels)
    path = tmp_path / "a.beton"
    facts = beton.assemble(path, parts, 64, "raw")
    assert facts.bytes == path.stat().st_size

    reader = Reader(str(path))
    assert reader.field_names == ["image", "label"] and reader.num_samples == 400
    assert reader.metadata_type.itemsize == beton.METADATA.itemsize
    assert [reader.metadata_type.fields[f][1] for f in ("f0", "f1")] == [
        beton.METADATA.fields[f][1] for f in ("image", "label")
    ]
    assert len({place // reader.page_size for place in reader.alloc_table["ptr"]}) == 3

    for os_cache in (True, False):
        loader = Loader(str(path), 50, num_workers=1, os_cache=os_cache, drop_last=False)
        batches = [(images.numpy().copy(), found.ravel().tolist()) for images, found in loader]
        np.testing.assert_array_equal(np.concatenate([images for images, _ in batches]), pixels)
        assert [label for _, found in batches for label in found] == labels


def test_ffcv_decodes_jpeg(tmp_path):
    from ffcv.loader import Loader

    pixels = np.stack([picture(i, 64, 64) for i in range(60)])
    images = [encode.jpeg(p, 95) for p in pixels]
    parts = make_parts(tmp_path, [20, 40], images, range(60))
    beton.assemble(tmp_path / "a.beton", parts, 64, "jpeg")
    loader = Loader(str(tmp_path / "a.beton"), 30, num_workers=1, drop_last=False)
    batches = [(images.numpy().copy(), found.ravel().tolist()) for images, found in loader]
    decoded = np.concatenate([images for images, _ in batches]).astype(int)
    exact = np.stack([decode(image) for image in images])
    # Not equal: ffcv has libjpeg use its fast transform, which is off by some grey levels.
    assert np.abs(decoded - exact).mean() < 3 < np.abs(decoded[::-1] - exact).mean()
    assert [label for _, found in batches for label in found] == list(range(60))
