"""Text: windows and their targets, parts that share no file, tokens; and the standard library's source."""
import numpy as np
import pytest
import torch

from fxgrow.experiments.data import DataError, load_data, loader
from fxgrow.experiments.data.text import Text


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sub").mkdir()
    for i in range(40):
        (tmp_path / ("sub" if i % 2 else ".") / f"{i:02}.txt").write_bytes(bytes([65 + i]) * (100 + 10 * i))
    (tmp_path / "picture.bin").write_bytes(b"\0\1\2")
    (tmp_path / ".hidden").write_bytes(b"hidden")
    return tmp_path


def seen(part) -> set[int]:
    return set(torch.cat([torch.cat([x, y[-1:]]) for x, y in part]).tolist()) if len(part) else set()


def test_a_target_is_the_window_one_further_on(folder):
    data = load_data(f"text:{folder}?length=16", augment=False)
    assert (data.task, data.classes, data.input_shape) == ("language", 256, (16,))
    x, y = data.train[3]
    assert x.dtype == torch.int64 and x.shape == y.shape == (16,) and torch.equal(x[1:], y[:-1])
    batch = next(iter(loader(data.train, 4)))
    assert torch.equal(batch[0][3], x) and torch.equal(batch[1][3], y)


def test_parts_share_no_file_and_have_about_their_share(folder):
    data = load_data(f"text:{folder}?length=8", validation=0.25)
    parts = [seen(p) for p in (data.train, data.validation, data.test)]
    assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]
    assert 0 not in set.union(*parts)
    sizes = [len(p.y) for p in (data.train, data.validation, data.test)]
    assert sum(sizes) == sum(100 + 10 * i for i in range(40))
    assert sizes[2] / sum(sizes) == pytest.approx(0.2, abs=0.03) and sizes[1] / sum(sizes) == pytest.approx(0.2, abs=0.03)
    other = load_data(f"text:{folder}?length=8", validation=0.25, seed=1)
    assert seen(other.test) == parts[2] and seen(other.validation) != parts[1]
    assert len(load_data(f"text:{folder}?length=8", validation=0).validation) == 0
    assert len(load_data(f"text:{folder}?length=8", limit=7).train) == 7


def test_windows_are_shifted_anew_each_epoch_and_the_same_for_a_seed(folder):
    train = load_data(f"text:{folder}?length=16").train
    epochs = loader(train, 8, shuffle=True, seed=3)
    first, second = ([x for x, _ in epochs] for _ in range(2))
    assert any(not torch.equal(a, b) for a, b in zip(first, second))
    again = loader(train, 8, shuffle=True, seed=3)
    again.batch_sampler.set_epoch(1, skip=2)
    assert all(torch.equal(a, b) for a, (b, _) in zip(second[2:], again))
    assert train[len(train) - 1][0].shape == (16,)


def test_one_file_is_cut_into_pieces(tmp_path):
    (tmp_path / "a.txt").write_text("to be or not to be " * 200)
    data = load_data(f"text:{tmp_path / 'a.txt'}?length=10")
    assert len(data.train) > 200 and len(data.validation) and len(data.test)


def test_the_standard_library():
    data = load_data("stdlib", limit=100)
    assert data.task == "language" and [len(p) for p in (data.train, data.validation, data.test)] == [100, 100, 100]
    words = bytes(load_data("stdlib", augment=False).train.y[:2000].tolist()).decode()
    assert "import" in words or "def " in words
    assert torch.equal(data.validation[0][0], load_data("stdlib", limit=1).validation[0][0])


def test_tokens(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({"be": 0, "to": 1, "?": 2}, "?"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "t.json"))
    (tmp_path / "a.txt").write_text("to be to be or " * 300)
    data = load_data(f"text:{tmp_path / 'a.txt'}?tokens={tmp_path / 't.json'}&length=5")
    assert data.class_names == ("be", "to", "?") and data.train.bytes_per_token == pytest.approx(3, abs=0.3)
    assert seen(data.train) <= {0, 1, 2}
    (tmp_path / "t.json").write_text("no tokenizer")
    with pytest.raises(DataError, match="is no tokenizer that can be read"):
        load_data(f"text:{tmp_path / 'a.txt'}?tokens={tmp_path / 't.json'}")


def test_what_is_no_text(tmp_path):
    for name, why in ((f"text:{tmp_path / 'absent'}", "no file or folder"), ("text:", "none given"),
                      (f"text:{tmp_path}", "holds no text"), (f"text:{tmp_path}?size=3", "write text:PATH"),
                      (f"text:{tmp_path}?length=0", "write text:PATH")):
        with pytest.raises(DataError, match=why):
            load_data(name)
    (tmp_path / "a").write_text("short")
    with pytest.raises(DataError, match="no stretch of 129 tokens"):
        load_data(f"text:{tmp_path}")


def test_texts_of_ones_own():
    text = Text([torch.full((50,), i, dtype=torch.uint8) for i in range(20)], [50] * 20, length=4)
    from fxgrow.experiments.data import as_data
    assert as_data(text, augment=False).train[0][0].dtype == torch.int64
    assert np.unique([len(as_data(text, seed=s).train) for s in range(3)]).size == 1
