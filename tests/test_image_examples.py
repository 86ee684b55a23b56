"""The examples and the benchmark of images run at their smallest, and write what they say they write."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]


def run(script, *args, folder):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("VAEKIT_")} | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "examples" / script), "--tiny", *args]
    done = subprocess.run(command, cwd=folder, env=environment, text=True, timeout=500, capture_output=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def size_of(picture):
    from PIL import Image

    with Image.open(picture) as image:
        return image.size, getattr(image, "n_frames", 1)


@pytest.mark.slow
@pytest.mark.sample
def test_the_mnist_example_compares_sizes_of_the_latent(tmp_path):
    printed = run("unet_attn_gan_mnist.py", "--latent", "2", "3", "--output", "out", folder=tmp_path)
    table = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert [row["latent"] for row in table] == [2, 3]
    assert all(
        f"{part}/{score}" in row for row in table for part in ("train", "test") for score in ("mse", "ssim", "psnr")
    )
    assert "latent" in printed and (tmp_path / "out" / "curves.png").is_file()
    for latent in (2, 3):
        folder = tmp_path / "out" / f"latent-{latent}"
        assert size_of(folder / "pictures" / "reconstructions.gif")[1] == 2, "a film of two epochs"
        assert size_of(folder / "pictures" / "latent.gif")[1] == 2
        rows = json.loads((folder / "history.json").read_text())
        rows = rows if isinstance(rows, list) else rows["rows"]
        assert [row["epoch"] for row in rows] == [1, 2]
        assert rows[0]["train/adversarial_critic"] == 0 < rows[1]["train/adversarial_critic"], "it starts half way"


@pytest.mark.slow
@pytest.mark.sample
def test_the_photo_example_learns_from_photos_or_from_a_folder(tmp_path):
    pytest.importorskip("skimage")
    printed = run("photo_vae.py", "--output", "out", folder=tmp_path)
    assert all(word in printed for word in ("MSE", "PSNR", "SSIM", "LPIPS", "8 images that it never saw"))
    assert size_of(tmp_path / "out" / "reconstructions.png") == ((8 * 130, 2 * 130), 1)
    assert (tmp_path / "out" / "samples.png").is_file() and (tmp_path / "out" / "model" / "spec.json").is_file()

    from PIL import Image

    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(6):
        Image.fromarray(torch.randint(256, (40, 50, 3), dtype=torch.uint8).numpy()).save(folder / f"{i}.png")
    (folder / "7.png").write_bytes(b"no image")
    printed = run("photo_vae.py", "--data", "photos", "--workers", "1", "--output", "own", folder=tmp_path)
    assert "1 images that it never saw" in printed


@pytest.mark.slow
@pytest.mark.sample
def test_the_benchmark_compares_equal_numbers(tmp_path):
    pytest.importorskip("diffusers")
    printed = run("benchmarks/images.py", folder=tmp_path)
    assert "LDM's formula" in printed and "train step" in printed
    apart = printed.split("largest relative difference of terms ")[1].split(", of gradients ")
    assert float(apart[0]) < 1e-4 and float(apart[1].split(";")[0]) < 1e-4
