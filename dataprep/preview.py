"""--preview: contact sheets and histograms of a prepared dataset."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from dataprep import rejects
from dataprep.formats import read
from dataprep.manifest import Manifest

FOLDER = "preview"
WIDTH = 2048  # pixels of a contact sheet, at most
CELL = 128  # pixels of an image, at least
COLUMNS, ROWS = 8, 4
MARGIN, CAPTION = 4, 28
MEASURED = 500  # images in the histograms


def preview(folder: Path) -> Path:
    """Write `folder`/preview: rNNN.png for each resolution, and histograms.png."""
    made = Manifest.load(folder)
    (folder / FOLDER).mkdir(exist_ok=True)
    for side in made.resolutions:
        contact_sheet(made, side).save(folder / FOLDER / f"r{side:03d}.png")
    histograms(made, folder / FOLDER / "histograms.png")
    return folder / FOLDER


def spread(made: Manifest, side: int, count: int) -> Iterator[np.ndarray]:
    """At most `count` images, evenly spread over the training split."""
    total = made.count("train")
    for i in range(min(count, total)):
        first = i * total // min(count, total)
        yield next(read.images(made, read.formats(made)[0], side, "train", first, 1)).pixels


def contact_sheet(made: Manifest, side: int) -> Image.Image:
    """A grid of images, the same ones at all resolutions up to 256."""
    cell = max(side, CELL)
    columns = min(COLUMNS, WIDTH // cell)
    rows = max(1, ROWS * columns // COLUMNS)
    images = list(spread(made, side, columns * rows))
    rows = -(-len(images) // columns)
    step = cell + MARGIN
    sheet = Image.new("RGB", (columns * step + MARGIN, rows * step + MARGIN + CAPTION), "white")
    text = f"{side} x {side}: {len(images)} of {made.count('train'):,} training images"
    ImageDraw.Draw(sheet).text((MARGIN, MARGIN), text, "black", font_size=18)
    for i, pixels in enumerate(images):
        image = Image.fromarray(pixels).resize((cell, cell), Image.Resampling.NEAREST)
        sheet.paste(image, (MARGIN + i % columns * step, CAPTION + MARGIN + i // columns * step))
    return sheet


def histograms(made: Manifest, path: Path) -> None:
    """One page: colours, brightness, contrast, mean image, samples by class, rejects by reason."""
    from matplotlib.figure import Figure

    side = min(made.resolutions[-1], 256)
    images = np.stack(list(spread(made, side, MEASURED)))
    grey = images.mean(axis=-1)
    figure = Figure(figsize=(14, 8), layout="constrained")
    total = made.content["source"]["images"]
    figure.suptitle(
        f"{made.content['source']['name']}: {total:,} images, {made.count('train'):,} train, "
        f"{made.count('test'):,} test; measured on {len(images):,} training images at {side}"
    )
    axes = figure.subplots(2, 3).ravel()

    axes[0].set(title="pixel values by channel", xlabel="value", ylabel="share of pixels")
    for channel, colour in enumerate(("tab:red", "tab:green", "tab:blue")):
        counts = np.bincount(images[..., channel].ravel(), minlength=256)
        axes[0].plot(counts / counts.sum(), color=colour)
    axes[1].set(title="brightness", xlabel="mean of an image", ylabel="images")
    axes[1].hist(grey.mean(axis=(1, 2)), bins=32, range=(0, 255))
    axes[2].set(title="contrast", xlabel="standard deviation in an image", ylabel="images")
    axes[2].hist(grey.std(axis=(1, 2)), bins=32, range=(0, 128))
    axes[3].set_title("mean image")
    axes[3].imshow(images.mean(axis=0) / 255)
    axes[3].axis("off")
    bars(axes[4], "training images by class", labels(made))
    bars(axes[5], "rejects by reason", rejects_by_kind(made))
    figure.savefig(path, dpi=100)


def bars(axes, title: str, counts: Counter) -> None:
    """A bar chart of the 20 most common."""
    axes.set_title(title)
    if not counts:
        axes.text(0.5, 0.5, "none", ha="center", va="center", transform=axes.transAxes)
        axes.axis("off")
        return
    names, values = zip(*counts.most_common(20)[::-1])
    axes.barh(range(len(names)), values)
    axes.set_yticks(
        range(len(names)), [name if len(name) < 30 else name[:28] + "…" for name in names]
    )
    axes.set_xlabel("images")


def labels(made: Manifest) -> Counter:
    if not made.classes:
        return Counter()
    found = Counter(line["label"] for line in read.index(made, "train", 0, made.count("train")))
    names = dict(enumerate(made.classes)) | {-1: "(no label)"}
    return Counter({names[label]: count for label, count in found.items()})


def rejects_by_kind(made: Manifest) -> Counter:
    with Path(made.folder, rejects.NAME).open(encoding="ascii") as file:
        return Counter(json.loads(line)["kind"] for line in file)
