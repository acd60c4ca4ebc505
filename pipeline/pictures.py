"""Pictures of images: grids of samples, rows of inputs over their reconstructions."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

CELL = 64  # pixels: smaller images are enlarged to about this, each pixel a square


def grid(images: Tensor, columns: int) -> Image.Image:
    """uint8 (N, 3, R, R) in rows of `columns`, a white line between; the last row may be short."""
    count, _, side, _ = images.shape
    factor = max(1, CELL // side)
    cells = images.permute(0, 2, 3, 1).cpu().numpy().repeat(factor, 1).repeat(factor, 2)
    side, gap, rows = side * factor, 2, -(-count // columns)
    sheet = np.full((rows * (side + gap) + gap, columns * (side + gap) + gap, 3), 255, np.uint8)
    for i, cell in enumerate(cells):
        top, left = (gap + place * (side + gap) for place in divmod(i, columns))
        sheet[top : top + side, left : left + side] = cell
    return Image.fromarray(sheet)


def reconstructions(inputs: Tensor, outputs: Tensor, columns: int) -> Image.Image:
    """Full rows of inputs, each over its reconstructions; both uint8 (N, 3, R, R)."""
    columns = min(columns, len(inputs))
    used = len(inputs) - len(inputs) % columns
    inputs, outputs = inputs[:used], outputs[:used]
    rows = [part for pair in zip(inputs.split(columns), outputs.split(columns)) for part in pair]
    return grid(torch.cat(rows), columns)
