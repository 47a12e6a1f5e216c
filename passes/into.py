"""grow_into: the numbers of a small model as a start for a bigger one of a stock class, which computes the same.

The captured graphs are matched (fxgrow/_match.py); what has no counterpart becomes the identity, kernels get zero taps, axis
classes are widened to the sizes that the big graph has, and constants of the stock class that differ (a norm's eps) are
folded into weights (fxgrow/_scales.py). No rule here knows a model.
"""
from __future__ import annotations

import copy
import math
import os
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from fxgrow import _block
from fxgrow._analysis import analyse
from fxgrow._atomic import atomic_write
from fxgrow._axis import Atom, Fixed, Prod, Sum, atoms, resolve, size_of
from fxgrow._capture import as_tuple, capture_graph, clone_structure, skeleton, uncached
from fxgrow._classes import AxisClass, classes
from fxgrow._content import Certificate, Inexact
from fxgrow._identity import NORMS, NoIdentity, Trace, Val, identity_layer
from fxgrow._match import Extra, Match, Side, match
from fxgrow._record import GrowthRecord, ParameterRecord, tensors_of
from fxgrow._rewrite import Refused, record_of, rewrite
from fxgrow._scales import Unfoldable, factors, results
from fxgrow._tensors import Growth
from fxgrow._verify import Verification, verify
from fxgrow.errors import GrowthError
from fxgrow.passes.kernel import Kernel
from fxgrow.passes.options import insist_known, seed_of
from fxgrow.passes.start import Numbers, settle
from fxgrow.passes.widen import Widen, fitted, numbers_of

METHODS = ("r2r", "net2net", "netmorph")
PLACES = ("end", "spread", "interleave")


@dataclass
class Step:
    """One step of a plan: `kernel`, `widen`, `deepen` or `rescale`; what it is about, from what to what, and how."""
    kind: str
    name: str
    before: Any = None
    after: Any = None
    method: str = ""
    note: str = ""


class GrownInto(OrderedDict):
    """A state_dict of the big model, and how it came about.

    model: a copy of the big model with these numbers. record: where each number came from. verification: the small model
    and this one on the example inputs (None: not asked for). exact: whether every step preserves the function.
    """
    model: nn.Module
    plan: Plan
    record: GrowthRecord
    verification: Verification | None

    def __reduce__(self):
        return OrderedDict, (), None, None, iter(self.items())

    def state_dict(self) -> OrderedDict:
        """The numbers alone, as a plain dictionary."""
        return OrderedDict(self)

    def explain(self) -> str:
        """The steps as a table: what was done, how, and why it is exact."""
        return self.plan.explain()

    def unreached(self, example_inputs, steps: int = 2) -> dict[str, int]:
        """How many new numbers of each parameter get no gradient in so many steps of training on the example inputs."""
        from fxgrow.passes.reach import unreached
        with uncached(self.model):
            return unreached(self.model, as_tuple(example_inputs), self.record, steps)

    def save(self, path: str | os.PathLike) -> None:
        """Writes the numbers as a plain state_dict: as torch.save does, or safetensors by the suffix of the path."""
        plain = {n: t.detach().cpu().contiguous() for n, t in self.items()}
        with atomic_write(path) as file:
            if os.fspath(path).endswith(".safetensors"):
                from safetensors.torch import save
                file.write(save({n: t.clone() for n, t in plain.items()}))
            else:
                torch.save(OrderedDict(plain), file)


@dataclass
class Plan:
    """What it takes to make one model of the other, step by step."""
    steps: list[Step]
    match: Match
    names: dict[str, str]  # of the big model's tensors: that of the small model's
    approximate: list[str]

    def to_json(self) -> list[dict]:
        return [asdict(s) for s in self.steps]

    def table(self):
        from rich.table import Table
        table = Table(title="From the small model to the big one")
        for column in ("step", "layer or class", "from", "to", "method", "why it is exact"):
            table.add_column(column, overflow="fold")
        for s in self.steps:
            table.add_row(s.kind, s.name, *("" if v is None else str(v) for v in (s.before, s.after)), s.method, s.note)
        return table

    def explain(self) -> str:
        from fxgrow._classes import render
        return render(self.table())


def grow_into(small: nn.Module, big: nn.Module, example_inputs, *, method: Literal["r2r", "net2net", "netmorph"] = "r2r",
              place: Literal["end", "spread", "interleave"] = "end", approximate: bool = False, check: bool = True,
              seed: int | None = None) -> GrownInto:
    """Numbers for `big`, an untouched model of any class, by which it computes in eval mode what `small` does.

    Args:
        small: the trained model.
        big: the model to fill; its own numbers are where new ones start from. It is left as it is.
        example_inputs: a tensor or tuple of tensors that both models take.
        method: r2r (pairs that cancel, where there can be some), net2net (copies) or netmorph (zeros at the end). New layers
            without a skip path are identity layers whatever the method.
        place: where in a stage new blocks stand: at its end, spread among the old ones, or one behind each old one.
        approximate: where no way is exact, take the closest one; the verification says how far off it is.
        check: compare both models on the example inputs.
        seed: of every random choice; None takes one from torch's global generator.

    Returns:
        A dictionary that `big.load_state_dict(..., strict=True)` takes, with `.model`, `.plan`, `.record`, `.verification`.

    Raises:
        GrowthError: there is no exact way; names the layer that forbids it, and why.
        CaptureError: a model cannot be captured.
    """
    return Into(small, big, example_inputs, method, place, approximate, seed).grow(check)


class Into:
    """The two models, their match, and the steps from one to the other."""

    def __init__(self, small: nn.Module, big: nn.Module, example_inputs, method: str = "r2r", place: str = "end",
                 approximate: bool = False, seed: int | None = None):
        insist_known("method", method, METHODS)
        insist_known("place", place, PLACES)
        self.method, self.approximate, self.seed = method, approximate, seed_of(seed)
        self.inputs = as_tuple(example_inputs)
        self.original, self.target = small, _like(big, small)
        self.small, self.big = (capture_graph(m, self.inputs) for m in (small, self.target))
        self.side = Side(self.big)
        self.given = Side(self.small)
        self.match = match(self.given, self.side, place)
        self.steps: list[Step] = []
        self.names = self._names()
        gm = self._kernels(clone_structure(self.small))
        self.tape = analyse(gm)
        self.growths = self._widen(gm)
        self.grown, self.record = self._rewritten(gm)
        self.logs = self._fold()
        self.pieces = [self._new(extra) for extra in sorted(self.match.extras, key=lambda e: e.first)]

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
            for x, y in pairs:
                x, y = one.get(x, x), two.get(y, y)
                if found.setdefault(y, x) != x:
                    raise GrowthError(f"the big model uses {y} where the small one has both {found[y]} and {x}")
        return found

    def _kernels(self, gm: GraphModule) -> GraphModule:
        """Larger kernels, where the big model has them."""
        trace, growths = Trace(gm), []
        for a, b in self.match.nodes.items():
            for v, w in zip(trace.made.get(a.name, ()), self.side.trace.made.get(b.name, ())):
                if v.name == "convolution" and (taps := _taps(v)) != (wanted := _taps(w)):
                    name = v.ins[1].source
                    if name is None:
                        raise GrowthError(f"the kernel of {v.place} is computed, and cannot be made larger")
                    growths.append((name.rpartition(".")[0], wanted))
                    self.steps.append(Step("kernel", growths[-1][0], _by(taps), _by(wanted), "zero taps"))
        for name, wanted in dict(growths).items():
            gm = Kernel(name, size=wanted)(gm).graph_module
        return gm

    def _wanted(self) -> dict[Atom, int]:
        """The size of each class of the small model in the big one."""
        other, sizes = analyse(self.big), Sizes()
        for theirs, ours in self.names.items():
            if ours not in self.tape.params or theirs not in other.params:
                continue
            for d, (e, f) in enumerate(zip(self.tape.params[ours].axes, other.params[theirs].axes)):
                sizes.relate(e, f, f"axis {d} of {ours}")
        return sizes.solved()

    def _widen(self, gm: GraphModule) -> list[Growth]:
        wanted = {a: n for a, n in self._wanted().items() if n != a.size}
        widen, numbers, growths = Widen(by=1, method=self.method, seed=self.seed), numbers_of(gm, self.seed), []  # type: ignore[arg-type]
        for c in classes(self.tape):
            if (size := wanted.get(c.atom)) is None:
                continue
            if c.reason is not None:
                raise GrowthError(f"{c.name} would grow from {c.size} to {size} positions, but it cannot: {c.reason}")
            try:
                growth = widen.growth(self.tape, c, size, numbers, self._fit)
            except Inexact as why:
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
        return certificate.uniform and size % c.size > 0

    def _fit(self, c: AxisClass, size: int, certificate: Certificate) -> tuple[int, str]:
        """Exactly the size of the big model."""
        if certificate.base == "pair" and (size - c.size) % 2:
            raise Inexact(f"{size - c.size} new positions are an odd number, and cannot come in pairs")
        return (size, "") if self.approximate else fitted(c, size, certificate)

    def _rewritten(self, gm: GraphModule) -> tuple[GraphModule, GrowthRecord]:
        growth = gm.meta.get("growth", {}).get("record", GrowthRecord())
        if not self.growths:
            return gm, growth
        try:
            new = rewrite(gm, self.tape, self.growths)
        except Refused as why:
            raise GrowthError(str(why)) from why
        return new, growth.then(record_of(self.tape, self.growths, {}))

    # -- constants --------------------------------------------------------------------------------------------------------

    def _fold(self) -> dict[str, float]:
        """The logarithms of the factors by which constants of the stock class are made up for."""
        changes: dict[Val, float] = {}
        self.eps: dict[str, tuple[str, float, float]] = {}  # weight of a batch norm: its variance, eps here, eps there
        here, small, there = Trace(self.grown).made, self.given.trace.made, self.side.trace
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
        same = [(there.gives[e.out.name], there.gives[e.x.name]) for e in self.match.extras]
        output = next(iter(self.big.graph.find_nodes(op="output")))
        try:
            logs = factors(there, ops, same, results(there, output), lambda w: changes.get(w, 0.0))
        except Unfoldable as why:
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
        if extra.block is None:
            self.steps.append(Step("deepen", extra.path, method="net2net", note="an identity layer"))
            return self._layer(extra)
        x, out = extra.block.values(self.side.trace)
        piece = _block.copied(self.big, extra.block, self.side.trace, extra.path)
        note = ""
        if self.method == "net2net" and (like := self._neighbour(extra, piece)) is not None:
            note = f"copies of {like}; "
        try:
            start = settle(piece, x.range, pairs=self.method == "r2r", draw=False,
                           numbers=Numbers(self.seed + extra.first))
        except NoIdentity as why:
            raise GrowthError(f"{extra.path} cannot start as the identity: {why}") from why
        kept = start.pairs if self.method == "r2r" else note if self.method == "net2net" else True
        method = self.method if kept else "netmorph"
        self.steps.append(Step("deepen", extra.path, method=method, note=note + "; ".join(start.paths)))
        return {n: t.detach() for n, t in piece.tensors().items() if n.startswith(extra.path + ".")}

    def _neighbour(self, extra: Extra, piece: _block.Piece) -> str | None:
        """Gives a piece the numbers of the nearest old block before it that has the same tensors; its name."""
        grown = self._old()
        parts = extra.path.split(".")
        same = {n: t for n, t in piece.tensors().items() if n.startswith(extra.path + ".")}
        paths = dict.fromkeys(".".join(n.split(".")[:len(parts)]) for n in grown)
        for path in reversed(list(paths)):
            there = {n: grown.get(path + n.removeprefix(extra.path)) for n in same}
            if path.rpartition(".")[0] == extra.path.rpartition(".")[0] and all(
                    t is not None and t.shape == same[n].shape for n, t in there.items()):
                with torch.no_grad():
                    for name, tensor in there.items():
                        same[name].copy_(tensor)  # type: ignore[arg-type]
                return path
        return None

    def _layer(self, extra: Extra) -> dict[str, Tensor]:
        trace, tensors = self.side.trace, tensors_of(self.big)
        first = self.side.nodes[extra.first]
        x = trace.reads.get((first.name, self.side.inputs(first)[0].name), trace.gives[extra.x.name])
        found = identity_layer(x, trace.gives[extra.out.name])
        new = {n: torch.zeros_like(tensors[n]) for n in found.zeros}
        for name in found.units:
            new[name] = _unit(tensors[name])
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
            for name, value in [*self._old().items(), *(item for new in self.pieces for item in new.items())]:
                if tensors[name].shape != value.shape:
                    raise GrowthError(f"{name} is {list(tensors[name].shape)} in the big model, and would be "
                                      f"{list(value.shape)} by what its class grows to")
                tensors[name].copy_(value)
        for theirs, ours in self.names.items():
            entry = copy.copy(self.record.entry(ours, tensors[theirs].ndim))
            entry.scale *= math.exp(self.logs.get(theirs, 0.0))
            record.parameters[theirs] = entry
        record.removed = tensors_of(self.small).keys() - tensors.keys()
        found = GrownInto(model.state_dict())
        found.model, found.plan, found.record = model, self.plan(), record
        with uncached(self.original, model):
            found.verification = checked = verify(self.original, model, self.inputs) if check else None
        if checked is not None and not checked.ok and not self.approximate:
            raise GrowthError(f"the two models differ by {checked.max_rel_error:.2g} of the largest output{self._doubt()}; "
                              "`approximate` gives these numbers all the same")
        return found

    def _doubt(self) -> str:
        """What may be the reason for a difference."""
        return "".join(f"; {s.name}: {s.note}" for s in self.steps if s.method == "not possible")


class Sizes:
    """The sizes of the small model's classes, from pairs of axes: an expression here, and one there."""

    def __init__(self) -> None:
        self.found: dict[Atom, tuple[int, str]] = {}
        self.open: list[tuple[Any, int, str]] = []

    def relate(self, e, f, where: str) -> None:
        e, f = resolve(e), resolve(f)
        if isinstance(e, Atom):
            size, first = self.found.setdefault(e, (f.size, where))
            if size != f.size:
                raise GrowthError(f"{where} has {f.size} positions in the big model, and {first}, whose positions are the "
                                  f"same, has {size}")
            if size < e.size:
                raise GrowthError(f"{where} would shrink from {e.size} to {size} positions")
        elif isinstance(e, (Prod, Sum)) and type(e) is type(f) and len(e.parts) == len(f.parts) and \
                all(p.size <= q.size and not (isinstance(p, Fixed) and p.size != q.size) for p, q in zip(e.parts, f.parts)):
            for p, q in zip(e.parts, f.parts):
                self.relate(p, q, where)
        else:
            self.open.append((e, f.size, where))

    def solved(self) -> dict[Atom, int]:
        """The sizes, with those that follow from the rest of the axes.

        Raises:
            GrowthError: there are none.
        """
        sizes = {a: n for a, (n, _) in self.found.items()}
        for e, size, where in self.open:
            unknown = [a for a in dict.fromkeys(atoms(e)) if a not in sizes]
            rest = size_of(e, sizes)
            if rest != size and len(unknown) == 1:
                one = size_of(e, {**sizes, unknown[0]: 1}), size_of(e, {**sizes, unknown[0]: 2})
                step = one[1] - one[0]
                if step and (size - one[0]) % step == 0 and (count := (size - one[0]) // step + 1) >= unknown[0].size:
                    sizes[unknown[0]] = count
                    continue
            if rest != size:
                raise GrowthError(f"{where} is {e} here and has {size} positions in the big model: which of its factors is "
                                  "to grow does not follow" if len(unknown) > 1 else
                                  f"{where} is {e} and cannot have the {size} positions that it has in the big model")
        return sizes


def _like(big: nn.Module, small: nn.Module) -> nn.Module:
    """The big model with numbers of the small one's type, on its device."""
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


def _taps(v: Val) -> list[int]:
    return list(v.ins[1].tensor.shape[2:])


def _by(sizes: list[int]) -> str:
    return "x".join(map(str, sizes))


def _eps(v: Val) -> float:
    eps = v.arg(NORMS[v.name][3])
    return float(torch.finfo(v.tensor.dtype).eps if eps is None else eps)


def _ratio(v: Val, w: Val) -> float:
    """The constant of an op there over that here (one where there is none, or they agree)."""
    if v.name in NORMS:
        return _eps(w) / _eps(v)
    here, there = (u.arg(1) for u in (v, w))
    if v.name in ("mul", "div") and isinstance(here, (int, float)) and isinstance(there, (int, float)) and here and there:
        return there / here
    return 1.0


def _unit(weight: Tensor) -> Tensor:
    """A kernel whose middle tap gives each channel back."""
    new = torch.zeros_like(weight)
    middle = tuple(s // 2 for s in weight.shape[2:])
    for o in range(weight.shape[0]):
        new[(o, o % weight.shape[1], *middle)] = 1
    return new


__all__ = ["GrownInto", "Into", "Plan", "Step", "grow_into"]
