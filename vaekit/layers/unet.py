"""What the two halves of `unet_attn` share: the MidBlock and the rule that says where maps attend to themselves."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from vaekit.layers.attention import CrossAttention, SelfAttention
from vaekit.layers.residual import ResidualBlock


class MidBlock(nn.Module):
    """residual ─ self-attention ─ (cross-attention to tokens) ─ residual, at the smallest map."""

    def __init__(self, rank: int, channels: int, *, heads: int, token_dim: int) -> None:
        super().__init__()
        self.first = ResidualBlock(rank, channels, channels)
        self.attention = SelfAttention(channels, heads=heads)
        self.to_tokens = CrossAttention(channels, token_dim, heads=heads) if token_dim else None
        self.last = ResidualBlock(rank, channels, channels)

    def forward(
        self, x: Float[Tensor, "b c *s"], tokens: Float[Tensor, "b t k"] | None = None
    ) -> Float[Tensor, "b c *s"]:
        x = self.attention(self.first(x))
        if self.to_tokens is not None and tokens is not None:
            x = self.to_tokens(x, tokens)
        return self.last(x)


def attends(size: Sequence[int], attention: int | Sequence[int]) -> bool:
    """Whether a map of `size` gets self-attention: longest side at most the number, or one of the numbers.

    Example:
        >>> attends((16, 12), 16), attends((32, 8), 16), attends((32, 8), (32, 8))
        (True, False, True)
    """
    return max(size) <= attention if isinstance(attention, int) else max(size) in tuple(attention)
