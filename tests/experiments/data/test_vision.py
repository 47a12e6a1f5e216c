"""torchvision's data sets and folders of images, on files that are written here in their own formats."""
import gzip
import hashlib
import pickle
import struct

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from fxgrow.experiments.data import DataError, load_data, loader

rng = np.random.default_rng(0)


def idx(array: np.ndarray) -> bytes:
    """The format of MNIST's files: a magic number with the rank, the sizes, the bytes."""
    return struct.pack(f">I{array.ndim}I", 0x0800 | array.ndim, *array.shape) + array.tobytes()


def digits(n: int) -> tuple[np.ndarray, np.ndarray]:
    return rng.integers(0, 256, (n, 28, 28), dtype=np.uint8), (np.arange(n) % 10).astype(np.uint8)


@pytest.fixture
def mnist(tmp_path):
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    content = {"train": digits(60), "t10k": digits(20)}
    for name, (x, y) in content.items():
        (folder / f"{name}-images-idx3-ubyte").write_bytes(idx(x))
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(idx(y))
    return tmp_path, content


def test_mnist(mnist):
    root, content = mnist
    data = load_data("mnist", root=root)
    assert (data.classes, data.input_shape) == (10, (1, 28, 28))
    assert [len(p) for p in (data.train, data.validation, data.test)] == [54, 6, 20]
    assert [y for _, y in data.test] == content["t10k"][1].tolist()
    rows = data.train.rows.numpy()
    pixels = content["train"][0][rows]
    x = torch.stack([x for x, _ in data.train])
    assert torch.allclose(x[:, 0], torch.from_numpy((pixels - pixels.mean()) / pixels.std()).float(), atol=1e-5)
    assert not data.train.random


def test_mnist_that_is_broken(mnist):
    root, content = mnist
    file = root / "MNIST" / "raw" / "train-images-idx3-ubyte"
    for broken in (file.read_bytes()[:1000], b"", b"\x00" * 100):
        file.write_bytes(broken)
        with pytest.raises(DataError, match="mnist cannot be read from .* fetch it with download=True"):
            load_data("mnist", root=root)
    file.unlink()
    with pytest.raises(DataError, match="mnist cannot be read from .* fetch it with download=True"):
        load_data("mnist", root=root)


def write_cifar(root, cls, monkeypatch, key: str, classes: int) -> dict[str, np.ndarray]:
    """Batches in CIFAR's own format, and their checksums where torchvision looks for the real ones."""
    folder = root / cls.base_folder
    folder.mkdir()
    lists = {"train_list": [], "test_list": []}
    seen = {}
    for part in lists:
        for name, _ in getattr(cls, part):
            x = rng.integers(0, 256, (20, 3 * 32 * 32), dtype=np.uint8)
            (folder / name).write_bytes(pickle.dumps({"data": x, key: [i % classes for i in range(20)]}))
            lists[part].append([name, hashlib.md5((folder / name).read_bytes()).hexdigest()])
            seen.setdefault(part, []).append(x)
        monkeypatch.setattr(cls, part, lists[part])
    meta = dict(cls.meta)
    (folder / meta["filename"]).write_bytes(pickle.dumps({meta["key"]: [f"class {i}" for i in range(classes)]}))
    meta["md5"] = hashlib.md5((folder / meta["filename"]).read_bytes()).hexdigest()
    monkeypatch.setattr(cls, "meta", meta)
    return {part: np.concatenate(x).reshape(-1, 3, 32, 32) for part, x in seen.items()}


@pytest.mark.parametrize("name, cls, key, classes, train", [("cifar10", datasets.CIFAR10, "labels", 10, 100),
                                                            ("cifar100", datasets.CIFAR100, "fine_labels", 20, 20)])
def test_cifar(name, cls, key, classes, train, tmp_path, monkeypatch):
    seen = write_cifar(tmp_path, cls, monkeypatch, key, classes)
    data = load_data(name, root=tmp_path, validation=0.2 if train > 20 else 0.0)
    assert (data.classes, data.input_shape, data.class_names[1]) == (classes, (3, 32, 32), "class 1")
    assert len(data.train) + len(data.validation) == train and len(data.test) == 20
    plain = load_data(name, root=tmp_path, validation=0.2 if train > 20 else 0.0, augment=False)
    pixels = seen["train_list"][plain.train.rows.numpy()].astype(np.float64)
    mean, std = pixels.mean((0, 2, 3)), pixels.std((0, 2, 3))
    x, _ = plain.train[5]
    assert torch.allclose(x, torch.from_numpy((pixels[5] - mean[:, None, None]) / std[:, None, None]).float(), atol=1e-5)
    assert data.train.random and not plain.train.random and not data.test.random
    assert not torch.equal(next(iter(loader(data.train, 16)))[0], next(iter(loader(plain.train, 16)))[0])


def test_a_changed_file_of_cifar_is_noticed(tmp_path, monkeypatch):
    write_cifar(tmp_path, datasets.CIFAR10, monkeypatch, "labels", 10)
    file = tmp_path / "cifar-10-batches-py" / "data_batch_2"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(DataError, match="cifar10 cannot be read from .*corrupted"):
        load_data("cifar10", root=tmp_path)


def test_svhn(tmp_path, monkeypatch):
    savemat = pytest.importorskip("scipy.io").savemat
    lists = dict(datasets.SVHN.split_list)
    content = {}
    for split, n in (("train", 40), ("test", 10)):
        url, file, _ = lists[split]
        content[split] = rng.integers(0, 256, (32, 32, 3, n), dtype=np.uint8)
        savemat(tmp_path / file, {"X": content[split], "y": (np.arange(n) % 10 + 1)[:, None]})  # the digit 0 is called 10
        lists[split] = [url, file, hashlib.md5((tmp_path / file).read_bytes()).hexdigest()]
    monkeypatch.setattr(datasets.SVHN, "split_list", lists)
    data = load_data("svhn", root=tmp_path, augment=False)
    assert (data.classes, data.input_shape, len(data.test)) == (10, (3, 32, 32), 10)
    assert [y for _, y in data.test] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]
    rows = data.train.rows.numpy()
    pixels = content["train"].transpose(3, 2, 0, 1)[rows].astype(np.float64)
    expected = (pixels[0, 1] - pixels[:, 1].mean()) / pixels[:, 1].std()
    assert torch.allclose(data.train[0][0][1], torch.from_numpy(expected).float(), atol=1e-5)


def test_what_is_fetched_is_checked(tmp_path, monkeypatch):
    """Nothing is fetched unless asked for; and what does not have the known checksum is refused."""
    fetched = []

    def serve(url, filename, *args, **kwargs):
        fetched.append(url)
        with open(filename, "wb") as file:
            file.write(gzip.compress(idx(np.zeros((2, 28, 28), np.uint8))))

    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", serve)
    monkeypatch.setattr("torchvision.datasets.utils._get_redirect_url", lambda url, max_hops: url)
    with pytest.raises(DataError, match="download=True"):
        load_data("mnist", root=tmp_path)
    assert not fetched
    with pytest.raises(DataError, match="mnist cannot be read"):
        load_data("mnist", root=tmp_path, download=True)
    assert fetched and not list(tmp_path.rglob("*ubyte"))


@pytest.mark.parametrize("name", ["mnist", "cifar10", "cifar100", "svhn", "imagenet"])
def test_data_sets_with_files_need_a_folder(name, tmp_path):
    with pytest.raises(DataError, match=f"{name} needs root"):
        load_data(name)
    with pytest.raises(DataError, match="there is no folder .*nowhere"):
        load_data(name, root=tmp_path / "nowhere")


# --- folders ------------------------------------------------------------------------------------------------------


def write_images(path, classes: dict[str, int], colour=None):
    for c, (name, count) in enumerate(classes.items()):
        (path / name).mkdir(parents=True)
        for i in range(count):
            pixels = np.full((20 + i, 24, 3), 40 * (c + 1) if colour is None else colour, np.uint8)
            Image.fromarray(pixels).save(path / name / f"{i}.png")


def test_a_folder_of_classes(tmp_path):
    write_images(tmp_path, {"cat": 10, "dog": 5})
    data = load_data(f"imagefolder:{tmp_path}", size=16, validation=0.25)
    assert (data.class_names, data.input_shape) == (("cat", "dog"), (3, 16, 16))
    parts = [data.train, data.validation, data.test]
    assert [len(p) for p in parts] == [9, 3, 3]
    rows = [set(p.rows.tolist()) for p in parts]
    assert set.union(*rows) == set(range(15)) and sum(map(len, rows)) == 15
    for part in parts:
        for x, y in part:
            assert x.shape == (3, 16, 16) and x.dtype == torch.float32
            expected = (40 * (y + 1) / 255 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
            assert torch.allclose(x.mean((1, 2)), expected, atol=0.02)
    assert [p.random for p in parts] == [True, False, False]
    assert load_data(f"imagefolder:{tmp_path}").input_shape == (3, 224, 224)


@pytest.mark.parametrize("second", ["val", "test"])
def test_train_and_test_folders_number_their_classes_alike(second, tmp_path):
    write_images(tmp_path / "train", {"ant": 4, "bee": 4, "cat": 4})
    write_images(tmp_path / second, {"cat": 3})
    data = load_data(f"imagefolder:{tmp_path}", size=8, validation=0.25)
    assert [len(p) for p in (data.train, data.validation, data.test)] == [9, 3, 3]
    assert {y for _, y in data.test} == {2}
    write_images(tmp_path / second, {"wasp": 1})
    with pytest.raises(DataError, match="has a class 'wasp' that .*train has not"):
        load_data(f"imagefolder:{tmp_path}")


def test_folders_that_are_none(tmp_path):
    for path in ("", tmp_path / "nowhere"):
        with pytest.raises(DataError, match="there is no folder .*imagefolder:PATH"):
            load_data(f"imagefolder:{path}")
    with pytest.raises(DataError, match="is no folder of images"):
        load_data(f"imagefolder:{tmp_path}")
    write_images(tmp_path, {"cat": 3, "dog": 3})
    (tmp_path / "cat" / "0.png").write_bytes(b"no image")
    (tmp_path / "dog" / "1.png").write_bytes((tmp_path / "dog" / "1.png").read_bytes()[:60])
    data = load_data(f"imagefolder:{tmp_path}", size=8, validation=0)
    broken = []
    for part in (data.train, data.test):
        for i in range(len(part)):
            try:
                part[i]
            except DataError as error:
                broken.append(str(error))
    assert len(broken) == 2 and all("is no image that can be read" in b for b in broken)


def test_imagenet_as_torchvision_lays_it_out(tmp_path):
    torch.save(({"n01": ("tench", "fish"), "n02": ("hen",)}, ["n01", "n02"]), tmp_path / "meta.bin")
    write_images(tmp_path / "train", {"n01": 4, "n02": 4})
    write_images(tmp_path / "val", {"n01": 2, "n02": 1})
    data = load_data("imagenet", root=tmp_path, size=8, validation=0.25)
    assert data.class_names == ("tench, fish", "hen") and [y for _, y in data.test] == [0, 0, 1]
    assert [len(p) for p in (data.train, data.validation, data.test)] == [6, 2, 3]
    with pytest.raises(DataError, match="imagenet cannot be downloaded"):
        load_data("imagenet", root=tmp_path, download=True)
    (tmp_path / "meta.bin").unlink()
    with pytest.raises(DataError, match="imagenet cannot be read from .*ILSVRC2012_devkit_t12"):
        load_data("imagenet", root=tmp_path)
