"""Key and value heads that fewer queries share in the big model: each is copied, which changes nothing.

Attention over groups of queries (Ainslie 2023, GQA, arXiv:2305.13245) repeats each head for its group. A class says by its
configuration how many there are; where copies stand in a tensor follows from the sizes of its configuration's own model.
"""
from typing import Any

import torch
from torch import Tensor, nn

from fxgrow.compare import copy_of
from fxgrow.errors import FxgrowError
from fxgrow.graph import as_call, skeleton, uncached
from fxgrow.models import changed, fresh
from fxgrow.passes.into.plan import Step
from fxgrow.record import GrowthRecord, ParameterRecord
from fxgrow.tracing import capture_graph, compare_outputs

ROUNDING = 1e-3  # what copied heads differ by at most, where they stand in the order that was taken for granted


def with_copied_heads(small: nn.Module, big: nn.Module, inputs: Any,
                      steps: list[Step]) -> tuple[nn.Module, GrowthRecord | None]:
    """Return the small model with as many queries to a key as the big one has, and the record of the copies.

    It is the small model itself, without a record, where it has as many already, or no configuration says so.
    """
    (queries, keys), (their_queries, their_keys) = heads_of(small), heads_of(big)
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
