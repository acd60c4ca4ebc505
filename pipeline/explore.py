"""A web page to explore a model's latent space:

    python -m pipeline.explore --checkpoint runs/ffhq256

Drop a photo to see its reconstruction, move it along the main directions of w, mix in the styles of
a second face at some resolutions, and save the result. Each sampled face has a number that draws it
again. Current slider positions can be saved as a named direction, in a file in the run's folder.
Only this machine can open the page unless you set --host. Photos stay in memory.
"""

import argparse
import asyncio
import random
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dataprep.images.decode import BadImageError
from pipeline import model as models
from pipeline.card import numbers
from pipeline.data.loaders import to_float, to_uint8
from pipeline.networks.family import ModelError
from pipeline.networks.style.trained import Model, styled
from pipeline.pictures.directions import Named, directions, edit
from pipeline.pictures.inputs import read_image
from pipeline.records.checkpoints import CheckpointError

try:
    from nicegui import run, ui
except ModuleNotFoundError:
    sys.exit("python -m pipeline.explore needs NiceGUI: pip install '.[explore]'")

DIRECTIONS, REACH = 8, 3.0  # number of sliders, and their range in standard deviations
STRIP = 7  # faces in the interpolation from the first to the second
SHOWN = 256  # pixels: smaller images are enlarged to this
TOO_LARGE = 30 << 20  # bytes; larger photos are refused
STYLE = ".q-uploader__list { display: none }"  # hides the list of uploaded files


def picture(image: Tensor) -> Image.Image:
    """An image (1, 3, R, R) at its own size."""
    return Image.fromarray(to_uint8(image)[0].permute(1, 2, 0).cpu().contiguous().numpy())


def shown(image: Image.Image) -> Image.Image:
    """The image, enlarged bicubically to `SHOWN` pixels if it is smaller."""
    side = max(SHOWN, image.width)
    return image.resize((side, side), Image.Resampling.BICUBIC)


def headline(source: Path, model: Model) -> str:
    """A description of the model in one line."""
    images = model.about.get("images")
    parts = [f"{model.resolution}x{model.resolution}"]
    parts.append(f"{images:,} images seen" if images else "converted weights")
    parts += [f"{k} {v:.4g}" for k, v in numbers(source, model.resolution, images).items()]
    return " · ".join(parts)


class Page:
    """One visitor's page: two faces, the interpolation between them, and the edited first face."""

    def __init__(
        self, model: Model, title: str, about: str, axes: Tensor, named: Named, noise: str
    ):
        self.model, self.axes, self.named, self.noise = model, axes, named, noise
        self.faces = [model.styles(model.prior(1, seed=seed)) for seed in (0, 1)]
        self.result: Image.Image | None = None
        self.stale, self.faces_differ = asyncio.Event(), True
        self.photos, self.decoded, self.numbers = [], [], []
        ui.add_css(STYLE)
        with ui.column().classes("w-full max-w-6xl mx-auto p-2 md:p-4 gap-4"):
            with ui.column().classes("gap-0"):
                ui.label(title).classes("text-2xl font-bold")
                ui.label(about).classes("text-gray-600").mark("about")
            with ui.element("div").classes("grid grid-cols-1 md:grid-cols-3 gap-4 w-full"):
                for which, name in enumerate(("First face", "Second face")):
                    with self.card(name):
                        self.face(which)
                with self.card("Result"):
                    self.out = ui.image().classes("w-full rounded").mark("result")
                    ui.button("save", on_click=self.save).props("outline").classes("w-full")
            with self.card("From the first to the second"):
                self.strip = ui.image().classes("w-full rounded").mark("strip")
            with ui.element("div").classes("grid grid-cols-1 md:grid-cols-3 gap-4 w-full"):
                with self.card("Directions of w, in standard deviations").classes("md:col-span-2"):
                    self.directions()
                with self.card("Styles"):
                    self.styles()
        ui.timer(0, self.keep_current, once=True)

    def card(self, title: str) -> ui.card:
        made = ui.card().classes("w-full gap-2 p-3")
        with made:
            ui.label(title).classes("font-bold")
        return made

    def face(self, which: int) -> None:
        """A photo beside its reconstruction, and the inputs that choose the face."""
        with ui.row().classes("w-full no-wrap gap-2"):
            photo = ui.image().classes("w-1/2 rounded").mark(f"photo {which}")
            photo.set_visibility(False)
            self.photos.append(photo)
            self.decoded.append(ui.image().classes("flex-1 rounded").mark(f"face {which}"))

        async def uploaded(event) -> None:
            await self.photo(which, await event.file.read())
            event.sender.reset()

        with ui.row().classes("w-full no-wrap items-end gap-2"):
            number = ui.number("draw number", value=which, min=0, precision=0)
            number.classes("flex-1").on_value_change(lambda e: self.draw(which, e.value))
            self.numbers.append(number)
            ui.button("another", on_click=lambda: number.set_value(random.randrange(10**6)))
        ui.upload(
            label="or drop a photo",
            auto_upload=True,
            max_file_size=TOO_LARGE,
            on_upload=uploaded,
            on_rejected=lambda: ui.notify(f"photos of up to {TOO_LARGE >> 20} MB"),
        ).props("accept=image/* flat bordered").classes("w-full")  # its list: see STYLE

    def directions(self) -> None:
        """Sliders along the principal and the named directions, and a field to name a new one."""
        with ui.element("div").classes("grid grid-cols-1 sm:grid-cols-2 gap-x-6 w-full"):
            self.moves = [
                self.slider(name, -REACH, REACH, 0.0)
                for name in [*(f"main {i + 1}" for i in range(len(self.axes))), *self.named.all]
            ]
        with ui.row().classes("items-end gap-2"):
            ui.button("back to 0", on_click=self.reset).props("outline")
            name = ui.input("name of the current direction").classes("w-64")
            ui.button("keep", on_click=lambda: self.keep(name.value.strip()))

    def styles(self) -> None:
        ui.label("of the second face at").classes("text-gray-600")
        with ui.row().classes("gap-1"):
            self.sides = {
                side: ui.checkbox(f"{side}x{side}", on_change=self.stale.set)
                for side in self.model.resolutions
                if side <= self.model.resolution
            }
        ui.label("psi: 0 is the mean face").classes("text-gray-600")
        self.psi = self.slider("psi", 0.0, 1.0, 1.0)

    def slider(self, name: str, low: float, high: float, value: float) -> ui.slider:
        with ui.row().classes("w-full no-wrap items-center gap-2"):
            ui.label(name).classes("w-16 truncate").tooltip(name)
            made = ui.slider(min=low, max=high, step=0.05, value=value, on_change=self.stale.set)
            ui.label().bind_text_from(made, "value", "{:.2f}".format).classes("w-10 text-right")
        return made

    async def photo(self, which: int, content: bytes) -> None:
        """Sets a face to the inversion of a photo, the file's content."""
        try:
            pixels = await run.io_bound(read_image, content, self.model.resolution)
        except BadImageError as error:
            ui.notify(f"this photo cannot be read: {error}", type="negative")
            return
        x = to_float(torch.from_numpy(np.array(pixels))[None], torch.device("cpu"))
        face = await run.io_bound(self.model.invert, x)
        self.numbers[which].set_value(None)  # a photo has no number
        self.photos[which].set_source(shown(Image.fromarray(pixels)))
        self.photos[which].set_visibility(True)
        self.put(which, face)

    def draw(self, which: int, number: float | None) -> None:
        """Sets a face to the sample with this seed."""
        if number is not None:
            self.photos[which].set_visibility(False)
            self.put(which, self.model.styles(self.model.prior(1, seed=int(number))))

    def put(self, which: int, face: Tensor) -> None:
        self.faces[which], self.faces_differ = face, True
        self.stale.set()

    def reset(self) -> None:
        for slider in self.moves:
            slider.value = 0.0
        self.stale.set()

    def keep(self, name: str) -> None:
        """Saves the direction of the current sliders under `name`; the page reloads to show it."""
        moves = torch.tensor([slider.value for slider in self.moves]).to(self.axes)
        if not name or not moves.any():
            ui.notify("move sliders and enter a name first", type="warning")
            return
        try:
            self.named.keep(name, moves @ self.all_axes())
        except OSError as error:
            ui.notify(f"{self.named.path}: {error.strerror or error}", type="negative")
            return
        ui.notify(f"{name} is saved in {self.named.path}")
        ui.navigate.reload()

    def all_axes(self) -> Tensor:
        """The axes of this page's sliders, (sliders, latent); other pages may have added more."""
        return torch.cat([self.axes, self.named.axes(self.axes)])[: len(self.moves)]

    async def keep_current(self) -> None:
        """Decodes after changes; changes during a decoding are decoded together afterwards."""
        self.stale.set()
        while True:
            await self.stale.wait()
            self.stale.clear()
            moves = [slider.value for slider in self.moves]
            sides = [side for side, box in self.sides.items() if box.value]
            w = edit(self.model, self.faces, self.all_axes(), moves, sides, self.psi.value)
            if self.faces_differ:
                self.faces_differ = False
                steps = torch.linspace(0, 1, STRIP).to(w)[:, None]
                first, second = self.faces
                way = torch.lerp(first, second, steps)[:, None].expand(-1, w.shape[1], -1)
                w = torch.cat([w, way])
            images = await run.io_bound(self.model.synthesize, w, self.noise)
            pictures = [picture(image[None]) for image in images]
            self.result = pictures[0]
            self.out.set_source(shown(self.result))
            if len(pictures) > 1:
                for place, image in zip(self.decoded, (pictures[1], pictures[-1]), strict=True):
                    place.set_source(shown(image))
                self.strip.set_source(side_by_side([shown(image) for image in pictures[1:]]))

    def save(self) -> None:
        """Downloads the result at the model's resolution."""
        if self.result is not None:
            content = BytesIO()
            self.result.save(content, "PNG")
            ui.download(content.getvalue(), "face.png")


def side_by_side(images: list[Image.Image]) -> Image.Image:
    return Image.fromarray(np.concatenate([np.asarray(image) for image in images], axis=1))


def main(arguments: list[str] | None = None) -> None:
    p = argparse.ArgumentParser(
        prog="python -m pipeline.explore",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--checkpoint", required=True, type=Path, help="a checkpoint's or run's folder")
    p.add_argument("--resolution", type=int, help="a trained resolution (largest)")
    p.add_argument(
        "--directions",
        type=Path,
        metavar="FILE",
        help="named directions (directions.json in the run's or checkpoint's folder)",
    )
    p.add_argument("--noise", choices=("fixed", "off"), default="fixed")
    p.add_argument("--device", help="cpu, cuda, cuda:1 (a GPU if there is one)")
    p.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    p.add_argument("--port", type=int, default=8080, help="(%(default)s)")
    given = p.parse_args(arguments)
    try:
        model = styled(
            models.load(given.checkpoint, resolution=given.resolution, device=given.device)
        )
        axes = directions(model, DIRECTIONS)
        source = models.find(given.checkpoint).resolve()
        folder = source.parent.parent if source.parent.name == "checkpoints" else source
        named = Named(given.directions or folder / "directions.json", model.latent)
    except (CheckpointError, ModelError, OSError, ValueError) as error:
        sys.exit(f"{p.prog}: {error}")
    about = headline(source, model)
    ui.run(
        lambda: Page(model, folder.name, about, axes, named, given.noise),
        host=given.host,
        port=given.port,
        title=f"{folder.name} {model.resolution}x{model.resolution}",
        show=False,
        reload=False,
    )


if __name__ == "__main__":
    main()
