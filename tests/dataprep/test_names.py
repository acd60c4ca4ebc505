"""Spellings of file names in lists and archives."""

import os
import zipfile

import pytest

from dataprep.shard import main
from tests.dataprep.archives import make_tar
from tests.dataprep.pictures import encoded, make_folder, picture
from tests.dataprep.test_accounting import HOW
from tests.dataprep.test_sources import IMAGES, found, passed


def test_a_list_as_people_write_it(tmp_path):
    make_folder(tmp_path, 3, side=4, names="ü {}.png")
    expected = {f"ü {i}.png": encoded(picture(i, 4, 4)) for i in range(3)}
    names = sorted(expected)
    texts = {
        "find": "".join(f"./{name}\n" for name in names).encode(),
        "bom": b"\xef\xbb\xbf" + "\r\n".join(names).encode(),
        "blanks": "".join(f"{name} \t\n" for name in names).encode(),
        "utf-16": "\r\n".join(names).encode("utf-16"),
    }
    for content in texts.values():
        (tmp_path / "list.txt").write_bytes(content)
        assert found(tmp_path / "list.txt") == expected
    (tmp_path / "LIST.TXT").write_bytes("\n".join(names).encode("utf-16") + b"\0")
    *whole, last = names  # the list is cut off within a character
    cut = {name: expected[name] for name in whole} | {f"{last}\ufffd": "unreadable"}
    assert found(tmp_path / "LIST.TXT") == cut
    (tmp_path / "blank.png ").write_bytes(IMAGES[0])
    (tmp_path / "list.txt").write_text("blank.png \n")
    assert found(tmp_path / "list.txt") == {"blank.png ": "unreadable"}


def test_a_list_of_which_no_line_is_a_file(tmp_path, capsys):
    make_folder(tmp_path, 3, side=4, names="{}.png")
    (tmp_path / "list.txt").write_text("2.png 1\n0.png 0\n1.png 1\n")
    assert main([str(tmp_path / "list.txt"), "--out", str(tmp_path / "out"), *HOW]) == 1
    said = capsys.readouterr().err
    assert "none of the 3 images of" in said
    assert "the first: 0.png 0: not there; a line is a path and no more" in said


def test_dot_slash_and_none_are_one_name(tmp_path):
    bare = make_tar(tmp_path / "a.tar", [("faces/a.png", IMAGES[0]), ("b.png", IMAGES[1])])
    dots = make_tar(tmp_path / "b.tar", [("./faces/a.png", IMAGES[0]), ("././b.png", IMAGES[1])])
    assert found(dots) == found(bare) == {"faces/a.png": IMAGES[0], "b.png": IMAGES[1]}
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("./faces/a.png", IMAGES[0])
        archive.writestr("./.hidden.png", IMAGES[0])
    assert found(tmp_path / "a.zip") == {"faces/a.png": IMAGES[0]}
    assert passed(tmp_path / "a.zip") == {".hidden.png": "hidden"}
    # ".//etc" is below the archive, "/etc" is not
    names = [(".//a.png", IMAGES[0]), ("/./b.png", IMAGES[0])]
    refused = {"/b.png": "name leaves the archive"}
    assert found(make_tar(tmp_path / "c.tar", names)) == {"a.png": IMAGES[0]} | refused


@pytest.mark.parametrize("host, slash", [(0, True), (0, False), (10, True), (3, False)])
def test_backslashes_of_windows(tmp_path, host, slash):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for i, name in enumerate(["faces\\man\\59999.png", "faces\\woman\\60000.png"]):
            info = zipfile.ZipInfo("x")
            info.filename, info.create_system = name, host
            archive.writestr(info, IMAGES[i])
        if slash:
            archive.writestr("other/a.png", IMAGES[2])
    names = ["faces/man/59999.png", "faces/woman/60000.png"]
    assert found(tmp_path / "a.zip") == dict(zip(names, IMAGES)) | (
        {"other/a.png": IMAGES[2]} if slash else {}
    )


def test_a_backslash_that_is_part_of_a_name_stays(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("faces/a\\b.png", IMAGES[0])
    assert found(tmp_path / "a.zip") == {"faces/a\\b.png": IMAGES[0]}


def test_names_that_are_no_text_are_shown(tmp_path, capsys):
    source = make_folder(tmp_path / "source", 4, side=8)
    (source / os.fsdecode(b"\xe9\n.gif")).write_bytes(b"x")
    how = [*HOW, "--test-fraction", "0.5"]
    assert main([str(source), "--out", str(tmp_path / "out"), *how]) == 0
    assert r"skipped: 1 .gif ('\udce9\n.gif')" in capsys.readouterr().out
