"""Rewriting: growths of atoms become new tensors, module attributes and node arguments.

The analysis says which axis expression every tensor has; so the new size of everything is known, and the rewritten
graph is run once on meta tensors and compared with it. A node that disagrees gets its size arguments written out; one
that still disagrees refuses the growth (`Refusal`), and the caller leaves those classes alone.
"""
from __future__ import annotations

from collections.abc import Sequence

from torch.fx import GraphModule

from fxgrow.axis import Atom, Op, Tape, resolve, size_of
from fxgrow.contents import Content
from fxgrow.graph import clone_structure
from fxgrow.record import GrowthRecord, ParameterRecord
from fxgrow.rewrite.copies import keep_copies_together
from fxgrow.rewrite.growth import Growth
from fxgrow.rewrite.layers import resize
from fxgrow.rewrite.residual import drop_idle
from fxgrow.rewrite.sizes import fit
from fxgrow.rewrite.tensors import grow_tensors, index_map, rescaled


def rewrite(gm: GraphModule, tape: Tape, growths: Sequence[Growth]) -> GraphModule:
    """A new module with the growths applied; the old one is untouched.

    Raises:
        Refusal: a node cannot take its new sizes.
    """
    sizes = {g.atom: g.size for g in growths}
    tensors = {**dict(gm.named_parameters()), **dict(gm.named_buffers())}
    grown = grow_tensors(tape, tensors, growths)
    new_of = {id(t): grown[n] if n in grown else t.detach().clone() for n, t in tensors.items()}
    new = clone_structure(gm, lambda t: new_of[id(t)])
    modules = dict(new.named_modules(remove_duplicate=False))
    ratios: dict[Op, float] = {}
    for g in growths:
        for op in {norm.op for norm in g.certificate.norms}:
            ratios[op] = ratios.get(op, 1.0) * g.atom.size / g.size
    rescaled_eps: set[int] = set()
    for node in new.graph.nodes:
        resize(new, modules, node, tape, sizes, ratios, rescaled_eps)
    keep_copies_together(new, tape, sizes)
    fit(new, tape, sizes)
    drop_idle(new, lambda x, dim: size_of(tape.node_values[x.name].axes[dim], sizes))
    new.recompile()
    return new


def record_of(tape: Tape, growths: Sequence[Growth], step: dict) -> GrowthRecord:
    """Index maps, new positions and scales of every parameter that the growths change."""
    record = GrowthRecord(lineage=[step])
    of = {g.atom: g for g in growths}
    scales = rescaled(growths)
    places: dict[str, dict[int, dict[Atom, Content]]] = {}
    for g in growths:
        for (name, dim), content in g.certificate.contents.items():
            places.setdefault(name, {}).setdefault(dim, {})[g.atom] = content
    known: dict[tuple, tuple] = {}  # most axes are those of several parameters
    for name, dims in places.items():
        maps: list[tuple] = [(None, None, None)] * len(tape.params[name].axes)
        for dim, contents in dims.items():
            axis = resolve(tape.params[name].axes[dim])
            key = (axis, *contents.items())
            if key not in known:
                known[key] = index_map(axis, contents, of)
            maps[dim] = known[key]
        record.parameters[name] = ParameterRecord(name, *map(list, zip(*maps)), scales.get(name, 1.0))  # type: ignore[arg-type, call-arg]
    return record
