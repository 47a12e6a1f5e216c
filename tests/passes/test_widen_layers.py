"""Every kind of layer grows exactly, by every method, alone in a small network of its own."""
from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from older import instance_norm_with_statistics
from support import grow, size
from torch import Tensor, nn

import fxgrow
from fxgrow.errors import SelectionError
from fxgrow.passes import Widen

METHODS = ("r2r", "net2net", "net2net-unequal", "netmorph")


class Recurrent(nn.Module):
    def __init__(self, kind, **options):
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.rnn = kind(6, 8, num_layers=2, batch_first=True, **options)
        self.head = nn.Linear(8 * (2 if options.get("bidirectional") else 1), 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.rnn(self.embed(tokens))[0])


class Tied(nn.Module):
    """A language model whose output layer is its embedding."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.mix = nn.Linear(8, 8)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        return self.head(x + torch.tanh(self.mix(x)))


class Shared(nn.Module):
    """One layer called three times."""

    def __init__(self):
        super().__init__()
        self.first, self.again, self.last = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x))
        for _ in range(3):
            x = torch.tanh(self.again(x))
        return self.last(x)


class Gated(nn.Module):
    """SwiGLU, a sigmoid gate, and RMS norm in a residual stream."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(5, 8)
        self.norm1, self.norm2 = nn.RMSNorm(8, eps=1e-6), nn.RMSNorm(8, eps=1e-6)
        self.up, self.gate, self.down = nn.Linear(8, 12), nn.Linear(8, 12), nn.Linear(12, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        y = self.norm1(x)
        x = x + self.down(F.silu(self.gate(y)) * self.up(y))
        return self.head(self.norm2(x))


class Attention(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.embed = nn.Linear(5, 8)
        self.norm = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True, **options)
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        y = self.norm(x)
        return self.out(self.norm(x + self.attention(y, y, y, need_weights=False)[0]))


class Functional(nn.Module):
    """Weights as parameters of the module, groups as arguments of the call."""

    def __init__(self):
        super().__init__()
        self.first = nn.Parameter(torch.randn(8, 3, 3, 3))
        self.depthwise = nn.Parameter(torch.randn(8, 1, 3, 3))
        self.last = nn.Parameter(torch.randn(4, 8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.conv2d(x, self.first))
        x = F.relu(F.conv2d(x, self.depthwise, None, 1, 1, 1, 8))
        return F.conv2d(x, self.last).mean((2, 3))


def tokens() -> Tensor:
    return torch.randint(11, (2, 5))


def picture(channels: int = 3) -> Tensor:
    return torch.randn(2, channels, 9, 9)


def body(*layers: nn.Module) -> nn.Sequential:
    """A convolution, the layers under test, and a classifier."""
    return nn.Sequential(nn.Conv2d(3, 8, 3), *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))


CASES = {
    "lstm": lambda: (Recurrent(nn.LSTM), tokens()),
    "lstm-both-ways": lambda: (Recurrent(nn.LSTM, bidirectional=True), tokens()),
    "gru": lambda: (Recurrent(nn.GRU), tokens()),
    "rnn": lambda: (Recurrent(nn.RNN), tokens()),
    "tied": lambda: (Tied(), tokens()),
    "shared": lambda: (Shared(), torch.randn(2, 5)),
    "gated": lambda: (Gated(), torch.randn(2, 4, 5)),
    "attention": lambda: (Attention(), torch.randn(2, 4, 5)),
    "functional": lambda: (Functional(), picture()),
    "transformer": lambda: (nn.Sequential(nn.Linear(5, 8), nn.TransformerEncoder(
        nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True), 2, enable_nested_tensor=False), nn.Linear(8, 3)),
        torch.randn(2, 4, 5)),
    "transformer-norm-first": lambda: (nn.Sequential(nn.Linear(5, 8), nn.TransformerEncoder(
        nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True, norm_first=True, activation="gelu"), 2,
        nn.LayerNorm(8), enable_nested_tensor=False), nn.Linear(8, 3)), torch.randn(2, 4, 5)),
    "transposed": lambda: (body(nn.ConvTranspose2d(8, 8, 3, 2), nn.ReLU()), picture()),
    "transposed-grouped": lambda: (body(nn.ConvTranspose2d(8, 8, 3, groups=4), nn.ReLU()), picture()),
    "grouped": lambda: (body(nn.Conv2d(8, 8, 3, groups=2), nn.GELU()), picture()),
    "depthwise": lambda: (body(nn.Conv2d(8, 8, 3, groups=8, dilation=2), nn.Hardswish()), picture()),
    "prelu": lambda: (body(nn.PReLU(8)), picture()),
    "batchnorm": lambda: (body(nn.BatchNorm2d(8), nn.ELU()), picture()),
    "groupnorm": lambda: (body(nn.GroupNorm(2, 8), nn.SiLU()), picture()),
    "groupnorm-of-one": lambda: (body(nn.GroupNorm(1, 8), nn.SiLU()), picture()),
    "instancenorm": lambda: (body(nn.InstanceNorm2d(8, affine=True), nn.Mish()), picture()),
    "instancenorm-tracking": lambda: (body(instance_norm_with_statistics(8)), picture()),
    "conv1d": lambda: (nn.Sequential(nn.Conv1d(3, 8, 3), nn.BatchNorm1d(8), nn.Tanh(), nn.Conv1d(8, 4, 3)),
                       torch.randn(2, 3, 9)),
    "conv3d": lambda: (nn.Sequential(nn.Conv3d(3, 8, 3), nn.BatchNorm3d(8), nn.ReLU(), nn.Conv3d(8, 4, 3)),
                       torch.randn(2, 3, 6, 6, 6)),
    "flatten": lambda: (nn.Sequential(nn.Conv2d(3, 8, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 6), nn.ReLU(),
                                      nn.Linear(6, 2)), picture()),
    "pixel-shuffle": lambda: (nn.Sequential(nn.Conv2d(3, 16, 3), nn.PixelShuffle(2), nn.Conv2d(4, 4, 3)), picture()),
    "channel-shuffle": lambda: (body(nn.Conv2d(8, 8, 3, groups=2), nn.ChannelShuffle(2), nn.ReLU()), picture()),
    "bilinear-upsampling": lambda: (body(nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(8, 8, 3)), picture()),
    "glu": lambda: (nn.Sequential(nn.Linear(5, 16), nn.GLU(), nn.Linear(8, 3)), torch.randn(2, 5)),
    "softmax-head": lambda: (nn.Sequential(nn.Linear(5, 8), nn.Sigmoid(), nn.Linear(8, 3), nn.Softmax(-1)),
                             torch.randn(2, 5)),
    "reflect-pad": lambda: (body(nn.ReflectionPad2d(2), nn.Conv2d(8, 8, 3), nn.AvgPool2d(2)), picture()),
    "bilinear": lambda: (nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)),
                         torch.randn(2, 5)),
}


@pytest.mark.thinned(6)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", CASES)
def test_every_layer_doubles_exactly(name, method):
    model, x = CASES[name]()
    grown = grow(model, x, Widen(factor=2, method=method, seed=0))
    assert size(grown.model) > 1.3 * size(model), grown.explain()


WHOLE = {"groupnorm-of-one"}  # statistics over channels and space together: only copies of every channel keep them


@pytest.mark.parametrize("name", sorted(WHOLE))
def test_only_whole_multiples_where_statistics_need_them(name):
    model, x = CASES[name]()
    with pytest.raises(SelectionError, match="integer factor.*try 2 times"):
        grow(model, x, Widen(factor=1.4))


@pytest.mark.thinned(3)
@pytest.mark.parametrize("name", sorted(CASES.keys() - WHOLE))
def test_uneven_factors_are_exact_too(name):
    model, x = CASES[name]()
    grow(model, x, Widen(factor=1.4, seed=1), Widen(factor=1.3, method="netmorph", seed=2))


@pytest.mark.thinned(3)
@pytest.mark.parametrize("name", sorted(CASES.keys() - WHOLE))
def test_five_widenings_in_a_row_stay_exact(name):
    model, x = CASES[name]()
    steps = [Widen(factor=f, method=m, seed=i) for i, (f, m) in enumerate(
        [(1.5, "r2r"), (1.4, "net2net"), (1.3, "netmorph"), (1.3, "net2net-unequal"), (2, "r2r")])]
    grow(model, x, *steps)


@pytest.mark.thinned(3)
@pytest.mark.parametrize("name", CASES)
def test_the_result_trains_copies_and_reloads(name):
    """New numbers get gradients as widely as old ones, after two steps."""
    model, x = CASES[name]()
    grown = grow(model, x, Widen(factor=2, seed=0))
    twin = copy.deepcopy(grown.model)
    twin.load_state_dict(grown.model.state_dict())
    x = x.double() if x.is_floating_point() else x
    assert fxgrow.verify(grown.model, twin, x).max_abs_error == 0
    batch = torch.randn(64, *x.shape[1:], dtype=x.dtype) if x.is_floating_point() else torch.randint(11, (64, 5))
    seen = gradients(grown.model, batch, 2)
    for n, p in grown.model.named_parameters():
        new = grown.record.new_mask(n, p)
        assert seen[n][new].float().mean() >= 0.9 or not new.any(), n


def gradients(model: nn.Module, x: Tensor, steps: int) -> dict[str, Tensor]:
    """Which numbers of each parameter have had a gradient in some of the steps."""
    optimizer = torch.optim.SGD(model.train().parameters(), 1e-2)
    target = torch.randn_like(model(x))
    seen = {n: torch.zeros(p.shape, dtype=torch.bool) for n, p in model.named_parameters()}
    for _ in range(steps):
        optimizer.zero_grad()
        (model(x) - target).square().mean().backward()
        for n, p in model.named_parameters():
            seen[n] |= p.grad != 0
        optimizer.step()
    return seen


def test_heads_of_an_attention_that_is_called_twice():
    class Twice(Attention):
        def forward(self, x: Tensor) -> Tensor:
            for _ in range(2):
                x = self.attention(x, x, x)[0].tanh()
            return self.out(x)

    model, x = Twice().double().eval(), torch.randn(2, 3, 8, dtype=torch.float64)
    grown = fxgrow.transform(model, x, [Widen("attention:heads", factor=2, seed=0)]).model
    assert grown.attention.num_heads == 4
    torch.testing.assert_close(grown(x), model(x))


class Reader(nn.Module):
    """Attention to keys and values that have widths of their own."""

    def __init__(self, **options):
        super().__init__()
        self.query, self.key, self.value = nn.Linear(4, 8), nn.Linear(4, 4), nn.Linear(4, 6)
        self.attention = nn.MultiheadAttention(8, 2, kdim=4, vdim=6, batch_first=True, **options)
        self.last = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x, weights = self.attention(self.query(x), self.key(x).relu(), self.value(x).tanh())
        return self.last(x) * weights.amax()


@pytest.mark.thinned(2)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("options", [{}, {"bias": False}])
def test_attention_to_keys_and_values_of_other_widths(options, method, tmp_path):
    torch.manual_seed(0)
    grown = grow(Reader(**options), torch.randn(2, 5, 4), Widen(factor=2, method=method, seed=0))
    attention = grown.model.get_submodule("attention")
    assert attention.k_proj_weight.shape[1] == 8 and attention.v_proj_weight.shape[1] == 12
    fxgrow.save(grown, tmp_path / "grown.pt")
    x = torch.randn(2, 5, 4, dtype=torch.float64)
    assert torch.equal(fxgrow.load(tmp_path / "grown.pt").eval()(x), grown.model.eval()(x))


@pytest.mark.parametrize("method", METHODS)
def test_heads_of_such_attention_grow_as_a_layer_of_ours(method):
    torch.manual_seed(0)
    grown = grow(Reader(bias=False), torch.randn(2, 5, 4), Widen("*:head_dim", factor=2, method=method, seed=0))
    attention = grown.model.get_submodule("attention")
    assert type(attention).__name__ == "SeparateAttention" and attention.q_proj_weight.shape == (16, 8)


@pytest.mark.thinned(2)
@pytest.mark.parametrize("norm", [nn.utils.parametrizations.weight_norm, nn.utils.weight_norm])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_layer_that_computes_its_weight_goes_by_its_name(norm, method):
    layers = norm(nn.Conv2d(3, 8, 1)), nn.Tanh(), norm(nn.Conv2d(8, 4, 1)), nn.Tanh(), nn.Conv2d(4, 2, 1)
    model = nn.Sequential(*layers).double()
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    for name in ("0", "2"):
        grown = fxgrow.transform(model, x, Widen(name, factor=2, method=method, seed=0))
        assert [(o.name, o.producers) for o in grown.outcomes] == [(name, [name])]
        assert fxgrow.verify(model, grown.model, x).ok
