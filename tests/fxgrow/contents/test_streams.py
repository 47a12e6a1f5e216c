"""Streams that are tied to a head, and norms that are written out: they grow, exactly, and what is new learns."""
import copy

import pytest
import torch
from support import shake
from torch import nn

import fxgrow
from fxgrow.axis import analyse
from fxgrow.contents import certify
from fxgrow.passes import Widen

METHODS = ["r2r", "net2net", "netmorph"]


class Rms(nn.Module):
    """A root mean square norm by hand, its weight about one or (`shift`) about zero."""

    def __init__(self, width, shift=0.0):
        super().__init__()
        self.weight, self.shift = nn.Parameter(torch.ones(width) - shift), shift

    def forward(self, x):
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 0.1)
        return x * (self.shift + self.weight) if self.shift else self.weight * x


class Centred(nn.Module):
    """A LayerNorm by hand, as Cohere has it, or by mean and standard deviation."""

    def __init__(self, width, sample=False):
        super().__init__()
        self.weight, self.bias, self.sample = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width)), sample

    def forward(self, x):
        mean = x.mean(-1, keepdim=True)
        if self.sample:
            return self.weight * (x - mean) / (x.std(-1, keepdim=True) + 0.1) + self.bias
        variance = (x - mean).pow(2).mean(-1, keepdim=True)
        return self.weight * ((x - mean) * torch.rsqrt(variance + 0.1)) + self.bias


class Tied(nn.Module):
    """Words, a block beside the stream, and a head whose weight is the embedding; norms before, or behind each sum."""

    def __init__(self, norm, behind=False):
        super().__init__()
        self.embed, self.inner, self.back = nn.Embedding(11, 6), nn.Linear(6, 8), nn.Linear(8, 6, bias=False)
        self.first, self.last, self.behind = norm(6), norm(6), behind

    def forward(self, words):
        x = self.embed(words)
        if self.behind:
            return self.last(self.first(x) + self.back(self.inner(self.first(x)).relu())) @ self.embed.weight.t()
        return self.last(x + self.back(self.inner(self.first(x)).tanh())) @ self.embed.weight.t()


NORMS = {"rms": Rms, "rms of torch": lambda n: nn.RMSNorm(n, eps=0.1), "1 + w": lambda n: Rms(n, 1.0), "centred": Centred,
         "mean and deviation": lambda n: Centred(n, sample=True), "layer norm": nn.LayerNorm}


def grown(model, x, **how):
    torch.manual_seed(0)
    model = shake(model).double()
    found = fxgrow.transform(model, x, Widen(**how))
    checked = fxgrow.verify(model, found.model, x)
    assert checked.max_rel_error <= 1e-9 and checked.exact_in == ("eval", "train")
    return found


def unreached(found, x, steps):
    """Return the parameters of whose new numbers some get no gradient in so many steps."""
    model = copy.deepcopy(found.model)
    waiting = {n: found.record.new_mask(n, p) for n, p in model.named_parameters()}
    target = torch.randn(model(x).shape, dtype=torch.float64)
    for _ in range(steps):
        model.zero_grad()
        (model(x) - target).square().mean().backward()
        with torch.no_grad():
            for name, p in model.named_parameters():
                waiting[name] &= p.grad == 0
                p -= 0.01 * p.grad
    return [n for n, left in waiting.items() if left.any()]


@pytest.mark.thinned(2)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("norm", NORMS)
def test_a_stream_that_is_tied_to_the_head_grows_and_learns(norm, method):
    found = grown(Tied(NORMS[norm]), torch.arange(11).view(1, 11), factor=2, method=method, seed=0)
    assert found.model.get_parameter("embed.weight").shape == (11, 12)
    assert unreached(found, torch.arange(11).view(1, 11), 2) == []


@pytest.mark.parametrize("norm", ["rms", "1 + w", "centred", "mean and deviation", "layer norm"])
def test_it_grows_to_any_size(norm):
    found = grown(Tied(NORMS[norm]), torch.arange(10).view(2, 5), where="embed", to=9, seed=0)
    assert found.model.get_parameter("last.weight").shape == (9,)


@pytest.mark.parametrize("norm", ["centred", "layer norm"])
def test_norms_behind_each_sum_take_copies_whose_number_the_last_one_takes_back(norm):
    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.norm = Tied(NORMS[norm], behind=True), NORMS[norm](6)

        def forward(self, words):
            x = self.body.embed(words)
            x = self.body.last(self.body.first(x) + self.body.back(self.body.inner(self.body.first(x)).relu()))
            return self.norm(x) @ self.body.embed.weight.t()

    found = grown(Head(), torch.arange(10).view(2, 5), where="body.embed", factor=2, seed=0)
    entry = found.record.parameters["norm.weight"]
    assert entry.scale == pytest.approx(0.5) and found.record.parameters["norm.bias"].scale == pytest.approx(0.5)
    with pytest.raises(fxgrow.SelectionError, match="integer factor"):
        grown(Head(), torch.arange(10).view(2, 5), where="body.embed", to=9, seed=0)


def test_a_weight_that_a_number_is_added_to_is_scaled_together_with_it():
    torch.manual_seed(0)
    model, x = shake(Tied(NORMS["1 + w"])).double(), torch.arange(10).view(2, 5)
    found = fxgrow.transform(model, x, Widen("embed", to=9, seed=0))
    entry, weight = found.record.parameters["first.weight"], found.model.get_parameter("first.weight")
    assert (entry.scale, entry.shift) == (pytest.approx((6 / 9) ** 0.5), pytest.approx((6 / 9) ** 0.5 - 1))
    assert torch.allclose(weight[:6], model.first.weight * entry.scale + entry.shift)
    small, held = found.record.shrink(found.model), model.first.weight
    assert torch.allclose(small.get_parameter("first.weight"), held)


def test_products_of_zeros_that_nothing_else_moves_are_refused():
    class Products(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k, self.q_norm, self.k_norm = nn.Linear(3, 4), nn.Linear(3, 4), nn.RMSNorm(4), nn.RMSNorm(4)

        def forward(self, x):
            return self.q_norm(self.q(x)) @ self.k_norm(self.k(x)).mT

    tape = analyse(fxgrow.capture(Products(), torch.randn(2, 5, 3)))
    atom = tape.params["q.weight"].axes[0]
    with pytest.raises(fxgrow.common.Refusal):
        certify(tape, atom, "zero")
    assert certify(tape, atom, "copy", scaling=True).uniform


class Capsules(nn.Module):
    """Capsules `[N, 4, 6]`, squashed by their length, and their lengths."""

    def __init__(self):
        super().__init__()
        self.capsules = nn.Linear(5, 24)

    def forward(self, x):
        u = self.capsules(x).unflatten(-1, (4, 6))
        squares = u.square().sum(-1, keepdim=True)
        return (squares / (1 + squares) * u / squares.sqrt()).norm(dim=-1)


def test_a_norm_over_the_class_takes_zeros():
    found = grown(Capsules(), torch.randn(3, 5, dtype=torch.float64), factor=2, seed=0)
    assert found.model.get_parameter("capsules.weight").shape == (48, 5)


class Latents(nn.Module):
    """Latents that are learned read what is given (Perceiver)."""

    def __init__(self, norm):
        super().__init__()
        self.latents, self.norm, self.last = nn.Parameter(torch.randn(4, 6)), norm(6), norm(6)
        self.q, self.k, self.v, self.out, self.head = (nn.Linear(a, b) for a, b in ((6, 8), (3, 8), (3, 8), (8, 6), (6, 2)))

    def forward(self, x):
        latents = self.latents.expand(x.shape[0], -1, -1)
        weights = (self.q(self.norm(latents)) @ self.k(x).mT).softmax(-1)
        return self.head(self.last(latents + self.out(weights @ self.v(x))))


@pytest.mark.thinned(2)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("norm", ["layer norm", "rms of torch", "centred"])
def test_learned_latents_that_a_norm_reads_grow(norm, method):
    found = grown(Latents(NORMS[norm]), torch.randn(2, 5, 3, dtype=torch.float64), factor=2, method=method, seed=0)
    assert found.model.get_parameter("latents").shape == (4, 12)
