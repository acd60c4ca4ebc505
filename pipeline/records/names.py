"""How a training's data and values are called in MLflow: distances first, the rest in groups.

    fid, fid_best, reconstruction_mse       of a stage's run
    fid/r004, fid_best/r004, ...            of the training's run, one for each resolution
    health/ schedule/ speed/ train/         of a stage's run, over images seen

MLflow sorts by name: its compare page opens on the distance. Its table shows the last value of a
metric, so the best one stands beside it, with the images seen at which it was measured.
"""

from dataprep.manifest import Manifest

# By how a name begins.
GROUPS = {
    "health": ("kl_", "decoder_ratio", "skipped_steps"),
    "schedule": ("alpha", "lr"),
    "speed": ("images_per_second", "peak_memory_gib", "processes"),
}
DISTANCES = ("fid", "fd_")


def grouped(name: str) -> str:
    """`lr` is `schedule/lr`; what is in no group is in `train/`; `system/NODE/...` stays."""
    if "/" in name:
        return name
    group = next((g for g, starts in GROUPS.items() if name.startswith(starts)), "train")
    return f"{group}/{name}"


def is_distance(name: str) -> bool:
    """Whether it is a Frechet distance, of which the smallest is the best."""
    return name.startswith(DISTANCES)


def at_resolution(name: str, resolution: int) -> str:
    """A stage's value on the training's run."""
    return f"{name}/r{resolution:03}"


def with_best(history: list[tuple[int, dict[str, float]]]) -> dict[str, float]:
    """The last of a stage's evaluations (images, values), and the best distances up to there."""
    found = dict(history[-1][1])
    for name in [n for n in found if is_distance(n)]:
        best, images = min((values[name], images) for images, values in history if name in values)
        found |= {f"{name}_best": best, f"{name}_best_images": images}
    return found


def dataset(manifest: Manifest, split: str, resolution: int | None = None) -> dict:
    """A split at a resolution (all of them: None) as a data set's {name, digest, source, profile}.

    The digest is the manifest's, of all resolutions and splits.
    """
    at = f" {resolution}x{resolution}" if resolution else ""
    return {
        "name": f"{manifest.content['source']['name']} {split}{at}",
        "digest": manifest.digest,
        "source": manifest.place,
        "profile": {
            "num_rows": manifest.count(split),
            "split": split,
            "resolution": resolution or list(manifest.resolutions),
        },
    }
