"""Writes a model card from a checkpoint and the journal of its run."""

import json
from pathlib import Path
from typing import Any

MEANING = (
    ("fid", "Fréchet inception distance of 50,000 samples to the training images"),
    ("fd_", "Fréchet distance of other features, or of fewer samples: no FID"),
    ("reconstruction_mse", "mean squared error of test images' reconstructions, in [-1, 1]"),
)
USES = """\
The model generates images that resemble its training data, and encodes images into its latent
space. Do not use it to present generated faces as real people, to identify people, or to judge
people by their faces: it has the gaps and biases of its training data. The terms of use of the
training data apply to its outputs."""


def card(source: Path, about: dict[str, Any], loaded: Any, reconstructions: bool) -> str:
    """The README.md of a model saved in `source`, in the format of the Hugging Face hub."""
    config, side = about.get("config", {}), loaded.resolution
    name = config.get("name", source.name)
    parts = [
        "---\nlibrary_name: soft-introvae-training\ntags: [vae, soft-introvae]\n---",
        f"# {name}, {side}x{side}",
        "A Soft-IntroVAE ([Daniel & Tamar, 2021](https://arxiv.org/abs/2012.13253)): an encoder of "
        f"{side}x{side} images to {loaded.latent} latent dimensions, and a decoder back.",
        "![Samples](samples.png)",
    ]
    if reconstructions:
        parts.append("Test images over their reconstructions:\n\n![](reconstructions.png)")
    parts += [
        "## Use\n\n```python\nimport pipeline\n\nmodel = pipeline.load('.')\n"
        "images = model.sample(16, seed=0, psi=0.7)   # (16, 3, R, R) in [-1, 1]\n"
        "mu, logvar = model.encode(images)\n```",
        f"## Intended use and limits\n\n{USES}",
        "## Training\n\n" + table(("", ""), facts(about)),
    ]
    if stages := config.get("stages"):
        rows = [
            (f"{s['resolution']}x{s['resolution']}", f"{s['images']:,}", s["batch"], s["lr"])
            for s in stages
        ]
        parts.append(table(("stage", "images", "batch", "learning rate"), rows))
    if values := numbers(source, side, about.get("images")):
        meanings = [(k, f"{v:.5g}", meaning(k)) for k, v in values.items()]
        parts.append(
            f"## Metrics\n\nAveraged weights at {side}x{side}, after "
            f"{about['images']:,} images.\n\n" + table(("", "", ""), meanings)
        )
    return "\n\n".join(parts) + "\n"


def facts(about: dict[str, Any]) -> list[tuple[str, str]]:
    """The training of the weights as (name, value) rows."""
    config = about.get("config", {})
    found = []
    if about.get("images"):
        found.append(("images seen", f"{about['images']:,}"))
    if digest := about.get("dataset_digest"):
        found.append(("data set", f"`{Path(config['data']['path']).name}`, sha256 `{digest}`"))
    if objective := config.get("objective"):
        said = ", ".join(f"{k} {v}" for k, v in objective.items() if v is not None)
        found.append(("objective", said))
    if config.get("init"):
        found.append(("weights at the start", str(config["init"])))
    if origin := config.get("origin"):
        at = f" at {origin['images']:,} images" if origin.get("images") else ""
        found.append(("begun with", f"{Path(origin['run']).name}{at}, `{origin['checkpoint']}`"))
    for change in config.get("history") or []:
        found.append((f"from image {change['images']:,}", "; ".join(change["changes"])))
    if converted := about.get("converted"):
        found.append(("converted from", ", ".join(f"{k} {v}" for k, v in converted.items())))
    return found


def numbers(source: Path, side: int, images: int | None) -> dict[str, float]:
    """The metrics of this checkpoint in the run's journal, by name."""
    journal = source.parent.parent / "metrics.jsonl"
    if not journal.exists():
        return {}
    for line in map(json.loads, journal.read_text().splitlines()):
        where = (line["images"], line["resolution"])
        if where == (images, side) and "evaluation_seconds" in line:
            apart = ("images", "resolution", "evaluation_seconds")
            return {k: v for k, v in line.items() if k not in apart}
    return {}


def meaning(name: str) -> str:
    """A metric's description. A name with fewer samples (`fid_10k`) is described as no FID."""
    exact = dict(MEANING)
    return exact.get(name) or (exact["fd_"] if name.startswith(("fid_", "fd_")) else "")


def table(head: tuple, rows: list[tuple]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
