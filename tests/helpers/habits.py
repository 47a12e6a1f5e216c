"""Habits of real forwards: each is one small step on an activation of shape [batch, length, 8] that people do write.

What lives here: the steps, outputs, inputs and shells, and the small network that is put together from them. What does not:
what must become of them (tests/fxgrow/tracing/test_habits.py).
"""
import collections
import contextlib
import contextvars
import copy
import dataclasses
import functools
import itertools
import math
import numbers
import operator
import random
import types
import typing
import warnings

import numpy
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutput

WIDTH = 8
KEPT: dict = {"list": [], "dict": {}, "deque": collections.deque(maxlen=2), "calls": 0}  # what forwards share with the world
COLLECTED: contextvars.ContextVar = contextvars.ContextVar("collected")  # by hooks, as transformers does it


def reset() -> None:
    """Forget what forwards left behind outside of their models."""
    for value in KEPT.values():
        if not isinstance(value, int):
            value.clear()
    KEPT["calls"] = 0
    SHARED.fill_(1.0)


class Habit:
    """One step of a forward.

    fixes: the axes ("batch", "length") of which the grown model may say that they are those of the example.
    top, part: whether it must be exact where it stands in the forward of the model itself, and in that of a submodule;
    else it may be refused. noisy: it draws numbers for each channel, so that train mode is not compared.
    broken: why it does not hold yet.
    """
    fixes: tuple = ()
    top = part = True
    noisy = False
    broken = ""

    def make(self):
        """Make layers and attributes."""


HABITS: dict[str, type[Habit]] = {}


def add(name, given, **marks):
    """Take a habit in: what it does with module and activation, its marks, and what gives its attributes."""
    made = {n: marks.pop(n) for n in list(marks) if not hasattr(Habit, n)}

    def make(self):
        for attribute, build in made.items():
            setattr(self, attribute, build())

    whole = isinstance(given, type)
    methods = ({} if whole else {"use": given}) | ({"make": make} if made else {})
    HABITS[name] = type(name, (given, Habit) if whole else (Habit,), methods | marks)


def habit(**marks):
    """Take a function of module and activation, or a class with `make` and `use`, among the habits."""
    def take(given):
        add(given.__name__, given, **marks)
        return given
    return take


def having(**attributes):
    """Say what gives the attributes of a habit."""
    def take(given):
        given.attributes = attributes
        return given
    return take


def habits(**marks):
    """Take each function in a class among the habits."""
    def take(given):
        for name, function in vars(given).items():
            if callable(function):
                add(name, function, **marks, **getattr(function, "attributes", {}))
        return given
    return take


def question(name, ask, **marks):
    add(name, lambda self, h: h * 2 if ask(h) else 1 - h, **marks)


def step(name, do, **marks):
    add(name, lambda self, h: do(h), **marks)


BATCH, LENGTH, BOTH = {"fixes": ("batch",)}, {"fixes": ("length",)}, {"fixes": ("batch", "length")}
MAY_REFUSE = {"top": False, "part": False}
ONLY_AS_PART = {"top": False}
UNDER_A_CHECKPOINT = MAY_REFUSE if torch.__version__.startswith("2.8.") else {}  # whose checkpoints differ without gradients

# --- Questions ------------------------------------------------------------------------------------------------------------


@functools.singledispatch
def kind_of(value):
    return 3.0


kind_of.register(Tensor, lambda value: 2.0)
kind_of.register(int, lambda value: 5.0)


def matches(h):
    match h.ndim, tuple(h.shape), h:
        case 3, (_, _, 8), Tensor(dtype=torch.float64):
            return True
    return False


question("match", matches)
question("isinstance", lambda h: isinstance(h, Tensor))
question("type_is", lambda h: type(h) is Tensor)
question("is_tensor", torch.is_tensor)
question("type_word", lambda h: type(h).__name__ == "Tensor")
question("hasattr", lambda h: not hasattr(h, "tensors"))
question("getattr_default", lambda h: getattr(h, "mask", None) is None)
question("callable", lambda h: not callable(h))
question("dict_like", lambda h: not hasattr(h, "keys"))
question("floating", lambda h: h.is_floating_point() and not h.is_complex())
question("dtype_is", lambda h: h.dtype is torch.float64)
question("dtype_in", lambda h: h.dtype in (torch.float32, torch.float64))
question("dtype_table", lambda h: {torch.float64: True}.get(h.dtype, False))
question("dtype_word", lambda h: str(h.dtype).endswith("64"))
question("finfo", lambda h: torch.finfo(h.dtype).bits == 64)
question("element_size", lambda h: h.element_size() == 8)
question("legacy_type", lambda h: h.type() == "torch.DoubleTensor")
question("device_type", lambda h: h.device.type == "cpu")
question("device_equal", lambda h: h.device == torch.device("cpu"))
question("device_word", lambda h: str(h.device) == "cpu")
question("is_cuda", lambda h: not h.is_cuda and not h.is_meta)
question("layout", lambda h: h.layout is torch.strided and not h.is_sparse)
question("ndim", lambda h: h.ndim == 3 and h.dim() == 3 and len(h.shape) == 3)
question("ndim_in", lambda h: h.ndim in {3, 4})
question("ndim_table", lambda h: {3: True}.get(h.dim(), False))
question("width_equal", lambda h: h.shape[-1] == WIDTH)
question("width_table", lambda h: {WIDTH: True}.get(h.shape[-1], False))
question("width_word", lambda h: f"w{h.shape[-1]}" == "w8")
question("width_in_shape", lambda h: WIDTH in h.shape[2:])
question("size_is_int", lambda h: isinstance(h.shape[1], int) and isinstance(h.size(0), numbers.Integral))
question("size_type_is_int", lambda h: type(h.shape[1]) is int)
question("size_type_in", lambda h: type(h.size(0)) in (int, float) and isinstance(type(h), type))
question("size_class_is_int", lambda h: h.shape[1].__class__ is int)
question("size_type_table", lambda h: {int: True}.get(type(h.shape[0] // 2), False))
question("real_type", lambda h: type(h.shape[1] / 2) is float and type("Name", (), {}).__name__ == "Name")
question("shape_is_size", lambda h: isinstance(h.shape, torch.Size) and isinstance(h.size(), tuple))
question("length_more", lambda h: h.shape[1] > 3, **LENGTH)
question("length_truth", lambda h: bool(h.size(1)))
question("batch_one", lambda h: h.shape[0] == 1, **BATCH)
question("square", lambda h: h.shape[0] == h.shape[1], **BOTH)
question("shape_equal", lambda h: h.shape == (2, 3, WIDTH), **BOTH)
question("length_in", lambda h: h.size(1) in (1, 2, 3), **LENGTH)
question("length_table", lambda h: {3: True, 4: False, 5: True}.get(h.size(1), False), **LENGTH)
question("length_word", lambda h: str(h.shape[1]) in "135", **LENGTH)
question("shape_word", lambda h: str(tuple(h.shape)) == "(2, 3, 8)", **BOTH)
question("longest", lambda h: max(h.shape[:2]) > 3, **BOTH)
question("total", lambda h: math.prod(h.shape[:2]) > 6, **BOTH)
question("numel", lambda h: h.numel() > 50, **BOTH, **MAY_REFUSE)
question("len", lambda h: len(h) > 2, **BATCH)
question("odd", lambda h: h.shape[1] % 2, **LENGTH)
question("chained", lambda h: 1 < h.shape[1] <= 4, **LENGTH)
question("any_size", lambda h: any(s == 1 for s in h.shape), **BOTH)
question("same_shape", lambda h: h.shape == torch.tanh(h).shape)
question("contiguous", lambda h: h.contiguous().is_contiguous())
question("transposed_contiguous", lambda h: h.contiguous().transpose(1, 2).is_contiguous(), **LENGTH)
question("stride", lambda h: h.contiguous().stride(-1) == 1)
question("grad_wanted", lambda h: torch.is_grad_enabled(), **MAY_REFUSE)
question("requires_grad", lambda h: h.requires_grad, **MAY_REFUSE)
question("leaf", lambda h: h.is_leaf, **MAY_REFUSE)
question("grad_is_none", lambda h: h.grad_fn is None, **MAY_REFUSE)
question("autocast_on", lambda h: torch.is_autocast_enabled())
question("inference_on", lambda h: not torch.is_inference_mode_enabled())
question("compiling", lambda h: not torch.compiler.is_compiling())
question("scripting", lambda h: not torch.jit.is_scripting() and not torch.jit.is_tracing())
question("value", lambda h: h.sum() > 0, **MAY_REFUSE)
question("item", lambda h: h.mean().item() > 0, **MAY_REFUSE)
question("nan", lambda h: not torch.isnan(h).any(), **MAY_REFUSE)
step("singledispatch", lambda h: h * kind_of(h) + kind_of(h.shape[1]))


@habit(**ONLY_AS_PART)
def swallowed_value(self, h):
    try:
        return h * 2 if float(h.sum()) > 0 else h
    except Exception:
        return 1 - h


@habit()
def asserts(self, h):
    assert isinstance(h, Tensor) and h.ndim == 3, f"rows, please, not {tuple(h.shape)}"
    torch._assert(h.shape[-1] == WIDTH, f"{h.shape[-1]} channels")
    return h * 2

# --- Contexts -------------------------------------------------------------------------------------------------------------


def within(name, context, **marks):
    def use(self, h):
        with context():
            k = torch.tanh(h)
        return h + k
    add(name, use, **marks)


@habit(**MAY_REFUSE)
def goes_on_after_an_error(self, h):
    try:
        return h + h.reshape(h.shape[0], -1, 4, h.shape[2]).mean((1, 2))[:, None]
    except RuntimeError:
        return h * 2


within("no_grad", torch.no_grad, **MAY_REFUSE)
within("grad_disabled", lambda: torch.set_grad_enabled(False), **MAY_REFUSE)
within("grad_enabled", lambda: torch.set_grad_enabled(True))
within("enable_grad", torch.enable_grad)
within("inference_mode", torch.inference_mode, **MAY_REFUSE)
within("autocast_off", lambda: torch.autocast("cpu", enabled=False))
within("autocast", lambda: torch.autocast("cpu", dtype=torch.bfloat16))
within("on_device", lambda: torch.device("cpu"))
within("record_function", lambda: torch.profiler.record_function("part"))
within("warnings", warnings.catch_warnings)
within("null", contextlib.nullcontext)
within("anomaly", lambda: torch.autograd.set_detect_anomaly(False))
within("autocast_in_training", lambda: torch.autocast("cpu", torch.bfloat16, enabled=torch.is_grad_enabled()), **MAY_REFUSE)
within("sdpa_kernel", lambda: torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH))
add("decorated_no_grad", torch.no_grad()(lambda self, h: h * 2), **MAY_REFUSE)


@habits(**MAY_REFUSE)
class ContextsMayBeRefused:
    def switched_and_back(self, h):
        before = torch.is_grad_enabled()
        torch.set_grad_enabled(False)
        mean = h.mean(1, keepdim=True)
        torch.set_grad_enabled(before)
        return h - mean

    def default_dtype(self, h):
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        shift = torch.ones(1) / 3
        torch.set_default_dtype(before)
        return h + shift


@habits()
class Seeds:
    def seeded(self, h):
        torch.manual_seed(5)
        return h + torch.rand(h.shape[0], 1, 1, dtype=h.dtype)

    def forked(self, h):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            return h * torch.rand(h.shape[0], 1, 1, dtype=h.dtype)

    def own_generator(self, h):
        generator = torch.Generator().manual_seed(3)
        return h * torch.rand(h.shape[0], 1, 1, dtype=h.dtype, generator=generator)

    def seeded_by_a_size(self, h):
        state = torch.get_rng_state()
        torch.manual_seed(h.shape[1])
        noise = torch.rand(h.shape[0], 1, 1, dtype=h.dtype)
        torch.set_rng_state(state)
        return h + noise


step("python_random", lambda h: h * random.random(), **MAY_REFUSE)
step("numpy_random", lambda h: h * numpy.random.rand(), **MAY_REFUSE)
step("drawn_per_row", lambda h: h * (1 + torch.rand(h.shape[0], 1, 1, dtype=h.dtype)))

# --- Containers -----------------------------------------------------------------------------------------------------------


@habits()
class Containers:
    def list_of_steps(self, h):
        outs = []
        for scale in (1.0, 2.0, 0.5):
            outs.append(h * scale)
        return torch.stack(outs).sum(0)

    def dict_of_results(self, h):
        found = {"a": h * 2}
        found.update(b=torch.tanh(found["a"]))
        found.setdefault("c", h)
        return sum(found.values())

    def deque_of_last(self, h):
        last = collections.deque([h], maxlen=2)
        for _ in range(3):
            last.append(torch.tanh(last[-1]))
        return last[0] + last[1]

    def default_dict(self, h):
        found = collections.defaultdict(list)
        found["x"].append(h)
        found["x"].append(h * 2)
        return functools.reduce(operator.add, found["x"])


@habits(**MAY_REFUSE)
class ContainersMayBeRefused:
    @having(seen=list)
    def keeps_in_own_list(self, h):
        self.seen.append(h.detach())
        return h * 2

    @having(cache=dict)
    def keeps_in_own_dict(self, h):
        self.cache["h"] = h
        return self.cache["h"] * 2

    @having(kept=lambda: {"layers": [[], None]})
    def keeps_nested(self, h):
        self.kept["layers"][0].append(h.shape[1])
        return h * len(self.kept["layers"][0])

    def global_list(self, h):
        KEPT["list"].append(h.detach())
        return h * len(KEPT["list"])

    def global_deque(self, h):
        KEPT["deque"].append(h.detach().mean())
        return h + sum(KEPT["deque"])

    def global_counter(self, h):
        KEPT["calls"] += 1
        return h * KEPT["calls"]


@habit(**MAY_REFUSE)
class Closure:
    def make(self):
        calls = 0

        def count():
            nonlocal calls
            calls += 1
            return calls
        self.count = count

    def use(self, h):
        return h * min(2, self.count())


@habit(**MAY_REFUSE)
class HookStores:
    def make(self):
        self.inner = nn.Linear(WIDTH, WIDTH)
        self.inner.register_forward_hook(lambda module, args, out: KEPT["dict"].update(out=out))

    def use(self, h):
        self.inner(h)
        return h + KEPT["dict"]["out"]


@habit()
class HookChanges:
    def make(self):
        self.inner = nn.Linear(WIDTH, WIDTH)
        self.inner.register_forward_pre_hook(lambda module, args: (args[0] * 2,))
        self.inner.register_forward_hook(lambda module, args, out: out + 1)

    def use(self, h):
        return self.inner(h)

# --- State ----------------------------------------------------------------------------------------------------------------


SHARED = torch.ones(2, WIDTH, dtype=torch.float64)  # which forwards may write to


@habits(**MAY_REFUSE)
class WritesOutside:
    def outside_through_a_view(self, h):
        SHARED[0].mul_(0.5)
        return h * SHARED[0]

    def outside_through_a_row(self, h):
        for row in SHARED:
            row += 1
        return h * SHARED.sum(0)

    def outside_through_its_data(self, h):
        SHARED.data.view(-1)[:WIDTH] = 0.5 * SHARED[0]
        return h * SHARED[0]

    @having(inner=lambda: Counted(lambda h: h * SHARED[0].mul_(0.5)))
    def outside_in_a_leaf(self, h):
        return self.inner(h)


@habits(**MAY_REFUSE)
class StateMayBeRefused:
    @having(calls=lambda: 0)
    def counter(self, h):
        self.calls += 1
        return h * min(1.0, self.calls / 10)

    @having(started=lambda: False)
    def first_call(self, h):
        out = h if self.started else h * 0
        self.started = True
        return out

    @having(before=lambda: None)
    def remembers(self, h):
        mean = h.detach().mean()
        self.before = mean if self.before is None else 0.9 * self.before + 0.1 * mean
        return h - self.before

    @having(shift=lambda: torch.zeros(1, dtype=torch.float64))
    def replaces_plain_tensor(self, h):
        self.shift = self.shift + 0.1
        return h + self.shift

    @having(moved=lambda: nn.Buffer(torch.zeros(1, dtype=torch.float64)))
    def replaces_buffer(self, h):
        self.moved = self.moved + 0.1
        return h + self.moved

    @having(table=lambda: torch.zeros(0, dtype=torch.float64))
    def caches_longest(self, h):
        if len(self.table) < h.shape[1]:
            self.table = torch.arange(h.shape[1], dtype=h.dtype)
        return h + self.table[:h.shape[1], None]

    @having(last=lambda: 0)
    def keeps_last_size(self, h):
        self.last = h.shape[1]
        return h / self.last


@habits()
class Keeps:
    @having(last=lambda: None)
    def keeps_what_it_computed(self, h):
        self.last = h.softmax(1).sum(-1)
        return h * 2

    @having(kept=dict)
    def keeps_some_in_a_dict(self, h):
        self.kept["mean"], self.kept["parts"] = h.mean(), [h[..., 0], (h.sum(-1), "sum")]
        return h * 2

    @having(loss=lambda: None)
    def keeps_a_loss_in_training(self, h):
        if self.training:
            self.loss = (h ** 2).mean()
        return h * 2

    @having(inner=lambda: nn.Linear(WIDTH, WIDTH), **UNDER_A_CHECKPOINT)
    def checkpoints_where_gradients_are_wanted(self, h):
        if self.training and torch.is_grad_enabled():
            return torch.utils.checkpoint.checkpoint(self.inner, h, use_reentrant=False)
        return self.inner(h)


@habits()
class SetUpOnce:
    @having(inner=lambda: nn.Linear(WIDTH, WIDTH), hooked=lambda: False)
    def hooks_of_the_first_call(self, h):
        if not self.hooked:
            self.inner.register_forward_hook(lambda module, args, out: COLLECTED.get().append(out))
            self.hooked = True
        COLLECTED.set([h])
        return self.inner(h) + sum(COLLECTED.get())

    @having(started=lambda: False)
    def flag_of_the_first_call(self, h):
        self.started = True
        return h * 2


@habits(**MAY_REFUSE)
class SetUpMayBeRefused:
    @having(warm=lambda: False)
    def warm_by_training(self, h):
        self.warm = self.warm or self.training
        return h * 2 if self.warm and not self.training else h

    @having(flag=lambda: True)
    def takes_turns(self, h):
        self.flag = not self.flag
        return h * 2 if self.flag else h

    @having(inner=lambda: nn.Linear(WIDTH, WIDTH))
    def one_hook_more(self, h):
        self.inner.register_forward_hook(lambda module, args, out: out * 1.5)
        return self.inner(h)

    @having(seen=lambda: 3)
    def size_of_the_call_before(self, h):
        before, self.seen = self.seen, h.shape[1]
        return h / before


@habits()
class State:
    @having(counted=lambda: nn.Buffer(torch.zeros((), dtype=torch.long)))
    def counts_in_buffer(self, h):
        self.counted += 1
        return h * self.counted

    @having(mean=lambda: nn.Buffer(torch.zeros(1, dtype=torch.float64)))
    def averages_in_buffer(self, h):
        if self.training:
            self.mean.mul_(0.9).add_(0.1 * h.detach()[:, :, :1].mean())
        return h - self.mean

    @having(counted=lambda: nn.Buffer(torch.zeros((), dtype=torch.long)))
    def counts_while_training(self, h):
        if self.training:
            self.counted += 1
        return h * (1 + self.counted)


@habit(**LENGTH, **MAY_REFUSE, tables=dict)
def caches_by_length(self, h):
    n = h.shape[1]
    if n not in self.tables:
        self.tables[n] = torch.arange(n, dtype=h.dtype)[:, None]
    return h + self.tables[n]


@habit(**MAY_REFUSE)
class LazyBuffer:
    def make(self):
        self.register_buffer("table", None, persistent=False)

    def use(self, h):
        if self.table is None or self.table.shape[0] != h.shape[1]:
            self.table = torch.arange(h.shape[1], dtype=h.dtype)
        return h + self.table[:, None]


@habit()
class MemoisedTable:
    @staticmethod
    @functools.lru_cache
    def table(width):
        return torch.arange(width, dtype=torch.float64) / width

    def use(self, h):
        return h + self.table(WIDTH)[:1]

# --- Loops ----------------------------------------------------------------------------------------------------------------


@habits(**LENGTH)
class LoopsAlongTheLength:
    def scan(self, h):
        state, outs = torch.zeros(h.shape[0], h.shape[2], dtype=h.dtype), []
        for t in range(h.shape[1]):
            state = torch.tanh(state + h[:, t])
            outs.append(state)
        return torch.stack(outs, 1)

    def decayed_sum(self, h):
        total = 0.0
        for t, row in enumerate(h.unbind(1)):
            total = total + row * 0.5 ** t
        return h + total[:, None]

    def halves(self, h):
        n, scale = h.shape[1], 1.0
        while n > 1:
            n, scale = n // 2, scale * 1.5
        return h * scale

    def recursion(self, h):
        def total(x):
            n = x.shape[1]
            return x if n == 1 else total(x[:, :n // 2]) + total(x[:, n // 2:])
        return h + total(h)


step("loop_over_batch", lambda h: torch.stack([h[i] * (i + 1) for i in range(h.size(0))]), **BATCH)
step("iterates", lambda h: torch.stack([torch.tanh(row) for row in h]), **BATCH)


@habits(**BATCH)
class LoopsAlongTheBatch:
    def loop_over_len(self, h):
        out = h.clone()
        for i in range(len(h)):
            out[i] = h[i] * (i + 1)
        return out

    def batch_of_example(self, h):
        first, *rest = h.unbind(0)
        return torch.stack([first * 2, *rest])


step("loop_over_channels", lambda h: torch.stack([h[..., i] * (i + 1) for i in range(h.shape[-1])], -1))
step("zip_of_chunks", lambda h: torch.cat([a + b for a, b in zip(h.chunk(2, -1), h.flip(1).chunk(2, -1))], -1), **BOTH)
step("zip_of_steps", lambda h: torch.cat([a * i for i, a in zip(itertools.count(1), h.split(2, 1))], 1), **LENGTH)
step("backwards", lambda h: torch.stack([h[:, i] for i in reversed(range(h.shape[1]))], 1), **LENGTH)
step("truncated_then_asked", lambda h: h[:, :2] * 2 if h[:, :2].shape[1] > 1 else h - 1, **LENGTH)
step("scale_after_a_cut", lambda h: h * math.log(h[:, :2].shape[1] + 1), **LENGTH)
step("filled_up", lambda h: torch.cat([h, *[h[:, -1:] / 2] * (2 - h.shape[1])], 1), **LENGTH)
step("strided", lambda h: h + sum(h[:, i:i + 1] for i in range(0, h.shape[1], 2)), **LENGTH)


@habits()
class Loops:
    def unpacked_chunks(self, h):
        a, b = h.chunk(2, dim=-1)
        return torch.cat([a * torch.sigmoid(b), b], -1)

    def rounds(self, h):
        for i in range(3):
            h = h + torch.tanh(h) * i
        return h

# --- Padding, views and sizes ---------------------------------------------------------------------------------------------


@habits(**LENGTH)
class PaddingAlongTheLength:
    def pad_where_odd(self, h):
        n = h.shape[1]
        padded = F.pad(h, (0, 0, 0, 1)) if n % 2 else h
        pairs = padded.reshape(h.shape[0], -1, 2, h.shape[2]).flip(2)
        return pairs.reshape(padded.shape)[:, :n]

    def pad_only_if_needed(self, h):
        missing = max(0, 4 - h.shape[1])
        if missing > 0:
            h = F.pad(h, (0, 0, 0, missing))
        return h[:, :h.shape[1] - missing]


@habit()
def pad_to_four(self, h):
    n = h.shape[1]
    padded = F.pad(h, (0, 0, 0, -n % 4))
    windows = padded.reshape(h.shape[0], -1, 4, h.shape[-1])
    return (windows - windows.mean(2, keepdim=True)).flatten(1, 2)[:, :n]


step("written_width", lambda h: h.reshape(h.shape[0], -1, 8) * 2)
step("flat_rows", lambda h: torch.tanh(h.reshape(-1, 8)).view(h.shape))
step("written_heads", lambda h: h.unflatten(-1, (2, 4)).flatten(-2) * 2)
step("heads_of_sizes", lambda h: h.reshape(*h.shape[:-1], 2, h.shape[-1] // 2).transpose(1, 2).transpose(1, 2).flatten(-2))
step("starred_shape",
     lambda h: h.reshape(*h.shape[:-1], 2, 4).sum(-1, keepdim=True).expand(*h.shape[:2], 2, 4).reshape(h.shape))
step("added_shape", lambda h: h.reshape(h.shape[:1] + (-1,)).reshape(h.shape[:2] + h.shape[2:]))
step("view_as", lambda h: h.flatten(1).view_as(h))
step("expanded", lambda h: h[:, :1].expand(-1, h.size(1), -1) + h)
step("repeated", lambda h: h + h.mean(1, keepdim=True).repeat(1, h.shape[1], 1))
step("scale_of_width", lambda h: h * h.size(-1) ** -0.5)
step("scale_of_root", lambda h: h / math.sqrt(h.shape[-1]))
step("scale_of_numpy", lambda h: h / numpy.sqrt(h.shape[-1]))
step("scale_of_numpy_float", lambda h: h * numpy.float64(0.3) + numpy.float32(0.5) + numpy.int64(2))
step("scale_of_numel", lambda h: h / h.numel())
step("scale_of_length", lambda h: h / h.shape[1])
step("scale_of_float", lambda h: h / float(h.shape[1]), **LENGTH)
step("scale_of_int", lambda h: h * int(h.shape[1] ** 0.5), **LENGTH)
step("scale_of_log", lambda h: h * math.log(h.shape[1] + 1))
step("scale_of_length_root", lambda h: h / math.sqrt(h.shape[1]))
step("scale_of_numpy_root", lambda h: h / numpy.sqrt(h.shape[1]) / numpy.sqrt(h.shape[0]))
step("scale_of_numpy_product", lambda h: h / (numpy.float64(0.5) * h.shape[1]) / numpy.log1p(h.shape[1]), **LENGTH)
step("scale_of_round", lambda h: h * round(h.shape[1] / 2), **LENGTH)
step("scale_of_sum", lambda h: h / sum(h.shape[:2]))
step("scale_of_prod", lambda h: h / math.prod(h.shape[:2]), **BOTH)
step("scale_of_max", lambda h: h / max(h.shape[0], h.shape[1]), **BOTH)
step("scale_of_divmod", lambda h: h * (divmod(h.shape[1], 2)[0] + 1), **LENGTH)
step("scale_of_tensor", lambda h: h / torch.tensor(h.shape[1], dtype=h.dtype).sqrt())
step("scale_of_new_tensor", lambda h: h / h.new_tensor(h.shape[1]))
step("scale_of_full", lambda h: h / torch.full((1,), float(WIDTH), dtype=h.dtype))
step("scale_of_shapes_tensor", lambda h: h / torch.tensor(h.shape[:2], dtype=h.dtype).sum())
step("layer_norm_of_shape", lambda h: F.layer_norm(h, h.shape[-1:]))
step("layer_norm_written", lambda h: F.layer_norm(h, (8,)))
step("positions", lambda h: h + torch.arange(h.shape[1], dtype=h.dtype, device=h.device)[:, None] / h.shape[1])
step("channel_positions", lambda h: h + torch.arange(h.shape[2], dtype=h.dtype))
step("causal", lambda h: (h @ h.transpose(1, 2)).masked_fill(
    torch.ones(h.shape[1], h.shape[1]).triu(1).bool(), float("-inf")).softmax(-1) @ h)
step("masked", lambda h: h.masked_fill(h < 0.1, torch.finfo(h.dtype).min).clamp(min=-3))
step("linspace", lambda h: h * torch.linspace(0, 1, h.shape[1], dtype=h.dtype)[:, None])
step("interpolated", lambda h: F.interpolate(h.transpose(1, 2), size=h.shape[1] * 2).transpose(1, 2)[:, :h.shape[1]])
step("sliced_by_half", lambda h: torch.cat([h[:, :h.shape[1] // 2] * 2, h[:, h.shape[1] // 2:]], 1))
step("last_step", lambda h: h + h[:, -1:] + h[:, h.shape[1] - 1][:, None])
step("ellipsis", lambda h: h[..., None, :][:, :, 0] * 2)
step("rolled", lambda h: h.roll(1, 1) + torch.roll(h, h.shape[1] // 2, 1))
step("negative_mean", lambda h: h - h.mean(-2, True))
step("operators", lambda h: (2 ** h - (1 / (h + 9)) + (-h) + abs(h)) @ torch.eye(WIDTH, dtype=h.dtype))
step("reversed_operands", lambda h: torch.ones(1, dtype=h.dtype).__rsub__(h) + 3 * h)
step("written_scale", lambda h: h * torch.tensor([0.5], dtype=h.dtype) + torch.tensor(2.0))
step("written_channels", lambda h: h * torch.tensor([1.0, 2, 3, 4, 5, 6, 7, 8], dtype=h.dtype))
step("written_list", lambda h: h[..., [7, 6, 5, 4, 3, 2, 1, 0]])
step("from_numpy", lambda h: h + torch.from_numpy(numpy.arange(8.0)))
step("as_tensor", lambda h: h * torch.as_tensor(numpy.array([0.5, 2.0] * 4)))

# --- Written to -----------------------------------------------------------------------------------------------------------


@habits()
class Written:
    def zeros_written(self, h):
        out = torch.zeros(h.shape, dtype=h.dtype)
        out[:, ::2] = h[:, ::2]
        return out + h

    def zeros_like_written(self, h):
        out = torch.zeros_like(h)
        out[..., :4] = h[..., :4]
        out[..., 4:].copy_(h[..., 4:] * 2)
        return out

    def empty_written(self, h):
        out = h.new_empty(h.shape[0], h.shape[1], 2 * h.shape[2])
        out[..., ::2], out[..., 1::2] = h, h * 3
        return out[..., ::2] + out[..., 1::2]

    def written_zeros_of_known_size(self, h):
        total = torch.zeros(8, dtype=h.dtype)
        total += h.mean((0, 1))
        return h + total

    def written_twice(self, h):
        table = torch.zeros(2, dtype=h.dtype)
        table[0] = 3.0
        table[1] += 2.0
        return h * table[0] + table[1]

    def written_row_of_a_table(self, h):
        table = torch.zeros(2, 8, dtype=h.dtype)
        row = table[1]
        row += 0.5
        return h + table.sum(0) * 2

    def in_place_on_a_view(self, h):
        half = h[..., :4]
        half += 1
        half *= 2
        return h

    def in_place_on_a_row(self, h):
        h[:, 0] += 1
        first = h[:, 0]
        first.mul_(2)
        return h

    def in_place_alias(self, h):
        other = h
        other += 1
        return h * other

    def in_place_on_a_reshape(self, h):
        h = h.contiguous()
        flat = h.view(-1)
        flat -= 0.5
        return h

    def in_place_of_unbind(self, h):
        a, b = h[..., :4], h[..., 4:]
        a += b.detach()
        return torch.cat([a, b], -1)

    def in_place_functions(self, h):
        h = F.relu(h.clone(), inplace=True)
        return torch.add(h, 1, out=None).clamp_(max=2).sub_(0.5)


@habit(**MAY_REFUSE)
def out_argument(self, h):
    with torch.no_grad():
        shift = torch.zeros(1, dtype=h.dtype)
        torch.add(shift, 2, out=shift)
    return h + shift


@habit(**LENGTH)
def written_per_step(self, h):
    out = torch.zeros_like(h)
    for t in range(h.shape[1]):
        out[:, t] = h[:, t] + (out[:, t - 1] if t else 0)
    return out


step("index_added", lambda h: torch.zeros_like(h).index_add_(2, torch.tensor([0, 0, 1, 1, 2, 2, 3, 3]), h) + h)

# --- Leaves ---------------------------------------------------------------------------------------------------------------


class Turned(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, strength):
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        return -ctx.strength * grad, None


class StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.round()

    @staticmethod
    def backward(ctx, grad):
        return grad * (ctx.saved_tensors[0].abs() < 1)


@torch.jit.script
def scripted(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


class LooksAtItself(nn.Module):
    def forward(self, h):
        return h * 2 if h.mean() > 0 else h * 3


class Counted(nn.Module):
    """A module that no graph can be (it counts its calls), with a step that makes tensors without saying on which device."""

    def __init__(self, do):
        super().__init__()
        self.do, self.calls = do, 0

    def forward(self, h):
        self.calls += 1
        return self.do(h)


def layer(name, build, **marks):
    """Take a layer among the habits."""
    def use(self, h):
        out = self.inner(h)
        return out[0] if isinstance(out, tuple) else out
    add(name, use, inner=build, **marks)


step("own_backward", lambda h: Turned.apply(h, 0.7))
step("straight_through", lambda h: h + StraightThrough.apply(h))
step("scripted_function", scripted)
step("vmapped", torch.vmap(lambda row: row * 2 + row.sum(0, keepdim=True)), **ONLY_AS_PART)
step("checkpointed", lambda h: torch.utils.checkpoint.checkpoint(torch.tanh, h, use_reentrant=False))
step("checkpointed_reentrant", lambda h: torch.utils.checkpoint.checkpoint(torch.tanh, h, use_reentrant=True))
step("deep_copy", lambda h: h - copy.deepcopy(h.detach()).mean(1, keepdim=True))
step("einsum", lambda h: torch.einsum("bld,bmd->blm", h, h) @ h)
step("layer_made_here", lambda h: nn.ReLU()(nn.Identity()(h)))
step("attention",
     lambda h: F.scaled_dot_product_attention(*(h.unflatten(-1, (2, 4)).transpose(1, 2),) * 3).transpose(1, 2).flatten(2))
step("partial", functools.partial(torch.clamp, min=-1.0, max=1.0))
step("topk", lambda h: h * (h >= h.topk(2, -1).values[..., -1:]))
step("named_result", lambda h: h + h.max(1, keepdim=True).values + torch.sort(h, 1)[0])
step("detached", lambda h: h - h.detach().mean(1, keepdim=True))
step("detached_data", lambda h: h - h.data.mean(1, keepdim=True))


@habit(**MAY_REFUSE, inner=lambda: nn.Linear(WIDTH, WIDTH))
def other_parameters(self, h):
    return torch.func.functional_call(self.inner, {n: p * 2 for n, p in self.inner.named_parameters()}, (h,))


layer("layer_norm", lambda: nn.LayerNorm(WIDTH))
layer("gru", lambda: nn.GRU(WIDTH, WIDTH, batch_first=True))
layer("sequential", lambda: nn.Sequential(nn.Linear(WIDTH, 16), nn.GELU(), nn.Linear(16, WIDTH)))
layer("encoder_layer", lambda: nn.TransformerEncoderLayer(WIDTH, 2, 16, dropout=0.0, batch_first=True))
layer("weight_norm", lambda: nn.utils.parametrizations.weight_norm(nn.Linear(WIDTH, WIDTH)))
layer("picky", LooksAtItself, **MAY_REFUSE)
layer("traced_part", lambda: torch.jit.trace(nn.Linear(WIDTH, WIDTH).double(), torch.randn(2, WIDTH, dtype=torch.float64)))
layer("scripted_part", lambda: torch.jit.script(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU()).double()))
layer("range_in_a_leaf", lambda: Counted(lambda h: h + torch.arange(h.shape[1])[:, None]))
layer("zeros_in_a_leaf", lambda: Counted(lambda h: torch.cat([h, torch.zeros_like(h[:, :1], device="cpu")], 1)[:, 1:]))
layer("zeros_of_sizes_in_a_leaf", lambda: Counted(lambda h: h + torch.zeros(h.shape[1], 1)))
layer("written_in_a_leaf", lambda: Counted(lambda h: torch.zeros(h.shape, dtype=h.dtype).copy_(h) * torch.tensor(2.0)))
layer("mask_in_a_leaf", lambda: Counted(lambda h: h.masked_fill(torch.ones(h.shape[1], 1).triu().bool(), 0.5)))
layer("read_in_a_leaf", lambda: Counted(lambda h: h * torch.arange(h.shape[1]).sum().item()))
layer("dropout", lambda: nn.Dropout(0.5), noisy=True)
add("functional_dropout", lambda self, h: F.dropout(h, 0.3, self.training), noisy=True)
add("functional_dropout_keyword", lambda self, h: F.dropout(h, p=0.3, training=self.training), noisy=True)
add("batch_norm", lambda self, h: self.norm(h.flatten(0, 1)).view(h.shape), norm=lambda: nn.BatchNorm1d(WIDTH))


@habits()
class Leaves:
    @having(attention=lambda: nn.MultiheadAttention(WIDTH, 2, batch_first=True))
    def attends(self, h):
        out, weights = self.attention(h, h, h)
        return out + weights.sum(-1, keepdim=True)

    @having(towers=lambda: nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3)),
            named=lambda: nn.ModuleDict({"tanh": nn.Tanh(), "relu": nn.ReLU()}),
            scales=lambda: nn.ParameterList([nn.Parameter(torch.full((1,), 2.0))]))
    def lists_of_layers(self, h):
        for i, tower in enumerate(self.towers[:2]):
            h = h + self.named["tanh" if i else "relu"](tower(h))
        return self.towers[-1](h) * self.scales[0]

    @having(mode=lambda: "scale", depth=lambda: 2, skip=lambda: None)
    def chosen(self, h):
        choices = {"scale": lambda v: v * 2, "shift": lambda v: v + 1}
        for _ in range(self.depth):
            h = choices[self.mode](h)
        return h if self.skip is None else self.skip(h)


add("tied", lambda self, h: F.linear(self.inner(self.inner(h)), self.inner.weight.t()),
    inner=lambda: nn.Linear(WIDTH, WIDTH))
add("own_parameter", lambda self, h: h * self.scale + self.scale[0],
    scale=lambda: nn.Parameter(torch.linspace(0.5, 1.5, WIDTH, dtype=torch.float64)))
add("plain_tensor", lambda self, h: h * self.table, table=lambda: torch.linspace(0.5, 1.5, WIDTH, dtype=torch.float64))

# --- Train mode -----------------------------------------------------------------------------------------------------------


def helper(module, h):
    return h * 2 if module.training else 1 - h


def while_training(function):
    @functools.wraps(function)
    def call(self, h):
        return function(self, h) if self.training else h
    return call


add("training_asked", lambda self, h: h * 2 if self.training else 1 - h)
add("training_in_a_helper", lambda self, h: helper(self, h))
add("training_in_getattr", lambda self, h: h * (2 if getattr(self, "training", False) else 3))
add("training_as_a_number", lambda self, h: h * (1 + int(self.training)) + self.training * 0.5)
add("training_in_a_decorator", while_training(lambda self, h: h * 2 + 1))
add("training_and_length", lambda self, h: h * 2 if self.training and h.shape[1] > 2 else h, **LENGTH)
add("training_chooses_a_layer", lambda self, h: (torch.tanh if self.training else torch.relu)(h))
add("training_in_a_table", lambda self, h: h * {True: 2.0, False: 3.0}[self.training])


@habit()
class TrainingInAProperty:
    @property
    def factor(self):
        return 2.0 if self.training else 3.0

    def use(self, h):
        return h * self.factor


class Stochastic:
    def is_on(self):
        return self.training


@habit()
class TrainingInAMixin(Stochastic):
    def use(self, h):
        return h * 2 if self.is_on() else h


@habit(**MAY_REFUSE, norm=lambda: nn.BatchNorm1d(WIDTH))
class FrozenNorm:
    def train(self, mode=True):
        super().train(mode)
        self.norm.eval()
        return self

    def use(self, h):
        return self.norm(h.flatten(0, 1)).view(h.shape)


@habit(**MAY_REFUSE, inner=lambda: nn.Dropout(0.5))
class AlwaysEval:
    def train(self, mode=True):
        return super().train(False)

    def use(self, h):
        return self.inner(h) * (2 if self.training else 3)


@habit(**MAY_REFUSE, inner=lambda: nn.Linear(WIDTH, WIDTH))
class TrainTellsItsParts:
    def train(self, mode=True):
        self.was_told = mode
        return super().train(mode)

    def use(self, h):
        return self.inner(h)


@habit(**MAY_REFUSE, inner=lambda: nn.Dropout(0.5))
def switches_mode(self, h):
    was = self.inner.training
    self.inner.eval()
    out = self.inner(h)
    self.inner.train(was)
    return out


@functools.lru_cache
def halves_of(length):
    return length // 2 + 1


@functools.cache
def table_of(length):
    return torch.arange(length)[:, None]


step("scale_from_a_cache", lambda h: h / halves_of(h.shape[1]))
step("table_from_a_cache", lambda h: h + table_of(h.shape[1]) * halves_of(h.shape[1]))
step("table_in_front_of_a_cache", lambda h: h * {2: 1, 3: 2}.get(h.shape[1], 3) / halves_of(h.shape[1]), **LENGTH)

# --- einops ---------------------------------------------------------------------------------------------------------------

with contextlib.suppress(ImportError):
    import einops
    import einops.layers.torch
    step("rearranged", lambda h: einops.rearrange(einops.rearrange(h, "b l (k c) -> b k l c", k=2), "b k l c -> b l (k c)"))
    step("reduced", lambda h: h + einops.reduce(h, "b l c -> b 1 c", "mean"))
    step("repeated_by_einops", lambda h: h * einops.repeat(h[:, 0], "b c -> b l c", l=h.shape[1]))
    layer("rearrange_layer", lambda: einops.layers.torch.Rearrange("b l (k c) -> b l (c k)", k=2))

# --- What is given out: of the numbers `y` and the activation `h` ---------------------------------------------------------


@dataclasses.dataclass
class Found:
    logits: Tensor
    hidden: Tensor | None = None


@dataclasses.dataclass(frozen=True)
class Frozen:
    logits: Tensor
    parts: tuple = ()


class Pair(typing.NamedTuple):
    logits: Tensor
    hidden: Tensor | None


Named = collections.namedtuple("Named", "logits count")

OUTPUTS = {
    "tensor": lambda y, h: y,
    "tuple with None": lambda y, h: (y, None),
    "None first": lambda y, h: (None, y, h),
    "list": lambda y, h: [y, h],
    "dict": lambda y, h: {"logits": y, "loss": None},
    "ordered": lambda y, h: collections.OrderedDict(logits=y, h=h),
    "dataclass": lambda y, h: Found(y),
    "dataclass of both": lambda y, h: Found(y, h),
    "frozen": lambda y, h: Frozen(y, (h, None)),
    "typed tuple": lambda y, h: Pair(y, None),
    "named tuple": lambda y, h: Named(y, y.shape[0]),
    "hub": lambda y, h: SequenceClassifierOutput(logits=y),
    "hub with tuple": lambda y, h: SequenceClassifierOutput(logits=y, hidden_states=(h, y)),
    "nested": lambda y, h: (y, {"a": [None, (h,)], "b": Found(y)}),
    "sizes": lambda y, h: (y, y.shape[0], tuple(y.shape)),
    "words": lambda y, h: (y, True, "done", 3, 2.5),
    "same twice": lambda y, h: (y, y),
    "view": lambda y, h: (y, y[..., 0], y.mean()),
    "shape": lambda y, h: (y, y.shape),
    "integers": lambda y, h: (y, y.argmax(-1), y > 0),
    "topk": lambda y, h: y.topk(2, -1),
    "simple": lambda y, h: types.SimpleNamespace(logits=y),
    "default dict": lambda y, h: collections.defaultdict(list, y=[y]),
    "device and dtype": lambda y, h: (y, y.dtype, str(y.device)),
    "generator": lambda y, h: (v for v in (y, h)),
    "set": lambda y, h: (y, {1, 2}),
    "number keys": lambda y, h: {0: y, 1: h},
}
MAY_BE_REFUSED = {"simple", "default dict", "generator", "set"}  # outputs

# --- What is put in: forwards of the model, and their inputs (the example first) --------------------------------------


def _rounds(self, x, rounds: int):
    for _ in range(rounds):
        x = x * 1.5
    return Trunk.forward(self, x)


def _written(self, x):
    x += 1
    return Trunk.forward(self, x)


INPUTS = {  # name: the forward, and of a tensor x the inputs to try
    "plain": (lambda self, x: Trunk.forward(self, x), lambda x: [(x,)]),
    "flag": (lambda self, x, flag: Trunk.forward(self, x * (2 if flag else 3)), lambda x: [(x, True), (x, False), (x, 1)]),
    "is true": (lambda self, x, flag=False: Trunk.forward(self, x * (2 if flag is True else 3)),
                lambda x: [(x, True), (x, False), (x,), (x, 1)]),
    "word": (lambda self, x, mode="sum": Trunk.forward(self, x * {"sum": 2, "mean": 3}[mode]),
             lambda x: [(x, "sum"), (x, "mean"), (x,)]),
    "none": (lambda self, x, mask=None: Trunk.forward(self, x if mask is None else x * mask),
             lambda x: [(x, None), (x,), (x, x[..., :1] > 0)]),
    "scale": (lambda self, x, scale: Trunk.forward(self, x * scale), lambda x: [(x, 2.0), (x, 0.5)]),
    "default": (lambda self, x, mask=None: Trunk.forward(self, x if mask is None else x * mask),
                lambda x: [(x,), (x, None)]),
    "rounds": (_rounds, lambda x: [(x, 3), (x, 5), (x, 0)]),
    "power": (lambda self, x, power: Trunk.forward(self, x * 1.1 ** power), lambda x: [(x, 3), (x, 5), (x, 0)]),
    "mask": (lambda self, x, mask: Trunk.forward(self, x.masked_fill(mask[..., None], 0.0)),
             lambda x: [(x, x[..., 0] > 0), (x, x[..., 0] < 0.5)]),
    "pair": (lambda self, pair: Trunk.forward(self, operator.add(*pair)), lambda x: [((x, x * 2),), ([x, x],)]),
    "batch": (lambda self, batch: Trunk.forward(self, batch["x"] * (1 if batch.get("mask") is None else batch["mask"])),
              lambda x: [({"x": x},), ({"x": x, "mask": None},), ({"x": x, "mask": x[..., :1] > 0},)]),
    "several": (lambda self, x, *others, **options: Trunk.forward(self, x + sum(others) * options.get("scale", 1.0)),
                lambda x: [(x, x * 2, x), (-x, x, x)]),
    "written": (_written, lambda x: [(x,)]),
    "size": (lambda self, x, size=None: Trunk.forward(self, x[:, :size or x.shape[1]]), lambda x: [(x, 2), (x,), (x, 1)]),
}
BROKEN_INPUTS = {"default": "an argument that the example leaves out behind all others is none of the graph's"}

# --- Shells around the model ----------------------------------------------------------------------------------------------


class Around(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, *args, **kwargs):
        return self.inner(*args, **kwargs)


class Delegates(Around):
    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self._modules["inner"], name)


class LooksAtValues(Around):
    def forward(self, *args):
        out = self.inner(*args)
        return out, float(out.sum()) if isinstance(out, Tensor) else 0.0


def hooked(model):
    def normalise(module, args):
        return ((args[0] - 0.5) / 0.25, *args[1:]) if isinstance(args[0], Tensor) else None
    model.register_forward_pre_hook(normalise)
    return model


def hooked_after(model):
    model.register_forward_hook(lambda module, args, out: out * 2 if isinstance(out, Tensor) else out)
    return model


def patched(model):
    model.forward = types.MethodType(lambda self, *args, **kwargs: type(self).forward(self, *args, **kwargs), model)
    return model


SHELLS = {
    "none": lambda model: model, "around": Around, "delegates": Delegates, "looks": LooksAtValues, "hooked": hooked,
    "hooked after": hooked_after, "patched": patched, "parallel": nn.DataParallel, "sequential": nn.Sequential}

# --- The network ----------------------------------------------------------------------------------------------------------


class Part(nn.Module):
    """A submodule that has one habit."""

    def forward(self, h):
        return self.use(h)


def part_of(habit):
    part = type(f"Part_{habit.__name__}", (habit, Part), {})()
    part.make()
    return part


class Trunk(nn.Module):
    """Two layers, each habit behind one more, and a head.

    inside: whether the habits are those of submodules ("both": and of the model). conv: layers convolve over the length.
    """

    def __init__(self, habits, inside, conv):
        super().__init__()
        def layer(ins, outs):
            return nn.Conv1d(ins, outs, 3, padding=1) if conv else nn.Linear(ins, outs)
        self.conv, self.first, self.second, self.head = conv, layer(4, 6), layer(6, WIDTH), layer(WIDTH, 3)
        self.between = nn.ModuleList(layer(WIDTH, WIDTH) for _ in habits)
        self.parts = nn.ModuleList(part_of(habit) for habit in habits) if inside else None
        self.habits, self.inside = habits, inside
        if inside is not True:
            for habit in habits:
                habit.make(self)

    def through(self, layer, h):
        return layer(h.transpose(1, 2)).transpose(1, 2) if self.conv else layer(h)

    def forward(self, x):
        h = self.through(self.second, torch.tanh(self.through(self.first, x)))
        for i, habit in enumerate(self.habits):
            h = self.through(self.between[i], torch.tanh(h))
            h = h if self.inside is True else habit.use(self, h)
            h = self.parts[i](torch.tanh(h) + 0.1) if self.inside else h
        h = torch.tanh(h)
        return self.give(self.through(self.head, h), h)


def network(habits=(), inside=False, conv=False, output="tensor", inputs="plain", shell="none"):
    """Put a network together, in float64 and eval mode, with every bias and statistic at a number of its own."""
    bases = [] if inside is True else list(dict.fromkeys(habits))
    own = {"give": lambda self, y, h: OUTPUTS[output](y, h), "forward": INPUTS[inputs][0]}
    net = type("Net", (*bases, Trunk), own)(list(habits), inside, conv)
    for p in net.parameters():
        if p.ndim < 2:
            nn.init.uniform_(p, -0.5, 0.5)
    return SHELLS[shell](net.double()).eval()
