"""Cars3D's layout, drawn and read; splits by class; videos, and their tails."""

import subprocess
import sys

import numpy as np
import pytest
from scipy.io import savemat

from dataprep import split
from dataprep.drawn import cars, figures
from dataprep.images.decode import decode
from dataprep.manifest import DatasetError, Manifest
from dataprep.sources.entry import Options
from dataprep.sources.source import Reader, listing
from tests.conftest import ROOT
from tests.dataprep.test_sources import passed


def read(source) -> dict:
    """Pixels of each image by name."""
    result = {}
    for container, entry in listing(str(source), Options(8)):
        if hasattr(entry, "place"):
            result[entry.name] = decode(Reader([container]).read(0, entry))
    return result


def test_a_car_depends_on_its_factors_and_shows_its_views():
    one = cars.car(0, 1)
    view = cars.draw(one, 3, 1, 32)
    assert np.array_equal(view, cars.draw(cars.car(0, 1), 3, 1, 32))
    others = [
        cars.draw(one, 9, 1, 32),
        cars.draw(one, 3, 2, 32),
        cars.draw(cars.car(0, 2), 3, 1, 32),
    ]
    assert all((view != other).any() for other in others)
    assert (view[0] == 255).all() and (view < 200).any(), "a car before white"


def test_every_view_of_every_file(tmp_path):
    views = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3, 24, 4), dtype=np.uint8)
    for number, car in enumerate(views):
        savemat(tmp_path / f"car_{number}.mat", {"im": car}, do_compression=True)
    found = read(tmp_path)
    assert len(found) == 2 * 24 * 4
    for number, car in enumerate(views):
        name = f"car_{number}.mat/azimuth-23-elevation-01"
        assert np.array_equal(found[name], car[..., 23, 1])


def test_files_that_are_none_of_these_are_named(tmp_path):
    savemat(tmp_path / "car.mat", {"other": np.zeros((2, 2))})
    with pytest.raises(DatasetError, match=r"car\.mat holds .*other.* and not 'im'"):
        read(tmp_path)
    whole = (tmp_path / "car.mat").read_bytes()
    (tmp_path / "car.mat").write_bytes(whole[:140])
    with pytest.raises(DatasetError, match=r"car\.mat is damaged"):
        read(tmp_path)


def test_toy_cars_become_a_dataset_of_held_out_classes(tmp_path):
    cars.main([str(tmp_path / "mat"), "--count", "5", "--size", "16"])
    command = [sys.executable, ROOT / "dataprep" / "shard.py", tmp_path / "mat"]
    command += ["--out", tmp_path / "out", "--max-resolution", "16", "--labels", "folder"]
    command += ["--split", "classes", "--test-fraction", "0.2"]
    subprocess.run(command, check=True, capture_output=True)
    manifest = Manifest.load(tmp_path / "out")
    assert manifest.classes == tuple(f"car_{i:03d}.mat" for i in range(5))
    assert (manifest.count("train"), manifest.count("test")) == (4 * 96, 96)
    assert manifest.content["split"]["test_fraction"] == 0.2


def test_classes_are_held_out_whole_and_tails_are_the_last_frames():
    names = [f"v{video}.avi/frame-{frame:05d}" for video in range(10) for frame in range(1, 21)]
    rule = split.choose(names, "classes", 0.3)
    held = {name.split("/")[0] for name in names if rule.is_test(name)}
    assert len(held) == 3
    assert all(rule.is_test(name) == (name.split("/")[0] in held) for name in names)
    rule = split.choose(reversed(names), "tail", 0.1)
    tails = [name for name in names if rule.is_test(name)]
    assert tails == [f"v{v}.avi/frame-{f:05d}" for v in range(10) for f in (19, 20)]
    with pytest.raises(DatasetError, match=r"0\.01 of 10 folders are 0"):
        split.choose(names, "classes", 0.01)


def make_video(path, frames: np.ndarray) -> None:
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as video:
        stream = video.add_stream("ffv1", rate=25)  # lossless
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "bgr0"
        for pixels in frames:
            for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")):
                video.mux(packet)
        for packet in stream.encode():
            video.mux(packet)


def test_frames_of_a_video_and_those_that_a_list_names(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (6, 12, 16, 3), dtype=np.uint8)
    path = tmp_path / "person01_handwaving_d4_uncomp.avi"
    make_video(path, frames)
    found = read(tmp_path)
    assert sorted(found) == [f"{path.name}/frame-{i:05d}" for i in range(1, 7)]
    for number, pixels in enumerate(frames, start=1):
        assert np.array_equal(found[f"{path.name}/frame-{number:05d}"], pixels)
    lines = "person01_handwaving_d3\tframes\t1-6\nperson01_handwaving_d4\tframes\t5-6, 2-3\n"
    (tmp_path / "00sequences.txt").write_text(lines)
    assert sorted(read(tmp_path)) == [f"{path.name}/frame-{i:05d}" for i in (2, 3, 5, 6)]
    unlisted = dict.fromkeys(
        (f"{path.name}/frame-{i:05d}" for i in (1, 4)), "frame that 00sequences.txt does not list"
    )
    assert passed(tmp_path) == unlisted | {"00sequences.txt": ".txt"}
    (tmp_path / "00sequences.txt").write_text("person01_handwaving_d4 frames 5-9\n")
    with pytest.raises(DatasetError, match=r"has 6 frames, and 00sequences\.txt wants frame 9"):
        read(tmp_path)


def test_figures_wave_as_their_factors_say_and_are_read_from_their_videos(tmp_path):
    pytest.importorskip("av")
    figures.main([str(tmp_path / "avi"), "--count", "2", "--frames", "4"])
    found = read(tmp_path / "avi")
    assert len(found) == 2 * 4
    for number in (0, 1):
        for frame in (1, 4):
            name = f"{figures.NAME.format(number + 1)}_uncomp.avi/frame-{frame:05d}"
            drawn = figures.draw(figures.person(0, number), figures.pose(frame))
            assert np.array_equal(found[name], np.repeat(drawn[..., None], 3, 2))
    one, up = figures.person(0, 0), figures.Pose(3.0, 3.0)
    views = [figures.draw(one, at) for at in (up, up._replace(left=0.3), up._replace(right=0.3))]
    half = figures.WIDTH // 2
    assert np.array_equal(views[0][:, half:], views[1][:, half:]), "only the left arm moved"
    assert np.array_equal(views[0][:, :half], views[2][:, :half]), "only the right arm moved"
    assert not np.array_equal(views[0], views[1]) and not np.array_equal(views[0], views[2])


def test_a_reader_may_go_back_in_a_video(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (3, 12, 16, 3), dtype=np.uint8)
    make_video(tmp_path / "v.avi", frames)
    listed = [(c, e) for c, e in listing(str(tmp_path), Options(8)) if hasattr(e, "place")]
    reader = Reader([listed[0][0]])
    for number in (2, 0, 1, 1):
        assert np.array_equal(decode(reader.read(0, listed[number][1])), frames[number])
