"""A page to explore a model's latent space with, in the browser:

    python -m pipeline.explore --checkpoint runs/ffhq256

Drop a photo, see its reconstruction, move it along the main directions of w, take styles of a
second face at some resolutions, and save the result. Only this machine can see the page, unless
--host says otherwise; photos stay in memory.
"""

import argparse
import asyncio
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dataprep.images.decode import BadImageError
from pipeline import model as models
from pipeline.data.loaders import to_float, to_uint8
from pipeline.networks.family import ModelError
from pipeline.networks.style.decoder import style_layers
from pipeline.networks.style.trained import Model, styled
from pipeline.pictures.grids import enlarged
from pipeline.pictures.inputs import read_image
from pipeline.records.checkpoints import CheckpointError

try:
    from nicegui import run, ui
except ModuleNotFoundError:
    sys.exit("python -m pipeline.explore needs NiceGUI: pip install '.[explore]'")

DIRECTIONS, REACH = 8, 3.0  # sliders, and how many standard deviations each goes
SHOWN = 256  # pixels: smaller images are enlarged to about this
TOO_LARGE = 30 << 20  # bytes of a photo


def directions(model: Model, count: int, draws: int = 16_384) -> Tensor:
    """The principal components of w over the prior, each as long as its standard deviation.

    (count, latent), by falling length. The sign is that of the largest entry, positive.
    """
    w = model.styles(model.prior(draws, seed=0)).double()
    _, values, vectors = torch.linalg.svd(w - w.mean(0), full_matrices=False)
    vectors = vectors[:count]
    largest = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))
    scale = values[:count, None] / (draws - 1) ** 0.5
    return (vectors * largest.sign() * scale).to(model.mean_style)


def edit(
    model: Model,
    faces: list[Tensor],
    axes: Tensor,
    moves: list[float],
    sides: list[int],
    psi: float,
) -> Tensor:
    """Styles (1, layers, latent): the first face moved along the axes, by `moves` in standard
    deviations, with the second face's at the resolutions `sides`; then drawn to the mean."""
    first, second = faces
    w = first + torch.tensor(moves).to(axes) @ axes
    rows = [4 << (row // 2) for row in range(style_layers(model.resolution))]
    w = torch.stack([second[0] if side in sides else w[0] for side in rows])[None]
    return model.mean_style + psi * (w - model.mean_style)


def picture(image: Tensor) -> Image.Image:
    """An image (1, 3, R, R) as it is."""
    return Image.fromarray(to_uint8(image)[0].permute(1, 2, 0).cpu().contiguous().numpy())


def shown(image: Image.Image) -> Image.Image:
    return Image.fromarray(enlarged(np.asarray(image), SHOWN))


class Page:
    """What one visitor sees: two faces, what is done to the first, and the result."""

    def __init__(self, model: Model, axes: Tensor, noise: str):
        self.model, self.axes, self.noise = model, axes, noise
        self.faces = [model.styles(model.prior(1, seed=seed)) for seed in (0, 1)]
        self.result: Image.Image | None = None
        self.stale = asyncio.Event()
        with ui.row().classes("items-start"):
            self.photos, self.decoded = [], []
            for which, name in enumerate(("first face", "second face")):
                with ui.column():
                    self.face(which, name)
            with ui.column():
                ui.label("result").classes("font-bold")
                self.out = ui.image().classes("w-64 h-64").mark("result")
                ui.button("save", on_click=self.save)
        with ui.row().classes("items-start"):
            with ui.column().classes("w-96"):
                ui.label("main directions of w, in standard deviations").classes("font-bold")
                self.moves = [self.slider(f"{i + 1}", -REACH, REACH, 0.0) for i in range(len(axes))]
                ui.button("back to 0", on_click=self.reset)
            with ui.column().classes("w-80"):
                ui.label("styles of the second face at").classes("font-bold")
                self.sides = {
                    side: ui.checkbox(f"{side}x{side}", on_change=self.stale.set)
                    for side in model.resolutions
                    if side <= model.resolution
                }
                ui.label("psi: 0 is the mean face").classes("font-bold")
                self.psi = self.slider("psi", 0.0, 1.0, 1.0)
        ui.timer(0, self.keep_current, once=True)

    def face(self, which: int, name: str) -> None:
        """A photo's place, its reconstruction, and where it comes from."""
        ui.label(name).classes("font-bold")
        with ui.row():
            self.photos.append(ui.image().classes("w-32 h-32").mark(f"photo {which}"))
            self.decoded.append(ui.image().classes("w-32 h-32").mark(f"face {which}"))

        async def uploaded(event) -> None:
            await self.photo(which, await event.file.read())
            event.sender.reset()

        ui.upload(
            label="drop a photo",
            auto_upload=True,
            max_file_size=TOO_LARGE,
            on_upload=uploaded,
            on_rejected=lambda: ui.notify(f"photos of up to {TOO_LARGE >> 20} MB"),
        ).props("accept=image/*").classes("w-64")
        ui.button("draw one", on_click=lambda: self.draw(which))

    def slider(self, name: str, low: float, high: float, value: float) -> ui.slider:
        with ui.row().classes("w-full no-wrap items-center"):
            ui.label(name).classes("w-8")
            return ui.slider(min=low, max=high, step=0.05, value=value, on_change=self.stale.set)

    async def photo(self, which: int, content: bytes) -> None:
        """A face from a file's content."""
        try:
            pixels = await run.io_bound(read_image, content, self.model.resolution)
        except BadImageError as error:
            ui.notify(f"no photo that can be read: {error}", type="negative")
            return
        x = to_float(torch.from_numpy(np.array(pixels))[None], torch.device("cpu"))
        self.faces[which] = await run.io_bound(self.model.invert, x)
        self.photos[which].set_source(shown(Image.fromarray(pixels)))
        self.stale.set()

    def draw(self, which: int) -> None:
        """A face from the prior."""
        self.faces[which] = self.model.styles(self.model.prior(1))
        self.photos[which].set_source("")
        self.stale.set()

    def reset(self) -> None:
        for slider in self.moves:
            slider.value = 0.0
        self.stale.set()

    async def keep_current(self) -> None:
        """Decodes whenever something has changed, once for all that changed in the meantime."""
        self.stale.set()
        while True:
            await self.stale.wait()
            self.stale.clear()
            moves = [slider.value for slider in self.moves]
            sides = [side for side, box in self.sides.items() if box.value]
            w = edit(self.model, self.faces, self.axes, moves, sides, self.psi.value)
            layers = w.shape[1]
            both = [face[:, None].expand(-1, layers, -1) for face in self.faces]
            images = await run.io_bound(self.model.synthesize, torch.cat([*both, w]), self.noise)
            for place, image in zip(self.decoded, images[:2]):
                place.set_source(shown(picture(image[None])))
            self.result = picture(images[2:])
            self.out.set_source(shown(self.result))

    def save(self) -> None:
        """The result, at the model's resolution, as a download."""
        if self.result is not None:
            content = BytesIO()
            self.result.save(content, "PNG")
            ui.download(content.getvalue(), "face.png")


def main(arguments: list[str] | None = None) -> None:
    p = argparse.ArgumentParser(
        prog="python -m pipeline.explore",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--checkpoint", required=True, type=Path, help="its folder, or a run's")
    p.add_argument("--resolution", type=int, help="one that was trained (largest)")
    p.add_argument("--noise", choices=("fixed", "off"), default="fixed")
    p.add_argument("--device", help="cpu, cuda, cuda:1 (a GPU where there is one)")
    p.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    p.add_argument("--port", type=int, default=8080, help="(%(default)s)")
    given = p.parse_args(arguments)
    try:
        model = styled(
            models.load(given.checkpoint, resolution=given.resolution, device=given.device)
        )
        axes = directions(model, DIRECTIONS)
    except (CheckpointError, ModelError, OSError) as error:
        sys.exit(f"{p.prog}: {error}")
    name = f"{given.checkpoint.resolve().name} {model.resolution}x{model.resolution}"
    ui.run(
        lambda: Page(model, axes, given.noise),
        host=given.host,
        port=given.port,
        title=name,
        show=False,
        reload=False,
    )


if __name__ == "__main__":
    main()
