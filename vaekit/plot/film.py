"""Films: the same picture of a model as it learns."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from vaekit.plot.figures import DPI, Figure
from vaekit.train.pictures import save_gif


def film(
    frames: str | Path | Sequence["str | Path | Figure"],
    path: str | Path,
    *,
    name: str = "reconstructions",
    seconds: float = 0.25,
    longest: int = 200,
) -> Path:
    """Figures or picture files, in order, as a GIF that goes round, the last one shown for two seconds.

    The Trainer's callbacks `ReconstructionGrid`, `Samples`, `LatentTraversal` and `LatentScatter` write a picture each
    epoch, and a film at the end; a run's folder makes the film of what is there so far.

    Args:
        frames: figures, files, or a run's folder.
        path: of the GIF.
        name: which pictures of a run: "reconstructions", "samples", "traversal" or "latent".
        seconds: that a picture is shown.
        longest: of more pictures than these, so many are taken, evenly.

    Raises:
        ValueError: where there is no picture, or the file is no `.gif`.

    Returns:
        The file's path.
    """
    path = Path(path)
    if path.suffix.lower() != ".gif":
        raise ValueError(f"path: expected a file that ends in .gif, got {path.name}.")
    if isinstance(frames, (str, Path)):
        folder = Path(frames)
        frames = sorted(
            (p for place in (folder, folder / "pictures") for p in place.glob(f"{name}-[0-9]*.png")),
            key=lambda p: int(p.stem.rpartition("-")[2]),
        )
        if not frames:
            raise ValueError(f"{folder}: holds no pictures {name}-0001.png, … neither itself nor in pictures/.")
    with tempfile.TemporaryDirectory() as beside:
        files = []
        for i, frame in enumerate(frames):
            if isinstance(frame, (str, Path)):
                files.append(frame)
                continue
            files.append(Path(beside, f"{i}.png"))
            frame.savefig(files[-1], dpi=DPI, format="png")
        save_gif(files, path, seconds=seconds, longest=longest)
    return path
