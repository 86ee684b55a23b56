"""Normalizing flows of the zuko package as plain invertible networks."""

from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from vaekit.optional import require


def import_zuko(user: str) -> ModuleType:
    """The package, with torch's checks of distributions left as they were: its import switches them off."""
    checks = Distribution._validate_args
    try:
        return require("zuko", user=user, extra="flows")
    finally:
        Distribution.set_default_validate_args(checks)


class ZukoFlow(nn.Module):
    """x `(*n, b, d)` → f(x; c) and log |det ∂f/∂x| `(*n, b)`, or the inverse and its own log-determinant.

    The direct way is the fast one: of an autoregressive flow of d features the inverse takes d passes.

    Args:
        name: a flow of zuko over the reals, in lower case: "maf", "nsf", "nice", "realnvp", "naf", "sospf", …
        features: d.
        context: size of c, 0 for none.
        transforms: number of layers of the flow; "cnf" has one.
        hidden: widths of the hidden layers of its networks.
        user: what needs the flow, for messages.

    Raises:
        MissingPackage: where zuko is not installed.
        ValueError: where zuko has no such flow, or a number is not positive.
    """

    def __init__(
        self, name: str, features: int, context: int, transforms: int, hidden: Sequence[int], user: str
    ) -> None:
        super().__init__()
        if transforms < 1:
            raise ValueError(f"transforms: expected at least 1, got {transforms}.")
        if any(width < 1 for width in hidden):
            raise ValueError(f"hidden: expected positive widths, got {tuple(hidden)}.")
        flows = import_zuko(user).flows
        known = {key.lower(): getattr(flows, key) for key in _FLOWS if hasattr(flows, key)}
        if name not in known:
            raise ValueError(f"flow: expected one of {', '.join(known)}; got {name!r}.")
        layers = {} if name == "cnf" else {"transforms": transforms}
        self.transform = known[name](features, context, hidden_features=tuple(hidden), **layers).transform

    def forward(self, x: Tensor, context: Tensor | None = None, inverse: bool = False) -> tuple[Tensor, Tensor]:
        transform = self.transform(context)
        return (transform.inv if inverse else transform).call_and_ladj(x)


# those whose noise is a standard normal
_FLOWS = ("MAF", "NSF", "NICE", "RealNVP", "NAF", "UNAF", "SOSPF", "BPF", "GF", "CNF")


def standard_normal(like: Tensor) -> Distribution:
    """N(0, I) of the shape, type and device of `like`, whose last dimension is the event."""
    zeros = torch.zeros_like(like)
    return Independent(torch.distributions.Normal(zeros, torch.ones_like(like), validate_args=False), 1, False)
