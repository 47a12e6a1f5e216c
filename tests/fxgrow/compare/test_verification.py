"""Verification: what counts as equal, for outputs of every kind."""
from __future__ import annotations

import copy
import random
import threading
from collections import namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

import fxgrow
from fxgrow.compare.running import Twin

X = torch.tensor([[1.0, -2.0, 3.0]])
Pair = namedtuple("Pair", "first second")


@dataclass
class Answer:
    logits: torch.Tensor
    label: torch.Tensor | int


class Gives(nn.Module):
    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, x):
        return self.make(x)


def check(one, other):
    return fxgrow.verify(Gives(one), Gives(other), X)


@pytest.mark.parametrize("wrap", [lambda x, y: {"a": x, "b": y}, lambda x, y: (x, [y]), Pair, Answer,
                                  lambda x, y: {"a": Answer(x, 3), "b": (y, None, "text", 1.5, True)}])
def test_outputs_of_every_form(wrap):
    assert check(lambda x: wrap(x, x * 2), lambda x: wrap(x, x * 2)).ok
    found = check(lambda x: wrap(x, x * 2), lambda x: wrap(x, x * 2.5))
    assert not found.ok and found.max_abs_error == 1.5
    assert found.max_rel_error == pytest.approx(1.5 / 6)


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_must_be_at_the_same_places(odd):
    for place in (0, 1):  # a later output must not hide an earlier one
        for one, other in ((odd, 1.0), (1.0, odd), (odd, float("nan") if odd == odd else float("inf"))):
            found = check(*((lambda x, v=v: [x, x * 0 + v][::1 - 2 * place]) for v in (one, other)))
            assert not found.ok and found.max_rel_error == float("inf") and "NaN or infinity" in found.notes[0]
        assert check(*[lambda x: [x, x * odd][::1 - 2 * place]] * 2).ok
    assert not check(lambda x: x.masked_fill(x > 0, odd), lambda x: x.masked_fill(x < 0, odd)).ok
    assert not check(lambda x: x.masked_fill(x > 0, odd), lambda x: 2 * x.masked_fill(x > 0, odd)).ok


def test_nothing_but_nan_says_nothing():
    found = check(lambda x: x * float("nan"), lambda x: x * float("nan"))
    assert not found.ok and "no numbers" in found.notes[0]
    assert check(lambda x: {"loss": x.sum() * float("nan"), "y": x}, lambda x: {"loss": x.sum() * float("nan"), "y": x}).ok


@pytest.mark.parametrize("one, other", [
    (lambda x: x.long() + 10 ** 9, lambda x: x.long() + 10 ** 9 + 1), (lambda x: x > 0, lambda x: x >= 1.5),
    (lambda x: 3, lambda x: 4), (lambda x: x > 0, lambda x: (x > 0).float())])
def test_whole_numbers_are_equal_or_not(one, other):
    assert check(one, one).ok and check(other, other).ok
    assert not check(one, other).ok


def test_numbers_of_small_types_do_not_overflow():
    found = check(lambda x: (x * 2e4).half(), lambda x: (x * -2e4).half())
    assert found.max_abs_error == pytest.approx(12e4, rel=1e-2)
    assert check(lambda x: torch.complex(x, x), lambda x: torch.complex(x, x)).ok
    assert not check(lambda x: torch.complex(x, x), lambda x: torch.complex(x, -x)).ok


def test_outputs_that_do_not_match_or_say_nothing():
    for one, other in ((lambda x: (x, x), lambda x: (x,)), (lambda x: x, lambda x: x[0]), (lambda x: None, lambda x: x),
                       (lambda x: {"a": x}, lambda x: {"b": x}), (lambda x: None, lambda x: None)):
        found = check(one, other)
        assert not found.ok and found.notes


def test_outputs_that_were_added_are_left_out_on_request():
    one, other = Gives(lambda x: {"a": x, "b": 1}), Gives(lambda x: {"a": torch.cat([x, x + 1], 1), "b": 1})
    assert fxgrow.verify(one, other, X, extended=True).ok and not fxgrow.verify(one, other, X).ok
    assert not fxgrow.verify(other, one, X, extended=True).ok
    assert not fxgrow.verify(one, Gives(lambda x: {"a": torch.cat([x + 1, x], 1), "b": 1}), X, extended=True).ok


def test_parts_are_compared_where_the_whole_finds_nothing():
    class Finds(nn.Module):
        def __init__(self, body):
            super().__init__()
            self.body = body

        def forward(self, x):
            return self.body(x)[:0]

    layer = nn.Linear(3, 2)
    part, other = fxgrow.capture(layer, X), fxgrow.capture(nn.Linear(3, 2), X)
    assert fxgrow.verify(Finds(layer), Finds(part), X).ok and not fxgrow.verify(Finds(layer), Finds(other), X).ok
    assert "empty" in fxgrow.verify(Finds(layer), Finds(layer), X).notes[0]


def test_models_that_write_into_their_input_get_a_fresh_one():
    x = X.clone()
    assert fxgrow.verify(Gives(lambda x: x.add_(1)), Gives(lambda x: x.add_(1)), x).ok
    assert torch.equal(x, X)


class Layer(nn.Module):
    """A layer and what is done with it; `two` keeps the numbers of `one`."""

    def __init__(self, forward, bias=0.0):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.bias, self.do = nn.Linear(4, 4).double(), bias, forward
        self.register_buffer("bank", torch.zeros(4, dtype=torch.float64))
        self.calls = 0

    def forward(self, *args, **kwargs):
        return self.do(self, *args, **kwargs)


def compare(one, other, inputs, **options):
    return fxgrow.verify(Layer(one), Layer(other), inputs, **options)


D = torch.randn(2, 6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def test_each_output_is_judged_by_its_own_size():
    def gives(shift):
        return lambda m, x: {"boxes": 1e6 * m.layer(x), "scores": m.layer(x).sigmoid() + shift}

    found = compare(gives(0.0), gives(1e-6), D)
    assert not found.ok and "scores" in found.notes[0] and "boxes" not in found.notes[0]
    assert compare(gives(0.0), gives(0.0), D).ok


def test_each_output_is_judged_by_its_own_type():
    def gives(kind, shift):
        return lambda m, x: (m.layer(x), (m.layer(x).softmax(-1) + shift).to(kind))

    for kind, small in ((torch.float32, 1e-6), (torch.bfloat16, 1e-2)):
        assert compare(gives(kind, 0.0), gives(kind, small), D).ok
        assert not compare(gives(kind, 0.0), gives(kind, 0.5), D).ok
    assert not compare(gives(torch.float64, 0.0), gives(torch.float64, 1e-6), D).ok
    assert not compare(gives(torch.float32, 0.0), gives(torch.float64, 0.0), D).ok  # another type is another output


def test_a_network_that_magnifies_rounding_errors():
    def chaotic(m, x):
        return torch.sin(1e9 * m.layer(x))

    def rounded(shift):
        return lambda m, x: torch.sin(1e9 * (m.layer(x) * 3 / 3)) + shift

    found = compare(chaotic, rounded(0.0), D)
    assert found.ok and found.max_rel_error > 1e-9 and "rounded otherwise" in found.notes[0]
    assert not compare(chaotic, rounded(1e-3), D).ok
    assert not compare(lambda m, x: m.layer(x), lambda m, x: m.layer(x) + 1e-8, D).ok


def test_a_gradient_at_a_kink_is_compared_beside_it():
    x = torch.tensor([[1.0, 2.0, 3.0, 4.0]])

    def against(other):
        return fxgrow.verify(Gives(lambda x: torch.relu(x - 1.0)), Gives(other), x)

    found = against(lambda x: torch.relu(x - 0.9999999))  # the first path is on here, and off there
    assert found.ok and "at a kink" in found.notes[0]
    assert not against(lambda x: torch.relu(torch.cat([x[:, :3], x[:, 3:].detach()], 1) - 0.9999999)).ok


def test_a_norm_computed_in_float32_inside_a_model_of_float64():
    whole = lambda change: lambda m, x: (m.layer(x).float().tanh() * (1 + change)).double()  # noqa: E731
    found = compare(whole(0), whole(2e-7), D)
    assert found.ok and found.max_rel_error > 1e-9 and "rounded otherwise" in found.notes[0]
    assert not compare(whole(0), whole(1e-3), D).ok
    assert not compare(lambda m, x: m.layer(x), lambda m, x: m.layer(x) * (1 + 2e-7), D).ok


@pytest.mark.parametrize("size", [0.0, 3e-4])
def test_large_numbers_that_cancel_are_told_from_wrong_ones_in_float64(size):
    """Pairs with large outgoing numbers round in float32: equal, unless the sum is off in float64 too."""
    torch.manual_seed(0)
    small = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    large = nn.Sequential(nn.Linear(8, 48), nn.ReLU(), nn.Linear(48, 4))
    with torch.no_grad():
        drawn, out = torch.randn(16, 8), 2e2 * torch.randn(4, 16)
        large[0].weight.copy_(torch.cat([small[0].weight, drawn, drawn]))
        large[0].bias.copy_(torch.cat([small[0].bias, torch.ones(32)]))
        large[2].weight.copy_(torch.cat([small[2].weight * (1 + size), out, -out], 1))
        large[2].bias.copy_(small[2].bias)
    found = fxgrow.verify(small, large, torch.randn(5, 8))
    assert found.max_rel_error > 1e-4 and found.ok == (not size)
    assert any("where both compute in float64" in note for note in found.notes) == (not size)


def test_what_calls_in_train_mode_leave_behind():
    one, other = (nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, momentum=m)).double() for m in (0.1, 0.3))
    other.load_state_dict(one.state_dict())
    assert fxgrow.verify(one, other, torch.randn(5, 3, dtype=torch.float64)).exact_in == ("eval",)
    other[1].momentum = 0.1
    assert fxgrow.verify(one, other, torch.randn(5, 3, dtype=torch.float64)).exact_in == ("eval", "train")


def test_what_a_model_keeps_of_its_first_call_gets_the_gradients_of_that():
    class Keeps(nn.Linear):
        def forward(self, x):
            if self.training or not hasattr(self, "kept"):
                self.kept = self.weight * 1
            return nn.functional.linear(x, self.kept, self.bias)

    keeps, plain = Keeps(3, 2), nn.Linear(3, 2)
    plain.load_state_dict(keeps.state_dict())
    assert fxgrow.verify(keeps, plain, torch.randn(4, 3)).ok


def test_gradients_that_are_zero_but_for_rounding():
    assert compare(lambda m, x: m.layer(x) + x.sum() * 0, lambda m, x: m.layer(x) + (x * 1e-30).sum(), D).ok
    constant = lambda m, x: m.layer.bias + 0 * x  # noqa: E731
    assert compare(constant, lambda m, x: constant(m, x) + x * 1e-17 - x.detach() * 1e-17, D).ok
    assert not compare(constant, lambda m, x: constant(m, x) + x - x.detach(), D).ok


def test_numbers_that_the_example_alone_has():
    example = D.clone()
    learned = Layer(lambda m, x: m.layer(x))(example).detach()
    found = compare(lambda m, x: m.layer(x), lambda m, x: learned + 0 * x, example)
    assert not found.ok and found.errors["eval"] > 0.1 and "fresh inputs" in found.compared


def test_words_of_a_sentence_stay_among_those_of_the_example():
    words = torch.tensor([[3, 7, 7, 2]])
    seen = []

    def reads(m, ids):
        seen.append(set(ids.flatten().tolist()))
        return m.layer.weight[ids % 4]

    found = compare(reads, reads, words)
    assert found.ok and "fresh inputs" in found.compared and set.union(*seen) <= {3, 7, 2}


@pytest.mark.parametrize("burnt", [lambda m, x: m.layer(x).reshape(2, -1, 4), lambda m, x: m.layer(x).reshape(-1, 6, 4)])
def test_other_batches_and_lengths(burnt):
    """A size of the example that stands in the code is seen at another batch or length."""
    found = compare(lambda m, x: m.layer(x), burnt, D)
    assert not found.ok and found.errors["eval"] == float("inf")
    assert any("axis" in line for line in compare(lambda m, x: m.layer(x), lambda m, x: m.layer(x), D).compared)


def test_a_batch_of_one():
    found = fxgrow.verify(Gives(lambda x: x), Gives(lambda x: x if x.shape[0] > 1 else -x), torch.randn(3, 4))
    assert not found.ok and found.compared[-2] == "axis 0 of 1 in place of 3"
    assert fxgrow.verify(Gives(lambda x: x), Gives(lambda x: x + 0), torch.randn(3, 4)).ok


def test_attention_that_leaves_zeros_at_masked_places():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True), 2)

        def forward(self, x, hidden):
            return self.layers(x, src_key_padding_mask=hidden)

    model, hidden = Masked().double(), torch.tensor([[False, False, True], [False, False, False]])
    graph = fxgrow.capture(model, (torch.randn(2, 3, 8).double(), hidden))
    found = fxgrow.verify(model, graph, (torch.randn(2, 3, 8).double(), hidden))
    assert found.exact_in == ("eval", "train") and "without torch's fused attention" in " ".join(found.notes)
    assert not fxgrow.verify(Masked().double(), graph, (torch.randn(2, 3, 8).double(), hidden)).ok


def test_an_axis_that_the_first_model_fixes_is_left_alone():
    def fixed(m, x):
        assert x.shape[1] == 6
        return m.layer(x)

    found = compare(fixed, fixed, D)
    sizes = [line for line in found.compared if line.startswith("axis")]
    assert found.ok and sizes == ["axis 0 of 3 in place of 2", "axis 0 of 1 in place of 2"]

    def up_to_six(m, x):
        return m.layer(x) + m.layer.weight[0, 0] * torch.eye(6).double()[:, :1][torch.arange(x.shape[1])]

    found = compare(up_to_six, up_to_six, D)
    assert found.ok and "axis 1 of 5 in place of 6" in found.compared


def test_a_network_that_says_for_which_size_it_was_captured():
    def captured(m, x):
        if x.shape[1] != 6:
            raise fxgrow.CaptureError("this network was captured at length 6")
        return m.layer(x)

    found = compare(lambda m, x: m.layer(x), captured, D)
    assert found.ok and any("captured at length 6" in note for note in found.notes)
    assert "axis 0 of 3 in place of 2" in found.compared and not any("axis 1" in line for line in found.compared)

    def breaks(m, x):
        if x.shape[1] != 6:
            raise ValueError("no")
        return m.layer(x)

    found = compare(lambda m, x: m.layer(x), breaks, D)
    assert not found.ok and any("second model raises" in note for note in found.notes)


def test_what_a_second_call_does():
    def counts(m, x):
        m.calls += 1
        return m.layer(x) * m.calls

    assert compare(counts, counts, D).ok
    assert not compare(counts, lambda m, x: m.layer(x), D).ok


def test_both_models_stay_as_they_are():
    def writes(m, x):
        m.calls += 1
        m.bank += 1
        m.layer.weight.data.mul_(2)
        torch.rand(1), random.random(), np.random.rand()
        return m.layer(x)

    one, other = Layer(writes).train(), Layer(writes).eval()
    one.layer.eval()
    one.layer.weight.grad = torch.ones(4, 4).double()
    states = [copy.deepcopy(m.state_dict()) for m in (one, other)]
    torch.manual_seed(3), random.seed(3), np.random.seed(3)
    assert fxgrow.verify(one, other, D).ok
    drawn = torch.rand(1), random.random(), np.random.rand()
    torch.manual_seed(3), random.seed(3), np.random.seed(3)
    assert drawn == (torch.rand(1), random.random(), np.random.rand())
    for m, state in zip((one, other), states):
        assert m.calls == 0 and all(torch.equal(t, state[n]) for n, t in m.state_dict().items())
    assert one.training and not one.layer.training and not other.training
    assert torch.equal(one.layer.weight.grad, torch.ones(4, 4).double()) and other.layer.weight.grad is None


def test_what_python_cannot_copy():
    """A hook keeps what a layer gave, with its history; a lock cannot be copied at all."""
    def keeps(m, x):
        m.kept["layer"] = m.layer(x)
        return m.kept["layer"]

    one, other = Layer(keeps), Layer(keeps)
    for m in (one, other):
        m.kept, m.lock = {"lock": threading.Lock()}, threading.Lock()
        m(D)
    kept = one.kept["layer"]
    assert fxgrow.verify(one, other, D).ok and one.kept["layer"] is kept and kept.grad_fn is not None


def test_gradients_of_inputs_must_agree():
    class Turned(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.view_as(x)

        @staticmethod
        def backward(ctx, grad):
            return -grad

    plain = lambda m, x: m.layer(x)  # noqa: E731
    for other in (lambda m, x: Turned.apply(m.layer(x)), lambda m, x: m.layer(x.detach()),
                  torch.no_grad()(plain), lambda m, x: m.layer(x) if not torch.is_grad_enabled() else -m.layer(x)):
        assert not compare(plain, other, D).ok and not compare(other, plain, D).ok
    found = compare(plain, plain, D)
    assert found.ok and any("gradients of 1 input" in line for line in found.compared)


def test_a_small_output_does_not_hide_its_gradient_behind_a_large_one():
    def gives(kept):
        return lambda m, x: (1e7 * m.layer(x).tanh(), kept(m.layer(x)).sigmoid())

    assert not compare(gives(lambda y: y), gives(torch.Tensor.detach), D).ok


def test_a_parameter_that_was_frozen_stays_frozen():
    words = torch.tensor([[1, 2, 3]])

    def frozen(m, ids):
        with torch.no_grad():
            embedded = m.layer.weight[ids]
        return embedded * m.layer.bias

    found = compare(frozen, lambda m, ids: m.layer.weight[ids] * m.layer.bias, words)
    assert not found.ok and "layer.weight" in found.notes[0]
    assert compare(frozen, frozen, words).ok
    found = compare(lambda m, ids: m.layer.weight[ids] * m.layer.bias, frozen, words)
    assert any("layer.weight" in note for note in found.notes)


def test_models_that_autograd_cannot_follow():
    found = compare(lambda m, x: x.numpy().sum(), lambda m, x: x.numpy().sum(), D)
    assert found.ok and any("gradients not compared" in note for note in found.notes)
    assert "fresh inputs" in found.compared


def test_train_mode():
    def noisy(m, x):
        return torch.nn.functional.dropout(m.layer(x), training=m.training)

    assert compare(noisy, noisy, D).exact_in == ("eval", "train")
    assert compare(noisy, lambda m, x: m.layer(x), D).exact_in == ("eval",)

    def refuses(m, x):
        assert not m.training, "no targets"
        return m.layer(x)

    found = compare(refuses, lambda m, x: m.layer(x), D)
    assert found.exact_in == ("eval",) and "train" not in found.errors and "train mode not run: no targets" in found.notes
    assert compare(lambda m, x: m.layer(x), refuses, D).errors["train"] == float("inf")


def test_inputs_by_name_with_none_and_words_among_them():
    def takes(m, x=None, mask=None, how="sum", pair=()):
        y = m.layer(x) if mask is None else m.layer(x) * mask
        return y + pair[0] if how == "sum" else y

    inputs = {"x": D, "mask": None, "how": "sum", "pair": (D, 2)}
    assert compare(takes, takes, inputs).ok
    assert not compare(takes, lambda m, x, mask, how, pair: m.layer(x), inputs).ok
    assert compare(takes, takes, (D, torch.ones(2, 6, 1).bool(), "other")).ok
    with pytest.raises(fxgrow.CaptureError, match="example_inputs"):
        compare(takes, takes, "x")


def test_what_a_model_raises_on_the_example_passes_through():
    def stops(m, x):
        raise KeyError("mine")

    for one, other in ((stops, stops), (lambda m, x: m.layer(x), stops)):
        with pytest.raises(KeyError, match="mine"):
            compare(one, other, D)


def test_the_report_says_what_was_compared():
    found = compare(lambda m, x: m.layer(x), lambda m, x: m.layer(x), D)
    for words in ("the example", "fresh inputs", "two calls in a row", "axis 0 of 3 in place of 2", "eval and train mode"):
        assert words in str(found) and any(words in line for line in found.to_json()["compared"])


def test_gradients_of_parameters_are_there_one_at_a_time():
    """Which ones arrive is known afterwards, and none is kept."""
    twin = Twin(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), "eval")
    twin.model.register_parameter("unused", nn.Parameter(torch.zeros(3)))
    out = twin.run(((X,), {}), 0, "compared")
    inputs, arrived = twin.gradients([(out, torch.ones_like(out))])
    assert arrived == {"0.weight": True, "0.bias": True, "1.weight": True, "1.bias": True, "unused": False}
    assert torch.allclose(inputs[0], (twin.model[1].weight.sum(0) @ twin.model[0].weight)[None])
    assert all(p.grad is None for p in twin.model.parameters())


class Two(nn.Module):
    def __init__(self, first, second, detach=False):
        super().__init__()
        self.first, self.second, self.detach = first, second, detach

    def forward(self, x):
        return self.second(self.first(x.detach() if self.detach else x))


@pytest.mark.parametrize("detach", [False, True])
def test_gradients_are_those_of_what_both_models_give(detach):
    """What a part gives in another shape is left out of both, and a gradient that is stopped is found all the same."""
    one = Two(nn.Linear(3, 4), nn.Linear(4, 2))
    first, second = nn.Linear(3, 6), nn.Linear(6, 2)
    with torch.no_grad():
        first.weight[:4], first.bias[:4] = one.first.weight, one.first.bias
        second.weight[:, :4], second.weight[:, 4:] = one.second.weight, 0
        second.bias.copy_(one.second.bias)
    wide = Two(fxgrow.capture(first, X), fxgrow.capture(second, torch.randn(1, 6)), detach)
    found = fxgrow.verify(one, wide, X)
    assert found.ok is not detach, found
    assert any("another shape" in note for note in found.notes)
    assert any("gradients of 1 input" in what for what in found.compared)
