"""Example inputs: by place, by name, nested, with None, flags, words and numbers, through all that takes them."""
from __future__ import annotations

from collections import UserDict

import numpy as np
import pytest
import torch
from torch import nn

import fxgrow
from fxgrow.archive.models import decode_facts, encode_facts
from fxgrow.errors import CaptureError
from fxgrow.graph import Captured, arguments_of, as_call
from fxgrow.layers import has_form
from fxgrow.passes import Widen
from fxgrow.passes.into import grow_into


class Sentences(nn.Module):
    """Takes words, a mask that may be missing, a scale; targets, a flag and a word by name alone."""

    def __init__(self, width: int = 12):
        super().__init__()
        self.table, self.head = nn.Embedding(10, 8), nn.Linear(8, 3)
        self.rise, self.fall = nn.Linear(8, width), nn.Linear(width, 8)

    def forward(self, ids=None, mask=None, scale=None, *, targets=None, negative=False, mode="sum"):
        x = self.table(ids)
        x = x + self.fall(torch.relu(self.rise(x)))
        x = x if mask is None else x * mask.unsqueeze(-1)
        x = x if scale is None else x * scale
        scores = self.head(x.sum(1) if mode == "sum" else x.mean(1))
        scores = -scores if negative else scores
        return {"scores": scores, "loss": None if targets is None else nn.functional.cross_entropy(scores, targets)}


class Nested(nn.Module):
    """Takes a dictionary with a list, a pair, and options by name alone."""

    def __init__(self):
        super().__init__()
        self.rise, self.fall = nn.Linear(4, 8), nn.Linear(8, 4)

    def forward(self, batch, pair=None, *, options=None):
        x = batch["x"] * (2 if batch.get("twice") else 1)
        for more in batch["more"]:
            x = x + more
        y = self.fall(torch.relu(self.rise(x)))
        if pair is not None:
            y = y * pair[1] if pair[0] is None else y * pair[1] + pair[0]
        return {"y": y, "x": x, "mode": options and options["mode"]}


IDS, MASK, TARGETS = torch.randint(10, (2, 5)), torch.tensor([[1., 1, 1, 1, 0]] * 2), torch.tensor([0, 2])
X = torch.randn(3, 4)
OF_SENTENCES = {
    "one by place": IDS, "None in between": (IDS, None, 3.0), "all by place": (IDS, MASK, 2),
    "by name": {"ids": IDS, "mask": MASK},
    "in another order": {"mask": MASK, "ids": IDS}, "some left out": {"ids": IDS, "targets": TARGETS},
    "flags and words": {"ids": IDS, "scale": 2.0, "targets": TARGETS, "mode": "mean", "negative": True},
    "numbers of numpy": {"ids": IDS, "scale": np.float32(2)}, "a mapping": UserDict(ids=IDS, mask=MASK)}
OF_NESTED = {
    "a list in a dictionary": ({"x": X, "more": [X, X]},),
    "a tuple and a flag": {"batch": {"x": X, "twice": True, "more": (X,)}, "options": {"mode": "soft", "steps": 3}},
    "a pair": {"batch": {"x": X, "more": []}, "pair": (X, 2.5)},
    "None in a list": {"batch": {"x": X, "more": []}, "pair": [None, 3]}}
CASES = [pytest.param(Sentences, inputs, id=name) for name, inputs in OF_SENTENCES.items()] + [
    pytest.param(Nested, inputs, id=name) for name, inputs in OF_NESTED.items()]


def called(model: nn.Module, inputs):
    args, kwargs = as_call(inputs)
    return model(*args, **kwargs)


def assert_same(model: nn.Module, other: nn.Module, inputs) -> None:
    one, two = called(model, inputs), called(other, inputs)
    assert one.keys() == two.keys()
    for key, value in one.items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(two[key], value)
        else:
            assert two[key] == value


@pytest.mark.thinned(2)
@pytest.mark.parametrize("make, inputs", CASES)
def test_a_grown_network_is_called_saved_and_loaded_as_the_model_is(make, inputs, tmp_path):
    model = make().eval()
    grown = fxgrow.transform(model, inputs, Widen("rise", factor=2, seed=0))
    assert grown.model.rise.out_features > model.rise.out_features
    assert_same(model, grown.model, inputs)
    fxgrow.save(grown, tmp_path / "grown.pt")
    loaded = fxgrow.load(tmp_path / "grown.pt")
    assert_same(model, loaded, inputs)
    fxgrow.save(model, tmp_path / "model.pt", example_inputs=inputs)
    assert_same(model, fxgrow.load(tmp_path / "model.pt"), inputs)
    again = fxgrow.transform(loaded, inputs, Widen("rise", factor=2, seed=0))
    assert_same(model, again.model, inputs)


@pytest.mark.thinned(2)
@pytest.mark.parametrize("make, inputs", CASES)
def test_all_that_shows_a_network_takes_its_inputs(make, inputs, tmp_path):
    model = make().eval()
    grown = fxgrow.transform(model, inputs, Widen("rise", factor=2, seed=0))
    after = fxgrow.count_flops(grown.model, inputs).total
    assert after == fxgrow.count_flops(grown.model, Captured(grown.model).inputs).total
    assert after > fxgrow.count_flops(model, inputs).total
    assert fxgrow.axes(model, inputs).to_json()
    assert fxgrow.diff(model, grown, inputs).to_json() == fxgrow.diff(grown).to_json()
    fxgrow.draw(model, inputs, tmp_path / "a.dot")
    fxgrow.draw(grown, None, tmp_path / "b.dot")
    fxgrow.report(model, inputs, tmp_path / "a.html")
    fxgrow.report(grown, None, tmp_path / "b.html")
    assert "Not compared" not in (tmp_path / "b.html").read_text(encoding="utf-8")


def test_a_larger_network_gets_the_numbers_by_name():
    small, big = Sentences().eval(), Sentences(20).eval()
    inputs = {"ids": IDS, "mask": MASK}
    numbers = grow_into(small, big, inputs, seed=0, check=False)
    big.load_state_dict(numbers)
    assert_same(small, big, inputs)
    assert numbers.unreached(inputs) == numbers.unreached((IDS, MASK))


@pytest.mark.parametrize("x, layer, said", [
    (torch.nested.nested_tensor([torch.randn(2, 4), torch.randn(3, 4)]), nn.Linear(4, 8), "a nested tensor of 3 axes"),
    (X.to_sparse(), nn.Linear(4, 8), "a sparse_coo tensor of 2 axes"),
    (X, nn.LazyLinear(8), "first has no sizes before the model has run"),
    (X, nn.ModuleDict({"class": nn.Linear(4, 8)}), "the name 'first.class' has 'class' in it"),
    (X, nn.Linear(4, 0), "")], ids=("nested", "sparse", "lazy", "a word of Python's", "no columns"))
def test_what_no_graph_follows_is_refused_with_what_to_do(x, layer, said):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.rise, self.fall = layer, nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x):
            first = self.first["class"] if isinstance(self.first, nn.ModuleDict) else self.first
            return first(x), self.fall(torch.tanh(self.rise(x)))

    if said:
        with pytest.raises(CaptureError, match=said):
            fxgrow.transform(Net(), x, Widen(factor=2, seed=0))
    else:
        grown = fxgrow.transform(Net(), x, Widen("rise", factor=2, seed=0))
        assert grown.model.rise.out_features == 16 and fxgrow.verify(layer, grown.model.first, x).notes


def test_parts_of_a_shell_that_is_called_by_name():
    class Shell(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))

        def forward(self, *, pictures, threshold):
            return [y for y in self.body(torch.stack(pictures)) if float(y.sum()) > threshold]

    model, inputs = Shell().eval(), {"pictures": list(X), "threshold": -100.0}
    grown = fxgrow.transform(model, inputs, Widen("body.0", factor=2, seed=0))
    assert grown.model.body.get_submodule("0").out_features > 8
    torch.testing.assert_close(torch.stack(grown.model(**inputs)), torch.stack(model(**inputs)))


# --- what the graph checks --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, inputs in OF_SENTENCES.items() if isinstance(inputs, dict)])
def test_other_inputs_give_what_the_model_gives_or_are_refused(name):
    model = Sentences().eval()
    graph = fxgrow.capture(model, OF_SENTENCES[name])
    for inputs in (*OF_SENTENCES.values(), (IDS, None, None), (IDS, 2 * MASK)):
        try:
            found = called(graph, inputs)
        except (TypeError, ValueError):
            continue
        expected = called(model, inputs)
        torch.testing.assert_close(found["scores"], expected["scores"])
        assert found["loss"] is None or torch.equal(found["loss"], expected["loss"])


def test_places_mean_what_they_mean_to_the_model():
    graph = fxgrow.capture(Sentences().eval(), {"ids": IDS, "targets": TARGETS})
    with pytest.raises(ValueError, match="captured with mask = None"):
        graph(IDS, MASK)
    with pytest.raises(ValueError, match="captured with targets = a tensor"):
        graph(IDS)


def test_the_error_of_other_inputs_is_public():
    graph = fxgrow.capture(Sentences().eval(), {"ids": IDS, "targets": TARGETS})
    with pytest.raises(fxgrow.OtherInputs):
        graph(IDS)


def test_a_refusal_names_the_arguments():
    graph = fxgrow.capture(Nested().eval(), OF_NESTED["a list in a dictionary"])
    for batch in ({"x": X, "more": [X]}, {"x": X, "more": (X, X)}, {"x": X, "more": [X, None]}, {"more": [X, X], "x": X}):
        with pytest.raises(ValueError, match=r"captured with batch = \{'x': ..., 'more': \[..., ...\]\}"):
            graph(batch)


@pytest.mark.parametrize("value, form, fits", [
    (X, ..., True), (3, ..., True), (np.int64(3), ..., True), (True, ..., False), (None, ..., False), (None, None, True),
    (X, None, False), (True, True, True), (1, True, False), (True, 1, False), ("sum", "mean", False), ((X,), (...,), True),
    ([X], (...,), False), ((X, X), (...,), False), ({"a": X}, {"b": ...}, False), (X, {"b": ...}, False)])
def test_forms(value, form, fits):
    assert has_form(value, form) is fits


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inputs, said", [
    ({"idz": IDS}, r"do not fit Sentences, whose forward takes \(ids=None, .*'idz'"), ((IDS,) * 4, "too many positional"),
    (3, "example_inputs is 3: pass a tensor, a tuple of arguments or a dict"), ((), "example_inputs is"),
    ({"ids": object()}, "the input 'ids' holds a object"), ({"class": IDS}, "has the key 'class', which is no name"),
    ({0: IDS}, "has the key 0"), ({"words": IDS}, "goes into a tuple")])
def test_inputs_that_no_forward_takes(inputs, said):
    for use in (fxgrow.capture, fxgrow.axes):
        with pytest.raises(CaptureError, match=said):
            use(Sentences(), inputs)


# --- what is kept -----------------------------------------------------------------------------------------------------


def test_arguments_stand_in_the_order_of_the_forward():
    found = arguments_of(Sentences(), (), {"targets": TARGETS, "scale": 2.0, "ids": IDS})
    assert [(a.name, a.default, a.given) for a in found] == [
        ("ids", (), True), ("mask", (None,), False), ("scale", (None,), True), ("targets", (None,), True)]


def test_free_arguments_have_numbers_and_names():
    class Free(nn.Module):
        def forward(self, first, *rest, **named):
            return first + sum(rest) + named.get("bias", 0)

    assert torch.equal(fxgrow.capture(Free(), {"bias": X, "first": 2 * X})(bias=X, first=2 * X), 3 * X)
    assert torch.equal(fxgrow.capture(Free(), (X, X, X))(X, X, X), 3 * X)
    assert [a.name for a in arguments_of(Free(), (X, X, X), {"bias": X})] == ["first", "input_1", "input_2", "bias"]


def test_a_forward_whose_signature_is_that_of_another():
    class Wrapped(nn.Module):
        def forward(self, *args):
            return args[0] * 2

        forward.__wrapped__ = Sentences.forward

    assert torch.equal(fxgrow.capture(Wrapped(), (X,) * 5)(X, X, X, X, X), X * 2)


def test_inputs_of_an_outer_module_are_kept_by_name():
    inputs, shell = {"images": [X], "targets": None}, nn.Module()
    decode_facts(shell, **encode_facts(shell, inputs))
    kept = Captured(shell).inputs
    assert kept["targets"] is None and kept["images"][0].shape == X.shape and kept["images"][0].is_meta
    with pytest.raises(fxgrow.FxgrowError, match="inputs are not described"):
        decode_facts(fxgrow.capture(nn.ReLU(), X), **encode_facts(shell, inputs))
