"""Converts published checkpoints to ours and back, and ours to ONNX:

    python -m pipeline.convert ffhq_fid_17.55_epoch_270.pth models/ffhq
    python -m pipeline.convert runs/ffhq256 ours.pth --to-reference
    python -m pipeline.convert runs/ffhq256 onnx/ --onnx --resolution 128

The published files are pickles. torch's unpickler for weights reads them: it creates tensors, plain
containers, and an empty stand-in for the training's loss tracker. It refuses a file that needs any
other class, and names the class. Both networks and their moving averages are converted exactly.
Optimiser state, schedule and tracker are dropped. (Residual networks have no averages; their
running statistics take the place of our population statistics.) A file saved before its last
resolution becomes a checkpoint at the resolution that its training reached.
"""

import argparse
import pickle
import re
import sys
import tarfile
import warnings
from pathlib import Path

import torch

from pipeline import model
from pipeline.config import plain
from pipeline.networks.family import ModelError
from pipeline.networks.residual import population
from pipeline.networks.residual import published as residual
from pipeline.networks.style import published
from pipeline.networks.style.published import EMA, LayoutError
from pipeline.records import checkpoints
from pipeline.records.checkpoints import Checkpoint, CheckpointError
from pipeline.records.files import sha256, whole

TRACKED = ("tracker.RunningMean", "tracker.RunningMeanTorch")


class ConvertError(Exception):
    """A file that cannot be converted; the message names the file and the reason."""


class StandIn:
    """An empty stand-in for pickled objects that the conversion does not need."""

    def __init__(self, *_, **__):
        pass

    def __setstate__(self, _):
        pass


def read_published(path: Path) -> dict:
    """A published file's content: `models`, state dicts by module name, or `model`, the state dict
    of residual networks. ConvertError."""
    try:
        stand_ins: list = [(StandIn, name) for name in TRACKED]
        with torch.serialization.safe_globals(stand_ins), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        unwanted = re.search(r"GLOBAL (\S+)|[Uu]nsupported class (\S+)", str(error))
        if unwanted:
            raise ConvertError(
                f"{path} was not read: unpickling it would run "
                f"{(unwanted[1] or unwanted[2]).rstrip('.')}, which no published checkpoint needs"
            ) from None
        raise ConvertError(f"{path} is not a file that torch.save wrote") from None
    except RuntimeError as error:
        if tarfile.is_tarfile(path):
            raise ConvertError(
                f"{path} is in torch's first format, a tar, which cannot be read without running "
                "its content: look for a newer copy"
            ) from None
        first = str(error).partition("\n")[0]  # the rest advises to load the file unsafely
        raise ConvertError(f"{path} is not a file that torch.save wrote ({first})") from None
    except (OSError, EOFError, ValueError, KeyError, AttributeError) as error:
        reason = getattr(error, "strerror", None) or f"not a file that torch.save wrote ({error})"
        raise ConvertError(f"{path}: {reason}") from None
    models = content if isinstance(content, dict) else {}
    if not any(isinstance(models.get(key), dict) for key in ("models", "model")):
        found = type(content).__name__
        if isinstance(content, dict):
            found = f"the keys {', '.join(map(str, list(content)[:8]))}"
        raise ConvertError(f"{path} is no published checkpoint: it holds {found}, not `models`")
    return content


def to_ours(path: Path, resolution: int | None = None) -> Checkpoint:
    """A published file as a checkpoint of ours, trained up to `resolution`. None detects the
    resolution from the weights. ConvertError."""
    content = read_published(path)
    if "models" not in content:
        return residual_to_ours(path, content["model"])
    models = content["models"]
    try:
        sets = [published.gather(models, ending) for ending in ("", EMA)]
        found = sets[1] or sets[0]
        if not found:
            wanted = ", ".join(published.MODULES.values())
            raise LayoutError(f"`models` has none of {wanted}; found: {', '.join(models)}")
        not_tensors = [n for s in sets for n, t in s.items() if not isinstance(t, torch.Tensor)]
        if not_tensors:
            raise LayoutError(f"{not_tensors[0]} is not a tensor")
        shape = published.shape_of(found)
        weights, ema = (published.from_published(s, shape) if s else {} for s in sets)
    except LayoutError as error:
        raise ConvertError(f"{path} is no published checkpoint: {error}") from None
    resolution = resolution or published.trained_resolution(ema or weights, shape)
    if resolution not in shape.resolutions:
        raise ConvertError(
            f"{path} does not show the resolution that it was trained to: set it with "
            f"--resolution, one of {', '.join(map(str, shape.resolutions))}"
        )
    running = models.get("dlatent_avg")
    if weights and isinstance(running, dict) and isinstance(running.get("buff"), torch.Tensor):
        weights["mean_style"] = running["buff"]
    if ema:
        ema |= model.assemble(shape, ema, path)[0].derived()
    converted = {"kind": published.kind_of(found), "file": path.name, "sha256": sha256(path)}
    about = {
        "images": None,  # the file counts epochs, not images
        "config": {"shape": plain(shape)},
        "resolution": resolution,
        "alpha": 1.0,
        "converted": converted,
    }
    return Checkpoint(weights, ema, {}, about)


def residual_to_ours(path: Path, tensors: dict) -> Checkpoint:
    """A published residual model as a checkpoint of ours. ConvertError."""
    # DataParallel prefixes names with `module.`.
    tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    try:
        shape = residual.shape_of(tensors)
        weights, derived, counts = residual.from_published(tensors, shape)
    except residual.LayoutError as error:
        raise ConvertError(f"{path} is no published checkpoint: {error}") from None
    about = {
        "images": None,
        "config": {"shape": plain(shape)},
        "resolution": shape.resolution,
        "alpha": 1.0,
        "converted": {
            "kind": "residual soft-introvae",
            "file": path.name,
            "sha256": sha256(path),
            "averages": "not published: equal to the weights",
            "statistics": "running, as published",
            "batches_tracked": counts,
        },
    }
    return Checkpoint(weights, weights | derived, {}, about)


def residual_to_reference(checkpoint: Checkpoint) -> dict:
    """The averages of a residual checkpoint as the content of a published file."""
    about = checkpoint.about
    counts = about.get("converted", {}).get("batches_tracked")
    counts = counts or dict.fromkeys(("encoder", "decoder"), population.BATCHES)
    weights = {name: checkpoint.ema[name] for name in checkpoint.weights}
    derived = {name: t for name, t in checkpoint.ema.items() if name not in weights}
    return {"epoch": None, "model": residual.to_published(weights, derived, counts)}


def to_reference(folder: Path) -> dict:
    """A checkpoint of ours as the content of a published file; CheckpointError, ConvertError."""
    checkpoint = checkpoints.load(folder)
    shape = model.shape_of(folder, checkpoint.about)
    if shape.kind == "residual":
        return residual_to_reference(checkpoint)
    if shape.kind != "style":
        raise ConvertError(f"{folder} holds {shape.kind} networks: there is no published layout")
    kind = checkpoint.about.get("converted", {}).get("kind", "soft-introvae")
    models = {}
    for tensors, ending in ((checkpoint.weights, ""), (checkpoint.ema, EMA)):
        if tensors:
            networks, derived = model.assemble(shape, tensors, folder)
            models |= published.to_published(tensors, shape, kind, ending)
            if not ending:
                mean_style = derived.get("mean_style")
                if mean_style is None:
                    rows = 2 * len(shape.resolutions)
                    mean_style = networks.mean_style().detach().repeat(rows, 1)
                models["dlatent_avg"] = {"buff": mean_style}
    return {"models": models, "auxiliary": {}}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", type=Path, help="a published file, or our checkpoint")
    parser.add_argument("out", type=Path, help="output; a folder must not exist")
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--to-reference", action="store_true", help="ours to the published layout")
    way.add_argument("--onnx", action="store_true", help="ours to encoder.onnx and decoder.onnx")
    parser.add_argument(
        "--resolution",
        type=int,
        help="resolution of the ONNX networks (largest trained), or the one that a published file "
        "was trained to (detected)",
    )
    given = parser.parse_args(arguments)
    try:
        print(convert(given))
    except (ConvertError, CheckpointError, ModelError, OSError) as error:
        sys.exit(f"{parser.prog}: {error}")


def convert(given: argparse.Namespace) -> str:
    """Runs the conversion; returns a line that describes the result."""
    if given.resolution and given.to_reference:
        raise ConvertError("--to-reference writes all resolutions: leave --resolution out")
    if given.out.exists() and given.out.samefile(given.source):
        raise ConvertError(f"{given.out} is the source: name another output")
    if given.out.is_dir() and (not given.to_reference):
        raise ConvertError(f"{given.out} exists: name a folder that does not")
    given.out.parent.mkdir(parents=True, exist_ok=True)
    if given.onnx:
        from pipeline import export  # importing it takes seconds

        return export.onnx(given.source, given.out, given.resolution)
    if given.to_reference:
        folder = model.find(given.source)
        content = to_reference(folder)
        with whole(given.out) as beside:
            torch.save(content, beside)
        written = ", ".join(content.get("models", ["model"]))
        return f"{given.out}: {written} of {folder}"
    if given.source.is_dir():
        raise ConvertError(f"{given.source} is a folder: add --to-reference or --onnx")
    checkpoint = to_ours(given.source, given.resolution)
    checkpoints.save(given.out, checkpoint)
    largest, unfinished = checkpoint.about["config"]["shape"]["resolution"], ""
    if checkpoint.about["resolution"] < largest:
        unfinished = f"; its layers up to {largest}x{largest} are not trained"
    about, parts = checkpoint.about, [p for p in ("weights", "ema") if getattr(checkpoint, p)]
    return (
        f"{given.out}: {' and '.join(parts)} of {about['converted']['kind']} at "
        f"{about['resolution']}x{about['resolution']}, from {given.source}{unfinished}"
    )


if __name__ == "__main__":
    main()
