"""From images to a dataset at every resolution, in two formats:

    python dataprep/shard.py SOURCE --out DIR

SOURCE is a folder tree, a zip, a tar or WebDataset shard, a parquet file, a TFRecord, or a list
(.txt) or a quoted pattern ('shards/*.tar') of these. Every image is decoded once, cropped to a
square and resized to --max-resolution and every lower power of two down to 4. DIR then holds
WebDataset tars, FFCV files and manifest.json, and appears whole or not at all. A command that was
stopped goes on where it was when it is run again.
"""

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path

from dataprep import settings, split
from dataprep.estimate import estimate
from dataprep.index import index
from dataprep.manifest import SPLITS, DatasetError
from dataprep.prepare import Share, prepare
from dataprep.preview import preview
from dataprep.rejects import Tolerance
from dataprep.runtime.pool import default_workers
from dataprep.runtime.progress import size
from dataprep.settings import Settings
from dataprep.verify import verify


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Splits: ffhq by the official ids (60,000 train, 10,000 test), celebahq 29,000 and "
        "1,000 by number, folder as delivered in train/ and val/ (or test/), fraction by a hash of "
        "each name; auto takes ffhq or celebahq where they fit, else fraction, and says so.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="SOURCE", nargs="?", help="where the images are")
    parser.add_argument("--out", metavar="DIR", type=Path, help="folder to make")

    add = parser.add_argument
    add("--verify", metavar="DIR", type=Path, help="read a dataset again and name what is wrong")
    add("--index", metavar="TARS", help="make DIR/manifest.json for a WebDataset where it lies")
    add("--dry-run", action="store_true", help="tell counts, sizes and time; make nothing")
    add("--preview", action="store_true", help="draw contact sheets and histograms of DIR as well")

    what = parser.add_argument_group("what is made (all of this is in the manifest)")
    add = what.add_argument
    defaults = Settings()
    add("--max-resolution", type=int, choices=settings.RESOLUTIONS, default=256, help="[256]")
    add(
        "--formats",
        nargs="+",
        choices=settings.FORMATS,
        default=settings.FORMATS,
        help="[webdataset ffcv]",
    )
    add(
        "--tar-images",
        choices=settings.TAR_IMAGES,
        default=defaults.tar_images,
        help="png and webp are lossless; webp is smaller and slower [png]",
    )
    add(
        "--beton-images",
        choices=settings.BETON_IMAGES,
        default=defaults.beton_images,
        help="[raw]",
    )
    add(
        "--jpeg-quality",
        metavar="Q",
        type=int,
        default=defaults.jpeg_quality,
        help="where either is jpeg, 1 to 100 [95]",
    )
    add(
        "--shard-samples",
        metavar="N",
        type=int,
        default=defaults.shard_samples,
        help="images in a tar, and in a unit of work [250]",
    )
    add("--shard-bytes", metavar="N", type=int, help="end a tar before it is larger [no limit]")
    add("--split", choices=("auto", *split.RULES), default=defaults.split, help="[auto]")
    add(
        "--test-fraction",
        metavar="F",
        type=float,
        default=defaults.test_fraction,
        help="share of test images under fraction [0.1]",
    )
    add(
        "--labels",
        choices=settings.LABELS,
        default=defaults.labels,
        help="folder: each folder is a class; stored: .cls or .json in tars, column or feature "
        "`label`, dataset.json",
    )
    add(
        "--image-column",
        metavar="NAME",
        help="of tables; in tars the ending of a sample's image, as jpg, or any for all",
    )
    add("--label-column", metavar="NAME", help="of tables, or in tars as cls, or a key in .json")
    add(
        "--crop",
        choices=settings.CROPS,
        default=defaults.crop,
        help="what to do with images that are not square [centre]",
    )

    how = parser.add_argument_group("how it is made")
    add = how.add_argument
    add("--workers", metavar="N", type=int, default=default_workers(), help="[all processors]")
    add(
        "--on-error",
        choices=("skip", "fail"),
        default="skip",
        help="what to do about an image that cannot be used [skip, and list it in rejects.jsonl]",
    )
    add(
        "--reject-limit",
        metavar="F",
        type=float,
        default=Tolerance().limit,
        help="share of images that skip may leave out [0.01]",
    )
    add("--task", metavar="I", type=int, help="make part I (from 0) of --tasks N, no dataset yet")
    add("--tasks", metavar="N", type=int, help="number of tasks that share the work")
    add("--merge", action="store_true", help="put together what all tasks have made")
    return parser


def check(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Refuse what cannot be meant."""
    if args.verify is not None:
        if args.source is not None or args.out is not None:
            parser.error("--verify DIR stands alone")
    elif args.index is not None:
        if args.source is not None or args.out is None:
            parser.error("--index TARS goes with --out DIR, and without SOURCE")
    elif args.source is None or args.out is None:
        parser.error("SOURCE and --out DIR are needed")
    if not 0 < args.test_fraction < 1:
        parser.error(f"--test-fraction {args.test_fraction:g}: it lies between 0 and 1")
    if not 0 <= args.reject_limit <= 1:
        parser.error(f"--reject-limit {args.reject_limit:g}: it is a share, from 0 to 1")
    if not 1 <= args.jpeg_quality <= 100:
        parser.error(f"--jpeg-quality {args.jpeg_quality}: it lies between 1 and 100")
    if args.label_column is not None and args.labels != "stored":
        parser.error("--label-column goes with --labels stored")
    for name in ("workers", "shard_samples", "shard_bytes", "tasks"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} {getattr(args, name)}: at least 1")
    if (args.task is None) != (args.tasks is None):
        parser.error("--task I and --tasks N go together")
    if args.task is not None and (args.merge or not 0 <= args.task < args.tasks):
        parser.error("--task I is from 0 to N - 1, and --merge comes after all of them, alone")


def settings_of(args: argparse.Namespace) -> Settings:
    return Settings(
        max_resolution=args.max_resolution,
        formats=tuple(name for name in settings.FORMATS if name in args.formats),
        tar_images=args.tar_images,
        beton_images=args.beton_images,
        jpeg_quality=args.jpeg_quality,
        shard_samples=args.shard_samples,
        shard_bytes=args.shard_bytes,
        split=args.split,
        test_fraction=args.test_fraction,
        labels=args.labels,
        crop=args.crop,
        image_column=args.image_column,
        label_column=args.label_column,
    )


def run(args: argparse.Namespace) -> None:
    """Do what the command line says; DatasetError where that cannot be done."""
    if args.verify is not None:
        problems = verify(args.verify, args.workers)
        if problems:
            raise DatasetError("\n  ".join([f"{args.verify} is not sound:", *problems]))
        print(f"{args.verify} is sound")
        return
    if args.index is not None:
        made = index(args.index, args.out, args.test_fraction, args.workers)
        counts = ", ".join(f"{made.count(split):,} {split}" for split in SPLITS)
        print(f"{args.out}: {counts} images of {made.resolutions[0]} pixels in {made.place}")
        return
    if args.dry_run:
        estimate(args.source, args.out, settings_of(args), args.workers)
        return
    share = None if args.task is None else Share(args.task, args.tasks)
    tolerance = Tolerance(args.on_error, args.reject_limit)
    made = prepare(
        args.source, args.out, settings_of(args), args.workers, tolerance, share, args.merge
    )
    if made is None:
        print(f"{args.out}: task {args.task} of {args.tasks} is done; --merge comes after all")
        return
    total = sum(file["bytes"] for file in made.content["files"])
    print(f"{args.out}: {size(total)}, digest {made.digest[:16]}")
    if args.preview:
        print(f"{preview(args.out)} shows what it holds")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; 0 where it was done, 1 with a message where it could not be."""
    command = parser()
    args = command.parse_args(argv)
    check(args, command)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names need not be text
    try:
        run(args)
    except (DatasetError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped: the same command goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
