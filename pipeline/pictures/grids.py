"""Grids of images: samples, and rows of inputs above their reconstructions."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

CELL = 64  # pixels: smaller images are enlarged to about this by repeating pixels


def grid(images: Tensor, columns: int) -> Image.Image:
    """uint8 (N, 3, R, R) in rows of `columns` with white lines between; the last may be short."""
    count = len(images)
    cells = [enlarged(image, CELL) for image in images.permute(0, 2, 3, 1).cpu().numpy()]
    side, gap, rows = len(cells[0]), 2, -(-count // columns)
    sheet = np.full((rows * (side + gap) + gap, columns * (side + gap) + gap, 3), 255, np.uint8)
    for i, cell in enumerate(cells):
        top, left = (gap + place * (side + gap) for place in divmod(i, columns))
        sheet[top : top + side, left : left + side] = cell
    return Image.fromarray(sheet)


def enlarged(image: np.ndarray, side: int) -> np.ndarray:
    """An image (R, R, 3), enlarged to about `side` by repeating pixels if it is smaller."""
    factor = max(1, side // len(image))
    return image.repeat(factor, 0).repeat(factor, 1)


def reconstructions(inputs: Tensor, outputs: Tensor, columns: int) -> Image.Image:
    """Full rows of inputs, each above its reconstructions; both uint8 (N, 3, R, R)."""
    columns = min(columns, len(inputs))
    used = len(inputs) - len(inputs) % columns
    inputs, outputs = inputs[:used], outputs[:used]
    rows = [part for pair in zip(inputs.split(columns), outputs.split(columns)) for part in pair]
    return grid(torch.cat(rows), columns)


def bordered(table: Tensor, left: Tensor, top: Tensor) -> Image.Image:
    """A table of images, row by row, with header images left of each row and above each column."""
    blank = torch.full_like(top[:1], 255)
    rows = table.split(len(top))
    lines = [torch.cat([head[None], row]) for head, row in zip(left, rows, strict=True)]
    return grid(torch.cat([blank, top, *lines]), len(top) + 1)
