"""A folder of images as a dataset: classes from its subfolders, files that can't be read left out and named."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vaekit.optional import require

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp"})


@dataclass(frozen=True)
class Unreadable:
    """An image that could not be read, in its place.

    Args:
        path: the file.
        reason: why.
    """

    path: str
    reason: str


class ImageFolder(torch.utils.data.Dataset[Any]):
    """Images below a folder, in the order of their names, as bytes (c, h, w); labels from first subfolders, if any.

    An image is shrunk or grown until it covers the size, and the middle is taken. One that can't be read comes as
    `Unreadable`.

    Args:
        root: the folder.
        shape: (c, h, w), with 1 channel for grey or 3 for colour; None takes images as they are, in colour.
        name: what the data are called in messages.

    Raises:
        ValueError: where the folder holds no image, or the shape is no image's.
    """

    def __init__(self, root: str | Path, shape: Sequence[int] | None, name: str = "data") -> None:
        require("PIL.Image", user="a folder of images", extra="train")
        self.root, self.shape = Path(root), shape
        if not self.root.is_dir():
            raise ValueError(f"{name}: {self.root} is no folder.")
        if shape is not None and (len(shape) != 3 or shape[0] not in (1, 3, 4)):
            raise ValueError(f"{name}: a folder of images can't give data of shape {tuple(shape)}.")
        self.paths = sorted(path for path in self.root.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
        if not self.paths:
            raise ValueError(f"{name}: {self.root} holds no image ({', '.join(sorted(SUFFIXES))}).")
        owners = [path.relative_to(self.root).parts[0] if path.parent != self.root else None for path in self.paths]
        self.classes = sorted({owner for owner in owners if owner is not None})
        whole = None not in owners
        self.labels = [self.classes.index(owner) if whole and owner is not None else None for owner in owners]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> Any:
        path = self.paths[i]
        try:
            x = to_bytes(require("PIL.Image", user="a folder of images", extra="train").open(path), self.shape)
        except (OSError, SyntaxError, ValueError, EOFError) as error:  # PIL raises all of these for damaged files
            return Unreadable(str(path), f"{type(error).__name__}: {error}")
        return x if self.labels[i] is None else (x, self.labels[i])


def to_bytes(image: Any, shape: Sequence[int] | None) -> Tensor:
    """An image of PIL's as bytes (c, h, w), covering the size, its middle.

    Args:
        image: any mode.
        shape: (c, h, w); None: in its own size, and in colour unless it is grey.
    """
    modes = {1: "L", 3: "RGB", 4: "RGBA"}
    if shape is None:
        image = image.convert("L" if image.mode in ("L", "1", "I", "F", "I;16") else "RGB")
    else:
        channels, height, width = shape
        image = image.convert(modes[channels])
        if image.size != (width, height):
            ops: Any = require("PIL.ImageOps", user="images from files", extra="train")
            resampling: Any = require("PIL.Image", user="images from files", extra="train").Resampling
            image = ops.fit(image, (width, height), resampling.BICUBIC)
    array = np.array(image, dtype=np.uint8)
    return torch.from_numpy(array[None] if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1)))
