"""Generates, reconstructs, interpolates and mixes images with a trained model:

    python -m pipeline.sample generate    --checkpoint runs/ffhq256 --count 64 --out samples.png
    python -m pipeline.sample reconstruct --checkpoint runs/ffhq256 faces/ --out reconstructions/
    python -m pipeline.sample interpolate --checkpoint runs/ffhq256 a.png b.png --out between.mp4
    python -m pipeline.sample mix         --checkpoint runs/ffhq256 --levels 4-8 --out mixed.png
    python -m pipeline.sample grid        --checkpoint runs/ffhq256 --out resolutions.png
    python -m pipeline.sample translate   --checkpoint runs/cars3d classes/ contents/ --out cars.png

The inputs are images (files or folders), --latents, or draws of the prior with --seed. --out is a
grid (.png), a folder of PNGs, an array (.npy: N, 3, R, R; float32, not clipped), or for
`interpolate` a movie (.mp4, .gif).
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from pipeline import model as models
from pipeline.data.loaders import to_uint8
from pipeline.networks.family import PRECISIONS, ModelError
from pipeline.networks.style.decoder import style_layers
from pipeline.networks.style.trained import NOISE, Model, styled
from pipeline.pictures import outputs
from pipeline.pictures.grids import bordered, reconstructions
from pipeline.pictures.inputs import (
    BATCH,
    SourceError,
    find_w,
    find_z,
    image_files,
    in_batches,
    read_images,
)
from pipeline.pictures.outputs import MOVIES, OutputError
from pipeline.records.checkpoints import CheckpointError
from pipeline.records.files import whole

USER_ERRORS = (CheckpointError, ModelError, OutputError, SourceError, OSError)


def main(arguments: list[str] | None = None) -> None:
    given = parser().parse_args(arguments)
    try:
        named = (getattr(given, name, None) for name in ("latents", "classes", "contents"))
        read = [*getattr(given, "images", []), *named]
        outputs.check(given.out, filter(None, read))
        if given.out.suffix in MOVIES and given.command != "interpolate":
            raise OutputError(f"{given.command} writes no movie: --out {outputs.KINDS}")
        model = models.load(
            given.checkpoint,
            resolution=given.resolution,
            alpha=given.alpha,
            device=given.device,
            precision=given.precision,
        )
        torch.manual_seed((1 << 32) + given.seed)  # for the noise; z uses the seed itself
        given.run(model, given)
    except USER_ERRORS as error:
        sys.exit(f"python -m pipeline.sample: {error}")


def generate(model: Any, given: argparse.Namespace) -> None:
    z = find_z(model, [], given.latents, given.count, given.seed)
    labels = labels_of(model, given, len(z))
    made = images_of(model.from_prior, z, labels, styling(model, given))
    outputs.write(given.out, made, len(z), given.columns)


def reconstruct(model: Any, given: argparse.Namespace) -> None:
    """Images of mu; in a grid, below the input images."""
    files = image_files(given.images)

    def made_of(part: list[Path], **said) -> Tensor:
        return model.reconstruct(read_images(part, model.resolution), **said)

    labels = labels_of(model, given, len(files))
    made = images_of(made_of, files, labels, styling(model, given))
    if given.out.suffix != ".png":
        outputs.write(given.out, made, len(files), given.columns)
        return
    made = torch.cat(list(made))
    x = read_images(files, model.resolution)
    columns = min(given.columns, len(x))
    filled = -len(x) % columns  # white images pad the last row
    x, made = (F.pad(part.cpu(), (0, 0) * 3 + (0, filled), value=1.0) for part in (x, made))
    save(given.out, reconstructions(to_uint8(x), to_uint8(made), columns))


def interpolate(model: Any, given: argparse.Namespace) -> None:
    """Interpolates on a line, along a path, or in the square between four images (figure 4).

    Interpolation is linear in z or in w. The decoder uses only the direction of z (spec A.7).
    """
    labels = labels_of(model, given, 1)
    if given.space == "z":
        ends = find_z(model, given.images, given.latents, given.count, given.seed, labels)
    else:
        ends = find_w(styled(model), given.images, given.latents, given.count, given.seed)
    if len(ends) < 2:
        raise SourceError(f"interpolation needs at least two images, not {len(ends)}")
    square = len(ends) == 4 and not given.path and given.out.suffix not in MOVIES
    points = (between_four if square else along)(ends, given.steps)
    columns = given.steps if square or len(ends) == 2 else given.columns
    if given.space == "w":
        made = decoded(model, points, given)
    else:
        decode = model.decode if given.images else model.from_prior
        labels = None if labels is None else labels.expand(len(points))
        made = images_of(decode, points, labels, styling(model, given))
    outputs.write(given.out, made, len(points), columns, given.frame_rate)


def along(ends: Tensor, steps: int) -> Tensor:
    """Points on the lines from each end to the next: `steps` on each line, both ends included."""
    t = torch.linspace(0, 1, steps).to(ends)[1:, None]
    lines = [torch.lerp(a, b, t) for a, b in pairwise(ends)]
    return torch.cat([ends[:1], *lines])


def between_four(corners: Tensor, steps: int) -> Tensor:
    """Bilinear interpolation of the corners upper left, upper right, lower left, lower right:
    `steps` rows of `steps`."""
    left, right = along(corners[[0, 2]], steps), along(corners[[1, 3]], steps)
    return torch.cat([along(torch.stack(pair), steps) for pair in zip(left, right)])


def mix(model: Model, given: argparse.Namespace) -> None:
    """A table: the row's image with the column's styles at the chosen resolutions."""
    model = styled(model)
    w = find_w(model, given.images, given.latents, given.count, given.seed)
    rows = given.rows or len(w) // 2
    if not 0 < rows < len(w):
        raise SourceError(f"{len(w)} images are too few for {rows or 1} rows and a column")
    mixed = cross(w[:rows], w[rows:], taken(given.levels, model.resolution))
    columns = len(w) - rows
    if given.out.suffix != ".png":
        outputs.write(given.out, decoded(model, mixed, given), len(mixed), columns)
        return
    faces = to_uint8(torch.cat(list(decoded(model, w, given))))
    table = to_uint8(torch.cat(list(decoded(model, mixed, given))))
    save(given.out, bordered(table, left=faces[:rows], top=faces[rows:]))


def taken(levels: tuple[int, int], resolution: int) -> Tensor:
    """The styles of the resolutions from the first to the second, a mask (layers,). ModelError."""
    sides = torch.tensor([4 << (row // 2) for row in range(style_layers(resolution))])
    chosen = (sides >= levels[0]) & (sides <= levels[1])
    if not chosen.any():
        raise ModelError(f"--levels {levels[0]}-{levels[1]}: the model has 4 to {resolution}")
    return chosen


def cross(rows: Tensor, columns: Tensor, chosen: Tensor) -> Tensor:
    """Styles (rows x columns, layers, latent): the columns' where `chosen`, else the rows'."""
    chosen = chosen.to(rows.device)[:, None]
    return torch.cat([torch.where(chosen, columns[:, None], row) for row in rows])


def resolutions(model: Model, given: argparse.Namespace) -> None:
    """Each image at all resolutions side by side, enlarged to the largest by repeating pixels."""
    model = styled(model)
    w = model.styles(find_z(model, [], given.latents, given.count, given.seed))
    sides = [r for r in model.resolutions if r <= model.resolution]

    def rows() -> Iterator[Tensor]:
        for one in w:
            for side in sides:
                at = model if side == model.resolution else model.at(side)
                image = at.synthesize(one[None], given.noise, given.psi)
                yield F.interpolate(image, size=model.resolution, mode="nearest")

    outputs.write(given.out, rows(), len(w) * len(sides), len(sides))


def translate(model: Any, given: argparse.Namespace) -> None:
    """A table: the class of the row's image with the content of the column's."""
    if not hasattr(model, "translate"):
        raise ModelError("these networks have one code for class and content")
    rows, columns = (
        read_images(image_files([path]), model.resolution)
        for path in (given.classes, given.contents)
    )
    pairs = in_batches(
        lambda part: model.translate(
            rows[part.div(len(columns), rounding_mode="floor")], columns[part % len(columns)]
        ),
        torch.arange(len(rows) * len(columns)),
    )
    if given.out.suffix != ".png":
        outputs.write(given.out, pairs, len(rows) * len(columns), len(columns))
        return
    table = to_uint8(torch.cat(list(pairs))).cpu()
    save(given.out, bordered(table, left=to_uint8(rows), top=to_uint8(columns)))


def images_of(
    make: Callable, x: Tensor | list[Path], labels: Tensor | None, styling: dict
) -> Iterator[Tensor]:
    """`make` of x and its labels, in batches."""
    for first in range(0, len(x), BATCH):
        place = slice(first, first + BATCH)
        said = {} if labels is None else {"labels": labels[place]}
        yield make(x[place], **said, **styling)


def labels_of(model: Any, given: argparse.Namespace, count: int) -> Tensor | None:
    """--label, or all classes in turn; None for networks without classes. ModelError."""
    classes = getattr(model, "classes", 0)
    if given.label is not None and not 0 <= given.label < classes:
        known = f"classes 0 to {classes - 1}" if classes else "no classes"
        raise ModelError(f"--label {given.label}: these networks have {known}")
    if not classes:
        return None
    return (
        torch.full((count,), given.label)
        if given.label is not None
        else (torch.arange(count) % classes)
    )


def styling(model: Any, given: argparse.Namespace) -> dict:
    """Arguments for networks with styles. ModelError for networks without."""
    if isinstance(model, Model):
        return {"noise": given.noise, "psi": given.psi}
    if given.noise != "random" or given.psi != 1:
        raise ModelError("--noise and --psi are for style networks only")
    return {}


def decoded(model: Model, w: Tensor, given: argparse.Namespace) -> Iterator[Tensor]:
    return in_batches(lambda part: model.synthesize(part, given.noise, given.psi), w)


def save(out: Path, picture: Image.Image) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    with whole(out) as beside:
        picture.save(beside, "PNG")


def span(text: str) -> tuple[int, int]:
    """ "8-32" or "8" as resolutions."""
    first, _, last = text.partition("-")
    return int(first), int(last or first)


def positive(text: str) -> int:
    if int(text) < 1:
        raise ValueError
    return int(text)


def several(text: str) -> int:
    if int(text) < 2:
        raise ValueError
    return int(text)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m pipeline.sample",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name, run, help, count=None, images=None):
        p = commands.add_parser(name, help=help, description=help)
        p.set_defaults(run=run)
        if images:
            p.add_argument("images", nargs=images, type=Path, help="files, or folders of them")
        p.add_argument("--checkpoint", required=True, type=Path, help="checkpoint or run folder")
        p.add_argument("--out", required=True, type=Path, help=outputs.KINDS)
        p.add_argument("--seed", type=int, default=0, help="seed of the draws and of the noise")
        if count:
            p.add_argument("--latents", type=Path, metavar="FILE.npy", help="z, (N, latent)")
            p.add_argument(
                "--count", type=positive, default=count, help="number of draws (%(default)s)"
            )
        p.add_argument(
            "--noise",
            choices=NOISE,
            default="random",
            help="one map per image, one for all, or the published term (%(default)s)",
        )
        p.add_argument("--label", type=int, help="class, for networks with classes")
        p.add_argument("--resolution", type=int, help="a trained resolution (largest)")
        p.add_argument("--alpha", type=float, help="weight of the fade-in, 0 to 1")
        p.add_argument(
            "--psi",
            type=float,
            default=1.0,
            help="below 1, truncates w towards its mean (%(default)s)",
        )
        p.add_argument("--columns", type=positive, default=8, help="grid columns (%(default)s)")
        p.add_argument("--device", help="cpu, cuda, cuda:1 (a GPU if there is one)")
        p.add_argument("--precision", choices=PRECISIONS, default="fp32")
        return p

    add("generate", generate, "samples of the prior", count=64)
    add("reconstruct", reconstruct, "images through encoder and decoder", images="+")
    p = add("translate", translate, "the class of one image, the content of another")
    p.add_argument("classes", type=Path, help="an image or a folder: the rows")
    p.add_argument("contents", type=Path, help="an image or a folder: the columns")
    p = add("interpolate", interpolate, "from image to image", count=2, images="*")
    p.add_argument("--space", choices=("z", "w"), default="z", help="(%(default)s)")
    p.add_argument("--steps", type=several, default=9, help="images per line (%(default)s)")
    p.add_argument("--path", action="store_true", help="a path through four images, not a square")
    p.add_argument(
        "--frame-rate", type=positive, default=25, help="frames per second (%(default)s)"
    )
    p = add("mix", mix, "styles of one image on another", count=8, images="*")
    p.add_argument("--rows", type=positive, help="number of images that are rows (half)")
    p.add_argument(
        "--levels",
        type=span,
        default=(4, 8),
        metavar="FROM-TO",
        help="resolutions at which a row takes the column's styles (4-8)",
    )
    add("grid", resolutions, "all resolutions side by side", count=4)
    return top


if __name__ == "__main__":
    main()
