"""Nested state ↔ JSON and named tensors, so that nothing of a checkpoint is ever unpickled."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

_MARK = "@"  # a mapping whose only key begins with it stands for something that JSON lacks


def flatten(value: Any, tensors: dict[str, Tensor], path: str = "") -> Any:
    """`value` as JSON takes it; its tensors are put into `tensors`, by their path.

    Args:
        value: mappings, lists, tuples, numbers, text, None, bytes, tensors and arrays, nested.
        tensors: filled in.
        path: where `value` stands, for names and messages.

    Raises:
        TypeError: where something else is met, naming where.

    Example:
        >>> tensors = {}
        >>> flatten({"lr": 0.1, 0: (torch.zeros(2), None)}, tensors)
        {'@dict': [['lr', 0.1], [0, {'@tuple': [{'@tensor': '/0/0'}, None]}]]}
        >>> unflatten(_, tensors)
        {'lr': 0.1, 0: (tensor([0., 0.]), None)}
    """
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, Tensor):
        tensors[path] = value.detach()
        return {"@tensor": path}
    if isinstance(value, np.ndarray):
        tensors[path] = torch.as_tensor(value)
        return {"@array": path}
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else {"@float": repr(float(value))}
    if isinstance(value, Mapping):
        plain = all(isinstance(key, str) for key in value) and not any(key.startswith(_MARK) for key in value)
        if plain:
            return {key: flatten(each, tensors, f"{path}/{key}") for key, each in value.items()}
        if any(not isinstance(key, (str, int, type(None))) for key in value):
            raise TypeError(f"{path or 'state'}: has keys that can't be written: {list(value)[:3]}.")
        return {"@dict": [[key, flatten(each, tensors, f"{path}/{key}")] for key, each in value.items()]}
    if isinstance(value, (list, tuple)):
        items = [flatten(each, tensors, f"{path}/{i}") for i, each in enumerate(value)]
        return items if isinstance(value, list) else {"@tuple": items}
    raise TypeError(
        f"{path or 'state'}: holds a {type(value).__name__}, which a checkpoint can't. Give numbers, text, lists, "
        "mappings or tensors."
    )


def unflatten(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What `flatten` was given."""
    if isinstance(value, list):
        return [unflatten(each, tensors) for each in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((kind, held),) = value.items()
        if kind == "@tensor":
            return tensors[held]
        if kind == "@array":
            return tensors[held].numpy()
        if kind == "@float":
            return float(held)
        if kind == "@tuple":
            return tuple(unflatten(each, tensors) for each in held)
        if kind == "@dict":
            return {key: unflatten(each, tensors) for key, each in held}
    return {key: unflatten(each, tensors) for key, each in value.items()}
