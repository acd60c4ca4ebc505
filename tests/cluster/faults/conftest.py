"""Fixtures of the fault table, and its output. `make test-cluster` runs it; see CONTRIBUTING.md."""

import functools
import subprocess
import time
from pathlib import Path

import pytest

from stages.scale import scaled
from tests.cluster.faults import table
from tests.cluster.faults.training import Training, content
from tests.stages.tiny import run, write

INJECT = Path(__file__).parent / "inject"


def pytest_addoption(parser):
    parser.addoption(
        "--table", type=Path, default=Path("runs/faults.md"),
        help="the table of faults; the rows of earlier runs are beside it (default: %(default)s)",
    )  # fmt: skip


def pytest_configure(config):
    config.getoption("table").parent.mkdir(parents=True, exist_ok=True)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    fault = item.funcargs.get("fault")
    if fault is None or report.when != "call":
        return
    row = fault.row
    row.seconds = round(time.monotonic() - fault.began)
    row.verdict = "OK"
    if report.failed:
        said = str(call.excinfo.value).splitlines() or [call.excinfo.typename]
        row.verdict = f"FAILED: {said[0][:300]}"
    table.keep(item.config.getoption("table"), row)


def pytest_terminal_summary(terminalreporter, config):
    path = config.getoption("table")
    if table.rows(path):
        terminalreporter.write_sep("=", f"faults ({path})")
        terminalreporter.write(table.write(path))


@pytest.fixture(scope="session")
def expected(dataset, tmp_path_factory):
    """expected(processes, **changes): weights of the undisturbed training."""

    @functools.cache
    def of(processes: int, **changes) -> dict[str, str]:
        folder = tmp_path_factory.mktemp("undisturbed") / "run"
        made = content(dataset, **changes)
        assert run(scaled(made), folder, processes, timeout=600) == [0] * processes
        return Training(folder, folder, ["launch/local.py"], "", processes).weights()

    return of


@pytest.fixture
def fault(request, expected):
    return table.Fault(request.function.__doc__, expected)


@pytest.fixture(scope="session")
def small_disk(tmp_path_factory):
    """A disk of 64 MB of its own."""
    folder = tmp_path_factory.mktemp("disk")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "disk", folder], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture(scope="session")
def _cluster(small_disk, slurm_cluster):
    """The cluster, whose nodes see the small disk."""
    return slurm_cluster


@pytest.fixture
def cluster(_cluster):
    """The cluster, restored after the test."""
    yield _cluster
    _cluster.restore()


@pytest.fixture
def on_slurm(request, fault, dataset, tmp_path):
    """on_slurm(*arguments, nodes=2, per_node=1, folder=...): a training that is not started yet."""
    started = []

    def make(
        *arguments: object, nodes: int = 2, per_node: int = 1, folder: Path | None = None,
        follow: bool = True, data: Path | None = None, **changes
    ) -> Training:  # fmt: skip
        cluster = request.getfixturevalue("cluster")
        config = write(content(data or dataset, **changes), tmp_path / "tiny.yaml")
        command = ["launch/slurm.py", "--gpus-per-node", 0]
        if per_node > 1:
            command = ["tests/cluster/faults/slurm_on_cpus.py", "--gpus-per-node", per_node]
        command += ["--config", config, "--nodes", nodes, *["--follow"] * follow, *arguments]
        conf, processes = cluster.env["SLURM_CONF"], nodes * per_node
        training = Training(folder or tmp_path / "run", tmp_path, command, conf, processes)
        fault.row.where = f"{nodes} nodes" + f", {per_node} processes each" * (per_node > 1)
        started.append(training)
        return training

    yield make
    _end(started)


@pytest.fixture
def local(fault, dataset, tmp_path):
    """local(*arguments, processes=1, folder=...): the same without SLURM."""
    started = []

    def make(
        *arguments: object, processes: int = 1, folder: Path | None = None,
        data: Path | None = None, **changes
    ) -> Training:  # fmt: skip
        config = write(content(data or dataset, **changes), tmp_path / "tiny.yaml")
        command = ["launch/local.py", "--config", config, "--processes", processes, *arguments]
        training = Training(folder or tmp_path / "run", tmp_path, command, "", processes)
        fault.row.where = f"local, {processes}"
        started.append(training)
        return training

    yield make
    _end(started)


def _end(trainings: list[Training]) -> None:
    for training in trainings:
        if training.child is not None:
            training.kill_all()


@pytest.fixture
def inject():
    """inject(training, FAULT_...=value): the environment of a fault in a process (inject/)."""

    def into(training: Training, **env: object) -> None:
        given = {name: str(value) for name, value in env.items()} | {"PYTHONPATH": str(INJECT)}
        training.env |= given

    return into
