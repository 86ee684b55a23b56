"""What is wrong with the weights of a file."""

from collections.abc import Mapping

from torch import Tensor


def misfits(given: Mapping[str, Tensor], own: Mapping[str, Tensor], *, spare: str = "\0") -> str:
    """How given tensors differ from a network's own, by names and shapes; "" where they do not.

    Args:
        given: the file's tensors.
        own: the network's.
        spare: the end of names that may be missing.

    Example:
        >>> import torch
        >>> misfits({"a": torch.ones(2), "c": torch.ones(1)}, {"a": torch.ones(3), "b": torch.ones(1)})
        '1 missing (b); 1 not in the network (c); 1 of another shape (a: (2,) in place of (3,))'
    """
    missing = [key for key in own if key not in given and not key.endswith(spare)]
    extra = [key for key in given if key not in own]
    wrong = [
        f"{key}: {tuple(given[key].shape)} in place of {tuple(own[key].shape)}"
        for key in own
        if key in given and given[key].shape != own[key].shape
    ]
    return "; ".join(
        f"{len(which)} {what} ({', '.join(which[:4])}{', …' if len(which) > 4 else ''})"
        for what, which in (("missing", missing), ("not in the network", extra), ("of another shape", wrong))
        if which
    )
