"""The axes of a small model widened to the sizes that they have in a big one, and its kernels enlarged."""
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.fx import GraphModule

from fxgrow.axis import LOOKUP, OUTPUT, Atom, AxisClass, Fixed, Prod, Sum, Tape, analyse, atoms, classes, resolve, size_of
from fxgrow.blocks import taps
from fxgrow.common import Refusal, times
from fxgrow.contents import Certificate
from fxgrow.errors import GrowthError
from fxgrow.graph import Captured, clone_structure, tensors_of
from fxgrow.passes import Kernel, Widen
from fxgrow.passes.into.omitted import Omitted, without
from fxgrow.passes.into.pairing import Pairing
from fxgrow.passes.into.plan import Options, Step
from fxgrow.passes.methods import Draws
from fxgrow.passes.support import rounded
from fxgrow.record import GrowthRecord
from fxgrow.rewrite import Growth, grow_tensors, record_of, rewrite


def with_larger_kernels(pairing: Pairing, steps: list[Step]) -> GraphModule:
    """Return the small model with the kernel sizes of the big one, without a growth of its own."""
    gm = pairing.small.gm
    if Captured(gm).record is not None:  # it may be the user's
        gm = clone_structure(gm)  # type: ignore[assignment]
        Captured(gm).drop_growth()  # the record is about this growth alone
    sizes: dict[str, list[int]] = {}
    for v, w in pairing.ops():
        if v.name != "convolution" or taps(v) == taps(w):
            continue
        name = v.ins[1].source
        if name is None:
            raise GrowthError(f"the kernel of {v.place} is computed, and cannot be made larger")
        layer = name.rpartition(".")[0]
        sizes[layer] = taps(w)
        steps.append(Step("kernel", layer, times(taps(v)), times(taps(w)), "zero taps"))
    for layer, size in sizes.items():
        gm = Kernel(layer, size=size)(gm).graph_module
    return gm  # type: ignore[return-value]


@dataclass
class Widening:
    """The growth of the classes of a small model to the sizes of their counterparts."""
    pairing: Pairing
    omitted: Omitted
    options: Options
    steps: list[Step]

    def widened(self, gm: GraphModule) -> tuple[GraphModule, GrowthRecord]:
        """Return the small model in the sizes of the big one, and the record of its growth; refuse what is not exact."""
        tensors, record = tensors_of(gm), Captured(gm).record or GrowthRecord()
        self.draws, self.growths = Draws(self.options.seed, tensors), []
        theirs, names = tensors_of(self.pairing.big.gm), self.pairing.names.items()
        if not self.omitted.classes and all(theirs[their].shape == tensors[ours].shape for their, ours in names):
            return gm, record  # and neither has to be analysed
        self.tape = tape = analyse(gm)
        sizes = self._sizes(tape)
        self.growths = growths = [self._growth(tape, c, sizes[c.atom], self.draws) for c in classes(tape)
                                  if sizes.get(c.atom, c.size) != c.size]
        if not growths:
            return gm, record
        try:
            new = rewrite(gm, tape, growths)
        except Refusal as why:
            raise GrowthError(str(why)) from why
        return new, record.then(record_of(tape, growths, {}))

    def grown(self, name: str, tensor: Tensor) -> Tensor:
        """Return a tensor of the small model in the sizes of the big one."""
        return grow_tensors(self.tape, {name: tensor}, self.growths).get(name, tensor) if self.growths else tensor

    def _sizes(self, tape: Tape) -> dict[Atom, int]:
        """Return the size of each class of the small model in the big one."""
        sizes, theirs = Sizes(), self.omitted.tape.params
        for their_name, name in self.pairing.names.items():
            if name in tape.params and their_name in theirs:
                for d, (ours, other) in enumerate(zip(tape.params[name].axes, theirs[their_name].axes)):
                    sizes.relate(ours, without(other, self.omitted.classes), f"axis {d} of {name}")
        return sizes.solved()

    def _growth(self, tape: Tape, c: AxisClass, size: int, draws: Draws) -> Growth:
        looked_up = (c.reason or "").startswith(LOOKUP)
        if c.reason == OUTPUT or looked_up:
            if not self.options.extend and (c.reason == OUTPUT or _is_output(tape, c.atom)):
                raise GrowthError(f"{c.name} is {c.size} of the model's outputs, and {size} of the big one's: `extend` "
                                  "lets the big one give more, the first as before")
            tape.open(c.atom)
        elif c.reason is not None:
            raise GrowthError(f"{c.name} would grow from {c.size} to {size} positions, but it cannot: {c.reason}")
        try:
            growth = Widen(by=1, method=self.options.method).growth(tape, c, size, draws, self._fit)
        except Refusal as why:
            hint = "" if self.options.approximate else "; `approximate` takes the closest way"
            raise GrowthError(f"{c.name} cannot grow from {c.size} to {size} positions exactly: {why}{hint}") from why
        method, note = growth.method, growth.note
        if growth.certificate.uniform and size % c.size:
            method, note = "approximate", f"not exact: {growth.certificate.uniform} takes a mean over it"
        self.steps.append(Step("widen", c.name, c.size, size, method, note))
        return growth

    def _fit(self, c: AxisClass, size: int, certificate: Certificate) -> tuple[int, str]:
        """Insist on exactly the size of the big model."""
        if certificate.in_pairs and (size - c.size) % 2:
            raise Refusal(f"{size - c.size} new positions are an odd number, and cannot come in pairs")
        return (size, "") if self.options.approximate else rounded(c, size, certificate)


def _is_output(tape: Tape, atom: Atom) -> bool:
    return any(atom in atoms(axis) for value in tape.given for axis in value.axes)


class Sizes:
    """The sizes of the small model's classes, from pairs of axes: an expression here, and one there."""

    def __init__(self) -> None:
        self.found: dict[Atom, tuple[int, str]] = {}
        self.open: list[tuple[Any, int, str]] = []

    def relate(self, e, f, where: str) -> None:
        """Note that the axis e of the small model is f in the big one; refuse a class that shrinks or has two sizes."""
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
        """Return the sizes, with those that follow from the rest of the axes, or refuse where there are none."""
        sizes = {a: n for a, (n, _) in self.found.items()}
        for e, size, where in self.open:
            if size_of(e, sizes) == size:
                continue
            unknown = [a for a in dict.fromkeys(atoms(e)) if a not in sizes]
            count = _solve(e, size, sizes, unknown[0]) if len(unknown) == 1 else None
            if count is None:
                raise GrowthError(f"{where} has {shown(e)} positions, and {size} in the big model: no growth of its factors "
                                  "alone, which are split, shuffled or grouped, gives that")
            sizes[unknown[0]] = count
        return sizes


def _solve(e, size: int, sizes: dict[Atom, int], unknown: Atom) -> int | None:
    """Return the size of a class by which an axis, which is linear in it, has its size (None: there is none)."""
    first, second = (size_of(e, {**sizes, unknown: n}) for n in (1, 2))
    step = second - first
    if not step or (size - first) % step:
        return None
    count = (size - first) // step + 1
    return count if count >= unknown.size else None


def shown(e) -> str:
    """Write an axis by its sizes: `2*29 + 58`."""
    e = resolve(e)
    if isinstance(e, Sum):
        return " + ".join(map(shown, e.parts))
    if isinstance(e, Prod):
        return "*".join(f"({shown(p)})" if isinstance(p, Sum) else shown(p) for p in e.parts)
    return str(e.size)
