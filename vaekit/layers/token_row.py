"""How many tokens the networks have whose latent is a row of them."""

from collections.abc import Sequence


def tokens_of(latent_shape: Sequence[int], tokens: int | None, default: int = 32) -> int:
    """K of a latent `(c, K)`, or for a vector latent what was given, or `default`.

    Raises:
        ValueError: where the latent is a map of more dimensions, or says another number than `tokens`.

    Example:
        >>> tokens_of((12, 64), None), tokens_of((16,), 8), tokens_of((16,), None)
        (64, 8, 32)
    """
    if tokens is not None and tokens < 1:
        raise ValueError(f"tokens: expected at least 1, got {tokens}.")
    if len(latent_shape) == 1:
        return default if tokens is None else tokens
    count = latent_shape[1]
    if len(latent_shape) > 2:
        raise ValueError(
            f"latent: expected a row of tokens (c, K), or an int for a vector; got the map {tuple(latent_shape)}. The "
            "encoder's tokens have no place in the data; encoders with a map are 'vit', 'conv', 'resnet', 'unet_attn'."
        )
    if tokens is not None and tokens != count:
        raise ValueError(f"tokens: {tokens} contradicts latent={tuple(latent_shape)}. Leave tokens out.")
    return count
