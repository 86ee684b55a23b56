"""What int8 weights bring and cost an ONNX file: size, speed, and the PSNR of reconstructions.

Trains two small models, exports `reconstruct`, quantizes it, and measures both files in onnxruntime on test images.

    python examples/benchmarks/int8.py --root DIR  # the folder with MNIST's IDX files; scikit-learn's digits without it
    python examples/benchmarks/int8.py --tiny      # seconds, to see that it runs
"""

import argparse
import os
import tempfile
from pathlib import Path

import torch

import vaekit
from vaekit.interop.onnx import export, quantize
from vaekit.train import digits, mnist

MODELS = {"mlp": {"latent": 20}, "conv": {"latent": 20}}


def main() -> None:
    """Print a table, one row a model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default=os.environ.get("VAEKIT_DATA"), help="folder with MNIST's IDX files")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--images", type=int, default=60_000, help="images to train on, at most")
    parser.add_argument("--batch", type=int, default=256, help="test images in the pass that is timed")
    parser.add_argument("--repeats", type=int, default=50, help="passes that are timed, of which the fastest counts")
    parser.add_argument("--tiny", action="store_true", help="a quick look that says nothing about quality or speed")
    given = parser.parse_args()
    if given.tiny:
        given.epochs, given.images, given.batch, given.repeats = 1, 128, 16, 2
    (x, _), (x_test, _) = mnist(given.root) if given.root else digits()
    x, x_test = (each.float() / 255 if each.dtype == torch.uint8 else each for each in (x, x_test))
    x, x_test = x[: given.images], x_test[: given.batch]
    print(f"{len(x):,} images {tuple(x.shape[1:])}, {torch.get_num_threads()} thread(s), batches of {len(x_test)}")
    print(
        "| model | parameters | MB, float32 | MB, int8 | speed | PSNR, float32 | PSNR, int8 | PSNR, one to the other |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name, args in MODELS.items():
        torch.manual_seed(0)
        vae = vaekit.build(name, input_shape=x.shape[1:], **args)
        vaekit.Trainer(vae, x, epochs=given.epochs, batch_size=128, device="cpu", progress=False).fit()
        with tempfile.TemporaryDirectory() as folder:
            path = export(vae.eval(), Path(folder, "model.onnx"))
            found = quantize(path, Path(folder, "int8.onnx"), x_test, repeats=given.repeats)
        psnr = float(-10 * (vae.reconstruct(x_test) - x_test).square().mean().log10())
        assert found.lost is not None
        print(
            f"| `{name}` | {sum(p.numel() for p in vae.parameters()) / 1e3:.0f} k | {found.size_before / 1e6:.2f} "
            f"| {found.size / 1e6:.2f} | {found.speed:.2f}× | {psnr:.2f} dB | {psnr - found.lost:.2f} dB "
            f"| {found.psnr:.1f} dB |",
            flush=True,
        )


if __name__ == "__main__":
    main()
