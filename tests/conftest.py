"""What all tests share: which of them this machine can run, their order, and the SLURM cluster."""

import functools
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

# Tests run side by side: threads of each would only fight for the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
from PIL import Image

from tests.cluster import slurm_cluster as slurm

ROOT = Path(__file__).parent.parent
# A shell's background job ignores Ctrl-C, and so would all programs that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

FOLDERS = ("pipeline", "dataprep", "stages", "launch")  # the quick and fundamental first


def _no_gpu() -> str | None:
    import torch

    return None if torch.cuda.is_available() else "needs a CUDA device, and torch sees none"


def _no_browser() -> str | None:
    missing = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"needs {' and '.join(missing)} (Debian: make browser)" if missing else None


# Marker -> why its tests cannot run here, or None. The last marker's tests run last.
OBSTACLES = {"gpu": functools.cache(_no_gpu), "browser": _no_browser}
OBSTACLES["slurm"] = functools.cache(slurm.obstacle)


def pytest_addoption(parser):
    parser.addoption(
        "--require", action="append", default=[], metavar="NAME[,NAME]",
        help="fail, not skip, the tests with this marker (gpu, browser, slurm) if they cannot run",
    )  # fmt: skip


def _required(config) -> set[str]:
    return {name for value in config.getoption("require") for name in value.split(",")}


def pytest_configure(config):
    if unknown := _required(config) - OBSTACLES.keys():
        raise pytest.UsageError(f"--require {min(unknown)}: not one of {', '.join(OBSTACLES)}")
    # pytest -n: heed the groups set below, in the workers too, which are not told. Where xdist
    # cannot (3.8 with pytest 9.2: pytest-dev/pytest-xdist#1386), each worker has its own cluster.
    if config.getoption("dist", None) == "load":
        config.option.dist = "loadgroup"
    if hasattr(config, "workerinput"):
        config.option.loadgroup = True


def _markers(item) -> list[str]:
    return [marker for marker in OBSTACLES if item.get_closest_marker(marker)]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Quick tests first, so that broken things fail in seconds; one worker gets the cluster."""
    order = list(OBSTACLES)

    def place(item) -> tuple[int, int]:
        folder = item.path.parent.name
        return (
            max(map(order.index, _markers(item)), default=-1),
            FOLDERS.index(folder) if folder in FOLDERS else len(FOLDERS),
        )

    items.sort(key=place)
    for item in items:
        if "slurm" in _markers(item):
            item.add_marker(pytest.mark.xdist_group("slurm"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    for marker in _markers(item):
        if reason := OBSTACLES[marker]():
            if marker in _required(item.config):
                pytest.fail(reason, pytrace=False)
            pytest.skip(reason)


@pytest.fixture(scope="session")
def slurm_cluster(tmp_path_factory):
    """The cluster of this worker: 4 nodes with 2 fake GPUs each. SLURM_CONF points to it from now.

    A test that leaves jobs, or nodes without power or cable, calls `slurm_cluster.restore()`.
    """
    root = tmp_path_factory.mktemp("slurm")
    with slurm.SlurmCluster(root, gpus=2) as cluster, pytest.MonkeyPatch.context() as environment:
        environment.setenv("SLURM_CONF", cluster.env["SLURM_CONF"])
        yield cluster


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


@pytest.fixture(scope="session")
def vgg16_weights() -> Path:
    """VGG16's features, a safetensors file that VGG16_WEIGHTS names."""
    default = ROOT.parent / "shared" / "weights" / "vgg16_features_fp16.safetensors"
    path = Path(os.environ.get("VGG16_WEIGHTS", default))
    if not path.exists():
        pytest.skip(f"needs VGG16's weights: there is no {path}; set VGG16_WEIGHTS")
    return path


@pytest.fixture
def browser(tmp_path):
    """Chromium without a window; what it downloads is in tmp_path."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu"):
        options.add_argument(f"--{argument}")
    options.add_argument("--window-size=1500,1000")
    options.add_argument(f"--user-data-dir={tmp_path / 'profile'}")
    options.add_experimental_option("prefs", {"download.default_directory": str(tmp_path)})
    service = webdriver.ChromeService("/usr/bin/chromedriver")
    driver = webdriver.Chrome(options, service)
    driver.set_script_timeout(60)
    yield driver
    driver.quit()
