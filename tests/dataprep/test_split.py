"""Splits depend on names alone; official rules are used if they fit, and the choice is printed."""

import random

import pytest

from dataprep.manifest import DatasetError
from dataprep.split import choose, name_hash

FFHQ = [f"{i // 1000 * 1000:05d}/{i:05d}.png" for i in range(70_000)]
CELEBAHQ = [f"{i}.jpg" for i in range(30_000)]


def side_of_test(names, asked="auto", fraction=0.1):
    rule = choose(iter(names), asked, fraction)
    return {name for name in names if rule.is_test(name)}


@pytest.mark.parametrize("names", [FFHQ, CELEBAHQ, [f"a/{i}.png" for i in range(500)]])
def test_the_order_of_the_names_does_not_matter(names):
    shuffled = random.Random(0).sample(names, len(names))
    assert side_of_test(names) == side_of_test(shuffled)


def test_ffhq_is_split_by_the_official_ids():
    assert choose(FFHQ, "auto", 0.1).name == "ffhq"
    assert side_of_test(FFHQ) == set(FFHQ[60_000:])


def test_part_of_ffhq_keeps_its_sides_where_both_are_there():
    names = ["00007.jpg", "59999.jpg", "60000.jpg", "69999.jpg"]
    assert side_of_test(names) == {"60000.jpg", "69999.jpg"}


@pytest.mark.parametrize("ids", [range(1100), range(60_000, 61_100)])
def test_part_of_ffhq_on_one_side_is_split_by_fraction_and_says_so(ids):
    names = [f"{i:05d}.jpg" for i in ids]
    found = choose(names, "auto", 0.1)
    assert found.name == "fraction" and "official rule would leave one side empty" in found.why


ARABIC_ONE = "\u0660\u0660\u0660\u0660\u0661.png"  # 00001 in digits that int() takes


@pytest.mark.parametrize("name", ["70000.png", "001.png", "000001.png", "face.png", ARABIC_ONE])
def test_names_that_are_no_ffhq_ids(name):
    names = [*FFHQ[59_900:60_100], name]
    assert choose(names, "auto", 0.5).name == "fraction"
    with pytest.raises(DatasetError, match="is not named by an FFHQ id"):
        choose(names, "ffhq", 0.1)


@pytest.mark.parametrize("first, form", [(0, "{}.jpg"), (1, "{}.jpg"), (1, "{:05d}.jpg")])
def test_celebahq_is_split_by_number(first, form):
    names = sorted(form.format(i) for i in range(first, first + 30_000))
    assert choose(names, "auto", 0.1).name == "celebahq"
    last = {form.format(i) for i in range(first + 29_000, first + 30_000)}
    assert side_of_test(names) == last


@pytest.mark.parametrize("names", [CELEBAHQ[:-1], [*CELEBAHQ[:-1], "30000.jpg"], ["a.jpg"] * 9])
def test_celebahq_needs_the_whole_set(names):
    with pytest.raises(DatasetError, match="needs the 30,000 images"):
        choose(names, "celebahq", 0.1)


def test_a_fraction_is_about_that_and_keeps_sides_when_images_come():
    names = [f"faces/{i}.png" for i in range(10_000)]
    before = side_of_test(names[:5_000], fraction=0.2)
    after = side_of_test(names, fraction=0.2)
    assert before == {name for name in after if name in set(names[:5_000])}
    assert abs(len(after) - 2000) < 5 * (10_000 * 0.2 * 0.8) ** 0.5
    assert before < side_of_test(names[:5_000], fraction=0.3)


def test_the_hash_never_changes():
    # printf faces/1 | sha256sum: another hash would mix train and test of datasets made before
    assert name_hash("faces/1.png") == name_hash("faces/1.jpg")
    assert name_hash("faces/1.png") == (0xB37B6410FE890D1D >> 11) / 2**53
