"""Grids and scatters."""

import torch
from PIL import Image

from vaekit.train.pictures import grid, save_png, save_scatter


def test_a_grid_puts_images_row_by_row():
    images = torch.arange(5).reshape(5, 1, 1, 1).expand(5, 1, 2, 3) / 10
    picture = grid(images, 3, gap=1)
    assert picture.shape == (8, 15, 3) and picture.dtype == torch.uint8
    assert picture[1, 1, 0] == 0 and picture[1, 6, 0] == round(0.1 * 255) and picture[5, 1, 0] == round(0.3 * 255)
    assert (picture[0] == 255).all() and (picture[4:, 10:] == 255).all(), "gaps and the empty place are white"


def test_a_grid_keeps_colour_and_scales_the_range():
    image = torch.stack([torch.full((2, 2), v) for v in (-1.0, 0.0, 1.0)])[None]
    assert grid(image, 1, data_range=(-1.0, 1.0), gap=0)[0, 0].tolist() == [0, 128, 255]
    assert grid(torch.tensor([[[[3.0, 5.0]]]]), 1, data_range=None, gap=0)[0, :, 0].tolist() == [0, 255]


def size(path):
    with Image.open(path) as image:
        return image.size


def test_pictures_are_written(tmp_path):
    save_png(grid(torch.rand(4, 1, 3, 3), 2, gap=0), tmp_path / "a.png", enlarge=5)
    assert size(tmp_path / "a.png") == (30, 30)
    for d in (1, 2, 5):
        save_scatter(torch.randn(30, d), torch.arange(30) % 3, tmp_path / f"{d}.png", title="latents")
        assert size(tmp_path / f"{d}.png")[0] > 500
