"""Which images train and which test: functions of the images' names alone, so that the order in
which a disk lists them, or a second run, changes nothing.

  ffhq       the official ids: 00000-59999 train, 60000-69999 test
  celebahq   the 30,000 images sorted by number: the first 29,000 train, the last 1,000 test
  fraction   a share of the images by a hash of the name: an image keeps its side when others
             come or go
"""

import hashlib
import posixpath
import re
from collections.abc import Sequence
from typing import NamedTuple

from dataprep.manifest import DatasetError

RULES = ("ffhq", "celebahq", "fraction")
FFHQ_TRAIN = 60_000
FFHQ_ALL = 70_000
CELEBAHQ_TRAIN = 29_000
CELEBAHQ_ALL = 30_000


class Split(NamedTuple):
    """The rule taken, why, and for each name whether it is a test image."""

    rule: str
    why: str
    test: list[bool]


def split(names: Sequence[str], asked: str, test_fraction: float) -> Split:
    """Split `names` (paths inside the source) by the rule `asked`, or by one chosen for "auto".

    "auto" takes ffhq where every name is an FFHQ id and both sides get images, celebahq for 30,000
    images numbered without a gap, and else fraction; `why` says which and for what reason.
    DatasetError where the rule does not fit the names, or a side would be empty.
    """
    rule, why = choose(names) if asked == "auto" else (asked, f"as asked by --split {asked}")
    if rule == "ffhq":
        test = [ffhq_id(name, required=True) >= FFHQ_TRAIN for name in names]
    elif rule == "celebahq":
        test = celebahq(names)
    else:
        test = [name_hash(name) < test_fraction for name in names]
    for side, size in (("train", test.count(False)), ("test", test.count(True))):
        if size == 0:
            raise DatasetError(empty(side, rule, len(names), test_fraction))
    return Split(rule, why, test)


def choose(names: Sequence[str]) -> tuple[str, str]:
    """The rule that fits the names, and the reason in words."""
    ids = [ffhq_id(name) for name in names]
    if all(i is not None for i in ids):
        if min(ids) < FFHQ_TRAIN <= max(ids):
            return "ffhq", "every name is an FFHQ id, and there are ids on both sides of 60000"
        side = "below" if max(ids) < FFHQ_TRAIN else "from"
        if not (len(ids) == CELEBAHQ_ALL and gapless(names)):
            return "fraction", (
                f"the names could be FFHQ ids, but all are {side} 60000 and the official rule "
                "would leave one side empty"
            )
    if len(names) == CELEBAHQ_ALL and gapless(names):
        return "celebahq", "30,000 images numbered without a gap"
    return "fraction", "the names are neither FFHQ ids nor the 30,000 numbers of CelebA-HQ"


def stem(name: str) -> str:
    return posixpath.splitext(posixpath.basename(name))[0]


def ffhq_id(name: str, required: bool = False) -> int | None:
    """The official id of an FFHQ image by its name, 00000 to 69999, or None."""
    if re.fullmatch(r"[0-6][0-9]{4}", stem(name), re.ASCII):
        return int(stem(name))
    if required:
        raise DatasetError(
            f"--split ffhq: {name!r} is not named by an FFHQ id (00000 to 69999); "
            "use --split fraction"
        )
    return None


def numbers(names: Sequence[str]) -> list[int] | None:
    """The number each name consists of, or None if one of them is no number."""
    stems = [stem(name) for name in names]
    if all(re.fullmatch(r"[0-9]{1,18}", s, re.ASCII) for s in stems):
        return [int(s) for s in stems]
    return None


def gapless(names: Sequence[str]) -> bool:
    found = numbers(names)
    return found is not None and len(set(found)) == len(found) == max(found) - min(found) + 1


def celebahq(names: Sequence[str]) -> list[bool]:
    """True for the 1,000 highest numbers. The rule is one of ranks: it needs the whole set."""
    if len(names) != CELEBAHQ_ALL or not gapless(names):
        raise DatasetError(
            f"--split celebahq needs the {CELEBAHQ_ALL:,} images of CelebA-HQ named by their "
            f"numbers without a gap, and these {len(names):,} names are not that; "
            "use --split fraction"
        )
    found = numbers(names)
    first_test = min(found) + CELEBAHQ_TRAIN
    return [number >= first_test for number in found]


def name_hash(name: str) -> float:
    """A uniform number in [0, 1) from the path inside the source, without its ending."""
    text = posixpath.splitext(name)[0]
    hashed = hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
    return (int.from_bytes(hashed[:8], "big") >> 11) / 2**53  # 53 bits: exact in a float


def empty(side: str, rule: str, total: int, test_fraction: float) -> str:
    if rule == "fraction":
        way_out = f"try another --test-fraction than {test_fraction:g}, or add images"
    else:
        way_out = "use --split fraction"
    return f"--split {rule} leaves no image to {side} of {total:,} in all; {way_out}"
