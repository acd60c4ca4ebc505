"""Packs a model into a folder to share: safetensors, configuration, model card, MLflow's pyfunc:

    python -m pipeline.pack --checkpoint runs/ffhq256 --out ffhq256-model
    python -m pipeline.pack --checkpoint runs/ffhq256 --out best --register faces --alias best

Upload the folder to the Hugging Face hub, or zip it. It contains no pickle. `pipeline.load(folder)`
loads it, and so does `mlflow.pyfunc.load_model(folder)` if mlflow and this package are installed:

    model = mlflow.pyfunc.load_model(folder)
    x = model.predict(z, params={"psi": 0.7})   # z (N, latent, 1, 1) to (N, 3, R, R) in [-1, 1]
    found = model.predict(x)                    # {"mu", "logvar"}, both (N, latent)
"""

import argparse
import json
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline import model as models
from pipeline.card import card
from pipeline.data.loaders import to_uint8
from pipeline.networks.family import ModelError
from pipeline.networks.style.trained import styled
from pipeline.pictures.grids import grid
from pipeline.records import checkpoints
from pipeline.records.checkpoints import Checkpoint, CheckpointError
from pipeline.records.files import whole
from pipeline.records.mlflow_access import TrackingError, open_store, reason
from pipeline.records.trainings import store_of

PACKAGE = "soft-introvae-training"
COLUMNS, SHOWN = 8, 32


class Packed:
    """The model for pyfunc: latents to images, images to their posterior."""

    def __init__(self, loaded: Any):
        self.loaded = loaded

    def predict(self, given: Any, params: dict | None = None) -> Any:
        """z (N, latent, 1, 1) to images (N, 3, R, R), or images to mu, logvar. ModelError."""
        x, params = torch.from_numpy(np.asarray(given, np.float32)), params or {}
        with torch.no_grad():
            if x.shape[1:] == (self.loaded.latent, 1, 1):
                how = {"noise": params.get("noise", "fixed"), "psi": params.get("psi", 1.0)}
                return self.loaded.decode(x[:, :, 0, 0], **how).float().cpu().numpy()
            mu, logvar = self.loaded.encode(x)
            return {"mu": mu.float().cpu().numpy(), "logvar": logvar.float().cpu().numpy()}


def _load_pyfunc(path: str) -> Packed:
    """MLflow's entry point: `MLmodel` names this module."""
    return Packed(models.load(path))


def pack(checkpoint: Path, out: Path) -> str:
    """Writes the folder `out`; returns a summary. CheckpointError, ModelError, OSError."""
    if out.exists():
        raise ModelError(f"{out} exists: name a folder that does not")
    source = models.find(checkpoint)
    about = checkpoints.read_about(source)
    averaged = checkpoints.read_part(source, about, "ema")
    if not averaged:
        raise ModelError(f"{source} has no averaged weights to share")
    loaded = styled(models.load(source, device="cpu"))
    kept = {k: v for k, v in about.items() if k not in ("format", "versions", "sha256")}
    out.parent.mkdir(parents=True, exist_ok=True)
    with whole(out) as beside:
        checkpoints.save(beside, Checkpoint({}, averaged, {}, kept))
        samples = to_uint8(loaded.sample(SHOWN, seed=0, noise="fixed"))
        grid(samples, COLUMNS).save(beside / "samples.png", format="png")
        side, images = loaded.resolution, about.get("images") or 0
        seen = source.parent.parent / "pictures" / f"reconstructions-{side:03}-{images:09}.png"
        if seen.exists():
            shutil.copyfile(seen, beside / "reconstructions.png")
        (beside / "README.md").write_text(card(source, about, loaded, seen.exists()))
        _describe(beside, loaded)
    return f"{out}: {loaded.resolution}x{loaded.resolution}, {images:,} images seen"


def _describe(folder: Path, loaded: Any) -> None:
    """MLmodel, requirements.txt and an input example."""
    import mlflow.pyfunc
    from mlflow.models import Model, ModelSignature
    from mlflow.types import DataType, ParamSchema, ParamSpec, Schema, TensorSpec

    example = loaded.prior(2, seed=0)[:, :, None, None]
    (folder / "input_example.json").write_text(json.dumps({"inputs": example.tolist()}) + "\n")
    params = [ParamSpec("psi", DataType.double, 1.0), ParamSpec("noise", DataType.string, "fixed")]
    described = Model(
        signature=ModelSignature(
            inputs=Schema([TensorSpec(np.dtype("float32"), (-1, -1, -1, -1))]),
            params=ParamSchema(params),
        ),
        saved_input_example_info={
            "artifact_path": "input_example.json",
            "type": "ndarray",
            "format": "tf-serving",
        },
    )
    mlflow.pyfunc.add_to_model(described, loader_module="pipeline.pack")
    described.save(str(folder / "MLmodel"))
    try:
        own = f"{PACKAGE}=={version(PACKAGE)}"
    except PackageNotFoundError:  # this code is not installed as a package
        own = PACKAGE
    (folder / "requirements.txt").write_text(f"mlflow=={version('mlflow')}\n{own}\n")


def register(out: Path, name: str, alias: str | None, uri: str) -> str:
    """Registers the folder as a model version; returns its address. TrackingError."""
    from mlflow.exceptions import MlflowException

    client = open_store(uri)
    try:
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name)
        made = client.create_model_version(name, source=out.resolve().as_uri())
        if alias:
            client.set_registered_model_alias(name, alias, made.version)
    except MlflowException as error:
        raise TrackingError(f"{uri} did not register {name}: {reason(error)}") from error
    return f"models:/{name}/{made.version}" + (f", models:/{name}@{alias}" if alias else "")


def main(arguments: list[str] | None = None) -> None:
    p = argparse.ArgumentParser(
        prog="python -m pipeline.pack",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--checkpoint", required=True, type=Path, help="a checkpoint's or run's folder")
    p.add_argument("--out", required=True, type=Path, help="folder to create")
    p.add_argument(
        "--register", metavar="NAME", help="registered model in MLflow to add a version to"
    )
    p.add_argument("--alias", help="alias of the registered version, such as best")
    p.add_argument("--uri", help="MLflow store to register in (the run's)")
    given = p.parse_args(arguments)
    try:
        if given.alias and not given.register:
            raise ModelError("--alias needs --register NAME")
        print(pack(given.checkpoint, given.out))
        if given.register:
            uri = store_of([str(given.checkpoint)], given.uri)
            print(register(given.out, given.register, given.alias, uri))
    except (CheckpointError, ModelError, TrackingError, OSError) as error:
        sys.exit(f"{p.prog}: {error}")


if __name__ == "__main__":
    main()
