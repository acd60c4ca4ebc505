"""What the code promises about files and names that it did not make; the rest is tested beside it:
archives in dataprep/test_sources.py, pickles in pipeline/test_convert.py, addresses in
pipeline/data/test_streaming.py, manifests in dataprep/test_manifest.py, names on their way to a
shell in launch/test_sbatch.py and launch/test_slurm_trials.py."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator

from tests.conftest import ROOT
from tests.dataprep.pictures import make_folder

PACKAGES = ("dataprep", "pipeline", "stages", "launch", "docs", "benchmarks")
# A call -> the argument that makes it harmless; None where nothing does.
DANGEROUS = {
    "pickle.load": None, "pickle.loads": None, "pickle.Unpickler": None, "dill.load": None,
    "joblib.load": None, "yaml.load": None, "yaml.unsafe_load": None, "eval": None, "exec": None,
    "os.system": None, "os.popen": None, "subprocess.getoutput": None,
    "torch.load": ("weights_only", True), "np.load": ("allow_pickle", False),
}  # fmt: skip
METHODS = ("extractall", "extract")  # of archives


def calls() -> Iterator[tuple[str, str, dict[str, object]]]:
    """Every call in the code: where, its name, its constant arguments by name."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call):
                    constants = {
                        k.arg: k.value.value
                        for k in node.keywords
                        if isinstance(k.value, ast.Constant)
                    }
                    where = f"{path.relative_to(ROOT)}:{node.lineno}"
                    yield where, ast.unparse(node.func), constants


def test_nothing_is_unpickled_extracted_or_given_to_a_shell():
    bad, harmless = [], 0
    for where, name, constants in calls():
        if constants.get("shell") or (name.rpartition(".")[2] in METHODS and "." in name):
            bad.append(f"{where} {name}")
        if name in DANGEROUS:
            wanted = DANGEROUS[name]
            if wanted and constants.get(wanted[0], "") is wanted[1]:
                harmless += 1
            else:
                bad.append(f"{where} {name}")
    assert bad == [] and harmless >= 4  # that many are known


def test_a_dataset_has_the_permissions_that_the_umask_leaves(tmp_path):
    make_folder(tmp_path / "images", 8)
    command = [sys.executable, ROOT / "dataprep/shard.py", tmp_path / "images"]
    command += ["--out", tmp_path / "out", "--max-resolution", "8", "--test-fraction", "0.5"]
    subprocess.run(command, check=True, capture_output=True, preexec_fn=lambda: os.umask(0o027))
    found = [tmp_path / "out", *(tmp_path / "out").rglob("*")]
    modes = {(path.is_dir(), oct(path.stat().st_mode & 0o777)) for path in found}
    assert modes == {(True, "0o750"), (False, "0o640")}
