"""What tests of several folders share."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

# Tests run side by side: threads of each would only fight for the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def dataset(tmp_path_factory) -> Path:
    """A dataset of 44 images, 4x4 to 32x32: soft colour fields, each unlike the others."""
    folder = tmp_path_factory.mktemp("dataset")
    rng = np.random.default_rng(0)
    (folder / "images").mkdir()
    for i in range(44):
        corners = rng.integers(0, 256, (3, 3, 3), dtype=np.uint8)
        image = Image.fromarray(corners).resize((32, 32), Image.Resampling.BICUBIC)
        image.save(folder / "images" / f"{i:03}.png")
    command = [sys.executable, ROOT / "dataprep" / "shard.py", folder / "images"]
    command += ["--out", folder / "dataset", "--max-resolution", "32", "--test-fraction", "0.2"]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "dataset"
