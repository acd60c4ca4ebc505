"""Prepare images as a dataset at every resolution, in two formats:

    python dataprep/shard.py SOURCE --out DIR

SOURCE is a folder tree, a zip, a tar or WebDataset shard, a parquet file, a TFRecord, CIFAR's
binary files, MNIST's, SVHN's or Cars3D's .mat, an AVI video, or a list (.txt) or a quoted pattern
('shards/*.tar') of these. Every image is decoded once, cropped to a square, and resized to
--max-resolution and every lower power of two down to 4. The result in DIR is WebDataset tars, FFCV
files and manifest.json; it appears whole or not at all. Run a stopped command again to resume.
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
from dataprep.rejects import RejectPolicy
from dataprep.runtime.pool import default_workers
from dataprep.runtime.progress import size
from dataprep.settings import Settings
from dataprep.verify import verify


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Splits: ffhq by the official ids (60,000 train, 10,000 test), celebahq 29,000 and "
        "1,000 by number, folder as delivered in train/ and val/ (or test/), fraction by a hash of "
        "each name, classes whole folders, tail the end of each folder; auto chooses ffhq or "
        "celebahq if they fit, else fraction, and prints why.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="SOURCE", nargs="?", help="where the images are")
    parser.add_argument("--out", metavar="DIR", type=Path, help="folder to make")

    add = parser.add_argument
    add("--verify", metavar="DIR", type=Path, help="check all files and images of a dataset")
    add("--index", metavar="TARS", help="write DIR/manifest.json for existing WebDataset tars")
    add("--dry-run", action="store_true", help="print counts, sizes and time; write nothing")
    add("--preview", action="store_true", help="also draw contact sheets and histograms of DIR")

    what = parser.add_argument_group("what is made (recorded in the manifest)")
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
    add("--shard-bytes", metavar="N", type=int, help="largest size of a tar [no limit]")
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
        help="for images that cannot be used; skip lists them in rejects.jsonl [skip]",
    )
    add(
        "--reject-limit",
        metavar="F",
        type=float,
        default=RejectPolicy().limit,
        help="largest share of rejected images with skip [0.01]",
    )
    add(
        "--task",
        metavar="I",
        type=int,
        help="do part I (from 0) of --tasks N, without finishing the dataset",
    )
    add("--tasks", metavar="N", type=int, help="number of tasks in all")
    add("--merge", action="store_true", help="finish the dataset that all tasks have made")
    return parser


def check(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Exit with a message if options are out of range or exclude each other."""
    if args.verify is not None:
        if args.source is not None or args.out is not None:
            parser.error("--verify DIR excludes SOURCE and --out")
    elif args.index is not None:
        if args.source is not None or args.out is None:
            parser.error("--index TARS needs --out DIR, and excludes SOURCE")
    elif args.source is None or args.out is None:
        parser.error("SOURCE and --out DIR are needed")
    if not 0 < args.test_fraction < 1:
        parser.error(f"--test-fraction {args.test_fraction:g}: must be between 0 and 1")
    if not 0 <= args.reject_limit <= 1:
        parser.error(f"--reject-limit {args.reject_limit:g}: must be from 0 to 1")
    if not 1 <= args.jpeg_quality <= 100:
        parser.error(f"--jpeg-quality {args.jpeg_quality}: must be from 1 to 100")
    if args.label_column is not None and args.labels != "stored":
        parser.error("--label-column needs --labels stored")
    for name in ("workers", "shard_samples", "shard_bytes", "tasks"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} {getattr(args, name)}: must be at least 1")
    if (args.task is None) != (args.tasks is None):
        parser.error("--task and --tasks need each other")
    if args.task is not None and (args.merge or not 0 <= args.task < args.tasks):
        parser.error("--task must be from 0 to N - 1, and excludes --merge")


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
    """Run the command; DatasetError if it fails."""
    if args.verify is not None:
        problems = verify(args.verify, args.workers)
        if problems:
            raise DatasetError("\n  ".join([f"{args.verify} is damaged:", *problems]))
        print(f"{args.verify} is intact")
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
    policy = RejectPolicy(args.on_error, args.reject_limit)
    made = prepare(
        args.source, args.out, settings_of(args), args.workers, policy, share, args.merge
    )
    if made is None:
        print(f"{args.out}: task {args.task} of {args.tasks} is done; run --merge after all tasks")
        return
    total = sum(file["bytes"] for file in made.content["files"])
    print(f"{args.out}: {size(total)}, digest {made.digest[:16]}")
    if args.preview:
        print(f"{preview(args.out)} shows the images")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns 0, or 1 after an error message."""
    command = parser()
    args = command.parse_args(argv)
    check(args, command)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names may not be valid text
    try:
        run(args)
    except (DatasetError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped: run the same command again to resume", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
