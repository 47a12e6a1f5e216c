"""grow_into: the numbers of a small model as a start for a bigger one of a stock class, which computes the same.

The captured graphs are matched (fxgrow/blocks/matching.py); what has no counterpart becomes the identity, kernels get zero
taps, axis classes are widened to the sizes that the big graph has, and constants of the stock class that differ (a norm's
eps) are folded into weights (fxgrow/identity/scales.py). No rule here knows a model.
"""
from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from fxgrow.aten import CONTRACTIONS, NORMS
from fxgrow.axis import OUTPUT, Atom, AxisClass, Fixed, analyse, atoms, classes, resolve
from fxgrow.blocks import Extra, Side, copied, ends, match, taps
from fxgrow.common import Refusal, times
from fxgrow.compare import TOLERANCE, Verification, verify
from fxgrow.contents import Certificate, certify
from fxgrow.errors import GrowthError
from fxgrow.graph import Captured, as_tuple, clone_structure, skeleton, tensors_of, uncached
from fxgrow.growth import Piece
from fxgrow.identity import Trace, Val, factors, identity_layer, results
from fxgrow.passes.into.plan import Plan, Step
from fxgrow.passes.into.result import GrownInto
from fxgrow.passes.into.sizes import Sizes, kept, without
from fxgrow.passes.kernel import Kernel
from fxgrow.passes.methods import Draws
from fxgrow.passes.support import identity_kernel, insist_known, rounded, seed_of, start_as_identity
from fxgrow.passes.widen import Widen
from fxgrow.record import GrowthRecord, ParameterRecord
from fxgrow.rewrite import Growth, record_of, rewrite
from fxgrow.tracing import capture_graph

METHODS = ("r2r", "net2net", "netmorph")
PLACES = ("end", "spread", "interleave")


def grow_into(small: nn.Module, big: nn.Module, example_inputs, *, method: Literal["r2r", "net2net", "netmorph"] = "r2r",
              place: Literal["end", "spread", "interleave"] = "end", approximate: bool = False, extend: bool = False,
              check: bool = True, seed: int | None = None) -> GrownInto:
    """Numbers for `big`, an untouched model of any class, by which it computes in eval mode what `small` does.

    Args:
        small: the trained model.
        big: the model to fill; its own numbers are where new ones start from. It is left as it is.
        example_inputs: a tensor or tuple of tensors that both models take.
        method: r2r (pairs that cancel, where there can be some), net2net (copies) or netmorph (zeros at the end). New layers
            without a skip path are identity layers whatever the method.
        place: where in a stage new blocks stand: at its end, spread among the old ones, or one behind each old one.
        approximate: where no way is exact, take the closest one; the verification says how far off it is.
        extend: the big model may give more numbers than the small one; the first along each axis are as before.
        check: compare both models on the example inputs.
        seed: of every random choice; None takes one from torch's global generator.

    Returns:
        A dictionary that `big.load_state_dict(..., strict=True)` takes, with `.model`, `.plan`, `.record`, `.verification`.

    Raises:
        GrowthError: there is no exact way; names the layer that forbids it, and why.
        CaptureError: a model cannot be captured.
    """
    return Into(small, big, example_inputs, method, place, approximate, extend, seed).grow(check)


class Into:
    """The two models, their match, and the steps from one to the other."""

    def __init__(self, small: nn.Module, big: nn.Module, example_inputs, method: str = "r2r", place: str = "end",
                 approximate: bool = False, extend: bool = False, seed: int | None = None):
        insist_known("method", method, METHODS)
        insist_known("place", place, PLACES)
        self.method, self.approximate, self.extend, self.seed = method, approximate, extend, seed_of(seed)
        self.inputs = as_tuple(example_inputs)
        self.original, self.target = small, _like(big, small)
        self.small, self.big = (capture_graph(m, self.inputs) for m in (small, self.target))
        self.side = Side(self.big)
        self.given = Side(self.small)
        self.match = match(self.given, self.side, place)
        self.steps: list[Step] = []
        self.names = self._names()
        self.neutral = dict(self._neutral())
        gm = clone_structure(self.small)
        Captured(gm).drop_growth()  # the record is about this growth alone
        gm = self._kernels(gm)
        self.tape, self.there = analyse(gm), analyse(self.big)
        self.terms = dict(term for e in self.match.extras if e.concat_axis is not None for term in self._term(e))
        self.growths = self._widen(gm)
        self.grown, self.record = self._rewritten(gm)
        self.logs = self._fold()
        self.pieces = [self._new(extra) for extra in sorted(self.match.extras, key=lambda e: e.span)]

    def plan(self) -> Plan:
        return Plan(self.steps, self.match, self.names, [s.name for s in self.steps if s.method == "approximate"])

    # -- names and sizes --------------------------------------------------------------------------------------------------

    def _names(self) -> dict[str, str]:
        """For each tensor of the big model that has one, the counterpart in the small one."""
        one, two = _canonical(self.small), _canonical(self.big)
        found: dict[str, str] = {}
        for a, b in self.match.nodes.items():
            pairs = [(str(x.target), str(y.target)) for x, y in zip(
                *([i for i in n.all_input_nodes if i.op == "get_attr"] for n in (a, b)))]
            if a.op == "call_module":
                pairs += [(f"{a.target}.{name}", f"{b.target}.{name}") for name in _tensors(self.small, str(a.target))]
            for x, y in ((one[x], two[y]) for x, y in pairs if x in one and y in two):  # others are flags (`bn.training`)
                if found.setdefault(y, x) != x:
                    raise GrowthError(f"the big model uses {y} where the small one has both {found[y]} and {x}")
        return found

    def _neutral(self) -> Iterator[tuple[str, float]]:
        """Tensors of the big model's layers that those of the small one have not, and what they change nothing with."""
        for a, b in self.match.nodes.items():
            for v, w in zip(self.given.trace.made.get(a.name, ()), self.side.trace.made.get(b.name, ())):
                at: list[tuple[int | None, float]] = []
                if w.name in CONTRACTIONS:
                    at = [(CONTRACTIONS[w.name][1], 0.0)]
                elif w.name in NORMS:
                    at = list(zip(NORMS[w.name][:2], (1.0, 0.0)))
                for i, number in at:
                    given = None if i is None or i >= len(w.of) or v.of[i] is not None else w.of[i]
                    if given is not None and given.source is not None:
                        yield given.source, number

    def _kernels(self, gm: GraphModule) -> GraphModule:
        """Larger kernels, where the big model has them."""
        growths = []
        for a, b in self.match.nodes.items():
            for v, w in zip(self.given.trace.made.get(a.name, ()), self.side.trace.made.get(b.name, ())):
                if v.name == "convolution" and (before := taps(v)) != (wanted := taps(w)):
                    name = v.ins[1].source
                    if name is None:
                        raise GrowthError(f"the kernel of {v.place} is computed, and cannot be made larger")
                    growths.append((name.rpartition(".")[0], wanted))
                    self.steps.append(Step("kernel", growths[-1][0], times(before), times(wanted), "zero taps"))
        for name, wanted in dict(growths).items():
            gm = Kernel(name, size=wanted)(gm).graph_module
        return gm

    def _wanted(self) -> dict[Atom, int]:
        """The size of each class of the small model in the big one."""
        sizes = Sizes()
        for theirs, ours in self.names.items():
            if ours not in self.tape.params or theirs not in self.there.params:
                continue
            for d, (e, f) in enumerate(zip(self.tape.params[ours].axes, self.there.params[theirs].axes)):
                sizes.relate(e, without(f, self.terms), f"axis {d} of {ours}")
        return sizes.solved()

    def _term(self, extra: Extra) -> Iterator[tuple[Atom, Certificate]]:
        """The classes of a part that is left out of concatenations, and how what reads them leaves them out, too."""
        value = self.there.node_values[extra.gives.name]
        for atom in atoms(resolve(value.axes[extra.concat_axis])):
            try:
                if atom.reason is not None:
                    raise Refusal(atom.reason)
                yield atom, certify(self.there, atom, "free")
            except Refusal as why:
                raise GrowthError(f"{extra.name} adds positions to a concatenation that cannot be left out: {why}") from why

    def _kept(self, name: str, dim: int) -> Tensor | None:
        """Which positions of an axis of the big model are not of parts left out (None: all)."""
        axis = resolve(self.there.params[name].axes[dim]) if name in self.there.params else Fixed(0)
        return kept(axis, self.terms) if self.terms.keys() & set(atoms(axis)) else None

    def _widen(self, gm: GraphModule) -> list[Growth]:
        wanted = {a: n for a, n in self._wanted().items() if n != a.size}
        widen, numbers, growths = Widen(by=1, method=self.method, seed=self.seed), Draws(self.seed, tensors_of(gm)), []  # type: ignore[arg-type]
        for c in classes(self.tape):
            if (size := wanted.get(c.atom)) is None:
                continue
            if c.reason == OUTPUT:
                if not self.extend:
                    raise GrowthError(f"{c.name} is {c.size} of the model's outputs, and {size} of the big one's: `extend` "
                                      "lets the big one give more, the first as before")
                self.tape.open(c.atom)
            elif c.reason is not None:
                raise GrowthError(f"{c.name} would grow from {c.size} to {size} positions, but it cannot: {c.reason}")
            try:
                growth = widen.growth(self.tape, c, size, numbers, self._fit)
            except Refusal as why:
                hint = "" if self.approximate else "; `approximate` takes the closest way"
                raise GrowthError(f"{c.name} cannot grow from {c.size} to {size} positions exactly: {why}{hint}") from why
            growths.append(growth)
            inexact = self._off(c, size, growth.certificate)
            self.steps.append(Step("widen", c.name, c.size, size, "approximate" if inexact else growth.method,
                                   f"not exact: {growth.certificate.uniform} takes a mean over it" if inexact
                                   else growth.note))
        return growths

    @staticmethod
    def _off(c: AxisClass, size: int, certificate: Certificate) -> bool:
        return bool(certificate.uniform) and size % c.size > 0

    def _fit(self, c: AxisClass, size: int, certificate: Certificate) -> tuple[int, str]:
        """Exactly the size of the big model."""
        if certificate.base == "pair" and (size - c.size) % 2:
            raise Refusal(f"{size - c.size} new positions are an odd number, and cannot come in pairs")
        return (size, "") if self.approximate else rounded(c, size, certificate)

    def _rewritten(self, gm: GraphModule) -> tuple[GraphModule, GrowthRecord]:
        growth = Captured(gm).record or GrowthRecord()
        if not self.growths:
            return gm, growth
        try:
            new = rewrite(gm, self.tape, self.growths)
        except Refusal as why:
            raise GrowthError(str(why)) from why
        return new, growth.then(record_of(self.tape, self.growths, {}))

    # -- constants --------------------------------------------------------------------------------------------------------

    def _fold(self) -> dict[str, float]:
        """The logarithms of the factors by which constants of the stock class are made up for."""
        changes: dict[Val, float] = {}
        self.eps: dict[str, tuple[str, float, float]] = {}  # weight of a batch norm: its variance, eps here, eps there
        small, there = self.given.trace.made, self.side.trace
        here = Trace(self.grown).made if self.growths else small
        for a, b in self.match.nodes.items():
            theirs = there.made.get(b.name, [])
            ours = here.get(a.name, [])
            if [v.name for v in ours] != [w.name for w in theirs]:
                ours = small.get(a.name, [])  # a layer rewritten with its constants as they were
            for v, w in zip(ours, theirs):
                if (ratio := _ratio(v, w)) == 1 or w.at:
                    continue
                if w.name != "native_batch_norm":
                    changes[w] = math.log(ratio) / (2 if w.name in NORMS else 1)
                elif (weight := w.of[1]) is not None and (variance := w.of[4]) is not None and weight.source:
                    self.eps[weight.source] = variance.source or "", _eps(v), _eps(w)
        if not changes:
            return {}
        ops = [w for b in self.match.nodes.values() for w in there.made.get(b.name, ())]
        same = [(there.gives[e.gives.name], there.gives[e.takes.name]) for e in self.match.extras if e.takes is not None]
        output = next(iter(self.big.graph.find_nodes(op="output")))
        try:
            logs = factors(there, ops, same, results(there, output), lambda w: changes.get(w, 0.0))
        except Refusal as why:
            self.steps.append(Step("rescale", ", ".join(dict.fromkeys(w.place for w in changes)), method="not possible",
                                   note=f"constants of the class differ, and weights cannot make up for them: {why}"))
            return {}
        some = ", ".join(list(logs)[:3]) + (f" and {len(logs) - 3} more" if len(logs) > 3 else "")
        self.steps.append(Step("rescale", some, method="fold", note=f"{len(changes)} constants of the class (eps, a "
                               "scale) differ; these weights make up for them"))
        return logs

    # -- what is new ------------------------------------------------------------------------------------------------------

    def _new(self, extra: Extra) -> dict[str, Tensor]:
        """The numbers of a block or layer that is to be the identity."""
        if extra.concat_axis is not None:
            self.steps.append(Step("deepen", extra.name, method="netmorph", note="what reads its result starts at zero"))
            return {}
        if not extra.is_block:
            self.steps.append(Step("deepen", extra.name, method="net2net", note="an identity layer"))
            return self._layer(extra)
        x, _ = ends(extra, self.side.trace)
        piece = copied(self.big, extra, self.side.trace, extra.name)
        note = ""
        if self.method == "net2net" and (like := self._neighbour(extra, piece)) is not None:
            note = f"copies of {like}; "
        try:
            start = start_as_identity(piece, x.range, Draws(self.seed + extra.span[0]), pairs=self.method == "r2r",
                                      draw=False, normal=extra.norms is not None)
        except Refusal as why:
            raise GrowthError(f"{extra.name} cannot start as the identity: {why}") from why
        kept = start.pairs if self.method == "r2r" else note if self.method == "net2net" else True
        method = self.method if kept else "netmorph"
        if extra.norms is not None:
            note += f"the last norm takes weight and bias of {extra.norms[0][0].rpartition('.')[0]}, exact but for eps; "
        self.steps.append(Step("deepen", extra.name, method=method, note=note + "; ".join(start.paths)))
        return {n: t.detach() for n, t in piece.tensors().items() if n.startswith(extra.name + ".")}

    def _neighbour(self, extra: Extra, piece: Piece) -> str | None:
        """Gives a piece the numbers of the nearest old block before it that has the same tensors; its name."""
        grown = self._old()
        parts = extra.name.split(".")
        same = {n: t for n, t in piece.tensors().items() if n.startswith(extra.name + ".")}
        paths = dict.fromkeys(".".join(n.split(".")[:len(parts)]) for n in grown)
        for path in reversed(list(paths)):
            there = {n: grown.get(path + n.removeprefix(extra.name)) for n in same}
            if path.rpartition(".")[0] == extra.name.rpartition(".")[0] and all(
                    t is not None and t.shape == same[n].shape for n, t in there.items()):
                with torch.no_grad():
                    for name, tensor in there.items():
                        same[name].copy_(tensor)  # type: ignore[arg-type]
                return path
        return None

    def _layer(self, extra: Extra) -> dict[str, Tensor]:
        trace, tensors = self.side.trace, tensors_of(self.big)
        first = self.side.nodes[extra.span[0]]
        given = self.side.inputs(first)[0].name
        x = trace.reads.get((first.name, given), trace.gives[given])
        found = identity_layer(x, trace.gives[extra.gives.name])
        new = {n: torch.zeros_like(tensors[n]) for n in found.zeros}
        for name in found.units:
            new[name] = identity_kernel(tensors[name])
        for weight, variance, eps in found.slopes:
            if weight is None:
                new[variance] = torch.full_like(tensors[variance], 1 - eps)
            else:
                new[weight] = (tensors[variance] + eps).sqrt()
        return {n: t.detach() for n, t in new.items()}

    # -- the result -----------------------------------------------------------------------------------------------------

    def _old(self) -> dict[str, Tensor]:
        """The big model's tensors that come from the small one."""
        grown = tensors_of(self.grown)
        found = {}
        for theirs, ours in self.names.items():
            value = grown[ours].detach()
            if theirs in self.logs:
                value = value * math.exp(self.logs[theirs])
            if theirs in self.eps:
                variance, here, there = self.eps[theirs]
                value = value * ((grown[self.names[variance]] + there) / (grown[self.names[variance]] + here)).sqrt()
            found[theirs] = value
        return found

    def grow(self, check: bool = True) -> GrownInto:
        model = copy.deepcopy(self.target)
        tensors = tensors_of(model)
        record = GrowthRecord(lineage=[{"pass": "grow_into", "method": self.method, "seed": self.seed}],
                              certificate=[asdict(s) for s in self.steps], origin={"": skeleton(self.small)})
        record.parameters = {n: ParameterRecord.new(t.ndim) for n, t in tensors.items()}
        with torch.no_grad():
            for name, number in self.neutral.items():
                tensors[name].fill_(number)
            for (name, dim), content in self._zeros():
                _blank(tensors[name], dim, self._kept(name, dim), content)
            for name, value in [*self._old().items(), *(item for new in self.pieces for item in new.items())]:
                value = self._placed(name, tensors[name], value)
                if tensors[name].shape != value.shape:
                    raise GrowthError(f"{name} is {list(tensors[name].shape)} in the big model, and would be "
                                      f"{list(value.shape)} by what its class grows to")
                tensors[name].copy_(value)
        for theirs, ours in self.names.items():
            entry = self._entry(theirs, self.record.entry(ours, tensors[theirs].ndim))
            entry.scale *= math.exp(self.logs.get(theirs, 0.0))
            record.parameters[theirs] = entry
        for extra in sorted(self.match.extras, key=lambda e: e.span):
            for one, other, plain in zip(*(extra.norms or ((), ())), (1.0, 0.0)):
                with torch.no_grad():
                    tensors[other].copy_(tensors[one])
                    tensors[one].fill_(plain)
                record.parameters[other], record.parameters[one] = record.parameters[one], ParameterRecord.new(1)
        record.removed = tensors_of(self.small).keys() - tensors.keys()
        found = GrownInto.of(model)
        found.plan, found.record = self.plan(), record
        with uncached(self.original, model):
            found.verification = checked = self._allowing(verify(
                self.original, model, self.inputs, extended=self.extend)) if check else None
        if checked is not None and not checked.ok and not self.approximate:
            raise GrowthError(f"the two models differ by {checked.max_rel_error:.2g} of the largest output{self._doubt()}; "
                              "`approximate` gives these numbers all the same")
        return found

    def _zeros(self) -> Iterator[tuple[tuple[str, int], Any]]:
        """Where what the small model has reads parts that are left out, and what stands there."""
        for certificate in self.terms.values():
            yield from ((place, content) for place, content in certificate.contents.items() if place[0] in self.names)

    def _placed(self, name: str, tensor: Tensor, value: Tensor) -> Tensor:
        """A tensor of the small model at its places among parts that are left out."""
        if not self.terms:
            return value
        masks = [self._kept(name, d) for d in range(tensor.ndim)]
        if all(m is None for m in masks):
            return value
        whole = tensor.detach().clone()
        index = torch.meshgrid(*(torch.arange(n) if m is None else m.nonzero().flatten()
                                 for m, n in zip(masks, tensor.shape)), indexing="ij")
        if index[0].shape == value.shape:
            whole[index] = value
            return whole
        return value

    def _entry(self, name: str, entry: ParameterRecord) -> ParameterRecord:
        """The record of a tensor, with the positions of parts left out as new ones."""
        entry = ParameterRecord(entry.source, [*entry.index], [*entry.fresh], [*entry.shares], entry.scale)
        for dim in range(len(entry.index)):
            if (mask := self._kept(name, dim)) is not None:
                maps = entry.index[dim], entry.fresh[dim], entry.shares[dim]
                count = int(mask.sum())
                defaults = torch.arange(count), torch.zeros(count, dtype=torch.bool), torch.ones(count, dtype=torch.float64)
                index, fresh, shares = (d if m is None else m for m, d in zip(maps, defaults))
                entry.index[dim] = torch.full(mask.shape, -1).masked_scatter(mask, index)
                entry.fresh[dim] = torch.ones_like(mask).masked_scatter(mask, fresh)
                if maps[2] is not None:
                    entry.shares[dim] = torch.ones(mask.shape, dtype=shares.dtype).masked_scatter(mask, shares)
        return entry

    def _allowing(self, checked: Verification) -> Verification:
        """A comparison by the tolerance of the least exact type that the big model computes in, whatever its numbers are."""
        kinds = {v.tensor.dtype for made in self.side.trace.made.values() for v in made if v.tensor.is_floating_point()}
        tolerance = max((TOLERANCE[k] for k in kinds if k in TOLERANCE), default=0.0)
        if tolerance <= checked.tolerance:
            return checked
        exact = tuple(mode for mode, error in checked.errors.items() if error <= tolerance)
        note = "its class computes partly in a type of less precision"
        return replace(checked, tolerance=tolerance, exact_in=exact, notes=(*checked.notes, note))

    def _doubt(self) -> str:
        """What may be the reason for a difference."""
        return "".join(f"; {s.name}: {s.note}" for s in self.steps if s.method == "not possible")


def _blank(tensor: Tensor, dim: int, kept: Tensor | None, content: Any) -> None:
    """Zeros at the positions that are left out, if that is what stands there."""
    if content == "zero" and kept is not None:
        tensor.index_fill_(dim, (~kept).nonzero().flatten().to(tensor.device), 0.0)


def _like(big: nn.Module, small: nn.Module) -> nn.Module:
    """The big model with numbers of the small one's type, on its device."""
    if any(t.is_meta for model in (small, big) for t in tensors_of(model).values()):
        raise GrowthError("a model on the meta device has no numbers: build both with numbers")
    like = next((p for p in small.parameters() if p.is_floating_point()), None)
    first = next((p for p in big.parameters() if p.is_floating_point()), None)
    if like is None or first is None or (like.dtype, like.device) == (first.dtype, first.device):
        return big
    return copy.deepcopy(big).to(dtype=like.dtype, device=like.device)


def _canonical(gm: GraphModule) -> dict[str, str]:
    """For each name of a tensor, the first one that it has."""
    first: dict[int, str] = {}
    return {name: first.setdefault(id(t), name) for name, t in tensors_of(gm).items()}


def _tensors(gm: GraphModule, path: str) -> Mapping[str, Tensor]:
    return tensors_of(gm.get_submodule(path))


def _eps(v: Val) -> float:
    eps = v.arg(NORMS[v.name][3])
    return float(torch.finfo(v.tensor.dtype).eps if eps is None else eps)


def _ratio(v: Val, w: Val) -> float:
    """The constant of an op there over that here (one where there is none, or they agree)."""
    if v.name in NORMS:
        return _eps(w) / _eps(v)
    here, there = (u.arg(1) for u in (v, w))
    plain = isinstance(here, (int, float)) and isinstance(there, (int, float)) and v.name in ("mul", "div", "add")
    return there / here if plain and here and there else 1.0
