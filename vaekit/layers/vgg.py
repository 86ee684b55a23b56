"""The convolutions of VGG16, made on first use and fixed."""

from pathlib import Path

import torch
from torch import Tensor, nn

from vaekit.optional import require

#: places after which features are taken, by the name of the activation
LAYERS = {"relu1_2": 3, "relu2_2": 8, "relu3_3": 15, "relu4_3": 22, "relu5_3": 29}


class VGG16:
    """x in (0, 1) `(b, 3, h, w)` → features at some layers. No module: it is neither trained, saved nor moved along.

    Args:
        layers: names out of `LAYERS`.
        weights: "imagenet", which torchvision fetches; a file of tensors named `features.*` (safetensors or a torch
            checkpoint); None for fixed random ones.

    Raises:
        ValueError: where a layer is unknown.
    """

    def __init__(self, layers: tuple[str, ...], weights: str | None) -> None:
        unknown = [name for name in layers if name not in LAYERS]
        if unknown or not layers:
            raise ValueError(f"layers: expected some of {', '.join(LAYERS)}; got {list(layers)}.")
        self.places, self.weights = sorted(LAYERS[name] for name in layers), weights
        self._network: nn.Sequential | None = None

    def __call__(self, x: Tensor) -> list[Tensor]:
        network = self._on(x)
        shift, scale = (x.new_tensor(v).reshape(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        found, h = [], (x - shift) / scale
        for place, layer in enumerate(network):
            h = layer(h)
            if place in self.places:
                found.append(h)
        return found

    def _on(self, x: Tensor) -> nn.Sequential:
        if self._network is None:
            self._network = self._load()
        weight = next(self._network.parameters())
        if weight.device != x.device or weight.dtype != x.dtype:
            self._network = self._network.to(x)
        return self._network

    def _load(self) -> nn.Sequential:
        models = require("torchvision.models", user="VGG16")
        if self.weights == "imagenet":
            network = models.vgg16(weights=models.VGG16_Weights.IMAGENET1K_V1).features
        else:
            with torch.random.fork_rng([]):
                torch.manual_seed(0)  # random features are the same in every process
                network = models.vgg16(weights=None).features
            if self.weights is not None:
                network.load_state_dict(_read(Path(self.weights)))
        for layer in network:
            if isinstance(layer, nn.ReLU):
                layer.inplace = False  # the features before it are still wanted
        return network[: self.places[-1] + 1].eval().requires_grad_(False)


def _read(path: Path) -> dict[str, Tensor]:
    if not path.exists():
        raise FileNotFoundError(f"{path}: there are no weights. Give weights='imagenet', a file, or None.")
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        tensors = load_file(path)
    else:
        tensors = torch.load(path, weights_only=True, map_location="cpu")
    return {key.removeprefix("features."): value for key, value in tensors.items() if key.startswith("features.")}
