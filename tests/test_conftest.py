"""How tests are chosen and ordered (tests/conftest.py)."""

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

TESTS = """
import pytest

@pytest.mark.slurm
def test_on_a_cluster(): pass

def test_quick(): pass
"""


@pytest.fixture
def project(pytester, monkeypatch):
    """A project with this conftest and two tests, which knows no program at all."""
    pytester.makeconftest((Path(__file__).parent / "conftest.py").read_text())
    # Each run would import hypothesis anew, for a second.
    markers = "\n    ".join(("", "slurm", "gpu", "browser"))
    pytester.makeini(f"[pytest]\naddopts = -p no:hypothesispytest\nmarkers ={markers}")
    pytester.makepyfile(TESTS)
    monkeypatch.setenv("PATH", "/nowhere")
    return pytester


def test_a_test_that_cannot_run_is_skipped_and_says_why(project):
    result = project.runpytest("-rs")
    result.assert_outcomes(passed=1, skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED*a SLURM cluster needs *"])


def test_a_test_that_cannot_run_fails_where_it_is_required(project):
    result = project.runpytest("--require", "gpu,slurm")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["a SLURM cluster needs *"])


def test_an_unknown_requirement_is_refused(project):
    result = project.runpytest("--require", "slurm", "--require=gpus")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--require gpus: not one of gpu, browser, slurm*"])


def test_slurm_tests_come_last(project):
    result = project.runpytest("--collect-only", "-q")
    result.stdout.fnmatch_lines(["*::test_quick", "*::test_on_a_cluster"])
