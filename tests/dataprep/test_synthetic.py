import dataclasses
import hashlib
import io
import signal
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
from PIL import Image

from dataprep import synthetic
from dataprep.drawn.faces import Face, draw, random_face
from dataprep.drawn.portrait import render
from dataprep.synthetic import write

FACTORS = {field.name: field.metadata["range"] for field in dataclasses.fields(Face)}


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("size", [4, 32, 100, 128, 256])
def test_a_face_is_an_rgb_image(size):
    face = draw(0, 0, size)
    assert face.shape == (size, size, 3) and face.dtype == np.uint8
    assert face.flags.c_contiguous and face.flags.writeable
    assert face.std() > 20


def test_faces_are_distinct_and_repeatable():
    faces = [draw(seed, i, 64) for seed in (0, 1) for i in range(8)]
    assert len({face.tobytes() for face in faces}) == len(faces)
    assert np.array_equal(draw(1, 7, 64), faces[-1])


def test_small_faces_are_the_large_ones_reduced():
    large = np.array(Image.fromarray(draw(0, 3)).reduce(4), float)
    assert np.abs(large - draw(0, 3, 64)).mean() < 2


def test_factors_stay_in_range_and_fill_it():
    faces = [dataclasses.asdict(random_face(0, i)) for i in range(400)]
    for name, (lo, hi) in FACTORS.items():
        drawn = [face[name] for face in faces]
        assert lo <= min(drawn) < lo + 0.03 * (hi - lo) and hi - 0.03 * (hi - lo) < max(drawn) <= hi


@pytest.mark.parametrize("name", FACTORS)
def test_every_factor_shows_and_none_jumps(name):
    lo, hi = FACTORS[name]

    def at(share):
        face = dataclasses.replace(Face(), **{name: lo + share * (hi - lo)})
        return render(face, 128).astype(float)

    ends = [at(share) for share in (0, 0.5, 1)]  # hues and angles end where they began
    assert max(np.abs(a - ends[1]).mean() for a in ends) > 0.02
    for share in (0.2, 0.6, 0.8):
        assert np.abs(at(share) - at(share + 0.01)).mean() < 4


def test_any_corner_of_the_ranges_can_be_drawn():
    rng = np.random.default_rng(0)
    with np.errstate(all="raise", under="ignore"):
        for _ in range(30):
            face = Face(*(ends[rng.integers(2)] for ends in FACTORS.values()))
            assert render(face, 64).std() > 10


def test_the_zip_is_the_same_for_any_run_and_any_number_of_workers(tmp_path):
    write(tmp_path / "one.zip", 20, seed=5, size=32)
    command = [sys.executable, synthetic.__file__, tmp_path / "two.zip", "--count", "20"]
    subprocess.run([*command, "--seed", "5", "--size", "32", "--workers", "2"], check=True)
    assert sha256(tmp_path / "one.zip") == sha256(tmp_path / "two.zip")
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        assert archive.testzip() is None
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}
        image = np.array(Image.open(io.BytesIO(archive.read("00000013.jpg"))), float)
    assert np.abs(image - draw(5, 13, 32)).mean() < 3


def test_a_face_depends_on_its_number_not_on_how_many_are_drawn(tmp_path):
    for count in (2, 5):
        write(tmp_path / str(count), count, size=32)
    assert [path.name for path in sorted((tmp_path / "2").iterdir())] == [
        "00000000.jpg",
        "00000001.jpg",
    ]
    for path in (tmp_path / "2").iterdir():
        assert sha256(path) == sha256(tmp_path / "5" / path.name)


@pytest.mark.parametrize("name", ["faces", "faces.zip"])
def test_nothing_is_left_of_a_run_that_fails(tmp_path, monkeypatch, name):
    def encode(seed, size, index):
        if index == 2:
            raise OSError("no space left")
        return b"a face"

    monkeypatch.setattr(synthetic, "encode", encode)
    with pytest.raises(OSError, match="no space left"):
        write(tmp_path / name, 3)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"count": 0}, "count must be at least 1, not 0"),
        ({"seed": -1}, "seed must be at least 0, not -1"),
        ({"workers": 0}, "workers must be at least 1, not 0"),
        ({"size": 2000}, "size must be from 4 to 1024, not 2000"),
    ],
)
def test_a_number_out_of_range_is_named(tmp_path, wrong, message):
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "faces", **{"count": 1, **wrong})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["faces", "faces.zip"])
def test_existing_output_is_not_overwritten(tmp_path, name):
    (tmp_path / name).write_text("mine")
    command = [sys.executable, synthetic.__file__, tmp_path / name, "--count", "1"]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 1
    assert ran.stderr == (
        f"synthetic.py: {tmp_path / name} exists already: remove it, or choose another path\n"
    )
    assert (tmp_path / name).read_text() == "mine"


def test_an_interrupted_run_writes_nothing_and_prints_one_line(tmp_path):
    command = [sys.executable, synthetic.__file__, tmp_path / "faces.zip", "--count", "100000"]
    run = subprocess.Popen([*command, "--workers", "2"], stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.iterdir()):  # the folder beside, made when drawing begins
        time.sleep(0.05)
    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=60)
    assert run.returncode == 130 and "interrupted; nothing was written" in said
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []
