"""Small models whose FLOPs can be worked out by hand: 85 cases of what counters stumble over (see tools/compare_counts.py).

Each case states the FLOPs of both passes as sums over its products: `2 * m * k * n` for a product `[m, k] x [k, n]`, and as
many backward for each operand that needs a gradient. A complex product is four real ones.
"""
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import flex_attention
from torch.utils.checkpoint import checkpoint, checkpoint_sequential
from torchvision.ops import DeformConv2d

Made = tuple[nn.Module, Any]  # a model and its inputs


class Case(NamedTuple):
    """What makes a model and its inputs, and the FLOPs of its passes by hand."""
    name: str
    forward: int
    backward: int
    make: Callable[[], Made]


class Calls(nn.Module):
    """Calls a function of itself and the inputs; tensors that it is given are parameters if they can have a gradient."""

    def __init__(self, run, **parts):
        super().__init__()
        self.run = run
        for name, part in parts.items():
            if isinstance(part, Tensor) and (part.is_sparse or not (part.is_floating_point() or part.is_complex())):
                self.register_buffer(name, part)
            else:
                setattr(self, name, nn.Parameter(part) if isinstance(part, Tensor) else part)

    def forward(self, *inputs):
        return self.run(self, *inputs)


CASES: list[Case] = []
R, linear, sdpa = torch.randn, nn.Linear, F.scaled_dot_product_attention


def case(name: str, forward: int, backward: int, make: Callable[[], Made]) -> None:
    """Add a case."""
    CASES.append(Case(name, forward, backward, make))


def layer(name: str, forward: int, backward: int, made: Callable[[], nn.Module], *shape: int) -> None:
    """Add a case of one layer, or several in a row, on an input of this shape."""
    case(name, forward, backward, lambda: (made(), R(*shape)))


def calls(name: str, forward: int, backward: int, run, inputs: Callable[[], Any], **parts: Callable[[], Any]) -> None:
    """Add a case whose model calls a function of parts that are made anew each time."""
    case(name, forward, backward, lambda: (Calls(run, **{k: made() for k, made in parts.items()}), inputs()))


def wanted(*shapes: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Return inputs that need a gradient."""
    return tuple(R(*shape, requires_grad=True) for shape in shapes)


# --- convolutions: each number of a weight [out, in / groups, k...] once for each position ---------------------------
n = 2 * 3 * 16 * (8 * 2 * 9)
layer("convolution, grouped and strided", n, n, lambda: nn.Conv2d(4, 8, 3, 2, 1, groups=2), 3, 4, 8, 8)
n = 2 * 25 * (12 * 9)
layer("convolution, depthwise, three for each channel", n, n, lambda: nn.Conv2d(4, 12, 3, groups=4), 1, 4, 7, 7)
first, second = 2 * 2 * 36 * (4 * 9), 2 * 2 * 36 * (4 * 10)
layer("convolution, depthwise and pointwise", first + second, first + 2 * second,
      lambda: nn.Sequential(nn.Conv2d(4, 4, 3, 1, 1, groups=4), nn.Conv2d(4, 10, 1)), 2, 4, 6, 6)
n = 2 * 2 * 12 * (3 * 5 * 2)
layer("convolution over time, dilated", n, n, lambda: nn.Conv1d(3, 5, 2, dilation=3), 2, 3, 15)
n = 2 * (6 * 7) * (4 * 2 * 6)
layer("convolution, padded on one side", n, n, lambda: nn.Sequential(nn.ZeroPad2d((2, 0, 1, 0)), nn.Conv2d(2, 4, (2, 3))),
      1, 2, 6, 7)
n = 2 * 49 * (5 * 2 * 16)
layer("convolution, padded to the same size", n, n, lambda: nn.Conv2d(2, 5, 4, padding="same"), 1, 2, 7, 7)
n = 2 * 3 * 9 * (4 * 2 * 3)
layer("convolution over a circle", n, n, lambda: nn.Conv1d(2, 4, 3, padding=1, padding_mode="circular"), 3, 2, 9)
n = 2 * (2 * 4 * 5) * (3 * 2 * 2 * 3)
layer("convolution of volumes", n, n, lambda: nn.Conv3d(2, 3, (2, 1, 3), (2, 1, 1)), 1, 2, 4, 4, 7)
n = 2 * 16 * (6 * 2 * 9)
layer("convolution without a batch", n, n, lambda: nn.Conv2d(2, 6, 3), 2, 6, 6)
n = 2 * 3 * 16 * (4 * 3 * 9)
layer("transposed convolution, grouped", n, n, lambda: nn.ConvTranspose2d(4, 6, 3, 2, 1, groups=2), 3, 4, 4, 4)
first, second = 2 * 25 * (2 * 6), 2 * 25 * (6 * 16)
layer("transposed convolution, depthwise", first + second, first + 2 * second,
      lambda: nn.Sequential(nn.Conv2d(2, 6, 1), nn.ConvTranspose2d(6, 6, 4, 2, groups=6)), 1, 2, 5, 5)
n = 2 * 2 * 6 * (2 * 4 * 3)
layer("transposed convolution over time", n, n, lambda: nn.ConvTranspose1d(2, 4, 3, 2, dilation=2, output_padding=1), 2, 2,
      6)
n = 2 * 8 * (3 * 2 * 8)
layer("transposed convolution of volumes", n, n, lambda: nn.ConvTranspose3d(3, 2, 2, 2), 1, 3, 2, 2, 2)
n = 2 * (5 * 3) * (3 * 2 * 4)
calls("convolution with time first", n, n, lambda s, x: torch.conv_tbc(x, s.w, s.b), lambda: R(7, 3, 2),
      w=lambda: R(3, 2, 4), b=lambda: R(4))
first, second = 2 * 25 * (18 * 2 * 9), 2 * 25 * (4 * 2 * 9)
calls("deformable convolution, which learns where to read", first + second, first + 2 * second,
      lambda s, x: s.d(x, s.o(x)), lambda: R(1, 2, 5, 5), d=lambda: DeformConv2d(2, 4, 3, padding=1),
      o=lambda: nn.Conv2d(2, 18, 3, padding=1))
n = 2 * 36 * (5 * 2 * 9)
calls("convolution as unfolding and a product", n, n, lambda s, x: s.w @ F.unfold(x, 3), lambda: R(1, 2, 8, 8),
      w=lambda: R(5, 18))
made, used = 2 * 3 * 72, 2 * 36 * 72
calls("convolution whose weight a layer makes", made + used, 2 * made + used,
      lambda s, x: F.conv2d(x, s.g(s.z).view(4, 2, 3, 3)), lambda: R(1, 2, 8, 8), g=lambda: linear(3, 72), z=lambda: R(1, 3))

# --- products ------------------------------------------------------------------------------------------------------
n = 2 * (2 * 3 * 4) * 5 * 6
layer("layer on the last of four axes", n, n, lambda: linear(5, 6), 2, 3, 4, 5)
layer("layer on a vector", 2 * 20, 2 * 20, lambda: linear(4, 5), 4)
n = 2 * 3 * (2 * 4 * 5)
calls("product of batches", n, n, lambda s, x: torch.bmm(x, s.w), lambda: R(3, 2, 4), w=lambda: R(3, 4, 5))
n = 2 * (3 * 2) * (4 * 5 * 6)
calls("product that broadcasts", n, n, lambda s, x: x @ s.w, lambda: R(3, 1, 4, 5), w=lambda: R(2, 5, 6))
calls("matrix by vector", 2 * 28, 2 * 28, lambda s, x: x @ s.w, lambda: R(7, 4), w=lambda: R(4))
calls("vector by vector, both learned", 2 * 6, 4 * 6, lambda s, x: s.v.dot(s.w) + x, lambda: R(1), v=lambda: R(6),
      w=lambda: R(6))
made, used = 2 * 8 * (6 * 3), 2 * 2 * (4 * 4 * 3)
calls("einsum of two layers", 2 * made + used, 2 * made + 2 * used,
      lambda s, x: torch.einsum("bik,bjk->bij", s.q(x), s.k(x)), lambda: R(2, 4, 6), q=lambda: linear(6, 3),
      k=lambda: linear(6, 3))
n = 2 * 3 * (4 * 5) + 2 * 3 * 5  # x w, then with y; backward the gradient of x w, and that of w
calls("einsum of three", n, n, lambda s, x, y: torch.einsum("bi,ij,bj->b", x, s.w, y), lambda: (R(3, 4), R(3, 5)),
      w=lambda: R(4, 5))
n = 2 * 3 * (2 * 4 * 5 * 6)
calls("einsum with an ellipsis", n, n, lambda s, x: torch.einsum("...ld,hde->...hle", x, s.w), lambda: R(3, 4, 5),
      w=lambda: R(2, 5, 6))
n = 2 * 2 * (12 * 5)
calls("tensordot", n, n, lambda s, x: torch.tensordot(x, s.w, dims=([1, 2], [1, 0])), lambda: R(2, 3, 4),
      w=lambda: R(4, 3, 5))
n = 2 * (3 * 4 * 5)
calls("product added to a bias", n, n, lambda s, x: torch.addmm(s.b, x, s.w, alpha=2), lambda: R(3, 4), w=lambda: R(4, 5),
      b=lambda: R(5))
n = 2 * 2 * (3 * 4 * 5)
calls("products added to others", n, n, lambda s, x: torch.baddbmm(s.b, x, s.w), lambda: R(2, 3, 4), w=lambda: R(2, 4, 5),
      b=lambda: R(2, 3, 5))
first, second = 2 * (2 * 6 * 3), 2 * (2 * 3 * 7)
calls("chain of products in the best order", first + second, first + 2 * second,
      lambda s, x: torch.linalg.multi_dot([x, s.b, s.c]),
      lambda: R(2, 6), b=lambda: R(6, 3), c=lambda: R(3, 7))
inner, outer = 2 * 3 * (2 * 4 * 5), 2 * 3 * (2 * 5)  # x1' A_o, then with x2
case("bilinear layer", inner + outer, inner + outer, lambda: (nn.Bilinear(4, 5, 2), (R(3, 4), R(3, 5))))
made = 2 * 3 * (6 * 4) + 2 * 3 * (6 * 5)
calls("bilinear layer behind two others", made + inner + outer, made + 2 * inner + 2 * outer,
      lambda s, x: s.b(s.one(x), s.two(x)),
      lambda: R(3, 6), one=lambda: linear(6, 4), two=lambda: linear(6, 5), b=lambda: nn.Bilinear(4, 5, 2))
n = 2 * 6 * (8 * 16)  # each row in one group
calls("products of groups of rows", n, n, lambda s, x: torch._grouped_mm(x, s.w, offs=s.ends),
      lambda: R(6, 8, dtype=torch.bfloat16),
      w=lambda: R(2, 8, 16, dtype=torch.bfloat16), ends=lambda: torch.tensor([2, 6], dtype=torch.int32))
n = 2 * 2 * (4 * 8 * 16)
calls("products of groups alike", n, n, lambda s, x: torch._grouped_mm(x, s.w), lambda: R(2, 4, 8, dtype=torch.bfloat16),
      w=lambda: R(2, 8, 16, dtype=torch.bfloat16))
calls("distances of all pairs", 2 * 3 * (6 * 4) + 2 * 3 * 5 * 4, 2 * 3 * (6 * 4) + 4 * 3 * 5 * 4,
      lambda s, x: torch.cdist(s.l(x), s.p),
      lambda: R(3, 6), l=lambda: linear(6, 4), p=lambda: R(5, 4))
n = 8 * (3 * 4 * 5)
calls("complex product", n, n, lambda s, x: x @ s.w, lambda: R(3, 4, dtype=torch.cfloat),
      w=lambda: R(4, 5, dtype=torch.cfloat))
n = 8 * 2 * 5 * (3 * 2 * 3)
case("complex convolution", n, n,
     lambda: (nn.Conv1d(2, 3, 3, dtype=torch.cfloat, bias=False), R(2, 2, 7, dtype=torch.cfloat)))
n = 8 * (8 * 5) * (2 * 3)  # half of the frequencies
calls("complex product of frequencies", n, n,
      lambda s, x: torch.fft.irfft2(torch.einsum("bixy,ioxy->boxy", torch.fft.rfft2(x), s.w)),
      lambda: R(1, 2, 8, 8), w=lambda: R(2, 3, 8, 5, dtype=torch.cfloat))
near = 2 * 5 * (4 * 3)
calls("sparse product", near + 2 * 5 * 3, near + 2 * 5 * 3, lambda s, x: torch.sparse.mm(s.a, s.l(x)), lambda: R(5, 4),
      a=lambda: torch.eye(5).to_sparse(), l=lambda: linear(4, 3))
calls("sparse input", 2 * 5 * 3, 2 * 5 * 3, lambda s, x: torch.sparse.mm(x, s.w), lambda: (torch.eye(5).to_sparse(),),
      w=lambda: R(5, 3))

# --- attention of H heads: N H L S (E + V) multiply-adds, and twice that backward ------------------------------------
n = 2 * 2 * 3 * (5 * 7) * (8 + 4)
calls("attention, lengths and widths that differ", n, 2 * n, lambda s, q, k, v: sdpa(q, k, v),
      lambda: wanted((2, 3, 5, 8), (2, 3, 7, 8), (2, 3, 7, 4)))
n = 2 * 2 * 3 * (5 * 5) * (8 + 8)
calls("attention, causal", n, 2 * n, lambda s, q, k, v: sdpa(q, k, v, is_causal=True), lambda: wanted(*[(2, 3, 5, 8)] * 3))
calls("attention, masked", n, 2 * n, lambda s, q, k, v: sdpa(q, k, v, attn_mask=torch.ones(5, 5).tril().bool()),
      lambda: wanted(*[(2, 3, 5, 8)] * 3))
n = 2 * 2 * 4 * (5 * 5) * (8 + 8)
calls("attention, heads that share keys", n, 2 * n, lambda s, q, k, v: sdpa(q, k, v, enable_gqa=True),
      lambda: wanted((2, 4, 5, 8), (2, 2, 5, 8), (2, 2, 5, 8)))
n = 2 * 1 * 2 * (16 * 16) * (8 + 8)
calls("flex attention", n, 2 * n, lambda s, q, k, v: flex_attention(q, k, v), lambda: wanted(*[(1, 2, 16, 8)] * 3))
joint, scores, last = 2 * 10 * (8 * 24), 2 * 2 * 2 * 25 * (4 + 4), 2 * 10 * (8 * 8)
calls("attention layer", joint + scores + last, joint + 2 * scores + 2 * last, lambda s, x: s.a(x, x, x)[0],
      lambda: R(2, 5, 8),
      a=lambda: nn.MultiheadAttention(8, 2, batch_first=True))
parts, seen = 2 * 10 * (8 * 8) + 2 * 6 * (6 * 8) + 2 * 6 * (4 * 8), 2 * 2 * 2 * (5 * 3) * (4 + 4)
calls("attention layer, other keys and values", parts + seen + last, parts + 2 * seen + 2 * last,
      lambda s, q, k, v: s.a(q, k, v, need_weights=False)[0], lambda: (R(2, 5, 8), R(2, 3, 6), R(2, 3, 4)),
      a=lambda: nn.MultiheadAttention(8, 2, kdim=6, vdim=4, batch_first=True))
wide = 2 * 10 * (8 * 16 + 16 * 8)
layer("encoder layer in eval mode", joint + scores + last + wide, joint + 2 * (scores + last + wide),
      lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval(), 2, 5, 8)
layer("encoder layer, frozen", joint + scores + last + wide, 0,
      lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval().requires_grad_(False), 2, 5, 8)
keys = 2 * 6 * (8 * 16)  # of the memory, which needs no gradient
cross = 2 * 10 * (8 * 8) + seen + last
case("decoder layer", joint + scores + last + keys + cross + wide, joint + keys + 2 * (scores + last + cross + wide),
     lambda: (nn.TransformerDecoderLayer(8, 2, 16, batch_first=True), (R(2, 5, 8), R(2, 3, 8))))

# --- recurrent layers of H: T steps of N rows; no gradient goes into the first state -----------------------------------
of_x, of_h, start = 2 * 15 * (24 * 4), 2 * 15 * (24 * 6), 2 * 3 * (24 * 6)
calls("LSTM", of_x + of_h, of_x + 2 * of_h - start, lambda s, x: s.r(x)[0], lambda: R(5, 3, 4), r=lambda: nn.LSTM(4, 6))
case("LSTM behind a choice by data", of_x + of_h, of_x + 2 * of_h - start, lambda: (
    Calls(lambda s, x: s.r(x)[0] if x.sum() > -1e9 else x, r=nn.LSTM(4, 6)), R(5, 3, 4)))
deep = 2 * 15 * (24 * 12)  # of both directions of the layer below
calls("LSTM of two layers and directions", 2 * (of_x + deep + 2 * of_h), 2 * (of_x + 2 * deep + 4 * of_h - 2 * start),
      lambda s, x: s.r(x)[0], lambda: R(5, 3, 4), r=lambda: nn.LSTM(4, 6, 2, bidirectional=True))
of_p, cut = 2 * 15 * (24 * 2), 2 * 15 * (2 * 6)
calls("LSTM that projects its state", of_x + of_p + cut, of_x + 2 * of_p - 2 * 3 * (24 * 2) + 2 * cut,
      lambda s, x: s.r(x)[0],
      lambda: R(5, 3, 4), r=lambda: nn.LSTM(4, 6, proj_size=2))
calls("GRU", (of_x + of_h) * 3 // 4, (of_x + 2 * of_h - start) * 3 // 4, lambda s, x: s.r(x)[0], lambda: R(3, 5, 4),
      r=lambda: nn.GRU(4, 6, batch_first=True))
calls("plain recurrent layer", (of_x + of_h) // 4, (of_x + 2 * of_h - start) // 4, lambda s, x: s.r(x)[0],
      lambda: R(5, 3, 4),
      r=lambda: nn.RNN(4, 6))


def three_steps(s, x):
    h = None
    for step in x:
        h = s.c(step, h)
    return h[0]


calls("LSTM cell in a loop", (of_x + of_h) * 3 // 5, (of_x + of_h) * 3 // 5 + of_h * 2 // 5, three_steps, lambda: R(3, 3, 4),
      c=lambda: nn.LSTMCell(4, 6))
row = 2 * (24 * 6)
calls("LSTM on rows of two lengths", 6 * (2 * 24 * 4 + row), 6 * (2 * 24 * 4 + row) + 4 * row,
      lambda s, x: s.r(nn.utils.rnn.pack_padded_sequence(x, torch.tensor([4, 2])))[0].data, lambda: R(4, 2, 4),
      r=lambda: nn.LSTM(4, 6))

# --- two layers [3, 6] -> 8 -> 4, and which gradients are due ---------------------------------------------------------
ONE, TWO = 2 * 3 * (6 * 8), 2 * 3 * (8 * 4)


def two(run, name: str, backward: int, inputs=lambda: R(3, 6), forward: int = ONE + TWO) -> None:
    """Add a case of two layers `a` and `b`, called by a function."""
    calls(name, forward, backward, run, inputs, a=lambda: linear(6, 8), b=lambda: linear(8, 4))


def no_gradients(s, x):
    with torch.no_grad():
        h = s.a(x)
    return s.b(h)


def inference(s, x):
    with torch.inference_mode():
        h = s.a(x)
    return s.b(h.clone())


def in_bfloat16(s, x):
    with torch.autocast("cpu", torch.bfloat16):
        return s.b(s.a(x))


def in_two_parts(s, x):
    out = torch.zeros(3, 12)
    out[:, :8], out[:, 8:] = s.a(x), s.b(s.a(x))
    return out


def frozen(*names: str) -> Made:
    model = nn.Sequential(linear(6, 8), linear(8, 4))
    for name in names:
        model.get_parameter(name).requires_grad_(False)
    return model, R(3, 6)


class Held:
    """An object that holds a result."""

    def __init__(self, value: Tensor):
        self.value = value


two(no_gradients, "a part under no_grad", TWO)
two(lambda s, x: s.b(torch.no_grad()(s.a)(x)), "a function under no_grad", TWO)
two(inference, "a part in inference mode", TWO)
two(lambda s, x: s.b(s.a(x).detach()), "a detached value", TWO)
two(lambda s, x: s.b(s.a(x)), "an input that needs a gradient", 2 * ONE + 2 * TWO, lambda: wanted((3, 6)))
case("the first layer frozen", ONE + TWO, TWO, lambda: frozen("0.weight", "0.bias"))
case("the last layer frozen", ONE + TWO, ONE + TWO, lambda: frozen("1.weight", "1.bias"))
case("biases alone are trained", ONE + TWO, TWO, lambda: frozen("0.weight", "1.weight"))
two(lambda s, x: (s.a(x), s.b(s.a(x)))[0], "a result that nobody reads", ONE, forward=2 * ONE + TWO)
two(lambda s, x: s.b(s.a(x)).argmax(-1), "a result without a gradient", 0)
two(lambda s, x: (lambda h: (h, s.b(h).detach()))(s.a(x)), "two results, one detached", ONE)
two(lambda s, x: (lambda h: {"h": h, "more": {"y": [s.b(h)]}})(s.a(x)), "results in dictionaries and lists", ONE + 2 * TWO)
two(lambda s, x: Held(s.b(s.a(x))), "a result in an object", ONE + 2 * TWO)
two(in_two_parts, "results written into parts of a tensor", 2 * ONE + 2 * TWO, forward=2 * ONE + TWO)
calls("straight-through estimate", 2 * 2 * 3 * 36, 2 * 3 * 36, lambda s, x: (lambda h: h + (s.b(h) - h).detach())(s.a(x)),
      lambda: R(3, 6), a=lambda: linear(6, 6), b=lambda: linear(6, 6))
two(lambda s, x: s.b(s.a(x)) if s.a(x).sum() > -1e9 else x, "a choice by data", ONE + 2 * TWO, forward=2 * ONE + TWO)
two(lambda s, x: torch.cond(x.sum() > -1e9, lambda x: s.b(s.a(x)), lambda x: x[:, :4], (x,)), "a choice by torch.cond",
    ONE + 2 * TWO)
two(in_bfloat16, "autocast", ONE + 2 * TWO)
two(lambda s, x: checkpoint(lambda x: s.b(s.a(x)), x, use_reentrant=False), "checkpoint", ONE + 2 * TWO)
two(lambda s, x: checkpoint(lambda x: s.b(s.a(x)), x, use_reentrant=True), "checkpoint, reentrant", 2 * ONE + 2 * TWO,
    lambda: wanted((3, 6)))
two(lambda s, x: checkpoint_sequential([s.a, nn.ReLU(), s.b, nn.ReLU()], 2, x, use_reentrant=False),
    "checkpoint of a sequence",
    ONE + 2 * TWO)


# --- gradients in a forward, functions with gradients of their own, experts -------------------------------------------


class Product(torch.autograd.Function):
    """A product with a gradient of its own."""

    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return x @ w

    @staticmethod
    def backward(ctx, grad):
        x, w = ctx.saved_tensors
        return grad @ w.mT, x.mT @ grad


def forces(s, x):
    x = x.detach().requires_grad_()
    return torch.autograd.grad(s.b(s.a(x).tanh()).sum(), x, create_graph=True)[0]


def experts(s, x):
    best, out = s.gate(x).argmax(-1), torch.zeros_like(x)
    for k, expert in enumerate(s.experts):
        rows = (best == k).nonzero().squeeze(-1)
        out = out.index_add(0, rows, expert(x[rows]))
    return out


n = 2 * 3 * (4 * 5)
case("a function with a gradient of its own", n, 2 * n,
     lambda: (Calls(lambda s, x: Product.apply(x, s.w), w=R(4, 5)), wanted((3, 4))))
in_, out = 2 * 3 * (4 * 8), 2 * 3 * 8
# The energy's two layers and the gradient through both. Backward of g_x = g_a A: A and g_a; of g_h = 1 B: B; and through
# tanh of the first layer: A, and x, which has been told to need a gradient.
calls("forces: a gradient in a forward", 2 * (in_ + out), 2 * in_ + out + 2 * in_, forces, lambda: R(3, 4),
      a=lambda: linear(4, 8),
      b=lambda: linear(8, 1))
calls("forces by torch.func", 2 * (in_ + out), 2 * in_ + out + in_,
      lambda s, x: torch.func.grad(lambda x: s.b(s.a(x).tanh()).sum())(x), lambda: R(3, 4), a=lambda: linear(4, 8),
      b=lambda: linear(8, 1))
n = 2 * 4 * (3 * 6 * 5)
calls("an ensemble by vmap", n, n, lambda s, x: torch.vmap(lambda w: x @ w)(s.w), lambda: R(3, 6), w=lambda: R(4, 6, 5))
gate, each = 2 * 6 * (8 * 2), 2 * 6 * (8 * 16)  # each row is given to one expert; nothing trains the gate
case("experts that are given rows by data", gate + 2 * each, 3 * each,
     lambda: (Calls(experts, gate=linear(8, 2), experts=nn.ModuleList(
    nn.Sequential(linear(8, 16), nn.ReLU(), linear(16, 8)) for _ in range(2))), R(6, 8)))

# --- what a model is -------------------------------------------------------------------------------------------------
case("scripted", ONE + TWO, ONE + 2 * TWO, lambda: (torch.jit.script(frozen()[0]), R(3, 6)))
case("traced", ONE + TWO, ONE + 2 * TWO, lambda: (torch.jit.trace(frozen()[0], R(3, 6)), R(3, 6)))
case("compiled", ONE + TWO, ONE + 2 * TWO, lambda: (torch.compile(frozen()[0], backend="eager"), R(3, 6)))
layer("lazy", ONE + TWO, ONE + 2 * TWO, lambda: nn.Sequential(nn.LazyLinear(8), linear(8, 4)), 3, 6)
layer("containers in containers", ONE + TWO, ONE + 2 * TWO,
      lambda: nn.Sequential(nn.Sequential(nn.Sequential(linear(6, 8))), linear(8, 4)), 3, 6)
layer("weight norm", ONE, ONE, lambda: nn.utils.parametrizations.weight_norm(linear(6, 8)), 3, 6)


def under_two_names() -> Made:
    block = linear(6, 8)
    return Calls(lambda s, x: s.one(x) + s.two(x), one=block, two=block), R(3, 6)


def called_twice() -> Made:
    block = linear(6, 6)
    return nn.Sequential(block, nn.ReLU(), block), R(3, 6)


case("one layer under two names", 2 * ONE, 2 * ONE, under_two_names)
case("one layer called twice", 2 * 2 * 3 * 36, 3 * 2 * 3 * 36, called_twice)
n = 2 * 10 * (8 * 50)
calls("head tied to an embedding", n, 2 * n, lambda s, i: F.linear(s.e(i), s.e.weight),
      lambda: torch.zeros(2, 5, dtype=torch.long),
      e=lambda: nn.Embedding(50, 8))
