"""The split of an image, train or test: a function of its name, not of the order of listing.

ffhq       the official ids: 00000-59999 train, 60000-69999 test
celebahq   the 30,000 images sorted by number: the first 29,000 train, the last 1,000 test
folder     as delivered: train for images in a folder (or archive) called train or training,
           test for those in val, valid, validation, dev, test, testing or eval
fraction   a share of the images by a hash of the name: an image keeps its split when others
           are added or removed
classes    a share of the folders (or archives), by a hash of the name
tail       the last share of the images of each folder (or video), by name, as neighbouring
           frames are near copies of each other
"""

import functools
import hashlib
import posixpath
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from dataprep.manifest import DatasetError

RULES = ("ffhq", "celebahq", "folder", "fraction", "classes", "tail")
TRAIN = ("train", "training")
TEST = ("val", "valid", "validation", "dev", "test", "testing", "eval")
FFHQ_TRAIN = 60_000
FFHQ_ALL = 70_000
CELEBAHQ_TRAIN = 29_000
CELEBAHQ_ALL = 30_000


class Rule(NamedTuple):
    """A rule, why it was chosen, whether a name is that of a test image, and a note to print."""

    name: str
    why: str
    is_test: Callable[[str], bool]
    note: str | None = None


@dataclass
class NameStatistics:
    """What the rules need to know of all names, in bounded memory."""

    count: int = 0
    no_id: str | None = None  # the first name that is no FFHQ id
    least_id: int = FFHQ_ALL
    most_id: int = -1
    numbers: set[int] | None = field(default_factory=set)  # None if it cannot be CelebA-HQ
    sides: dict[str | None, int] = field(default_factory=dict)  # by the folders' names
    first: dict[str | None, str] = field(default_factory=dict)  # name on each side

    def add(self, name: str) -> None:
        self.count += 1
        side = side_of(name)
        self.sides[side] = self.sides.get(side, 0) + 1
        self.first.setdefault(side, name)
        number = ffhq_id(name)
        if number is not None:
            self.least_id, self.most_id = min(self.least_id, number), max(self.most_id, number)
        elif self.no_id is None:
            self.no_id = name
        if self.numbers is not None:
            text = stem(name)
            if self.count <= CELEBAHQ_ALL and re.fullmatch(r"[0-9]{1,18}", text, re.ASCII):
                self.numbers.add(int(text))
            else:
                self.numbers = None

    @property
    def is_celebahq(self) -> bool:
        """30,000 numbers without a gap."""
        found = self.numbers
        return (
            found is not None
            and self.count == len(found) == CELEBAHQ_ALL == max(found) - min(found) + 1
        )


def choose(names: Iterable[str], asked: str, test_fraction: float) -> Rule:
    """The rule `asked` for `names` (paths in the source); for "auto", one that fits.

    "auto" chooses ffhq if every name is an FFHQ id and both splits get images, celebahq for 30,000
    images numbered without a gap, else fraction. Iterates once over the names. DatasetError if the
    rule does not fit them.
    """
    if asked in ("classes", "tail"):
        return by_folders(names, asked, test_fraction)
    seen = NameStatistics()
    for name in names:
        seen.add(name)
    rule, why = fitting(seen) if asked == "auto" else (asked, f"as asked by --split {asked}")
    if rule == "folder":
        if None in seen.sides:
            raise DatasetError(
                f"--split folder: {seen.first[None]!r} is in no folder called "
                f"{', '.join(TRAIN + TEST)}; use --split fraction"
            )
        return Rule(rule, why, lambda name: side_of(name) == "test")
    return official(rule, why, seen, test_fraction)._replace(note=mixed(rule, seen))


def by_folders(names: Iterable[str], asked: str, test_fraction: float) -> Rule:
    """Hold out whole folders, or the end of each; DatasetError if a split is empty."""
    folders: dict[str, list[str]] = {}
    for name in names:
        folder, _, last = name.rpartition("/")
        folders.setdefault(folder, []).append(last)
    if asked == "classes":
        count = round(test_fraction * len(folders))
        if not 0 < count < len(folders):
            raise DatasetError(
                f"--split classes: {test_fraction:g} of {len(folders)} folders are {count}; try "
                "another --test-fraction"
            )
        held = set(sorted(folders, key=name_hash)[:count])
        why = f"as asked: {count} of {len(folders)} folders are held out"
        return Rule(asked, why, lambda name: name.rpartition("/")[0] in held)
    first = {}
    for folder, inside in folders.items():
        count = max(1, round(test_fraction * len(inside)))
        first[folder] = sorted(inside)[-count]
    why = f"as asked: the last {test_fraction:g} of each of {len(folders)} folders"
    return Rule(asked, why, lambda name: name.rpartition("/")[2] >= first[name.rpartition("/")[0]])


def official(rule: str, why: str, seen: NameStatistics, test_fraction: float) -> Rule:
    """The rule of this name; DatasetError if it does not fit."""
    if rule == "ffhq":
        if seen.no_id is not None:
            raise DatasetError(
                f"--split ffhq: {seen.no_id!r} is not named by an FFHQ id (00000 to 69999); "
                "use --split fraction"
            )
        return Rule(rule, why, lambda name: int(stem(name)) >= FFHQ_TRAIN)
    if rule == "celebahq":
        if not seen.is_celebahq:
            raise DatasetError(
                f"--split celebahq needs the {CELEBAHQ_ALL:,} images of CelebA-HQ named by their "
                f"numbers without a gap, and these {seen.count:,} names are not that; "
                "use --split fraction"
            )
        first_test = min(seen.numbers) + CELEBAHQ_TRAIN
        return Rule(rule, why, lambda name: int(stem(name)) >= first_test)
    return Rule(rule, why, lambda name: name_hash(name) < test_fraction)


def fitting(seen: NameStatistics) -> tuple[str, str]:
    """The rule that fits the names, and why."""
    if seen.no_id is None and seen.least_id < FFHQ_TRAIN <= seen.most_id:
        return "ffhq", "every name is an FFHQ id, and there are ids on both sides of 60000"
    if seen.is_celebahq:
        return "celebahq", "30,000 images numbered without a gap"
    if seen.no_id is None:
        side = "below" if seen.most_id < FFHQ_TRAIN else "from"
        return "fraction", (
            f"the names could be FFHQ ids, but all are {side} 60000 and the official rule "
            "would leave one side empty"
        )
    return "fraction", "the names are neither FFHQ ids nor the 30,000 numbers of CelebA-HQ"


def mixed(rule: str, seen: NameStatistics) -> str | None:
    """A note if there are folders called train and test, which the rule ignores."""
    if not seen.sides.get("train") or not seen.sides.get("test"):
        return None
    return (
        f"{seen.sides['train']:,} images are in folders for training ({seen.first['train']}), "
        f"{seen.sides['test']:,} in folders for testing ({seen.first['test']}): --split {rule} "
        "mixes them, --split folder keeps them apart"
    )


def side_of(name: str) -> str | None:
    """ "train" or "test", as the first folder says that is called so; None where none is.

    A folder is called so by a word of its name, as val2017, or train-00000-of-00002.parquet.
    """
    return side_of_folder(name.rpartition("/")[0])


@functools.lru_cache
def side_of_folder(path: str) -> str | None:
    """The same of the path of a folder."""
    for folder in path.lower().split("/"):
        words = set(re.split(r"[^a-z]+", folder))
        sides = {side for side, known in (("train", TRAIN), ("test", TEST)) if words & {*known}}
        if len(sides) == 1:
            return sides.pop()
    return None


def stem(name: str) -> str:
    return posixpath.splitext(posixpath.basename(name))[0]


def ffhq_id(name: str) -> int | None:
    """The official id of an FFHQ image by its name, 00000 to 69999, or None."""
    text = stem(name)
    return int(text) if re.fullmatch(r"[0-6][0-9]{4}", text, re.ASCII) else None


def name_hash(name: str) -> float:
    """A uniform number in [0, 1) from the path inside the source, without its extension."""
    text = posixpath.splitext(name)[0]
    hashed = hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
    return (int.from_bytes(hashed[:8], "big") >> 11) / 2**53  # 53 bits: exact in a float


def empty_split(side: str, rule: str, total: int, test_fraction: float) -> str:
    """The error message if a rule leaves no image to one side."""
    if rule == "fraction":
        way_out = f"try another --test-fraction than {test_fraction:g}, or add images"
    else:
        way_out = "use --split fraction"
    return f"--split {rule} leaves no image to {side} of {total:,} in all; {way_out}"
