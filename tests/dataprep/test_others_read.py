"""What is prepared, read by others' libraries as their documentation says, with nothing of ours."""

import io

import numpy as np
import pytest
from PIL import Image

from dataprep.manifest import Manifest
from dataprep.shard import main
from tests.dataprep.pictures import encoded, picture


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Manifest:
    """18 images of two classes in tars of 5, and in betons."""
    folder = tmp_path_factory.mktemp("others")
    for i in range(18):
        path = folder / "faces" / "ab"[i % 2] / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(picture(i, 16, 16)))
    how = ["--max-resolution", "16", "--labels", "folder", "--shard-samples", "5"]
    how += ["--test-fraction", "0.3"]
    assert main([str(folder / "faces"), "--out", str(folder / "out"), *how]) == 0
    return Manifest.load(folder / "out")


def tars(made: Manifest) -> list[str]:
    return [str(tar.path) for tar in made.tars(16, "train")]


def known(pixels: np.ndarray, label: int) -> bool:
    """Whether it is one of the pictures, with its label."""
    return any((picture(i, 16, 16) == pixels).all() for i in range(label, 18, 2))


def test_webdataset(made):
    import webdataset as wds

    dataset = wds.WebDataset(tars(made), shardshuffle=False).decode("rgb8").to_tuple("png", "cls")
    samples = list(dataset)
    assert len(samples) == made.count("train") and all(known(*sample) for sample in samples)
    (images, labels) = next(iter(dataset.batched(4)))
    assert len(images) == len(labels) == 4


@pytest.mark.parametrize("streaming", [True, False])
def test_hugging_face_datasets(made, tmp_path, streaming):
    from datasets import load_dataset

    loaded = load_dataset(
        "webdataset",
        data_files={"train": tars(made)},
        split="train",
        streaming=streaming,
        cache_dir=str(tmp_path),
    )
    samples = [(np.asarray(row["png"]), row["cls"]) for row in loaded]
    assert len(samples) == made.count("train") and all(known(*sample) for sample in samples)


def test_ffcv(made):
    from ffcv.fields.decoders import IntDecoder, SimpleRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import ToTensor

    loader = Loader(
        str(made.beton(16, "train")),
        batch_size=4,
        num_workers=1,
        order=OrderOption.RANDOM,
        drop_last=False,
        pipelines={
            "image": [SimpleRGBImageDecoder(), ToTensor()],
            "label": [IntDecoder(), ToTensor()],
        },
    )
    samples = [
        (image.numpy().copy(), int(label)) for batch in loader for image, label in zip(*batch)
    ]
    assert len(samples) == made.count("train") and all(known(*sample) for sample in samples)


def test_the_standard_library_and_pillow(made):
    import tarfile

    with tarfile.open(tars(made)[0]) as tar:
        image, label = tar.getmembers()[:2]
        pixels = np.asarray(Image.open(io.BytesIO(tar.extractfile(image).read())))
        assert known(pixels, int(tar.extractfile(label).read()))
