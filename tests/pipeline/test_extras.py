"""Without an optional package, the command that needs it names it; the others run."""

import importlib
import sys
from pathlib import Path

import pytest

from pipeline import export
from pipeline.networks.family import ModelError
from pipeline.pictures import outputs
from pipeline.pictures.outputs import OutputError


def test_movies(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(OutputError, match=r"a.mp4 needs PyAV: pip install '\.\[movies\]', or"):
        outputs.check(Path("a.mp4"))
    outputs.check(Path("a.gif"))


def test_onnx(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ModelError, match=r"ONNX needs onnxscript, .*: pip install '\.\[onnx\]'"):
        export.onnx(tmp_path, tmp_path / "out", None)


def test_explore(monkeypatch):
    monkeypatch.delitem(sys.modules, "pipeline.explore", raising=False)
    monkeypatch.setitem(sys.modules, "nicegui", None)
    with pytest.raises(SystemExit, match=r"needs NiceGUI: pip install '\.\[explore\]'"):
        importlib.import_module("pipeline.explore")
