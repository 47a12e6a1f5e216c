"""Archives of images and labels: what is read, how it is normalised, and one sentence for each that is wrong."""
import numpy as np
import pytest
import torch

from fxgrow.experiments.data import DataError, as_data, list_data, load_data

rng = np.random.default_rng(0)


def write(path, **arrays):
    content = {"images": rng.integers(0, 256, (40, 6, 5), dtype=np.uint8), "labels": np.arange(40, dtype=np.uint8) % 4}
    content.update(arrays)
    np.savez(path, **{k: v for k, v in content.items() if v is not None})
    return content


def stacked(part) -> torch.Tensor:
    return torch.stack([x for x, _ in part])


def test_images_and_labels(tmp_path):
    content = write(tmp_path / "a.npz")
    data = load_data(f"npz:{tmp_path / 'a.npz'}", validation=0.25)
    assert (data.classes, data.class_names, data.input_shape) == (4, ("0", "1", "2", "3"), (1, 6, 5))
    assert [len(p) for p in (data.train, data.validation, data.test)] == [24, 8, 8]
    x, y = data.train[3]
    assert x.dtype == torch.float32 and type(y) is int
    row = int(data.train.rows[3])
    mean, std = (content["images"][data.train.rows.numpy()].astype(float)).mean(), content["images"][
        data.train.rows.numpy()].std()
    assert torch.allclose(x[0], torch.from_numpy((content["images"][row] - mean) / std).float(), atol=1e-5)
    assert y == content["labels"][row]
    assert len(load_data(str(tmp_path / "a.npz"), validation=0.25).train) == 24


def test_statistics_come_from_the_train_part_alone(tmp_path):
    images = rng.normal(5, 2, (50, 3, 4, 4))
    write(tmp_path / "a.npz", images=images, labels=np.arange(50) % 2)
    train = load_data(str(tmp_path / "a.npz")).train
    x = stacked(train)
    assert torch.allclose(x.mean((0, 2, 3)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(x.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-5)
    others = np.setdiff1d(np.arange(50), train.rows.numpy())
    images[others] *= 1000  # whatever the other parts hold, the train part stays as it is
    write(tmp_path / "b.npz", images=images, labels=np.arange(50) % 2)
    assert torch.equal(stacked(load_data(str(tmp_path / "b.npz")).train), x)


def test_constant_channels_and_large_offsets(tmp_path):
    images = np.stack([np.full((20, 4, 4), 7.0), 1e6 + rng.normal(0, 1, (20, 4, 4))], 1)
    write(tmp_path / "a.npz", images=images, labels=np.arange(20) % 2)
    x = stacked(load_data(str(tmp_path / "a.npz")).train)
    assert float(x[:, 0].abs().max()) == 0 and float(x[:, 1].std()) == pytest.approx(1, rel=0.1)


def test_its_own_test_part_and_names(tmp_path):
    write(tmp_path / "a.npz", test_images=rng.normal(size=(7, 6, 5)), test_labels=np.array([0, 1, 2, 3, 0, 1, 4]),
          class_names=np.array(["ant", "bee", "cat", "dog", "eel"]))
    data = load_data(str(tmp_path / "a.npz"), validation=0.1)
    assert [len(p) for p in (data.train, data.validation, data.test)] == [36, 4, 7]
    assert data.class_names[4] == "eel" and data.test[6][1] == 4
    assert data.input_shape == (1, 6, 5)


def test_augmentation_of_the_train_part_alone(tmp_path):
    write(tmp_path / "a.npz")
    plain, varied = load_data(str(tmp_path / "a.npz")), load_data(str(tmp_path / "a.npz"), augment=True)
    torch.manual_seed(0)
    assert any(not torch.equal(a[0], b[0]) for a, b in zip(plain.train, varied.train))
    assert all(torch.equal(a[0], b[0]) for part in ("validation", "test")
               for a, b in zip(getattr(plain, part), getattr(varied, part)))
    assert (plain.train.random, varied.train.random, varied.test.random) == (False, True, False)


@pytest.mark.parametrize("arrays, why", [
    ({"images": None}, "no array 'images'"), ({"labels": None}, "no array 'labels'"),
    ({"images": np.zeros((40, 6))}, "images is float64 of shape"), ({"images": np.zeros((0, 6, 5))}, "of shape"),
    ({"images": np.full((40, 6, 5), "x")}, "images is <U1"), ({"labels": np.zeros((40, 4))}, "labels is float64 of shape"),
    ({"labels": np.arange(40) / 2}, "labels is float64"), ({"labels": np.arange(39)}, "40 images but 39 labels"),
    ({"labels": np.arange(40) - 1}, "from -1 to 38; with 39 classes they must be in 0"),
    ({"labels": np.arange(40) % 4, "class_names": np.array(["a", "b"])}, "from 0 to 3; with 2 classes"),
    ({"labels": np.arange(40) * 10 ** 9}, "go up to 39000000000, and only 40 numbers"),
    ({"labels": np.zeros(40, int)}, "all labels are 0: there is nothing to tell apart"),
    ({"labels": None, "masks": np.full((40, 6, 5), -100)}, "no pixel counts"),
    ({"labels": None, "masks": np.arange(1200).reshape(40, 6, 5) % 2 * 255}, "only 2 numbers occur: .* write -100 where"),
    ({"labels": None, "masks": np.arange(1200).reshape(40, 6, 5) % 3, "class_names": np.array(["a", "b"])}, "from 0 to 2"),
    ({"labels": None, "targets": np.full(40, 3.0)}, "all targets to train on are the same"),
    ({"class_names": np.arange(4)}, "one string a class"), ({"class_names": np.array("ant")}, "one string a class"),
    ({"images": np.full((40, 6, 5), np.nan)}, "not finite"),
    ({"augment": np.array(["flip"])}, "augment is 'flip'; it is 'shift', or 'shift' and 'flip'"),
    ({"augment": np.array(["shift", "blur"])}, "augment is 'blur', 'shift'"),
    ({"test_images": np.zeros((3, 6, 5))}, "one of test_images and test_labels only"),
    ({"test_images": np.zeros((3, 6, 6)), "test_labels": np.zeros(3, int)}, "must agree"),
    ({"images": np.array([{"a": 1}] * 40, dtype=object)}, "cannot be read as an .npz archive of plain arrays"),
    ({"labels": np.array([object()] * 40)}, "cannot be read as an .npz archive of plain arrays")])
def test_what_is_wrong_with_an_archive(tmp_path, arrays, why):
    write(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=why):
        load_data(str(tmp_path / "a.npz"))


def test_files_that_are_none(tmp_path):
    write(tmp_path / "whole.npz")
    whole = (tmp_path / "whole.npz").read_bytes()
    files = {"text": b"not an archive", "empty": b"", "half": whole[:len(whole) // 2],
             "torn": whole[:200] + bytes(40) + whole[240:]}
    for name, content in files.items():
        (tmp_path / f"{name}.npz").write_bytes(content)
        with pytest.raises(DataError, match="cannot be read as an .npz"):
            load_data(str(tmp_path / f"{name}.npz"))
    np.save(tmp_path / "single.npy", np.zeros(3))
    (tmp_path / "single.npy").rename(tmp_path / "single.npz")
    for name in ("npz:", f"npz:{tmp_path}", str(tmp_path / "absent.npz"), "npz:absent"):
        with pytest.raises(DataError, match="there is no file .*npz:PATH"):
            load_data(name)
    with pytest.raises(DataError, match="cannot be read as an .npz"):
        load_data(str(tmp_path / "single.npz"))


@pytest.mark.parametrize("name, options, why", [
    ("digit", {}, "no data set 'digit'; the nearest are digits"), ("", {}, "no data set ''"),
    ("digits", {"validation": 1.0}, "validation is 1.0"), ("digits", {"validation": -0.1}, "share of the train part"),
    ("digits:all", {}, "digits takes no path"), ("digits", {"limit": 0}, "limit is 0"), ("digits", {"size": 0}, "size is 0"),
    ("digits", {"validation": float("nan")}, "validation is nan")])
def test_what_makes_no_sense(name, options, why):
    with pytest.raises(DataError, match=why):
        load_data(name, **options)
    assert {"digits", "npz:PATH", "imagefolder:PATH"} <= set(list_data())


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match=r"digits needs scikit-learn .*pip install 'fxgrow\[train\]'"):
        load_data("digits")


@pytest.mark.parametrize("said, flip", [(["shift"], False), (["flip", "shift"], True), ("shift", False)])
def test_what_an_archive_says_of_augmentation(tmp_path, said, flip):
    write(tmp_path / "a.npz", images=rng.integers(0, 256, (40, 3, 16, 8), dtype=np.uint8), augment=np.array(said))
    path = str(tmp_path / "a.npz")
    train = load_data(path).train
    assert (train.augment.flip, train.augment.pad) == (flip, [2, 1])
    assert load_data(path, augment=False).train.augment is None
    assert load_data(path).test.augment is None
    plain = load_data(path, augment=False).train
    assert not torch.equal(stacked(train), stacked(plain))


@pytest.mark.parametrize("shape, read", [
    ((40, 12, 10, 3), (3, 12, 10)), ((40, 12, 10, 1), (1, 12, 10)), ((40, 12, 10, 4), (4, 12, 10)),
    ((40, 3, 12, 10), (3, 12, 10)), ((40, 3, 12, 3), (3, 12, 3)), ((40, 12, 10, 5), (12, 10, 5))])
def test_pictures_of_bytes_as_people_keep_them(tmp_path, shape, read):
    content = write(tmp_path / "a.npz", images=rng.integers(0, 256, shape, dtype=np.uint8))
    data = load_data(f"{tmp_path / 'a.npz'}")
    assert data.input_shape == read
    row, last = int(data.train.rows[0]), data.input_shape == (shape[3], *shape[1:3])
    image = content["images"][row].transpose(2, 0, 1) if last else content["images"][row]
    kept = torch.from_numpy(image.astype(np.float32))
    assert torch.allclose(data.train[0][0] * data.train.std + data.train.mean, kept, atol=1e-3)
    assert as_data((torch.from_numpy(content["images"]), torch.arange(40) % 4)).input_shape == read
