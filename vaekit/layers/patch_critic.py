"""The stack of convolutions that judges patches: shared by the critics of the PatchGAN family."""

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

from jaxtyping import Float
from torch import Tensor, nn

from vaekit.layers.actnorm import ActNorm
from vaekit.layers.norm import group_norm
from vaekit.layers.resample import widths
from vaekit.layers.spectral import spectral

PatchNorm: TypeAlias = Literal["batch", "group", "instance", "actnorm", "none"]

_CONVOLUTIONS: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_BATCH_NORMS: dict[int, Any] = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_INSTANCE_NORMS: dict[int, Any] = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}


def patch_critic(
    c_in: int, rank: int, *, layers: int, width: int, kernel: int, norm: PatchNorm, spectral_norm: bool
) -> nn.Sequential:
    """x → a map of logits, each of which sees one patch of x.

        conv ↓2 ─ act ─ [conv ↓2 ─ norm ─ act] × (layers - 1) ─ conv ─ norm ─ act ─ conv ─► logits

    Widths double up to 8 times the first; act is leaky ReLU of slope 0.2. Weights start as N(0, 0.02), those of norms
    as N(1, 0.02). With batch normalisation and n layers in two dimensions it has the names and shapes of latent
    diffusion's `NLayerDiscriminator.main`.

    Raises:
        ValueError: where width or kernel are too small, or the normalisation is unknown.
    """
    if width < 1:
        raise ValueError(f"width: expected at least 1, got {width}.")
    if norm not in ("batch", "group", "instance", "actnorm", "none"):
        raise ValueError(f"norm: expected 'batch', 'group', 'instance', 'actnorm' or 'none', got {norm!r}.")
    wide = widths(width, layers, most=8)
    steps: list[nn.Module] = [critic_convolution(rank, c_in, width, kernel, 2), nn.LeakyReLU(0.2)]
    for i, (a, b) in enumerate(zip(wide, wide[1:], strict=False), start=1):
        # batch and instance norms take the mean away, and a bias with it
        bias = norm not in ("batch", "instance")
        steps += [
            critic_convolution(rank, a, b, kernel, 2 if i < layers else 1, bias=bias),
            *_norm(norm, b, rank),
            nn.LeakyReLU(0.2),
        ]
    main = nn.Sequential(*steps, critic_convolution(rank, wide[-1], 1, kernel))
    for step in main:
        if isinstance(step, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            nn.init.normal_(step.weight, 0.0, 0.02)
            if spectral_norm:
                spectral(step)
        elif isinstance(step, (nn.GroupNorm, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
            nn.init.normal_(step.weight, 1.0, 0.02)
    return main


def patch_features(main: nn.Sequential, x: Float[Tensor, "b c *s"]) -> list[Tensor]:
    """The map after each activation; the last layer makes logits of the last."""
    found = []
    for step in main[:-1]:
        x = step(x)
        if isinstance(step, nn.LeakyReLU):
            found.append(x)
    return found


def patch_layers(in_shape: Sequence[int], layers: int | None, kernel: int, *, most: int = 3) -> int:
    """How often a patch critic halves its map: `layers`, or, where that is None, `most` or what the size allows.

    Example:
        >>> patch_layers((3, 256, 256), None, 4), patch_layers((1, 12, 13), None, 4)
        (3, 2)

    Raises:
        ValueError: where data have no spatial dimension, or are too small for one logit.
    """
    if len(in_shape) < 2 or len(in_shape) > 4:
        raise ValueError(
            f"expects maps of one to three spatial dimensions to judge, got data of shape {tuple(in_shape)}. Use 'mlp'."
        )
    if kernel < 2:
        raise ValueError(f"kernel: expected at least 2, got {kernel}.")
    if layers is not None and layers < 1:
        raise ValueError(f"layers: expected at least 1, got {layers}.")
    side, wanted = min(in_shape[1:]), most if layers is None else layers
    fitting = next((n for n in range(wanted, 0, -1) if _logits(side, n, kernel) >= 1), 0)
    if not fitting or (layers is not None and fitting < layers):
        shown = "×".join(map(str, in_shape[1:]))
        remedy = f"Set layers to at most {fitting}" if fitting else "Use 'conv' or 'mlp'"
        raise ValueError(
            f"layers: {layers or 1} with kernels of {kernel} leave nothing of a map of {shown}. {remedy}, or judge "
            "larger data."
        )
    return fitting


def critic_convolution(
    rank: int, c_in: int, c_out: int, kernel: int, stride: int = 1, *, bias: bool = True
) -> nn.Module:
    """A convolution padded by half a kernel, downwards: even kernels with stride 2 halve, and with stride 1 lose one.

    A kernel that its stride divides gives every value of the map the same number of ways to the logits.
    """
    return _CONVOLUTIONS[rank](c_in, c_out, kernel, stride, padding=(kernel - 1) // 2, bias=bias)


def _logits(side: int, layers: int, kernel: int) -> int:
    """Logits along a side, fewer than 1 where there are none."""
    for stride in [2] * layers + [1, 1]:
        side = (side + 2 * ((kernel - 1) // 2) - kernel) // stride + 1
        if side < 1:
            break
    return side


def _norm(norm: PatchNorm, channels: int, rank: int) -> list[nn.Module]:
    if norm == "batch":
        return [_BATCH_NORMS[rank](channels)]
    if norm == "instance":
        return [_INSTANCE_NORMS[rank](channels)]
    if norm == "actnorm":
        return [ActNorm(channels, rank)]
    return [group_norm(channels)] if norm == "group" else []
