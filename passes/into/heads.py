"""Key and value heads that fewer queries share in the big model: each is copied, which changes nothing.

Attention over groups of queries (Ainslie 2023, GQA, arXiv:2305.13245) repeats each head for its group. A class says by its
configuration how many there are; where copies stand in a tensor follows from the sizes of its configuration's own model.
"""
import itertools
from typing import Any

import torch
from torch import Tensor, nn

from fxgrow.common import Refusal
from fxgrow.compare import copy_of
from fxgrow.errors import FxgrowError, GrowthError
from fxgrow.graph import as_call, skeleton, uncached
from fxgrow.models import changed, fresh
from fxgrow.passes.into.plan import Step
from fxgrow.record import GrowthRecord, ParameterRecord
from fxgrow.tracing import capture_graph, compare_outputs

SWITCHES = ("multi_query", "num_kv_heads")  # of configurations, where it isn't num_key_value_heads
ROUNDING = 1e-3  # what copied heads differ by at most, where they stand in the order that was taken for granted


def with_copied_heads(small: nn.Module, big: nn.Module, inputs: Any,
                      steps: list[Step]) -> tuple[nn.Module, GrowthRecord | None]:
    """Return the small model with as many queries to a key as the big one has, and the record of the copies.

    It is the small model itself, without a record, where it has as many already, or no configuration says so.
    """
    return _joined(small, big, inputs, steps) or _counted(small, big, inputs, steps)


def _counted(small: nn.Module, big: nn.Module, inputs: Any, steps: list[Step]) -> tuple[nn.Module, GrowthRecord | None]:
    """Copy the heads of keys of a class that says by num_key_value_heads how many there are."""
    (queries, keys), (their_queries, their_keys) = heads_of(small), _shared(*heads_of(big))
    if not keys or not their_keys or queries * their_keys == keys * their_queries:
        return small, None
    wanted, rest = divmod(queries * their_keys, their_queries)
    if rest or wanted % keys:
        return small, None  # the comparison of both graphs says what differs
    try:
        model = fresh(type(small), changed(small.config, {"num_key_value_heads": wanted}), small)  # type: ignore[arg-type]
    except FxgrowError:
        return small, None
    record = GrowthRecord(origin={"": skeleton(capture_graph(small, inputs, check=False))})
    state, sizes, fused = small.state_dict(), model.state_dict(), False
    for name, tensor in state.items():
        for dim, (n, m) in enumerate(zip(tensor.shape, sizes[name].shape)):
            if n != m:
                index = _index(n, m, (queries, keys), wanted)
                if index is None:
                    return small, None  # the comparison of both graphs says what differs
                fused = fused or n * wanted != m * keys
                state[name] = tensor.index_select(dim, index.to(tensor.device))
                entry = record.parameters.setdefault(name, ParameterRecord.same(name, tensor.ndim))
                entry.index[dim], entry.fresh[dim] = index, _repeated(index)
    if not any(t.is_meta for t in state.values()):
        model.load_state_dict(state, strict=True)
    if fused and not _same(small, model.eval(), inputs):
        return small, None  # queries, keys and values stand in another order
    steps.append(Step("widen", "key and value heads", keys, wanted, "copy", "each serves fewer queries"))
    return model.eval(), record


def _joined(small: nn.Module, big: nn.Module, inputs: Any,
            steps: list[Step]) -> tuple[nn.Module, GrowthRecord] | None:
    """Copy the heads of keys of a class that says otherwise how many there are, and has all heads in one tensor.

    In which order they stand there is found by running: all queries, keys and values, or each key with its queries.
    """
    ours, theirs = (getattr(model, "config", None) for model in (small, big))
    changes = {n: getattr(theirs, n) for n in SWITCHES if getattr(ours, n, None) != getattr(theirs, n, None)}
    if not changes or type(ours) is not type(theirs) or _alike_shared(ours, theirs):
        return None
    try:
        model = fresh(type(small), changed(ours, changes), small)
    except FxgrowError:
        return None
    state, sizes, queries = small.state_dict(), model.state_dict(), heads_of(small)[0] or 0
    alike = state.keys() <= sizes.keys() and all(sizes[n].shape[1:] == t.shape[1:] for n, t in state.items())
    grown = {n: (t.shape[0], sizes[n].shape[0]) for n, t in state.items() if alike and sizes[n].shape[:1] != t.shape[:1]}
    if not grown:
        return None
    if any(t.is_meta for t in state.values()):
        raise Refusal("where heads stand in a tensor is found by running")
    for orders in itertools.product((_in_turn, _by_key), repeat=2):
        indices = {n: _between(*size, queries, *orders) for n, size in grown.items()}
        if None in indices.values():
            return None
        model.load_state_dict({n: t if n not in grown else t[indices[n].to(t.device)] for n, t in state.items()})  # type: ignore[union-attr]
        if _same(small, model.eval(), inputs):
            break
    else:
        return None
    record = GrowthRecord(origin={"": skeleton(capture_graph(small, inputs, check=False))})
    for name, index in indices.items():
        entry = record.parameters[name] = ParameterRecord.same(name, state[name].ndim)
        entry.index[0], entry.fresh[0] = index, _repeated(index)  # type: ignore[arg-type]
    told = ", ".join(f"{n}={v}" for n, v in changes.items())
    steps.append(Step("widen", "key and value heads", method="copy", note=f"{told}: each serves fewer queries"))
    return model, record


def _alike_shared(ours: Any, theirs: Any) -> bool:
    """Tell whether as many queries share each key: where both have grown, heads are new ones, and no copies."""
    counts: list[Any] = [getattr(c, name, None) for name in ("num_attention_heads", "num_kv_heads") for c in (ours, theirs)]
    if not all(isinstance(n, int) and n > 0 for n in counts):
        return False
    queries, their_queries, keys, their_keys = counts
    return queries * their_keys == keys * their_queries and \
        getattr(ours, "multi_query", None) == getattr(theirs, "multi_query", None)


def _shared(queries: int, keys: int) -> tuple[int, int]:
    """Return how many heads there are; raise GrowthError where those of queries cannot share those of keys."""
    if keys and queries % keys:
        raise GrowthError(f"{queries} heads of queries cannot share {keys} of keys: num_attention_heads has to be a whole "
                          "multiple of num_key_value_heads")
    return queries, keys


def _between(size: int, wanted: int, queries: int, order: Any, their_order: Any) -> Tensor | None:
    """Return where the positions of an axis with all heads come from, by both orders of its heads."""
    for width in range(size // queries, 0, -1) if queries else ():  # of a head
        (keys, rest), (more, others) = (divmod(n - queries * width, 2 * width) for n in (size, wanted))
        if not (rest or others) and keys and more > keys and queries % more == 0 and more % keys == 0:
            heads = {head: i for i, head in enumerate(order(queries, keys))}
            found = [heads[kind, i if kind == "q" else i * keys // more] for kind, i in their_order(queries, more)]
            return (torch.tensor(found)[:, None] * width + torch.arange(width)).flatten()
    return None


def _in_turn(queries: int, keys: int) -> list[tuple[str, int]]:
    return [("q", i) for i in range(queries)] + [(kind, i) for kind in "kv" for i in range(keys)]


def _by_key(queries: int, keys: int) -> list[tuple[str, int]]:
    each = queries // keys
    return [head for i in range(keys) for head in [*(("q", i * each + j) for j in range(each)), ("k", i), ("v", i)]]


def _index(size: int, wanted_size: int, heads: tuple[int, int], wanted: int) -> Tensor | None:
    """Return where the positions of an axis come from that has keys, values, or queries, keys and values in this order.

    Args:
        heads: how many of queries and of keys the small model has. wanted: how many of keys the big one has.
    """
    queries, keys = heads
    if size % keys == 0 and size * wanted == wanted_size * keys:
        return copies(size, keys, wanted // keys)
    width = size // (queries + 2 * keys)  # of a head
    if size != width * (queries + 2 * keys) or wanted_size != width * (queries + 2 * wanted):
        return None
    part = queries * width + copies(keys * width, keys, wanted // keys)
    return torch.cat([torch.arange(queries * width), part, part + keys * width])


def _same(small: nn.Module, model: nn.Module, inputs: Any) -> bool:
    """Tell whether two models compute the same, as far as they have numbers."""
    if any(t.is_meta for t in small.state_dict().values()):
        return True
    args, kwargs = as_call(inputs)
    with torch.no_grad(), uncached(small, model):
        return compare_outputs(copy_of(small).eval()(*args, **kwargs), model(*args, **kwargs), ROUNDING).equal


def heads_of(model: nn.Module) -> tuple[int, int]:
    """Return how many heads of queries, and of keys and values, a configuration says (0: it doesn't)."""
    held: Any = getattr(model, "config", None)
    config = held.get_text_config() if hasattr(held, "get_text_config") else None
    queries = getattr(config, "num_attention_heads", 0) or 0
    found = getattr(config, "num_key_value_heads", None) or 0
    return (queries, found) if isinstance(queries, int) and isinstance(found, int) else (0, 0)


def copies(size: int, heads: int, times: int) -> Tensor:
    """Return where the positions of an axis come from whose heads stand `times` times each, copies side by side."""
    return torch.arange(size).unflatten(0, (heads, -1)).repeat_interleave(times, 0).flatten()


def _repeated(index: Tensor) -> Tensor:
    """Tell which positions are copies of one that stands in front of them."""
    first = torch.full((int(index.max()) + 1,), len(index)).scatter_reduce(0, index, torch.arange(len(index)), "amin")
    return first[index] < torch.arange(len(index))
