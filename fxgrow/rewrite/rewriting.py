"""Rewriting: growths of classes become new tensors, attributes of layers and arguments of calls.

The analysis says which axis expression every tensor has, and so the new size of everything; sizes.py checks it.
"""
from collections.abc import Sequence

from torch import Tensor
from torch.fx import GraphModule

from fxgrow.axis import Atom, Op, Tape
from fxgrow.graph import Captured, clone_structure, compile_code, copy_of, named_tensors, skeleton
from fxgrow.record import GrowthRecord, ParameterRecord
from fxgrow.rewrite.folds import drop_idle, keep_copies_together
from fxgrow.rewrite.growth import GrownSizes, Growth, contents_by_tensor
from fxgrow.rewrite.layers import resize
from fxgrow.rewrite.sizes import correct_sizes
from fxgrow.rewrite.tensors import IndexMaps, grow_tensors, scalings


def rewrite(gm: GraphModule, tape: Tape, growths: Sequence[Growth]) -> GraphModule:
    """Return a new module with the growths applied, or raise a Refusal where a node cannot take its new sizes.

    Of a module that is released all sizes are found to fit before its tensors are given up.
    """
    release = Captured(gm).released
    if release:
        _rewritten(skeleton(gm), tape, growths, release=False)
    return _rewritten(gm, tape, growths, release)


def _rewritten(gm: GraphModule, tape: Tape, growths: Sequence[Growth], release: bool) -> GraphModule:
    grown = GrownSizes(tape, {g.atom: g.size for g in growths})
    old: dict[str, Tensor] = dict(named_tensors(gm))
    tensors = grow_tensors(tape, old, growths, release)
    by_id = {id(t): tensors[name] if name in tensors else t.detach() if release else copy_of(t)
             for name, t in old.items()}
    new: GraphModule = clone_structure(gm, lambda t: by_id[id(t)])  # type: ignore[assignment]
    resize(new, grown, _eps_ratios(growths), _classes_of_numbers(growths))
    keep_copies_together(new, grown)
    correct_sizes(new, grown)
    drop_idle(new, grown)
    compile_code(new)
    return new


def _eps_ratios(growths: Sequence[Growth]) -> dict[Op | str, float]:
    """Return the factor on the eps of each norm over classes that grow, n/m of a layer, and on numbers that nodes add."""
    ratios: dict[Op | str, float] = {}
    for g in growths:
        for node, power in g.certificate.numbers.items():
            ratios[node] = ratios.get(node, 1.0) * power.of(g.atom.size, g.size)
        for op in {norm.op for norm in g.certificate.norms if norm.eps}:
            ratios[op] = ratios.get(op, 1.0) * g.atom.size / g.size
    return ratios


def _classes_of_numbers(growths: Sequence[Growth]) -> dict[str, list[Atom]]:
    """Return, for each node whose number is rescaled, the classes for whose growth it is."""
    classes: dict[str, list[Atom]] = {}
    for g in growths:
        for node in g.certificate.numbers:
            classes.setdefault(node, []).append(g.atom)
    return classes


def record_of(tape: Tape, growths: Sequence[Growth], step: dict) -> GrowthRecord:
    """Return the record of growths: index maps, new positions and scales of every parameter that they change."""
    record = GrowthRecord(lineage=[step])
    scales, maps_of = scalings(growths), IndexMaps(growths)
    changed = {**dict.fromkeys(scales, {}), **contents_by_tensor(growths)}
    for name in filter(changed.__contains__, tape.params):  # in this order, since sets of names have another in each process
        dims = changed[name]
        maps: list[tuple] = [(None, None, None)] * len(tape.params[name].axes)
        for dim, contents in dims.items():
            maps[dim] = maps_of.of(tape.params[name].axes[dim], contents)
        index, fresh, shares = map(list, zip(*maps))
        record.parameters[name] = ParameterRecord(name, index, fresh, shares, *scales.get(name, (1.0, 0.0)))
    return record
