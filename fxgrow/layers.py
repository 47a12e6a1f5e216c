"""Leaf functions and layers that a captured or grown graph may call beside torch's own.

What lives here: the mode switch that keeps `train()`/`eval()` meaningful after capture, the checks of what a capture took
for granted, the attention layer whose inner width is free of its embedding width, and the module that holds a graph, with
its pickle. What does not: anything that decides *whether* to use them.
"""
from __future__ import annotations

from collections import OrderedDict
from contextvars import ContextVar
from numbers import Number
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node
from torch.fx.graph import CodeGen
from torch.fx.node import has_side_effect, map_aggregate

from fxgrow.errors import OtherInputs


def by_mode(training: bool, train_value, eval_value):
    """Return `train_value` while training, else `eval_value`: the join of the two branches of `if self.training`."""
    return train_value if training else eval_value


@has_side_effect
def insist(found, captured, sentence: str) -> None:
    """Check that a captured network is used as it was captured.

    Raises:
        OtherInputs: `found` is not `captured`; the sentence says what was taken for granted, and where.
    """
    if found != captured:
        raise OtherInputs(sentence)


def told(tensor: Tensor, size: int, sentence: str) -> int:
    """Return the number that a tensor holds, which was a size as well when the network was captured.

    Raises:
        OtherInputs: it is another number; the sentence says what was taken for granted, and where.
    """
    if not tensor.is_meta:
        insist(tensor.item(), size, sentence)
    return size


def of_size(tensor: Tensor, dim: int, size: int, sentence: str) -> Tensor:
    """Return a tensor whose data say how long it is along `dim`, which was a size as well when the network was captured.

    Raises:
        OtherInputs: it is of another length; the sentence says what was taken for granted, and where.
    """
    if tensor.is_meta:  # where the data are not known, nor how long it is
        return tensor.index_select(dim, torch.empty(size, dtype=torch.int64, device="meta"))
    insist(tensor.shape[dim], size, sentence)
    return tensor


@has_side_effect
def drawn(tensor: Tensor) -> float:
    """Return the number between 0 and 1 that is in a tensor, or the middle where there are no data; what draws it stays."""
    return 0.5 if tensor.is_meta else tensor.item()


@has_side_effect
def set_grad(enabled: bool | None) -> bool:
    """Switch gradients on or off from here on (None: leave them as they are), and return how they were."""
    before = torch.is_grad_enabled()
    if enabled is not None:
        torch.set_grad_enabled(enabled)
    return before


@has_side_effect
def restore_grad(before: bool) -> None:
    """Switch gradients back to how `set_grad` found them."""
    torch.set_grad_enabled(before)


@has_side_effect
def ask_grad(tensor: Tensor, asked: bool | None) -> None:
    """Let gradients of a tensor be computed, if asked to."""
    if asked:
        tensor.requires_grad = True


@has_side_effect
def set_autocast(device: str | torch.device, dtype: torch.dtype | None, caches: bool,
                 enabled: bool | None) -> torch.autocast | None:
    """Switch autocast from here on (`enabled` None: leave it as it is), and return what `leave_autocast` undoes."""
    if enabled is None:
        return None
    context = torch.autocast(torch.device(device).type, dtype, enabled, caches)
    context.__enter__()
    return context


@has_side_effect
def leave_autocast(context: torch.autocast | None) -> None:
    """Switch autocast back to how `set_autocast` found it."""
    if context is not None:
        context.__exit__(None, None, None)


@has_side_effect
def set_seed(seed: int | None) -> None:
    """Begin the random numbers of torch at a seed, if there is one."""
    if seed is not None:
        torch.manual_seed(seed)


def rng_state() -> Tensor:
    """Return the state of the random numbers of the CPU, for `set_rng_state`."""
    return torch.get_rng_state()


@has_side_effect
def set_rng_state(state: Tensor | None) -> None:
    """Let the random numbers of the CPU go on from a state, if there is one."""
    if state is not None:
        torch.set_rng_state(state)


def seeded_generator(device: str, seed: int) -> torch.Generator:
    """Return a generator of random numbers that begins at a seed."""
    return torch.Generator(device).manual_seed(seed)


@has_side_effect
def keep(path: str, name: str, value, active: bool | None) -> None:
    """Keep a value as an attribute of a module of the graph that runs, as its forward does with `self.name = value`.

    Args:
        path: of the module. active: whether to keep it.

    Raises:
        AttributeError: every module has an attribute of this name.
    """
    if name in _OF_MODULES:
        raise AttributeError(f"{name!r} is no name to keep a value under")
    graph = RUNNING.get()
    if active and graph is not None:
        setattr(graph.get_submodule(path), name, value)


RUNNING: ContextVar[nn.Module | None] = ContextVar("running", default=None)  # the graph that is being called
_OF_MODULES = frozenset(dir(nn.Module()))
# what numbers and types come out, and what is kept, is switched by these: sizes do not depend on it
SWITCHES = (set_autocast, leave_autocast, set_seed, set_rng_state, seeded_generator, keep)
# called for what they do, not for what they return
EFFECTS = (torch._assert_async, insist, drawn, set_grad, restore_grad, ask_grad, *SWITCHES)


def has_form(value, form) -> bool:
    """Tell whether an input is nested like `form`, with its words, flags and None; `...` stands for a tensor or a number."""
    if form is ...:
        return isinstance(value, (Tensor, Number)) and not isinstance(value, bool)
    if isinstance(form, dict):
        return isinstance(value, dict) and list(value) == list(form) and all(map(has_form, value.values(), form.values()))
    if isinstance(form, (tuple, list)):
        kind = list if isinstance(form, list) else tuple
        return isinstance(value, kind) and len(value) == len(form) and all(map(has_form, value, form))
    return isinstance(value, type(form)) and isinstance(value, bool) == isinstance(form, bool) and value == form


def limit_of(dtype: torch.dtype, name: str) -> float:
    """Return a limit of a floating-point type: `min`, `max`, `eps` or `tiny`."""
    return getattr(torch.finfo(dtype), name)


def ordered(pairs) -> OrderedDict:
    """Return an output of a model that is an `OrderedDict`."""
    return OrderedDict(pairs)


class Applied:
    """A `torch.autograd.Function` as a function of a graph: it keeps the backward that it defines."""

    def __init__(self, function: type[torch.autograd.Function]):
        self.function = function
        self.__name__, self.__qualname__, self.__module__ = function.__name__, function.__qualname__, __name__

    def __call__(self, *args):
        """Call the function."""
        return self.function.apply(*args)

    def __eq__(self, other):
        return isinstance(other, Applied) and self.function is other.function

    def __hash__(self):
        return hash(self.function)


def fold_copies(x: Tensor, dim: int, positions: int) -> Tensor:
    """Move the k adjacent copies of each position of `dim` (size `positions*k`) into the batch.

    Shape `[N, ..., positions*k, ...]` to `[N*k, ..., positions, ...]`.
    What is done to the batch's members alone is then done to each set of copies alone, and copies stay together.
    """
    return x.unflatten(dim, (positions, -1)).movedim(dim + 1, 1).flatten(0, 1)


def unfold_copies(x: Tensor, dim: int, like: Tensor) -> Tensor:
    """Undo `fold_copies`: `[N*k, ..., positions, ...]` to `[N, ..., positions*k, ...]`, N that of `like`."""
    return x.unflatten(0, (like.shape[0], -1)).movedim(1, dim + 1).flatten(dim, dim + 1)


def fold_pairs(x: Tensor, dim: int, old: int, out: int) -> Tensor:
    """Return the skip path of a widened volume: `r(x) = x_old + x_L - x_R` (R2R, Painter), then zeros up to `out` positions.

    Shape `[..., old + 2p, ...]` to `[..., out, ...]`; the pairs (x_L, x_R) lie side by side behind the `old` positions, and
    the differences are added to the first of these (from the start again where there are more pairs than positions).
    """
    if x.shape[dim] > old:
        kept, new = x.split([old, x.shape[dim] - old], dim)
        left, right = new.unflatten(dim, (-1, 2)).unbind(dim + 1)
        for part in (left - right).split(old, dim):
            count = part.shape[dim]
            first, *rest = kept.split([count, old - count], dim) if count < old else (kept,)
            kept = torch.cat([first + part, *rest], dim) if rest else first + part
        x = kept
    return F.pad(x, [0, 0] * (x.ndim - 1 - dim) + [0, out - old]) if out > old else x


def positions_of(mask: Tensor, among: int) -> Tensor:
    """Return where a vector is true: the rows that one of `among` experts gets. Where it never is, the first position.

    Data say how many; without data (on the meta device) each expert has its share.
    """
    if mask.is_meta:
        return torch.empty(-(-mask.numel() // among), dtype=torch.long, device="meta")
    found = mask.nonzero().flatten()
    return found if found.numel() or not mask.numel() else found.new_zeros(1)


class MultiheadAttention(nn.Module):
    """`torch.nn.MultiheadAttention` (Vaswani 2017) with head count and head widths free of the embedding width.

    Parameters carry the stock names, so a state_dict moves both ways whenever the sizes agree.
    Shapes: query `[L, N, E]` (`[N, L, E]` if `batch_first`), `in_proj_weight [h*(2*qk_dim + v_dim), E]` in the order
    q, k, v, `out_proj.weight [E, h*v_dim]`. `scale` multiplies q.k (`1/sqrt(head_dim)` in the stock layer).
    """

    def __init__(self, in_proj_weight, in_proj_bias, out_proj, *, num_heads, scale, dropout=0.0, batch_first=False):
        super().__init__()
        self.in_proj_weight, self.in_proj_bias = in_proj_weight, in_proj_bias
        self.out_proj = out_proj
        self.num_heads, self.scale, self.dropout, self.batch_first = num_heads, scale, dropout, batch_first

    @classmethod
    def from_stock(cls, stock: nn.MultiheadAttention) -> MultiheadAttention:
        """Make the layer that computes what a stock one does, with its parameters."""
        return cls(stock.in_proj_weight, stock.in_proj_bias, stock.out_proj, num_heads=stock.num_heads,
                   scale=stock.head_dim ** -0.5, dropout=stock.dropout, batch_first=stock.batch_first).train(stock.training)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, key_padding_mask: Tensor | None = None,
                need_weights: bool = True, attn_mask: Tensor | None = None, average_attn_weights: bool = True,
                is_causal: bool = False) -> tuple[Tensor, Tensor | None]:
        """Attend as the stock layer does: outputs and, if `need_weights`, the attention."""
        unbatched = query.dim() == 2
        if unbatched:
            query, key, value = (t.unsqueeze(0) for t in (query, key, value))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        elif not self.batch_first:
            query, key, value = (t.transpose(0, 1) for t in (query, key, value))
        weights = self._weights()
        biases = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        q, k, v = (F.linear(t, w, b).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
                   for t, w, b in zip((query, key, value), weights, biases))
        mask = self._mask(attn_mask, key_padding_mask, q)
        dropout = self.dropout if self.training else 0.0
        attention = None
        if need_weights:
            scores = (q * self.scale) @ k.transpose(-2, -1)
            attention = F.dropout((scores if mask is None else scores + mask).softmax(-1), dropout)
            out = attention @ v
            attention = attention.mean(1) if average_attn_weights else attention
        else:
            out = F.scaled_dot_product_attention(q, k, v, mask, dropout, scale=self.scale)
        out = self.out_proj(out.transpose(1, 2).flatten(2))
        if unbatched:
            return out.squeeze(0), None if attention is None else attention.squeeze(0)
        return (out if self.batch_first else out.transpose(0, 1)), attention

    def _weights(self) -> tuple[Tensor, ...]:
        """Return the weights of q, k and v."""
        return self.in_proj_weight.chunk(3)

    def _mask(self, attn_mask: Tensor | None, key_padding_mask: Tensor | None, q: Tensor) -> Tensor | None:
        """Join both masks to an additive one that broadcasts to `[N, h, L, S]`."""
        def additive(mask: Tensor) -> Tensor:
            if mask.dtype is not torch.bool:
                return mask.to(q.dtype)
            return torch.zeros_like(mask, dtype=q.dtype).masked_fill(mask, float("-inf"))

        if attn_mask is not None:
            attn_mask = additive(attn_mask)
            if attn_mask.dim() == 3:
                attn_mask = attn_mask.unflatten(0, (q.shape[0], -1))
        if key_padding_mask is not None:
            padding = additive(key_padding_mask)[:, None, None, :]
            attn_mask = padding if attn_mask is None else attn_mask + padding
        return attn_mask


class SeparateAttention(MultiheadAttention):
    """`MultiheadAttention` whose keys and values have widths of their own (`kdim`, `vdim`), and so a weight each."""

    def __init__(self, projections, in_proj_bias, out_proj, **settings):
        super().__init__(None, in_proj_bias, out_proj, **settings)
        self.q_proj_weight, self.k_proj_weight, self.v_proj_weight = projections

    @classmethod
    def from_stock(cls, stock: nn.MultiheadAttention) -> SeparateAttention:
        """Make the layer that computes what a stock one does, with its parameters."""
        return cls((stock.q_proj_weight, stock.k_proj_weight, stock.v_proj_weight), stock.in_proj_bias, stock.out_proj,
                   num_heads=stock.num_heads, scale=stock.head_dim ** -0.5, dropout=stock.dropout,
                   batch_first=stock.batch_first).train(stock.training)

    def _weights(self) -> tuple[Tensor, ...]:
        return self.q_proj_weight, self.k_proj_weight, self.v_proj_weight


class CapturedModule(GraphModule):
    """A GraphModule whose pickle holds its nodes, and whose code may be made as late as when it is first run.

    torch.fx pickles the code alone and traces it again, which does without what no tensor goes into (`no_grad`, random
    numbers) and stops at checks of sizes.
    """

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Make the code, which stands in the place of this from then on, and run it."""
        self.recompile()
        return self.forward(*args, **kwargs)

    @property
    def code(self) -> str:
        """Return the code of the graph."""
        if "_code" not in vars(self):
            self.recompile()
        return self._code

    def __reduce__(self) -> tuple:
        state = {name: value for name, value in vars(self).items() if name not in ("_graph", "_compiled_call_impl")}
        nodes = [(node.op, node.name, *(map_aggregate(a, _named) for a in (node.target, node.args, node.kwargs)),
                  node.meta.get("owner")) for node in self.graph.nodes]
        return unpickled, (type(self).__name__, state, nodes, type(self.graph._codegen))


class _Op(str):
    """The name of an operator of `torch.ops`, which pickles do not hold."""
    __slots__ = ()


class _Name(str):
    """The name of a node, in a pickle."""
    __slots__ = ()


def _named(value: Any) -> Any:
    if isinstance(value, torch._ops.OpOverload):
        return _Op(value.name())
    return _Name(value.name) if isinstance(value, Node) else value


def unpickled(name: str, state: dict[str, Any], nodes: list[tuple], codegen: type[CodeGen] = CodeGen) -> CapturedModule:
    """Return the module that a pickle describes."""
    graph = Graph()
    graph.set_codegen(codegen())
    made: dict[str, Node] = {}
    for op, label, target, args, kwargs, owner in nodes:
        target, args, kwargs = (map_aggregate(a, lambda v: _meant(v, made)) for a in (target, args, kwargs))
        made[label] = graph.create_node(op, target, args, kwargs, label)
        if owner is not None:
            made[label].meta["owner"] = owner
    new = CapturedModule(nn.Module(), Graph(), name)
    new.__dict__.update(state)
    new.graph = graph
    return new


def _meant(value: Any, made: dict[str, Node]) -> Any:
    """Return the node or operator that a name in a pickle stands for."""
    if isinstance(value, _Op):
        namespace, _, rest = value.partition("::")
        packet, _, overload = rest.partition(".")
        return getattr(getattr(getattr(torch.ops, namespace), packet), overload or "default")
    return made[value] if isinstance(value, _Name) else value
