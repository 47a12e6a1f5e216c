"""Forwards that keep what they computed from sizes, leaves that follow the mode, questions that decide nothing."""
import functools

import pytest
import torch
from torch import nn

import fxgrow
from fxgrow.errors import CaptureError, OtherInputs
from fxgrow.passes import Widen


class Kept(nn.Module):
    kept = table = None

    def __init__(self):
        super().__init__()
        self.body, self.head, self.scale = nn.Linear(4, 8), nn.Linear(8, 4), torch.tensor([0.5, 2.0])

    def run(self, x):
        return self.head(torch.relu(self.body(x)))


class ByShape(Kept):
    """As YOLO's heads do with their anchors, and with strides that no parameter holds."""

    def forward(self, x):
        if self.kept != x.shape:
            self.table = torch.arange(x.shape[1]).type_as(x)[:, None] + x.new_full((x.shape[1], 1), self.scale[1])
            self.kept = x.shape
        return self.run(x) * self.table


class BehindAStride(Kept):
    """What two lengths of the input give alike is kept from one to the other."""

    def forward(self, x):
        x = self.body(x)[:, ::2]
        if self.kept != x.shape:
            self.table, self.kept = torch.arange(x.shape[1]).type_as(x)[:, None], x.shape
        return self.head(torch.relu(x)) * self.table


class OfTheFirst(Kept):
    def forward(self, x):
        if self.kept is None:
            self.table, self.kept = torch.arange(x.shape[1]).to(x.dtype).sin(), x.shape[1]
        return self.run(x) * self.table.mean()


class ByWhatTwoLengthsShare(Kept):
    """What two lengths share is looked up, and what is kept depends on more."""

    def forward(self, x):
        if self.kept != (x.shape[1] + 1) // 2:
            self.table, self.kept = torch.arange(x.shape[1]).type_as(x).sin(), (x.shape[1] + 1) // 2
        return self.run(x) * self.table.mean()


class OfTheLongest(Kept):
    def forward(self, x):
        if self.kept is None or self.kept < x.shape[1]:
            self.table, self.kept = torch.arange(x.shape[1]).to(x.dtype).sin(), x.shape[1]
        return self.run(x) * self.table.mean()


class OfTheCallBefore(Kept):
    kept = 3

    def forward(self, x):
        before, self.kept = self.kept, x.shape[1]
        return self.run(x) / before


class ByShapeAndItself(Kept):
    def forward(self, x):
        if self.kept != x.shape:
            self.scale, self.kept = self.scale + 1, x.shape
        return self.run(x) * self.scale[0]


@pytest.mark.parametrize("kind", [ByShape, BehindAStride])
def test_what_is_looked_up_by_sizes_is_computed_anew(kind):
    model = kind().double()
    grown = fxgrow.transform(model, torch.randn(2, 3, 4).double(), Widen("body", factor=2, seed=0)).model
    for shape in ((2, 3, 4), (2, 5, 4), (5, 2, 4), (2, 3, 4)):
        x = torch.randn(shape).double()
        torch.testing.assert_close(grown(x), model(x))


@pytest.mark.parametrize("kind", [OfTheFirst, ByWhatTwoLengthsShare, OfTheLongest, OfTheCallBefore, ByShapeAndItself])
def test_what_depends_on_the_calls_before_is_refused(kind):
    with pytest.raises(CaptureError, match=f"the forward of {kind.__name__} changes its attribute"):
        fxgrow.capture(kind(), torch.randn(2, 3, 4))


class Filled(Kept):
    def forward(self, x):
        y = self.run(x)
        return y, torch.full(y.shape[:2], self.scale[0]), torch.full_like(y, fill_value=self.scale[1])


def test_a_tensor_fills_a_tensor():
    model = Filled().double()
    graph, x = fxgrow.capture(model, torch.randn(2, 3, 4).double()), torch.randn(4, 5, 4).double()
    torch.testing.assert_close(graph(x), model(x))
    model.scale.mul_(3)                                    # it is read at each call
    torch.testing.assert_close(graph(x), model(x))


class ByMode(nn.Module):
    """Counts its calls, and gives a dict in train mode, a tuple in eval mode."""
    calls = 0

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        self.calls += 1
        y = self.layer(x)
        return {"y": y} if self.training else (y.softmax(-1), {"y": y})


class Around(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4)), ByMode()

    def forward(self, x):
        return self.head(self.body(x))


def test_a_leaf_of_another_form_in_train_mode():
    model, x = Around().double(), torch.randn(2, 4).double()
    with pytest.raises(CaptureError, match="another form in train mode"):
        fxgrow.capture(model, x)
    grown = fxgrow.transform(model, x, Widen("body.0", factor=2, seed=0)).model
    for train in (False, True):
        torch.testing.assert_close(grown.train(train)(x), model.train(train)(x))


def test_a_size_of_another_call_stays_checked():
    graph = fxgrow.capture(ByShape(), torch.randn(2, 3, 4))
    with pytest.raises((OtherInputs, RuntimeError)):
        graph(torch.randn(2, 3, 5))


class AsksForGradients(Kept):
    checkpoints = False

    def forward(self, x):
        if torch.is_grad_enabled() and self.checkpoints:
            return self.run(x + 1)
        return self.run(x)


def test_a_question_about_gradients_that_decides_nothing():
    model, x = AsksForGradients(), torch.randn(2, 3, 4)
    assert torch.equal(fxgrow.capture(model, x)(x), model(x))
    model.checkpoints = True
    with pytest.raises(CaptureError, match="asks whether gradients are wanted"):
        fxgrow.capture(model, x)


class TypedByTheFirst(Kept):
    def forward(self, x, step):
        return self.run(x) * step.to(dtype=x.dtype) + torch.finfo(x.dtype).eps


def test_inputs_come_first_and_a_file_holds_the_graph(tmp_path):
    model, given = TypedByTheFirst(), (torch.randn(2, 3, 4), torch.tensor(7))
    graph = fxgrow.capture(model, given)
    kinds = [n.op for n in graph.graph.nodes]
    assert kinds[:2] == ["placeholder"] * 2 and "placeholder" not in kinds[2:]
    fxgrow.save(graph, tmp_path / "graph.fxgrow")
    torch.testing.assert_close(fxgrow.load(tmp_path / "graph.fxgrow")(*given), model(*given))


class NotInstalled:
    """Stands for a package that is not there (MONAI's optional imports)."""

    def __getattr__(self, name):
        raise RuntimeError(f"install it before you ask for {name}")


ABSENT = NotInstalled()


class WithoutIt(Kept):
    def forward(self, x):
        return ABSENT.run(x) if x.ndim > 9 else self.run(x)


def test_an_object_that_refuses_to_be_asked_is_left_alone():
    model, x = WithoutIt().double(), torch.randn(2, 4).double()
    assert torch.equal(fxgrow.capture(model, x)(x), model(x))


@functools.lru_cache
def positions(n):
    return torch.arange(n).double()[:, None]


class OfACache(Kept):
    def forward(self, x):
        return self.run(x) + positions(x.shape[1])


def test_a_function_keeps_its_cache_and_the_graph_does_without():
    model, before = OfACache().double(), positions
    graph = fxgrow.capture(model, torch.randn(2, 3, 4).double())
    assert positions is before
    for size in ((2, 3, 4), (3, 7, 4)):
        x = torch.randn(size).double()
        torch.testing.assert_close(graph(x), model(x))


def wrapped(function):
    """Keep a cache where no namespace of a module knows it."""
    kept = functools.lru_cache(function)

    @functools.wraps(function)
    def call(*args):
        return kept(*args)
    return call


@pytest.mark.parametrize("warm", [False, True])
def test_a_cache_of_a_decorator_is_not_asked(warm):
    @wrapped
    def ramp_of(length, dtype):
        return torch.arange(length).to(dtype) / length

    class Ramped(Kept):
        def forward(self, x):
            return self.run(x) + ramp_of(x.shape[1] // 2, x.dtype).sum()

    model, x = Ramped().double(), torch.randn(2, 6, 4).double()
    if warm:
        model(x)
    graph = fxgrow.capture(model, x)
    for batch, length in ((1, 6), (5, 6), (3, 8), (2, 14)):
        other = torch.randn(batch, length, 4).double()
        torch.testing.assert_close(graph(other), model(other), rtol=1e-12, atol=1e-12)
    assert isinstance(ramp_of.__closure__[0].cell_contents, functools._lru_cache_wrapper)
