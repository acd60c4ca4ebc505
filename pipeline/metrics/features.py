"""Feature extractors, and the name of the Frechet distance of each."""

import os
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from torch_fidelity.feature_extractor_inceptionv3 import (
    URL_INCEPTION_V3,
    FeatureExtractorInceptionV3,
)

from pipeline.records.files import sha256

METRICS = {"inception": "fid", "vgg16": "fd_vgg16", "random": "fd_random"}


class FeaturesError(Exception):
    """An extractor that cannot be loaded; the message names what is missing and the way out."""


class Extractor(NamedTuple):
    """A kind of features and its weights; `load` makes the module."""

    kind: str
    """A key of METRICS."""
    weights: Path | None
    digest: str
    """Identity of the features: of the weight file, or of the code that draws them."""

    @property
    def metric(self) -> str:
        """The name of a Frechet distance between these features."""
        return METRICS[self.kind]

    def load(self, device: torch.device) -> nn.Module:
        """The module: uint8 (B, 3, R, R) to float32 features (B, d); no gradients."""
        if self.kind == "inception":
            module = Inception(self.weights)
        else:
            module = VGG16(self.weights) if self.kind == "vgg16" else RandomFeatures()
        return module.requires_grad_(False).eval().to(device)


def find(kind: str, weights: str | None) -> Extractor:
    """The extractor `kind` with its weights; downloads Inception's once. FeaturesError."""
    if kind == "random":
        return Extractor(kind, None, "random-1")
    if kind == "inception":
        path = Path(weights) if weights else _download_inception()
        digest = _digest(path)
        # The file's name ends in the first digits of its sha256.
        expected = URL_INCEPTION_V3.rsplit("-", 1)[1].removesuffix(".pth")
        if not digest.startswith(expected):
            raise FeaturesError(
                f"{path} does not hold the Inception weights of 2015-12-05 (its sha256 begins "
                f"{digest[:8]}, not {expected}), and FID is defined by them: fetch "
                f"{URL_INCEPTION_V3}"
            )
        return Extractor(kind, path, digest)
    if not weights:
        raise FeaturesError("VGG16 features need evaluation.weights, a safetensors file of VGG16")
    return Extractor(kind, Path(weights), _digest(Path(weights)))


def _digest(path: Path) -> str:
    try:
        return sha256(path)
    except OSError as error:
        raise FeaturesError(f"feature weights {path}: {error.strerror}") from None


def _download_inception() -> Path:
    """torch-fidelity's weights in torch's cache, downloaded if missing. FeaturesError."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / URL_INCEPTION_V3.rsplit("/", 1)[1]
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(URL_INCEPTION_V3, str(path))
        except OSError as error:
            raise FeaturesError(
                f"the Inception weights of FID could not be fetched ({error}): fetch "
                f"{URL_INCEPTION_V3} elsewhere and name the file in evaluation.weights"
            ) from None
    return path


class Inception(nn.Module):
    """The Inception of FID: 2,048 features of its last pooling, by torch-fidelity."""

    def __init__(self, weights: Path):
        super().__init__()
        # torch-fidelity unpickles the file; it gets a copy with tensors only.
        tensors = torch.load(weights, map_location="cpu", weights_only=True)
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "weights.pth")
            torch.save(tensors, path)
            self.network = FeatureExtractorInceptionV3(
                "inception-v3-compat", ["2048"], feature_extractor_weights_path=path
            )

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)[0]


class VGG16(nn.Module):
    """The 512 channels of VGG16's last pooling, averaged over space, by timm.

    Images below 32x32 are enlarged to it, the least that the five poolings leave a pixel of.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, weights: Path):
        super().__init__()
        network = timm.create_model("vgg16", pretrained=False, num_classes=0)
        tensors = {name: t.float() for name, t in load_file(weights).items()}
        missing = network.load_state_dict(tensors, strict=False).missing_keys
        if any(name.startswith("features.") for name in missing):
            raise FeaturesError(
                f"{weights} lacks {missing[0]}: it does not hold VGG16 of torchvision"
            )
        self.features: Any = network.features
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return self.features(self.normalised(images)).mean(dim=(2, 3))

    def normalised(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, R, R) as the network was trained on them."""
        x = (images.to(self.mean.dtype) / 255 - self.mean) / self.std
        if x.shape[-1] < 32:
            x = F.interpolate(x, size=32, mode="bilinear", antialias=False)
        return x


class RandomFeatures(nn.Module):
    """256 features of a small convolutional network with random weights.

    They need no file and no download. They detect gross differences between sets of images, and
    do not measure perceived quality.
    """

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        widths = [3, 32, 64, 128]
        self.kernels = nn.ParameterList(
            torch.randn(o, i, 3, 3, generator=generator) * (2 / (9 * i)) ** 0.5
            for i, o in pairwise(widths)
        )

    def forward(self, images: Tensor) -> Tensor:
        x = images.float() / 127.5 - 1
        x = F.interpolate(x, size=32, mode="bilinear", antialias=x.shape[-1] > 32)
        for kernel in self.kernels:
            x = F.avg_pool2d(F.relu(F.conv2d(x, kernel, padding=1)), 2)
        return torch.cat([x.mean(dim=(2, 3)), x.std(dim=(2, 3))], dim=1)
