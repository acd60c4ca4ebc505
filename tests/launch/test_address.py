"""A training on a dataset at an address, killed and resumed: the same bits as from files."""

import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.pipeline.data.server import Server
from tests.stages.tiny import final_weights, run, tiny, write

ROOT = Path(__file__).parents[2]


def test_killed_and_resumed_from_the_web_it_ends_in_the_bits_of_files(dataset, tmp_path):
    made = tmp_path / "dataset"
    command = [sys.executable, ROOT / "dataprep/shard.py", dataset.parent / "images"]
    command += ["--out", made, "--max-resolution", "4", "--formats", "webdataset"]
    subprocess.run([*command, "--shard-samples", "5"], check=True, capture_output=True)
    stage = {"resolution": 4, "images": 480, "batch": 16, "micro_batch": 4, "lr": 0.01}
    content = tiny(made, stages=[stage], data__order="shards", data__window=2)
    assert run(content, tmp_path / "files") == [0]

    with Server(made) as server:
        config, folder = write(tiny(made, stages=[stage]), tmp_path / "tiny.yaml"), tmp_path / "web"
        command = [sys.executable, ROOT / "launch/local.py", "--config", config, "--output", folder]
        command += [f"data.path={server.address}", "data.loader=webdataset", "data.order=shards"]
        command += ["data.window=2"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        while process.poll() is None and not list(folder.glob("checkpoints/0*")):
            time.sleep(0.01)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert not (folder / "checkpoints/000000480").exists()
        ended = subprocess.run(command, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
        assert "continuing at" in ended.stdout
    assert final_weights(folder, 480) == final_weights(tmp_path / "files", 480)
