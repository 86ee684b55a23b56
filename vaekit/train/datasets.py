"""Two data sets to try things on: scikit-learn's embedded digits, and MNIST from its IDX files."""

import gzip
from pathlib import Path

import torch
from torch import Tensor

from vaekit.optional import require

Split = tuple[Tensor, Tensor]
"""Images (n, 1, h, w) and labels (n,)."""


def digits() -> tuple[Split, Split]:
    """The 1,797 handwritten 8×8 digits inside scikit-learn, in [0, 1]: 1,500 to train on and 297 to test.

    Returns:
        (images, labels) to train on, and to test.

    References:
        Optical Recognition of Handwritten Digits (Alpaydin & Kaynak, 1998), https://doi.org/10.24432/C50P49
    """
    data = require("sklearn.datasets", user="vaekit.train.digits", extra="train").load_digits()
    x = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16
    y = torch.tensor(data.target, dtype=torch.long)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    train, test = order[:1500], order[1500:]
    return (x[train], y[train]), (x[test], y[test])


def mnist(root: str | Path) -> tuple[Split, Split]:
    """MNIST from its four IDX files, as bytes: 60,000 images (n, 1, 28, 28) to train on and 10,000 to test.

    The Trainer scales bytes to the model's data range by itself; elsewhere use `x.float() / 255`.

    Args:
        root: the folder with `train-images-idx3-ubyte.gz` and its three fellows, packed or not, or the folder that
            torchvision keeps them in (`MNIST/raw` below `root`).

    Returns:
        (images, labels) to train on, and to test.

    Raises:
        FileNotFoundError: naming the first file that is missing.
        ValueError: where a file is no IDX file, or is cut short.
    """
    names = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    x, y, x_test, y_test = (read_idx(_find(Path(root), f"{name}-ubyte")) for name in names)
    return (x[:, None], y.long()), (x_test[:, None], y_test.long())


def _find(root: Path, name: str) -> Path:
    for folder in (root, root / "MNIST" / "raw"):
        for path in (folder / f"{name}.gz", folder / name):
            if path.is_file():
                return path
    raise FileNotFoundError(
        f"{root}: has no {name}.gz, neither itself nor in MNIST/raw. Give the folder of MNIST's files."
    )


def read_idx(path: Path) -> Tensor:
    """The bytes of an IDX file as a tensor of the shape that its header gives.

    Raises:
        ValueError: where the file is no IDX file of bytes, or is cut short.
    """
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError) as error:
        raise ValueError(f"{path}: can't be unpacked ({error}). Fetch it again.") from error
    if len(data) < 4 or data[:3] != b"\x00\x00\x08":
        raise ValueError(f"{path}: is no IDX file of bytes: it begins with {data[:4].hex() or 'nothing'}.")
    rank = data[3]
    shape = [int.from_bytes(data[4 + 4 * i : 8 + 4 * i], "big") for i in range(rank)]
    body = torch.frombuffer(bytearray(data), dtype=torch.uint8, offset=4 + 4 * rank)
    if body.numel() != torch.Size(shape).numel():
        raise ValueError(f"{path}: says {shape} and holds {body.numel()} bytes. Fetch it again.")
    return body.reshape(shape)
