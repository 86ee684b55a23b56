"""What the variants start from: the plain VAE on the network that fits the data."""

from collections.abc import Sequence
from typing import Any, TypeAlias

from vaekit.layers.resample import pyramid
from vaekit.spec import Spec, term, use

Latent: TypeAlias = int | Sequence[int]
DataRange: TypeAlias = tuple[float, float] | None


def plain(latent: Latent, input_shape: Sequence[int], data_range: DataRange, **slots: Any) -> Spec:
    """The plain VAE with some slots set otherwise."""
    network = "conv" if len(input_shape) > 1 else "mlp"
    args = {
        "input_shape": input_shape,
        "latent": latent,
        "data_range": data_range,
        "encoder": use(network),
        "decoder": use(network),
        "likelihood": use("bernoulli") if data_range == (0.0, 1.0) else use("gaussian", scale=1.0),
        "loss": (term("nll"), term("kl")),
    }
    return Spec("vae", "flat", {**args, **slots})


def code_map(latent: Latent, input_shape: Sequence[int], depth: int) -> Latent:
    """Channels of codes as a map, `depth` halvings below the data; a map, or what goes with vectors, as it is."""
    if not isinstance(latent, int) or len(input_shape) == 1:
        return latent
    return (latent, *pyramid(input_shape[1:], depth)[-1])
