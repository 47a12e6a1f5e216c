"""Attention maps of transformers side by side: what each head looks at, and which heads growth brought.

Whatever computes them (`nn.MultiheadAttention`, `scaled_dot_product_attention`, a softmax written out), a map is what a
softmax over the last axis gives while the network runs. What does not live here: layout and files (panels.py).
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy
import torch
from numpy import ndarray
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node
from torch.nn.attention import SDPBackend, sdpa_kernel

from fxgrow.aten import TorchDispatchMode, tree_leaves, tree_map
from fxgrow.common import nearest, one_line
from fxgrow.errors import DrawError, SelectionError
from fxgrow.graph import Captured, call_of, family, place_of, without_fast_path
from fxgrow.models import Input, draw_inputs, dtype_of
from fxgrow.visual.filters import BLUE
from fxgrow.visual.networks import Models, Network, networks
from fxgrow.visual.panels import Panel, Picture, plain

aten = torch.ops.aten
SOFTMAX = (aten._softmax.default, aten._safe_softmax.default)
MOST_LAYERS, SIDE, MARGIN, RING = 24, 96, 4, 2  # rows of a picture; pixels of a map, at least, around it, of its frame
OLD = (0xAA, 0xAA, 0xAA)


def plot_attention(models: Models, example_inputs=None, *, inputs: Any = None, layer: str | None = None, seed: int = 0
                   ) -> Picture:
    """Show the attention maps of each head on one input: a row a layer, a column a model, a tile a head, old heads first.

    A row of a tile is a place that asks, a column one that answers; the darker, the more. All tiles of a row have one scale.
    New heads have a blue frame, old ones a grey one. `facts` holds the numbers of the new heads, and how far the old ones
    are from the first model's.

    Args:
        models: as for `plot_filters`; transformers.
        example_inputs: for models that are not captured yet.
        inputs: what they run on; the maps are those of the first in the batch. None: drawn by `seed`, in the shapes of the
            example (tokens are 0 and 1).
        layer: name or glob of layers; None: all, up to 24.

    Raises:
        DrawError: a model computes no attention, or does not run on the inputs. SelectionError: no layer is named so.
    """
    shown = networks(models, example_inputs)
    real = inputs if inputs is not None else _drawn(shown[-1], seed)
    found = [maps_of(network, real) for network in shown]
    for network, maps in zip(shown, found):
        if not maps:
            raise DrawError(f"{network.name or 'the model'} computes no attention: show its filters or its saliency instead")
    names = list(dict.fromkeys(name for maps in reversed(found) for name in maps))
    places = {name: next(maps[name].place for maps in reversed(found) if name in maps) for name in names}
    wanted = [name for name in names if layer is None or layer in (places[name], name) or fnmatchcase(places[name], layer)]
    if not wanted:
        raise SelectionError(f"no layer with attention is named {layer!r}{nearest(layer or '', [*places.values()])}")
    rows = [_row(shown, [maps.get(name) for maps in found]) for name in wanted[:MOST_LAYERS]]
    return Picture("Attention: dark is much; new heads are framed in blue, old ones in grey", rows)


class Maps:
    """What the heads of one layer look at: `values` [heads, asks, answers], and which heads are new."""

    def __init__(self, place: str, values: Tensor, new: Tensor):
        self.place, self.values, self.new = place, values, new


class _Watcher(TorchDispatchMode):
    """Keeps what each softmax over the last axis gives, by the node that runs."""

    def __init__(self) -> None:
        super().__init__()
        self.node: Node | None = None
        self.seen: dict[Node, Tensor] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        value = func(*args, **(kwargs or {}))
        if func in SOFTMAX and args[1] in (-1, value.ndim - 1) and value.ndim in (3, 4) and self.node is not None:
            self.seen[self.node] = value.detach()
        return value


class _Run(Interpreter):
    """Runs a network node by node and keeps every value."""

    def __init__(self, gm: GraphModule, watcher: _Watcher):
        super().__init__(gm, garbage_collect_values=False)
        self.watcher = watcher

    def run_node(self, n: Node) -> Any:
        """Run a node, which the watcher is told."""
        self.watcher.node = n
        return super().run_node(n)


def _drawn(network: Network, seed: int) -> tuple:
    inputs = tree_map(lambda t: Input(tuple(t.shape), t.dtype) if isinstance(t, Tensor) else t, Captured(network.gm).inputs)
    return tuple(draw_inputs(inputs, dtype_of(network.gm), seed))


def maps_of(network: Network, inputs: Any) -> dict[str, Maps]:
    """Return the maps of each layer, by the name of its node, which passes keep."""
    arguments = tuple(inputs.values()) if isinstance(inputs, Mapping) else inputs if isinstance(inputs, tuple) else (inputs,)
    watcher = _Watcher()
    run = _Run(network.gm, watcher)
    try:
        with torch.no_grad(), without_fast_path(), sdpa_kernel(SDPBackend.MATH), watcher:
            run.run(*arguments, enable_io_processing=False)
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        raise DrawError(f"{network.name or 'the model'} does not run on these inputs: {one_line(error)}") from error
    batch = next((t.shape[0] for t in tree_leaves(arguments) if isinstance(t, Tensor) and t.ndim), 1)
    found = {}
    for node, value in watcher.seen.items():
        heads = value[0] if value.ndim == 4 else value[:max(1, len(value) // batch)]
        if min(heads.shape) and heads.shape[-1] > 1 and (value.ndim == 4 or heads.shape[1] == heads.shape[2]):
            new = _new_heads(network, run, node, len(heads))
            found[node.name] = Maps(place_of(node) or node.name, heads.double().cpu(), new)
    return found


def _new_heads(network: Network, run: _Run, node: Node, heads: int) -> Tensor:
    """Tell which heads are new: all rows of the layer that makes their queries are."""
    if node.op == "call_module":
        return _new_in_layer(network, str(node.target), heads)
    none = torch.zeros(heads, dtype=torch.bool)
    query = _query(network.gm, node)
    source = query
    while source is not None and call_of(network.gm, source) is None:
        source = next((n for n in source.all_input_nodes if isinstance(run.env.get(n), Tensor)), None)
    if query is None or source is None:
        return none
    call, shape = call_of(network.gm, source), run.env[query].shape
    rows = _fresh(network, call.weight, 0)  # type: ignore[union-attr]  # the loop ended at a call
    axis = next((a for a in (1, 2) if len(shape) == 4 and shape[a] == heads), 0)
    if rows is None or (axis == 0 and shape[0] % heads):
        return none
    fresh, old = (_carried(run, source, query, mask.to(run.env[source])) for mask in (rows, ~rows))
    axes = [t.movedim(axis, 0) if axis else t.unflatten(0, (-1, heads)).movedim(1, 0) for t in (fresh, old)]
    some = [(t.flatten(1) != 0).any(1).cpu() for t in axes]
    return some[0] & ~some[1]


def _query(gm: GraphModule, node: Node) -> Node | None:
    """Return what asks: the first argument of attention, or of the product that a softmax reads."""
    while node is not None and family(gm, node) not in ("attention", "matrix product"):
        node = next(iter(node.all_input_nodes), None)  # type: ignore[assignment]
    return next(iter(node.all_input_nodes), None) if node is not None else None


def _carried(run: _Run, source: Node, target: Node, rows: Tensor) -> Tensor:
    """Return what reaches a node where another one gives the same for every position: `rows` of its last axis."""
    kept, values = run.env, dict(run.env)
    values[source] = rows.expand(kept[source].shape)
    reached = {source}
    run.env = values
    with torch.no_grad():
        for node in list(run.module.graph.nodes):
            if node is not source and not node > target and reached & set(node.all_input_nodes):
                values[node] = run.run_node(node)
                reached.add(node)
    run.env = kept
    return values[target]


def _new_in_layer(network: Network, layer: str, heads: int) -> Tensor:
    """Tell which heads of an attention layer are new: all positions that its weights have for them are."""
    for name, parameter in network.gm.named_parameters(remove_duplicate=False):
        for dim in range(parameter.ndim if name.startswith(f"{layer}.") else 0):
            fresh = _fresh(network, name, dim)
            if fresh is not None and fresh.any() and not len(fresh) % heads:
                parts = next((k for k in (3, 1) if not len(fresh) % (k * heads) and len(fresh) == parameter.shape[dim]
                              and (k == 1 or name.endswith("in_proj_weight"))), 1)
                return fresh.view(parts, heads, -1).all(2).all(0).cpu()
    return torch.zeros(heads, dtype=torch.bool)


def _fresh(network: Network, name: str, dim: int) -> Tensor | None:
    """Return which positions of an axis of a parameter are new; None: none of them."""
    entry = network.record.entry(name, network.gm.get_parameter(name).ndim)
    if entry.source is None:
        return torch.ones(network.gm.get_parameter(name).shape[dim], dtype=torch.bool)
    return entry.fresh[dim]


def _row(shown: Sequence[Network], found: Sequence[Maps | None]) -> list[Panel]:
    first = next(maps for maps in found if maps is not None)
    largest = max(float(maps.values.max()) for maps in found if maps is not None) or 1.0
    columns = max(1, round(max(len(maps.values) for maps in found if maps is not None) ** 0.5))
    row = []
    for network, maps in zip(shown, found):
        if maps is None:
            row.append(Panel(None, f"{network.name}\nhas no such layer", {"model": network.name, "layer": None}))
            continue
        old, reference = maps.values[~maps.new], first.values[~first.new]
        alike = old.shape == reference.shape
        gap = float((old - reference).abs().max()) if alike and old.numel() else None
        words = f"{network.name}\n{plain(maps.place)}, {len(maps.values)} heads"
        words += f", {int(maps.new.sum())} new" if network.record.lineage else ""
        words += f"\nold heads differ by {gap:.1e}" if gap is not None and maps is not first else ""
        row.append(Panel(_tiles(maps, largest, columns), words.strip(), {
            "model": network.name, "layer": maps.place, "heads": len(maps.values),
            "new_heads": maps.new.nonzero().flatten().tolist(), "difference": gap}))
    return row


def _tiles(maps: Maps, largest: float, columns: int) -> ndarray:
    """Draw maps [heads, asks, answers] in a grid, each in its frame, as uint8 [H, W, 3]; old heads come first."""
    order = torch.argsort(maps.new.long(), stable=True)
    grey = (255 * (1 - (maps.values[order] / largest).clamp(0, 1).sqrt())).round().to(torch.uint8).numpy()
    scale = max(1, -(-SIDE // max(grey.shape[1:])))
    grey = grey.repeat(scale, 1).repeat(scale, 2)
    count, high, wide = grey.shape
    rows = -(-count // columns)
    cells = numpy.full((rows * columns, high + 2 * MARGIN, wide + 2 * MARGIN, 3), 255, numpy.uint8)
    for i, new in enumerate(maps.new[order].tolist()):
        cells[i, MARGIN - RING:high + MARGIN + RING, MARGIN - RING:wide + MARGIN + RING] = BLUE if new else OLD
        cells[i, MARGIN:high + MARGIN, MARGIN:wide + MARGIN] = grey[i, :, :, None]
    cells = cells.reshape(rows, columns, *cells.shape[1:])
    return cells.transpose(0, 2, 1, 3, 4).reshape(rows * cells.shape[2], columns * cells.shape[3], 3)
