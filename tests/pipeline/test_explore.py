"""The explorer, in a real browser, and what its controls do to w."""

import io
import json
import os
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest
import torch
from PIL import Image

import pipeline
from pipeline import processes
from pipeline.pictures.directions import directions, edit
from tests.pipeline import trained

pytestmark = pytest.mark.long

PATIENCE = 120  # seconds for anything the page does, on a machine that has other things to do


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return trained.save(tmp_path_factory.mktemp("run"))


def test_directions_are_the_principal_ones_of_w(checkpoint):
    model = pipeline.load(checkpoint)
    axes = directions(model, 4)
    w = model.styles(model.prior(50_000, seed=9)).double()
    lengths = axes.norm(dim=1)
    assert (lengths.diff() <= 0).all()
    products = axes @ axes.T
    assert (products - products.diag().diag()).abs().max() < 1e-5
    values, _ = torch.linalg.eigh(torch.from_numpy(np.cov(w.numpy(), rowvar=False)))
    torch.testing.assert_close(lengths.double() ** 2, values.flip(0)[:4], rtol=0.1, atol=1e-6)


def test_edits(checkpoint):
    model = pipeline.load(checkpoint)
    faces, axes = list(model.styles(model.prior(2, seed=0)).split(1)), directions(model, 2)
    plain = edit(model, faces, axes, [0, 0], [], 1.0)
    torch.testing.assert_close(plain, faces[0].expand(6, -1)[None])
    moved = edit(model, faces, axes, [0.5, -2], [8], 1.0)[0]
    torch.testing.assert_close(moved[:1], faces[0] + 0.5 * axes[:1] - 2 * axes[1:])
    torch.testing.assert_close(moved[2:4], faces[1].expand(2, -1))
    mean = edit(model, faces, axes, [1, 1], [4], 0.0)[0]
    torch.testing.assert_close(mean, model.mean_style.expand(6, -1))


def answers(address: str) -> bool:
    try:
        urllib.request.urlopen(address, timeout=30).close()
    except OSError:
        return False
    return True


@pytest.fixture
def page(checkpoint, tmp_path):
    """The address of an explorer that runs."""
    port = processes.free_port()
    command = [sys.executable, "-m", "pipeline.explore", "--checkpoint", str(checkpoint)]
    with open(tmp_path / "log", "w") as log:
        # NiceGUI behaves otherwise where it finds itself under pytest.
        env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "NICEGUI"))}
        server = subprocess.Popen(
            [*command, "--port", str(port)], stdout=log, stderr=subprocess.STDOUT, env=env
        )
    address = f"http://127.0.0.1:{port}/"
    try:
        deadline = time.monotonic() + 300
        while not answers(address):
            assert server.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline, "no page after five minutes"
            time.sleep(0.2)
        yield address
    finally:
        server.kill()
        server.wait()


@pytest.mark.browser
def test_a_photo_is_reconstructed_edited_and_saved(browser, page, checkpoint, tmp_path):
    from selenium.common.exceptions import StaleElementReferenceException
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    # The page replaces an image while its address is read.
    passing = (StaleElementReferenceException, IndexError, OSError, ValueError)
    wait = WebDriverWait(browser, PATIENCE, ignored_exceptions=passing)
    browser.get(page)

    def images() -> list[str]:
        """What the places show: photo and face, twice, the result and the strip."""
        found = browser.find_elements(By.CSS_SELECTOR, ".q-img")
        return [
            place.find_elements(By.TAG_NAME, "img")[-1].get_attribute("src")
            if place.find_elements(By.TAG_NAME, "img")
            else ""
            for place in found
        ]

    def changed(before: list[str], which: set[int]) -> list[str]:
        """Waits until just the places in `which` show something else."""

        def now(_):
            after = images()
            differ = {i for i in range(6) if after[i] != before[i]}
            return differ == which and all(after[i] for i in which) and after

        return wait.until(now)

    seen = changed([""] * 6, {1, 3, 4, 5})
    pixels = np.random.default_rng(0).integers(0, 255, (60, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.jpg")
    (tmp_path / "broken.png").write_text("no photo")

    first, second = browser.find_elements(By.CSS_SELECTOR, "input[type=file]")
    first.send_keys(str(tmp_path / "photo.jpg"))
    seen = changed(seen, {0, 1, 4, 5})
    browser.find_element(By.CSS_SELECTOR, ".q-slider [tabindex='0']").send_keys(Keys.PAGE_UP)
    seen = changed(seen, {4})
    browser.find_element(By.XPATH, "//*[text()='8x8']").click()
    seen = changed(seen, {4})
    second.send_keys(str(tmp_path / "broken.png"))
    wait.until(lambda _: "this photo cannot be read" in browser.page_source)
    browser.find_elements(By.XPATH, "//*[text()='another']")[1].click()
    seen = changed(seen, {3, 4, 5})

    browser.find_element(By.XPATH, "//*[text()='save']").click()
    saved = tmp_path / "face.png"
    wait.until(lambda _: saved.exists())
    picture = Image.open(io.BytesIO(saved.read_bytes()))
    assert picture.size == (16, 16)
    assert "16x16 · 64 images seen" in browser.page_source
    if "EXPLORER_SCREENSHOT" in os.environ:
        browser.save_screenshot(os.environ["EXPLORER_SCREENSHOT"])

    name = browser.find_element(By.CSS_SELECTOR, "input[aria-label^='name of the current']")
    name.send_keys("smile")
    browser.find_element(By.XPATH, "//*[text()='keep']").click()
    wait.until(lambda _: browser.find_elements(By.XPATH, "//*[text()='smile']"))  # a slider
    (direction,) = json.loads((checkpoint / "directions.json").read_text()).items()
    assert direction[0] == "smile" and len(direction[1]) == 8 and any(direction[1])

    number = browser.find_elements(By.CSS_SELECTOR, "input[aria-label='draw number']")[0]
    number.send_keys(Keys.CONTROL + "a")
    number.send_keys("1")

    def first_is_second(_) -> bool:
        first, second = (urllib.request.urlopen(images()[i]).read() for i in (1, 3))
        return first == second

    wait.until(first_is_second)  # whose number is 1
    browser.set_window_size(500, 900)
    width = "return document.documentElement.scrollWidth - window.innerWidth"
    assert browser.execute_script(width) <= 0  # fits a phone
    if "EXPLORER_SCREENSHOT" in os.environ:
        browser.save_screenshot(os.environ["EXPLORER_SCREENSHOT"].replace(".png", "-phone.png"))
