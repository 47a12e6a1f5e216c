"""The axes of a small model widened to the sizes that they have in a big one, and its kernels enlarged."""
from dataclasses import dataclass

from torch.fx import GraphModule

from fxgrow.axis import OUTPUT, Atom, AxisClass, Tape, analyse, classes
from fxgrow.blocks import taps
from fxgrow.common import Refusal, times
from fxgrow.contents import PAIR, Certificate
from fxgrow.errors import GrowthError
from fxgrow.graph import Captured, clone_structure, tensors_of
from fxgrow.passes import Kernel, Widen
from fxgrow.passes.into.omitted import Omitted
from fxgrow.passes.into.pairing import Pairing
from fxgrow.passes.into.plan import Options, Step
from fxgrow.passes.into.sizes import Sizes, without
from fxgrow.passes.methods import Draws
from fxgrow.passes.support import rounded
from fxgrow.record import GrowthRecord
from fxgrow.rewrite import Growth, record_of, rewrite


def with_larger_kernels(pairing: Pairing, steps: list[Step]) -> GraphModule:
    """Return a copy of the small model with the kernel sizes of the big one."""
    gm = clone_structure(pairing.small.gm)
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
        tape = analyse(gm)
        sizes, draws = self._sizes(tape), Draws(self.options.seed, tensors_of(gm))
        record = Captured(gm).record or GrowthRecord()
        growths = [self._growth(tape, c, sizes[c.atom], draws) for c in classes(tape) if sizes.get(c.atom, c.size) != c.size]
        if not growths:
            return gm, record
        try:
            new = rewrite(gm, tape, growths)
        except Refusal as why:
            raise GrowthError(str(why)) from why
        return new, record.then(record_of(tape, growths, {}))

    def _sizes(self, tape: Tape) -> dict[Atom, int]:
        """Return the size of each class of the small model in the big one."""
        sizes, theirs = Sizes(), self.omitted.tape.params
        for their_name, name in self.pairing.names.items():
            if name in tape.params and their_name in theirs:
                for d, (ours, other) in enumerate(zip(tape.params[name].axes, theirs[their_name].axes)):
                    sizes.relate(ours, without(other, self.omitted.classes), f"axis {d} of {name}")
        return sizes.solved()

    def _growth(self, tape: Tape, c: AxisClass, size: int, draws: Draws) -> Growth:
        if c.reason == OUTPUT:
            if not self.options.extend:
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
        if certificate.base == PAIR and (size - c.size) % 2:
            raise Refusal(f"{size - c.size} new positions are an odd number, and cannot come in pairs")
        return (size, "") if self.options.approximate else rounded(c, size, certificate)
