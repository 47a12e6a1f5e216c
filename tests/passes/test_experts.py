"""Experts: perceptrons found by what they compute, as mixtures of equal experts that start as one."""
from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import transformers
from steps import archived, gradients
from support import grow, shake
from torch import Tensor, nn

import fxgrow
from fxgrow.errors import GrowthError, SelectionError
from fxgrow.passes import Deepen, Experts, Widen


class Branch(nn.Module):
    """`x + f(norm(x))`, f of one of many kinds."""

    def __init__(self, kind: str = "plain", width: int = 8, hidden: int = 12):
        super().__init__()
        self.kind, self.norm, self.act = kind, nn.LayerNorm(width), nn.ReLU(inplace=True)
        self.first, self.second, self.last = (nn.Linear(*s) for s in ((width, hidden), (width, hidden), (hidden, width)))
        self.inner = nn.LayerNorm(hidden)
        self.taps, self.places = nn.Conv1d(hidden, hidden, 3, padding=1), nn.Parameter(torch.randn(5, hidden))
        self.kernel = nn.Parameter(torch.randn(2 * hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        if self.kind == "written":  # to what the perceptron gives
            z = self.last(self.hidden(y))
            z += x @ self.kernel.T[:, :8]
            return z
        return x + self.last(self.hidden(y)) + (self.first(x).mean(-1, keepdim=True) if self.kind == "shared" else 0)

    def hidden(self, y: Tensor) -> Tensor:
        h = self.act(self.first(y))
        if self.kind == "gated":
            return self.inner(F.silu(self.second(y)) * h)
        if self.kind == "fused":
            a, b = F.linear(y, self.kernel).chunk(2, -1)
            return torch.sigmoid(a) * b
        if self.kind == "two dims":
            batch, length, width = y.shape
            return F.gelu(F.linear(y.view(-1, width), self.kernel[:12])).view(batch, length, -1)
        if self.kind == "neighbours":
            return self.taps(h.transpose(1, 2)).transpose(1, 2)
        if self.kind == "mean of rows":
            return h - h.mean(1, keepdim=True)
        return {"softmax": lambda: h.softmax(1), "places": lambda: h + self.places}.get(self.kind, lambda: h)()


def stack(kind: str = "plain") -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), Branch(kind), Branch(kind), nn.Linear(8, 3))


X = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.thinned(2)
@pytest.mark.parametrize("kind", ["plain", "gated", "fused", "two dims", "written"])
def test_perceptrons_become_experts_and_compute_the_same(kind, tmp_path):
    torch.manual_seed(0)
    grown = grow(stack(kind), X, Experts(experts=4, top_k=2, seed=0))
    assert [(o.before, o.after) for o in grown.outcomes if o.method] == [(1, 4)] * 2
    assert grown.model.get_parameter("1.router.weight").shape == (4, 8)
    assert {n: p.shape[0] for n, p in grown.model.named_parameters() if n.startswith("1.experts.3.")}
    archived(grown, X.double(), tmp_path / "experts.pt")
    small = grown.record.shrink(grown.model)
    assert fxgrow.verify(fxgrow.capture(small, X.double()), grown.model, X.double()).ok


@pytest.mark.parametrize("kind, reason", [("neighbours", "more than one row"), ("mean of rows", "more than one row"),
                                          ("softmax", "more than one row"), ("places", "more than one row"),
                                          ("shared", "read elsewhere|used at")])
def test_what_looks_at_more_than_its_row_is_refused(kind, reason):
    with pytest.raises(SelectionError, match=reason):
        fxgrow.transform(stack(kind), X, Experts("1*"))
    if kind == "mean of rows":  # of one row, too
        with pytest.raises(SelectionError, match=reason):
            fxgrow.transform(stack(kind), X[:, :1], Experts("1*"))


def test_one_that_is_no_branch_is_taken_where_it_is_named():
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))
    with pytest.raises(SelectionError, match="name it"):
        fxgrow.transform(model, X, Experts())
    grown = grow(model, X[0], Experts("2", experts=3, top_k=3))
    assert grown.model.get_parameter("experts.2.0.weight").shape == (16, 6)


def test_a_convolution_is_no_perceptron():
    with pytest.raises(SelectionError, match="there is no layer for it|no perceptron"):
        fxgrow.transform(nn.Sequential(nn.Conv2d(1, 8, 1), nn.ReLU(), nn.Conv2d(8, 3, 1)), X[None, None, 0], Experts())


@pytest.mark.parametrize("options", [{"top_k": 1}, {"top_k": 5, "experts": 4}, {"noise": -1.0}])
def test_options_that_make_no_sense(options):
    with pytest.raises(GrowthError, match="makes no sense"):
        Experts(**options)


def test_equal_experts_all_learn_and_the_router_from_the_second_step_on():
    torch.manual_seed(0)
    x = torch.randn(40, 5, 6).double()
    mlps = [nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8)) for _ in range(2)]
    grown = grow(nn.Sequential(nn.Linear(6, 8), *mlps, nn.Linear(8, 3)), x, Experts(["1", "2"], experts=4, top_k=2, seed=0))
    first, second = gradients(grown.model, x)
    experts = [n for n in first if ".experts." in n]
    assert len(experts) == 2 * 4 * 4 and all(first[n].any() for n in experts)
    routers = [n for n in first if ".router." in n]
    assert all(first[n].abs().max() < 1e-12 for n in routers) and all(second[n].abs().max() > 1e-9 for n in routers)


def test_noise_tells_experts_apart_and_is_not_exact():
    model = shake(stack().double())
    grown = fxgrow.transform(model, X.double(), Experts(experts=3, noise=0.1, seed=0))
    assert "not exact" in grown.explain() and not fxgrow.verify(model, grown.model, X.double()).ok
    weights = [grown.model.get_parameter(f"1.experts.{i}.first.weight") for i in range(3)]
    assert torch.equal(weights[0], model[1].first.weight)
    for weight in weights[1:]:
        assert 0.05 < float((weight - weights[0]).detach().std() / weights[0].detach().std()) < 0.2


def test_optimizer_and_record_know_the_copies():
    model = shake(stack().double())
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    model(X.double()).square().sum().backward()
    optimizer.step()
    grown = fxgrow.transform(model, X.double(), Experts("1", experts=2, seed=0))
    moved = grown.record.migrate_optimizer(optimizer, grown.model, model)
    first, second = (grown.model.get_parameter(f"1.experts.{i}.first.weight") for i in range(2))
    old = optimizer.state[model[1].first.weight]["exp_avg"]
    assert torch.equal(moved.state[first]["exp_avg"], old)
    assert not grown.record.new_mask("1.experts.0.first.weight", first).any()
    assert grown.record.new_mask("1.experts.1.first.weight", second).all()
    assert grown.record.new_mask("1.router.weight", grown.model.get_parameter("1.router.weight")).all()


def test_experts_grow_on():
    grown = grow(stack("gated"), X, Experts(experts=3, seed=0), Widen("1.experts.*.first", factor=2, seed=0),
                 Deepen("1", seed=0))
    assert grown.model.get_parameter("1.experts.2.first.weight").shape == (24, 8)
    with pytest.raises(SelectionError, match="an expert itself"):
        fxgrow.transform(fxgrow.transform(stack(), X, Experts(experts=2)).model, X, Experts())


def test_each_row_is_paid_for_by_the_experts_that_it_goes_through():
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 8))
    x = torch.randn(32, 8)
    eight, four = (fxgrow.transform(model, x, Experts(experts=n, top_k=2)).model for n in (8, 4))
    dense, sparse, fewer = (fxgrow.count_flops(m, x).forward for m in (model, eight, four))
    assert 2 * dense < sparse < 2.3 * dense and fewer < sparse


def test_half_precision_by_autocast():
    grown = fxgrow.transform(stack(), X, Experts(experts=3, seed=0))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.isfinite(grown.model(X)).all()


@pytest.mark.parametrize("name, changes", [
    ("Llama", {}), pytest.param("GPT2", {"n_inner": 48}, marks=pytest.mark.sweep),
    ("Phi3", {"pad_token_id": 0}), pytest.param("OPT", {"ffn_dim": 48, "dropout": 0.0}, marks=pytest.mark.sweep)])
def test_language_models(name, changes):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 31,
             "max_position_embeddings": 32, "bos_token_id": 1, "eos_token_id": 2}
    config = getattr(transformers, f"{name}Config")(**{**sizes, **changes}, use_cache=False)
    model = getattr(transformers, f"{name}ForCausalLM" if name != "GPT2" else "GPT2LMHeadModel")(config)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    grown = grow(model, torch.randint(0, 31, (2, 6)), Experts(experts=4, seed=0))
    assert len([o for o in grown.outcomes if o.method]) == 2


class Mixed(nn.Module):
    """`x + sum over the chosen of w_i expert_i(x)`, the experts stacked; in one of many ways to write it."""

    def __init__(self, kind: str, count: int = 4, width: int = 8, hidden: int = 12):
        super().__init__()
        self.kind, self.count, self.router = kind, count, nn.Linear(width, count)
        self.up, self.down = (nn.Parameter(torch.randn(count, *s) / 4) for s in ((width, hidden), (hidden, width)))
        self.shift = nn.Parameter(torch.randn(count, hidden) / 4)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(count if kind == "layers" else 0))

    def forward(self, x: Tensor) -> Tensor:
        scores = self.router(x)
        weights, chosen = torch.topk(scores if self.kind == "chosen" else scores.softmax(-1), k=2, dim=-1)
        weights = weights.softmax(-1) if self.kind == "chosen" else scores.gather(-1, chosen).sigmoid() \
            if self.kind == "sigmoid" else weights
        if self.kind == "layers":
            return x + sum(m(x) * (weights * (chosen == i)).sum(-1, keepdim=True) for i, m in enumerate(self.layers))
        if self.kind == "one hot":
            shares = (F.one_hot(chosen, self.count) * weights.unsqueeze(-1)).sum(-2)
            hidden = F.relu(torch.einsum("blw,ewh->bleh", x, self.up) + self.shift)
            return x + torch.einsum("bleh,ehw,ble->blw", hidden, self.down, shares)
        hidden = F.relu(torch.einsum("blw,blkwh->blkh", x, self.up[chosen]) + self.shift[chosen])
        return x + (torch.einsum("blkh,blkhw->blkw", hidden, self.down[chosen]) * weights.unsqueeze(-1)).sum(-2)


@pytest.mark.parametrize("kind", ["chosen", "all", "one hot"])
def test_a_mixture_gets_more_experts(kind):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), Mixed(kind), nn.Linear(8, 3))
    grown = grow(model, X, Experts("1", experts=12, seed=0))
    assert [(o.name, o.before, o.after, o.method) for o in grown.outcomes if o.method] == [("1", 4, 12, "copies")]
    up = grown.model.get_parameter("1.up")
    assert up.shape == (12, 8, 12) and torch.equal(up[1], up[0]) and grown.model.get_submodule("1.router").out_features == 12
    assert grown.record.new_mask("1.up", up)[:, 0, 0].tolist() == 4 * [False, True, True]
    told = fxgrow.transform(model, X.double(), Experts("1", experts=8, noise=0.1, seed=0)).model.get_parameter("1.up")
    assert torch.equal(told[0], model[1].up[0]) and not torch.equal(told[1], told[0])


@pytest.mark.parametrize("kind, where, experts, reason", [
    ("all", "1", 6, "has 4 experts"), ("all", None, 8, "mixture already"), ("sigmoid", "1", 8, "do not add up"),
    ("layers", "1", 8, "name that, and it becomes a mixture itself")])
def test_a_mixture_that_gets_no_more_experts_says_why(kind, where, experts, reason):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), Mixed(kind), nn.Linear(8, 3))
    with pytest.raises(SelectionError, match=reason):
        fxgrow.transform(model, X, Experts(where, experts=experts))
