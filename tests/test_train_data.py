"""Data in every form, and what is wrong with them, told."""

import os
import signal
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import vaekit
from vaekit import Trainer
from vaekit.train.data import TensorBatches, batches
from vaekit.train.folder import ImageFolder
from vaekit.train.rng import Stream, own_noise, states

X = torch.rand(50, 1, 4, 4, generator=torch.Generator().manual_seed(0))
BYTES = (X * 255).byte()
LABELS = torch.arange(50) % 3


def model(recipe="mlp", **args):
    torch.manual_seed(0)
    if recipe == "mlp":
        args.setdefault("hidden", (8,))
    return vaekit.build(recipe, latent=2, input_shape=(1, 4, 4), **args)


def train(vae, data, val=None, **args):
    return Trainer(vae, data, val, **{"epochs": 2, "batch_size": 16, "device": "cpu", **args})


def of(data, **args):
    options = {"batch_size": 16, "shuffle": False, "seed": 0, "num_workers": 0, "name": "data", "shape": (1, 4, 4)}
    return batches(data, **{**options, **args})


def gone_through(data, epoch=1, **args):
    found = list(of(data, **args).epoch(epoch))
    labels = [label for _, label in found]
    return torch.cat([x for x, _ in found]), None if labels[0] is None else torch.cat(labels)


class Plain:
    """A length and indices, as Hugging Face's and torchvision's data sets have; items as given."""

    def __init__(self, items):
        self.items, self.asked = items, []

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        self.asked.append(i)
        return self.items[i]


class Stream_(IterableDataset):
    def __iter__(self):
        return iter([{"image": x, "label": int(y)} for x, y in zip(BYTES, LABELS, strict=True)])


def pil(x):
    return Image.fromarray(x[0].numpy())


def mapped(tmp_path, array, mode="r"):
    path = tmp_path / f"{array.dtype}{array.ndim}.npy"
    np.save(path, array)
    return np.load(path, mmap_mode=mode)


FORMS = {
    "bytes": lambda: (BYTES, LABELS),
    "arrays": lambda: (BYTES.numpy(), LABELS.numpy()),
    "dataset": lambda: TensorDataset(BYTES, LABELS),
    "mappings": lambda: Plain([{"image": x, "label": int(y)} for x, y in zip(BYTES, LABELS, strict=True)]),
    "images": lambda: Plain([{"img": pil(x), "fine_label": int(y)} for x, y in zip(BYTES, LABELS, strict=True)]),
    "torchvision": lambda: Plain([(pil(x), int(y)) for x, y in zip(BYTES, LABELS, strict=True)]),
    "arrays in mappings": lambda: [{"x": x.numpy(), "y": np.int64(y)} for x, y in zip(BYTES, LABELS, strict=True)],
    "loader": lambda: DataLoader(TensorDataset(BYTES, LABELS), 16),
    "stream": Stream_,
    "batches in a row": lambda: Again(lambda: ({"x": x, "label": y} for x, y in zip(BYTES.split(16), LABELS.split(16), strict=True))),
    "examples in a row": lambda: Again(lambda: ({"x": x, "label": y} for x, y in zip(BYTES, LABELS, strict=True))),
}  # fmt: skip


class Again:
    def __init__(self, make):
        self.make = make

    def __iter__(self):
        return iter(self.make())


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_bytes_and_labels(form):
    x, labels = gone_through(FORMS[form]())
    assert x.dtype == torch.uint8 and torch.equal(x, BYTES) and torch.equal(labels, LABELS)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_trains_a_conditional_model(form):
    history = train(
        model("conditional_vae", classes=3, encoder="mlp", decoder="mlp"), FORMS[form](), FORMS[form]()
    ).fit()
    assert len(history["val/total"]) == 2


def test_hugging_face_data_sets(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = {"image": [x.tolist() for x in BYTES], "label": LABELS.tolist()}
    for data in (
        datasets.Dataset.from_dict(rows).with_format("torch"),
        datasets.Dataset.from_dict(rows).with_format("numpy"),
    ):
        x, labels = gone_through(data)
        assert torch.equal(x.float(), BYTES.float()) and torch.equal(labels, LABELS)


@pytest.mark.parametrize("mode", ["r", "c", "r+"])
def test_arrays_mapped_from_disk_are_not_read_at_once(tmp_path, mode):
    array = mapped(tmp_path, BYTES.numpy(), mode)
    held = of((array, LABELS))
    assert isinstance(held, TensorBatches) and not held.in_memory
    assert held.x.data_ptr() == array.ctypes.data, "no copy"
    vae, twin = model(), model()
    train(vae, array).fit(), train(twin, BYTES).fit()
    assert all(torch.equal(a, b) for a, b in zip(vae.parameters(), twin.parameters(), strict=True))


@pytest.mark.parametrize("form", ["bytes", "mappings"])
def test_the_order_is_the_same_from_memory_and_from_a_dataset_and_with_processes(form):
    wanted = gone_through((BYTES, LABELS), shuffle=True, epoch=3)
    for workers in (0, 2) if form == "mappings" else (0,):
        got = gone_through(FORMS[form](), shuffle=True, epoch=3, num_workers=workers)
        assert torch.equal(got[0], wanted[0]) and torch.equal(got[1], wanted[1])


@pytest.mark.parametrize("form", ["bytes", "mappings", "loader", "stream", "examples in a row", "batches in a row"])
def test_an_epoch_begun_in_the_middle_gives_its_rest(form):
    held = of(FORMS[form](), shuffle=True)
    whole, rest = list(held.epoch(2)), list(held.epoch(2, 2))
    assert len(whole) == 4 and len(rest) == 2
    assert all(torch.equal(a, b) for x, y in zip(whole[2:], rest, strict=True) for a, b in zip(x, y, strict=True))


def test_what_a_run_has_had_is_not_loaded_again():
    data = Plain([{"x": x} for x in X])
    list(of(data).epoch(1, 3))
    assert data.asked == [48, 49]


def test_loading_leaves_the_models_noise_alone():
    class Drawing(Plain):
        def __getitem__(self, i):
            torch.rand(3), np.random.rand(), __import__("random").random()
            return super().__getitem__(i)

    for data in (Drawing([x for x in X]), DataLoader(Drawing([x for x in X]), 16, shuffle=True), Stream_()):
        before = states(torch.device("cpu"))
        list(of(data, shuffle=True).epoch(1))
        after = states(torch.device("cpu"))
        assert torch.equal(before["torch"], after["torch"])  # Python's own is drawn from by beartype
        assert (before["numpy"]["keys"] == after["numpy"]["keys"]).all()


def test_a_stream_of_random_numbers_goes_on_where_it_was():
    stream = Stream(3)
    with stream.drawing():
        a = torch.rand(2)
    torch.rand(5)
    with stream.drawing():
        b = torch.rand(2)
    with own_noise(3, torch.device("cpu")):
        assert torch.equal(torch.cat([a, b]), torch.cat([torch.rand(2), torch.rand(2)]))


# -- folders of images -----------------------------------------------------------------------------------------------


def folder(root, n=12, broken=(), classes=2):
    generator = np.random.default_rng(0)
    for i in range(n):
        path = root / f"class{i % classes}" / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (6 + i % 2, 4), dtype=np.uint8)).save(path)
        if i in broken:
            path.write_bytes(path.read_bytes()[:40] if i % 2 else b"no image at all")
    return root


def test_a_folder_gives_bytes_and_labels_of_its_subfolders(tmp_path):
    x, labels = gone_through(folder(tmp_path), batch_size=5)
    assert x.shape == (12, 1, 4, 4) and x.dtype == torch.uint8 and labels.tolist() == [0] * 6 + [1] * 6
    first = np.asarray(Image.open(tmp_path / "class0" / "00.png"))
    assert np.array_equal(x[0, 0].numpy(), first[1:5]), "the middle of 6 rows"
    colour = ImageFolder(tmp_path, (3, 8, 8))[0][0]
    assert colour.shape == (3, 8, 8) and torch.equal(colour[0], colour[2])
    (tmp_path / "loose.png").write_bytes((tmp_path / "class0" / "00.png").read_bytes())
    assert gone_through(tmp_path)[1] is None, "an image outside all classes leaves no labels"


@pytest.mark.parametrize("workers", [0, 2])
def test_corrupt_images_are_left_out_counted_and_named(tmp_path, workers):
    root = folder(tmp_path, broken=(3, 8))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        history = train(model(), root, str(root), num_workers=workers).fit()
    texts = sorted(str(each.message) for each in told if "can't be read" in str(each.message))
    assert len(texts) == 2 and "class0/08.png (UnidentifiedImageError" in texts[0] and "class1/03.png (" in texts[1]
    assert history["unreadable"] == [2, 2]


def test_a_folder_without_a_good_image_is_told(tmp_path):
    root = folder(tmp_path, n=4, broken=range(4))
    with (
        warnings.catch_warnings(),
        pytest.raises(ValueError, match=r"no batch in epoch 1\. 4 images can't be read, .*0\d.png"),
    ):
        warnings.simplefilter("ignore")
        train(model(), root).fit()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty holds no image \(\.bmp"):
        train(model(), tmp_path / "empty")
    with pytest.raises(ValueError, match="nowhere is no folder"):
        train(model(), tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"a folder of images can't give data of shape \(6,\)"):
        train(vaekit.build("mlp", latent=2, input_shape=(6,)), root)


# -- what is wrong ---------------------------------------------------------------------------------------------------


class Failing(Dataset):
    def __init__(self, how):
        self.how = how

    def __len__(self):
        return 50

    def __getitem__(self, i):
        if i == 37:
            self.how()
        return X[i]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_item_that_fails_is_named(workers):
    def fail():
        raise OSError("the disk is gone")

    with pytest.raises(ValueError, match=r"train: item 37 can't be loaded \(OSError: the disk is gone\)"):
        train(model(), Failing(fail), num_workers=workers).fit()


@pytest.mark.timeout(120)
def test_a_loader_process_that_is_killed_ends_the_run_with_an_explanation(tmp_path):
    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(
        RuntimeError, match=r"train: a process that loads data has died .*lower num_workers or batch_size"
    ):
        train(model(), Failing(die), num_workers=2, output_dir=tmp_path).fit()


@pytest.mark.parametrize(
    "make",
    [lambda: TensorDataset(X, LABELS + 5), lambda: DataLoader(TensorDataset(X, LABELS + 5), 16), lambda: (X, LABELS + 5)],
    ids=["dataset", "loader", "memory"],
)  # fmt: skip
def test_a_label_out_of_range_is_told_with_its_place(make):
    vae = model("conditional_vae", classes=3, encoder="mlp", decoder="mlp")
    with pytest.raises(
        ValueError, match=r"train, (batch \d of epoch 1|examples from 0 on): vae.condition: labels from 5 to 7"
    ):
        train(vae, make()).fit()


@pytest.mark.parametrize(
    ("data", "match"),
    [
        ([], "train: .*empty|expected a tensor"),
        (Plain([]), "train: is empty"),
        (np.zeros((0, 1, 4, 4)), "train: is empty"),
        (iter([]), "no batch in epoch 1. A stream has to be one that can restart"),
        (Plain([{"x": torch.zeros(1, 4, 4 + i % 2)} for i in range(4)]), r"of one batch have the shapes .* Bring them to one size"),
        (Plain([{"x": 2 * torch.ones(1, 4, 4)}] * 4), r"train, batch 1 of epoch 1: vae: x has values from 2 to 2"),
    ],
    ids=["list", "dataset", "array", "stream", "sizes", "range"],
)  # fmt: skip
def test_bad_data(data, match):
    with pytest.raises((ValueError, TypeError), match=match):
        train(model(), data).fit()


@pytest.mark.parametrize("n", [1, 17])
@pytest.mark.parametrize("form", ["tensor", "dataset", "loader"])
def test_one_example_and_a_last_batch_of_one(form, n):
    data = {"tensor": X[:n], "dataset": TensorDataset(X[:n]), "loader": DataLoader(TensorDataset(X[:n]), 16)}[form]
    history = train(model(), data, data).fit()
    assert history["step"][-1] == 2 * -(-n // 16) and all(np.isfinite(history["val/total"]))


def test_one_stream_can_not_be_gone_through_twice():
    with pytest.raises(ValueError, match="no batch in epoch 2. A stream has to be one that can restart"):
        train(model(), iter([{"x": x} for x in X])).fit()
