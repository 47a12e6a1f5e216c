"""Shells that cannot be recorded: what they ask of a part goes on working, or the part is left alone, with the reason."""
import copy
import gc
import io
import weakref

import pytest
import torch
from torch import nn
from torchvision.models.detection import retinanet_resnet50_fpn

import fxgrow
from fxgrow.errors import CaptureError, SelectionError
from fxgrow.passes import Widen
from fxgrow.tracing import parts
from fxgrow.tracing.parts import clone_structure

X, OTHER = torch.randn(3, 4, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)


class Body(nn.Module):
    """What a shell may ask something of: a method, a length, an attribute, a layer inside, another way to be called."""

    def __init__(self):
        super().__init__()
        self.pre = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Identity(), nn.Linear(8, 4))
        self.last, self.spare, self.table = nn.Linear(4, 4), nn.ReLU(), {"factor": 3.0, "layers": [self.pre]}

    def forward(self, x, mask=None, scale=1.0):
        h = self.last(self.pre(x)) * scale
        return h if mask is None else h * mask

    def __len__(self):
        return len(self.pre)

    def scaled(self, x):
        return self(x) * self.table["factor"]


class Shell(nn.Module):
    def __init__(self, ask):
        super().__init__()
        self.body, self.free, self.head, self.ask = Body(), Body(), nn.Linear(4, 2), ask

    def forward(self, x):
        return self.head(self.ask(self, x)) + self.head(self.free(x)) if x.sum() < 1e9 else x


def grown(ask):
    model = Shell(ask).double()
    return model, fxgrow.transform(model, X, Widen(factor=2, seed=0))


def assert_same(model, other):
    for training in (True, False):
        for x in (X, OTHER):
            torch.testing.assert_close(other.train(training)(x), model.train(training)(x), rtol=1e-9, atol=1e-9)


def width(grown, path):
    return grown.model.get_submodule(path).pre[0].out_features


KEPT = {
    "its length": lambda s, x: s.body(x) * len(s.body),
    "the number of layers inside": lambda s, x: s.body(x) * len(s.body.pre),
    "a layer of it": lambda s, x: s.body(x) + s.body.pre[-1].weight.shape[0],
    "its class": lambda s, x: s.body(x) if isinstance(s.body, Body) else x,
    "the class of what is inside": lambda s, x: s.body(x) * sum(isinstance(m, nn.Sequential) for m in s.body.modules()),
    "a method": lambda s, x: s.body.scaled(x),
    "an attribute": lambda s, x: s.body(x) * s.body.table["factor"],
    "a module in a list": lambda s, x: s.body(x) + s.body.table["layers"][0][-1].bias,
    "names alone": lambda s, x: s.body(x=x),
    "None by name": lambda s, x: s.body(x, mask=None),
    "a tensor by name": lambda s, x: s.body(x, mask=x),
    "a number": lambda s, x: s.body(x, scale=0.5 * x.shape[0]),
    "two batches": lambda s, x: s.body(x) + s.body(torch.cat([x, x, x]))[-len(x):],
}


@pytest.mark.thinned(2)
@pytest.mark.parametrize("ask", KEPT.values(), ids=KEPT)
def test_a_part_grows_and_stays_what_it_was(ask):
    model, result = grown(ask)
    assert (width(result, "body"), width(result, "free")) == (16, 16)
    assert_same(model, result.model)
    assert_same(model, copy.deepcopy(result.model))
    assert_same(model, result.record.shrink(result.model))
    assert list(result.model.state_dict()) == list(model.state_dict())


OPENED = {
    "a layer": (lambda s, x: s.body(x) + s.body.last(x), 16),
    "a block": (lambda s, x: s.body(x) + s.body.pre(x), 16),
    "layers in a loop": (lambda s, x: s.body(x) + [x := layer(x) for layer in s.body.pre][-1], 8),
    "both ways to call it": (lambda s, x: s.body(x) + s.body(x, mask=x), 16),
}


@pytest.mark.parametrize("ask,size", OPENED.values(), ids=OPENED)
def test_of_what_a_shell_opens_smaller_parts_grow(ask, size):
    model, result = grown(ask)
    assert type(result.model.body) is Body
    assert (width(result, "body"), width(result, "free")) == (size, 16)
    assert_same(model, result.model)


BROKEN = {
    "a width": (lambda s, x: s.body(x) * s.body.pre[0].out_features, "something else"),
    "a norm": (lambda s, x: s.body(x) * s.body.pre[0].weight.norm(), "something else"),
    "a shape": (lambda s, x: s.body(x) @ s.body.pre[0].weight[:, :4].reshape(8, 4).T[:, :4], "stops: .*test_parts.py:"),
}


@pytest.mark.parametrize("ask,why", BROKEN.values(), ids=BROKEN)
def test_what_does_not_work_in_its_place_is_left_alone(ask, why):
    model, result = grown(ask)
    assert (width(result, "body"), width(result, "free")) == (8, 16)
    assert_same(model, result.model)
    assert {o.name for o in result.outcomes if not o.before} == {"body", "body.pre"}
    assert fxgrow.verify(model, result.model, X).ok
    with pytest.raises(AssertionError, match=why):
        raise AssertionError(next(o.reason for o in result.outcomes if o.name == "body"))


def test_without_any_part_that_works_the_refusal_says_why():
    class Alone(Shell):
        def forward(self, x):
            return self.head(self.body(x)) * self.body.pre[0].out_features if x.sum() < 1e9 else x

    with pytest.raises(CaptureError, match=r"data of a tensor.*test_parts.py:\d+.*; body was left alone: .*something else"):
        fxgrow.transform(Alone(None).double(), X, Widen(factor=2, seed=0))


def test_where_no_part_can_grow_that_is_said():
    """Also in a shell that gives something else at each call, so that no two runs of it are equal."""
    class Drawing(Shell):
        def __init__(self):
            super().__init__(None)
            self.body = nn.Sequential(nn.ReLU(), nn.Linear(self.head.in_features, self.head.in_features))

        def forward(self, x):
            return iter([self.body(x)]) if x.sum() < 1e9 else x

    model = Drawing().double()
    with pytest.raises(SelectionError, match="nothing in the model can grow"):
        fxgrow.transform(model, torch.randn(2, model.head.in_features, dtype=torch.float64), Widen(factor=2, seed=0))


def test_a_shell_keeps_its_class_and_its_own_train():
    class Frozen(Shell):
        def train(self, mode=True):
            super().train(mode)
            self.body.spare.eval()
            return self

    model = Frozen(lambda s, x: s.body(x) if not s.body.spare.training else x).double()
    result = fxgrow.transform(model, X, Widen(factor=2, seed=0)).model
    assert type(result) is Frozen
    assert not result.train().body.spare.training
    assert_same(model, result)


def test_nothing_of_the_model_changes():
    class Counts(Shell):
        def __init__(self):
            super().__init__(None)
            self.register_buffer("calls", torch.zeros(()))
            self.seen = []

        def forward(self, x):
            self.calls += 1
            self.seen.append(len(x))
            return self.head(self.body(x)) if self.calls < 1e9 else x

    model = Counts().double()
    result = fxgrow.transform(model, X, Widen(factor=2, seed=0)).model
    assert (model.calls, model.seen, result.calls, result.seen) == (0, [], 0, [])


def test_copies_that_have_run_are_let_go_of(monkeypatch):
    """Graphs go round in circles: where nobody else collects them, only growth itself keeps few in memory."""
    living, most = weakref.WeakSet(), []

    def clone(*args):
        copy = clone_structure(*args)
        living.update(copy.modules())
        most.append(len(living) / len(set(copy.modules())))
        return copy

    monkeypatch.setattr(parts, "clone_structure", clone)
    model = Shell(lambda s, x: s.body(x) + s.body.last(x)).double()
    gc.disable()
    try:
        for seed in range(4):
            fxgrow.transform(model, X, Widen(factor=2, seed=seed))
    finally:
        gc.enable()
    assert len(most) >= 8
    assert max(most) <= 2


def test_hooks_of_a_part_run_once():
    model = Shell(lambda s, x: s.body(x)).double()
    model.body.register_forward_hook(lambda module, args, out: out * 3)
    result = fxgrow.transform(model, X, Widen(factor=2, seed=0))
    assert width(result, "body") == 16
    assert_same(model, result.model)


def test_a_part_is_pickled_with_its_class():
    _, result = grown(KEPT["its length"])
    file = io.BytesIO()
    torch.save(result.model.body, file)
    file.seek(0)
    again = torch.load(file, weights_only=False)
    assert isinstance(again, Body)
    assert len(again) == 4
    torch.testing.assert_close(again(X), result.model.body(X))


@pytest.mark.sweep
def test_a_detector_learns_after_growth_and_after_a_file(tmp_path):
    model = retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=3, min_size=64, max_size=64).double()
    image = torch.rand(3, 64, 64).double()
    targets = [{"boxes": torch.tensor([[5.0, 5, 40, 40]]), "labels": torch.tensor([1])}]
    result = fxgrow.transform(model, ([image],), Widen(factor=2, seed=0, where="head"))
    fxgrow.save(result, tmp_path / "grown.fxgrow")
    wanted = model.train()([image], targets)
    for other in (result.model, fxgrow.load(tmp_path / "grown.fxgrow")):
        losses = other.train()([image], targets)
        assert {k: float(v) for k, v in losses.items()} == pytest.approx({k: float(v) for k, v in wanted.items()})


class OfTwoForms(nn.Module):
    """Gives more where the data say so: nothing in it grows together with what is around it."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 4))

    def forward(self, x):
        y = self.body(x)
        return (y, x) if (x > 0).any() else (y,)


class FirstOf(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = OfTwoForms()

    def forward(self, x):
        return self.inner(x)[0]


def test_where_a_leaf_keeps_all_from_growing_its_parts_grow():
    model = FirstOf().double()
    assert list(fxgrow.capture(model, X).meta["leaves"]) == ["inner"]
    grown = fxgrow.transform(model, X, Widen(factor=2, seed=0))
    assert grown.model.inner.body[0].out_features == 16
    assert_same(model, grown.model)
