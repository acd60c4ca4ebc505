"""MLflow's own pages in a real browser: two trainings are found, unfolded and compared."""

import os
import re
import time

import pytest
from PIL import Image

from pipeline.processes import free_port
from pipeline.records.tracking import Tracking, TrackingConfig
from tests.pipeline.records.servers import server

pytestmark = [pytest.mark.browser, pytest.mark.long]
WAIT_SECONDS = 120  # seconds for anything the page does, on a machine that has other things to do
DATA = {"name": "faces train", "digest": "0123456789", "source": "/data", "profile": {}}


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Where the last of two trainings says that they are seen in the UI of a real server."""
    root, port = tmp_path_factory.mktemp("runs"), free_port()
    with server(root, port) as uri:
        for beta, distance in ((8, 17.25), (64, 15.75)):
            folder = root / f"beta{beta}"
            folder.mkdir()
            Image.new("RGB", (64, 64), (beta, 0, 0)).save(folder / "samples.png")
            tracking = Tracking(TrackingConfig(uri=uri), folder, folder.name, {})
            tracking.parameters({"objective.beta_neg": beta, "objective.beta_rec": 0.5})
            tracking.dataset(DATA)
            for side in (4, 8):
                tracking.stage(side, folder.name, {"lr": 0.1}, DATA)
                for images in (100, 200):
                    tracking.metrics(images, {"train/exp_elbo_fake": 0.5, "health/kl_real": 1.0})
                    tracking.picture(images, "samples", folder / "samples.png")
                tracking.metrics(200, {f"fid/r{side:03}": distance + side}, on_parent=True)
            tracking.end("FINISHED", whole_training=True)
        yield re.search(r"http\S+", tracking.where)[0]


def test_runs_are_found_unfolded_and_compared_from_the_printed_address(address, browser):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    wait = WebDriverWait(browser, WAIT_SECONDS, ignored_exceptions=(Exception,))

    def row(name: str):
        return browser.find_element(
            By.XPATH, f"//a[normalize-space()='{name}']/ancestor::*[@role='row']"
        )

    def cell(name: str, selector: str):
        return wait.until(lambda _: row(name).find_element(By.CSS_SELECTOR, selector))

    def keep(name: str) -> None:
        if "MLFLOW_SCREENSHOTS" in os.environ:
            time.sleep(2)
            browser.save_screenshot(f"{os.environ['MLFLOW_SCREENSHOTS']}/{name}.png")

    browser.get(address)
    expander = "[col-id='attributes.`Run Name`'] button"
    cell("beta64", expander).click()
    wait.until(lambda _: row("beta64 8x8") and row("beta64 4x4"))
    assert "faces train" in browser.page_source
    keep("runs")
    cell("beta64", expander).click()  # folded again: its stages are not compared
    for name in ("beta64", "beta8"):
        cell(name, ".ag-checkbox-input").click()
    compare = "//button[normalize-space()='Compare']"
    wait.until(lambda _: browser.find_element(By.XPATH, compare)).click()

    def text() -> str:
        return browser.find_element(By.TAG_NAME, "body").text

    wait.until(lambda _: "21.25" in text() and "19.75" in text())  # fid/r004 of both
    wait.until(lambda _: "objective.beta_neg" in text())
    output = text()
    assert "25.25" in output and "23.75" in output
    assert re.search(r"objective\.beta_neg\s+(64\s+8|8\s+64)\b", output)
    assert output.index("fid/r004") < output.index("fid/r008")
    keep("compare")
