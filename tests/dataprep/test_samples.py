"""What belongs together in a tar: WebDataset samples, their labels and masks, links, its end."""

import io
import json
import subprocess
import tarfile

import pytest

from dataprep.manifest import DatasetError
from dataprep.shard import main
from dataprep.sources.entry import Note, Options
from dataprep.sources.source import listing
from tests.dataprep.archives import make_tar
from tests.dataprep.test_accounting import HOW
from tests.dataprep.test_sources import IMAGES, found, passed

pytestmark = pytest.mark.long


def labels(path, **columns) -> dict:
    return {name: label for name, (_, label) in found(path, labels=True, **columns).items()}


def samples(path, *members: tuple[str, bytes], count: int = 4):
    """A tar of samples; `{}` in a name is the sample's number, an image's content its own."""
    made = []
    for i in range(count):
        for j, (name, content) in enumerate(members):
            image = IMAGES[i] if j == 0 else IMAGES[9 - i]
            made.append((name.format(f"{i:04d}"), image if content == b"image" else content % i))
    return make_tar(path, made)


def test_numbers_in_a_key_belong_to_it(tmp_path):
    path = samples(tmp_path / "a.tar", ("n01.{}.jpg", b"image"), ("n01.{}.cls", b"%d"))
    assert labels(path) == {f"n01.{i:04d}.jpg": i for i in range(4)}
    assert len(found(path)) == 4
    path = samples(
        tmp_path / "b.tar", ("s/a.1.{}.img.jpg", b"image"), ("s/a.1.{}.label.cls", b"%d")
    )
    assert labels(path) == {f"s/a.1.{i:04d}.img.jpg": i for i in range(4)}


def test_several_labels_of_a_sample_go_by_the_name_of_the_image(tmp_path):
    members = []
    for i, word in enumerate(("left", "right", "front")):
        members += [(f"a.{word}.png", IMAGES[i]), (f"a.{word}.cls", b"%d" % i)]
    path = make_tar(tmp_path / "a.tar", members)
    how = {"image_column": "any"}
    assert labels(path, **how) == {"a.left.png": 0, "a.right.png": 1, "a.front.png": 2}
    members.append(("a.back.png", IMAGES[4]))
    path = make_tar(tmp_path / "b.tar", members)
    with pytest.raises(DatasetError, match=r"b.tar: the sample a has several labels, a.left.cls, "):
        labels(path, **how)


def test_an_image_and_its_mask_are_ambiguous(tmp_path):
    members = ("{}.jpg", b"image"), ("{}.mask.png", b"image"), ("{}.cls", b"%d")
    path = samples(tmp_path / "a.tar", *members)
    ask = r"the sample 0000 holds several images, jpg and mask.png: choose one with --image-column"
    for wanted in (True, False):
        with pytest.raises(DatasetError, match=ask):
            found(path, labels=wanted)
    assert found(path, image_column="jpg") == {f"{i:04d}.jpg": IMAGES[i] for i in range(4)}
    assert labels(path, image_column="mask.png") == {f"{i:04d}.mask.png": i for i in range(4)}
    assert len(found(path, image_column="any")) == 8
    rules = {f"{i:04d}.mask.png": ".mask.png beside the image" for i in range(4)}
    rules |= {f"{i:04d}.cls": ".cls" for i in range(4)}
    assert passed(path, image_column="jpg") == rules


def test_one_sample_is_ambiguous_and_two_files_are_not(tmp_path):
    one = [("0.jpg", IMAGES[0]), ("0.mask.png", IMAGES[1])]
    assert len(found(make_tar(tmp_path / "a.tar", one))) == 2
    for more in ([("0.txt", b"a face")], [("1.jpg", IMAGES[2]), ("1.mask.png", IMAGES[3])]):
        with pytest.raises(DatasetError, match="holds several images"):
            found(make_tar(tmp_path / "b.tar", one + more))
    photos = [(f"{name}.{i}.jpg", IMAGES[i]) for name in ("ann", "bob") for i in range(3)]
    assert len(found(make_tar(tmp_path / "c.tar", photos))) == 6
    names = ("ann.kay", "ann.lee", "bob.lee", "bob.poe")
    photos = [(f"{name}.jpg", IMAGES[i]) for i, name in enumerate(names)]
    assert len(found(make_tar(tmp_path / "d.tar", photos))) == 4


def test_labels_in_json(tmp_path):
    path = samples(tmp_path / "a.tar", ("{}.jpg", b"image"), ("{}.json", b'{"label": %d}'))
    assert labels(path) == {f"{i:04d}.jpg": i for i in range(4)}
    assert set(passed(path, labels=True).values()) == {"labels in .json"}
    text = [(f"{i}.jpg", IMAGES[i]) for i in range(3)]
    text += [(f"{i}.json", json.dumps({"kind": "ab"[i % 2]}).encode()) for i in range(2)]
    path = make_tar(tmp_path / "b.tar", sorted(text))
    assert labels(path, label_column="kind") == {"0.jpg": "a", "1.jpg": "b", "2.jpg": None}
    assert labels(path) == {"0.jpg": None, "1.jpg": None, "2.jpg": None}
    both = [("0.jpg", IMAGES[0]), ("0.json", b'{"label": 5}'), ("0.cls", b"7"), ("0.age.cls", b"9")]
    assert labels(make_tar(tmp_path / "c.tar", both[:3])) == {"0.jpg": 7}
    path = make_tar(tmp_path / "d.tar", both)
    assert labels(path, label_column="age.cls") == {"0.jpg": 9}
    assert labels(path, label_column="label") == {"0.jpg": 5}


def test_how_many_images_have_no_label_is_reported(tmp_path, capsys):
    members = [(f"{i}.jpg", IMAGES[i]) for i in range(8)] + [("3.cls", b"1"), ("4.cls", b"2")]
    make_tar(tmp_path / "a.tar", sorted(members))
    how = [*HOW, "--test-fraction", "0.5", "--labels", "stored"]
    assert main([str(tmp_path / "a.tar"), "--out", str(tmp_path / "out"), *how]) == 0
    told = capsys.readouterr().out
    assert "note: 6 images have no label" in told and "also read: 2 labels in .cls (3.cls)" in told


def link(name: str, target: str, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_links_in_a_tar(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        info = tarfile.TarInfo("./.store/1")
        info.size = len(IMAGES[0])
        archive.addfile(info, io.BytesIO(IMAGES[0]))
        archive.addfile(link("hard.png", "./.store/1", tarfile.LNKTYPE))
        archive.addfile(link("gone.png", "./.store/2", tarfile.LNKTYPE))
        archive.addfile(link("soft.png", "/etc/passwd", tarfile.SYMTYPE))
    expected = {"hard.png": IMAGES[0], "gone.png": "unreadable", "soft.png": "unreadable"}
    assert found(tmp_path / "a.tar") == expected


def test_hard_links_as_tar_writes_them(tmp_path):
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "a.png").write_bytes(IMAGES[0])
    (tmp_path / "f" / "b.png").hardlink_to(tmp_path / "f" / "a.png")
    subprocess.run(["tar", "cf", "a.tar", "./f"], cwd=tmp_path, check=True)
    assert found(tmp_path / "a.tar") == {"f/a.png": IMAGES[0], "f/b.png": IMAGES[0]}


def test_tars_that_were_put_together_with_cat_are_reported(tmp_path):
    parts = [make_tar(tmp_path / f"{i}.tar", [(f"{i}.png", IMAGES[i])]) for i in range(2)]
    both = b"".join(part.read_bytes() for part in parts)
    (tmp_path / "both.tar").write_bytes(both)
    with pytest.raises(DatasetError, match=r"both.tar continues after its end .* concatenated"):
        found(tmp_path / "both.tar")


def test_a_tar_without_its_end_is_reported(tmp_path, capsys):
    path = make_tar(tmp_path / "a.tar", [(f"{i}.png", data) for i, data in enumerate(IMAGES)])
    with tarfile.open(path) as archive:
        last = archive.getmembers()[-1]
    end = last.offset_data + -(-last.size // 512) * 512
    path.write_bytes(path.read_bytes()[:end])
    said = [item for _, item in listing(str(path), Options(8)) if isinstance(item, Note)]
    assert len(said) == 1 and said[0].text.endswith("has no end mark: it may be cut off")
    how = [*HOW, "--test-fraction", "0.5"]
    assert main([str(path), "--out", str(tmp_path / "out"), *how]) == 0
    assert f"note: {path} has no end mark" in capsys.readouterr().out
