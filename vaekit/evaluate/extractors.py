"""Networks that give the features which FID, KID, precision and recall compare."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vaekit.layers.precision import at_least_float32
from vaekit.optional import require


@dataclass(frozen=True)
class Extractor:
    """Images `(b, c, h, w)` in the data range → features `(b, d)`, and a name, which becomes part of a metric's.

    Numbers that come from different extractors, or from differently resized images, can't be compared.

    Args:
        name: "inception", "resnet18", …: fid[resnet18].
        network: images → `(b, d)`.
    """

    name: str
    network: Callable[[Tensor], Tensor]

    def __call__(self, images: Tensor) -> Tensor:
        """Features `(b, d)`; maps are refused."""
        features = self.network(images)
        if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != len(images):
            got = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise ValueError(
                f"extractor {self.name!r}: expected features of shape ({len(images)}, d), got {got}. Average maps over "
                "their places."
            )
        return features


def extractor(
    what: Any,
    data_range: tuple[float, float] | None = (0.0, 1.0),
    *,
    weights: str | Path | None = None,
    name: str | None = None,
    device: torch.device | str = "cpu",
) -> Extractor:
    """An `Extractor` from a name, a network or a function.

    Args:
        what: "inception", the InceptionV3 that papers report (pool3, 2,048 features), through torch-fidelity and its
            weights' file; "timm:resnet18", any network of timm before its classifier, with the size and normalisation
            it was trained with; a module or function, images in the data range → `(b, d)`; or an `Extractor`.
        data_range: of the images.
        weights: a file: for "inception" torch-fidelity's `weights-inception-2015-12-05-6726825d.pth`, which has to be
            there; for timm a checkpoint, None for the published weights, or "random".
        name: what to call it; None: the network's own name.
        device: where modules go.

    Raises:
        ValueError: where the name is unknown, or weights are given to a network that has its own.
        FileNotFoundError: where "inception" has no weights' file.
        MissingPackage: where torch-fidelity or timm is missing.

    Example:
        >>> import torch
        >>> extractor(lambda x: x.flatten(1), name="pixels")(torch.rand(3, 1, 2, 2)).shape
        torch.Size([3, 4])
    """
    if isinstance(what, Extractor):
        return what
    if isinstance(what, str):
        kind, _, rest = what.partition(":")
        if what == "inception":
            return Extractor(name or "inception", _Inception(weights, _unit(data_range)).to(device).eval())
        if kind == "timm" and rest:
            return Extractor(name or rest, _Timm(rest, weights, _unit(data_range)).to(device).eval())
        raise ValueError(f"extractor: expected 'inception', 'timm:NAME', a module or a function, got {what!r}.")
    if weights is not None:
        raise ValueError("weights: are for 'inception' and 'timm:NAME'. Load those of your own network yourself.")
    if not callable(what):
        raise ValueError(f"extractor: expected a name, a module or a function, got {type(what).__name__}.")
    network: Any = what
    called = name or (type(what).__name__ if isinstance(what, nn.Module) else getattr(what, "__name__", "function"))
    if called == "<lambda>":
        raise ValueError(
            "extractor: the function has no name, and it is part of the metric's. Use Extractor(name, function)."
        )
    return Extractor(called, network.to(device).eval() if isinstance(what, nn.Module) else network)


def _unit(data_range: tuple[float, float] | None) -> tuple[float, float]:
    if data_range is None:
        raise ValueError("extractor: images need a data_range, to be brought to the network's. Build with one.")
    return data_range


class _Colours(nn.Module):
    """Images in the data range → three channels in [0, 1]."""

    def __init__(self, data_range: tuple[float, float]) -> None:
        super().__init__()
        self.low, self.high = data_range

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] not in (1, 3):
            raise ValueError(
                f"extractor: expected images of 1 or 3 channels, got {tuple(x.shape[1:])}. Give a network of your own."
            )
        x = ((at_least_float32(x) - self.low) / (self.high - self.low)).clamp(0, 1)
        return x.expand(-1, 3, -1, -1)


class _Inception(nn.Module):
    """Bytes, resized as TensorFlow 1 did, through the network that FID was defined with."""

    def __init__(self, weights: str | Path | None, data_range: tuple[float, float]) -> None:
        super().__init__()
        file = "weights-inception-2015-12-05-6726825d.pth"
        if weights is None or not Path(weights).is_file():
            raise FileNotFoundError(
                f"extractor 'inception': needs the file {file}, and {weights or 'none'} was given. Download it from "
                f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{file}, or use 'timm:NAME'."
            )
        torch.load(weights, weights_only=True)  # torch-fidelity would run code that another file may hold
        made: Any = require("torch_fidelity.feature_extractor_inceptionv3", user="the extractor 'inception'")
        self.colours = _Colours(data_range)
        self.network = made.FeatureExtractorInceptionV3("inception", ["2048"], str(weights))

    def forward(self, x: Tensor) -> Tensor:
        (features,) = self.network((self.colours(x) * 255).round().to(torch.uint8))
        return features


class _Timm(nn.Module):
    """A network of timm before its classifier, on images of the size and scale that it was trained with."""

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, weights: str | Path | None, data_range: tuple[float, float]) -> None:
        super().__init__()
        timm: Any = require("timm", user=f"the extractor 'timm:{name}'")
        from_file = weights is not None and weights != "random"
        self.network = timm.create_model(
            name, pretrained=weights is None, checkpoint_path=str(weights) if from_file else "", num_classes=0
        ).requires_grad_(False)
        config = timm.data.resolve_model_data_config(self.network)
        self.size: Sequence[int] = config["input_size"][1:]
        self.colours = _Colours(data_range)
        for key in ("mean", "std"):
            self.register_buffer(key, torch.tensor(config[key]).reshape(3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        images = F.interpolate(self.colours(x), tuple(self.size), mode="bicubic", antialias=True).clamp(0, 1)
        return self.network(((images - self.mean) / self.std).to(self.mean.dtype))
