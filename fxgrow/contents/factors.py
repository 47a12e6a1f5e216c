"""Factors that grown classes leave on values: where they arise, how ops hand them on, and which numbers take them back.

The mean of n squares and of m - n zeros is n/m of what it was; the sum over products of copies is m/n of it. Such a factor
goes through products, quotients and powers until a weight that is multiplied in takes it back; an eps that is added on the
way is rescaled with it. Where no weight follows (a head that is the embedding), one in front is scaled.
"""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fxgrow.aten import COPIES as SAME
from fxgrow.aten import HOMOGENEOUS, POWERS, REARRANGED, tensors_in
from fxgrow.axis import Contract, Map, Normalise, Op, Value
from fxgrow.common import Refusal
from fxgrow.contents.bindings import NONE, Bindings, Power, Scaling

DEGREES = {**POWERS, "var": 2, "var_mean": 2}  # f(a x) = a^p f(x), by p (None: the second argument)
ALIKE = (HOMOGENEOUS - {"where", "copy", "empty_like", "constant_pad_nd"}) | {"linalg_vector_norm", "norm", "std", "add",
                                                                              "sub"}
PICKED = ("index", "index_select", "gather", "embedding", "lerp")  # of the first value, or between two, as others say
WITH_EPS = ("add", "clamp_min", "clamp")


@dataclass(frozen=True)
class _Call:
    """An op as far as factors go: its name, arguments and node, what it takes, and the factors on that."""
    name: str
    args: tuple
    place: str
    node: str
    ins: list[Value]
    given: list[Power]

    @property
    def numbers(self) -> list[int | float]:
        """Return the numbers among its arguments."""
        return [a for a in self.args if isinstance(a, (int, float)) and not isinstance(a, bool)]


class Factors(Bindings):
    """Follows the factors on values that the growth of one class leaves."""

    def power(self, value: Value) -> Power:
        """Return the factor on a value; of one without the class, from what it is made of."""
        known = self.powers.get(value)
        if known is None and self.powers and value.made is not None and not self.dims(value):
            made = value.made
            given = [self.power(v) for v in made.ins]
            if any(given):
                known = self._of(_Call(made.name, made.args, made.place, made.node, made.ins, given))
            self.powers[value] = known or NONE
        return known or NONE

    def follow(self, op: Op) -> None:
        """Say what factor is on the results of an op that was interpreted, and let a weight take it back."""
        given = [self.power(v) for v in op.ins]
        if not any(given) or any(out in self.powers for out in op.outs):
            return
        multiplies, made = isinstance(op, Map) and op.fn == "mul", op.outs[0].made
        if isinstance(op, Normalise) or (isinstance(op, Map) and op.const):
            raise self.changed(op.node)
        if multiplies or isinstance(op, Contract):
            total = _sum(given)
            weights = [v for v in op.ins if v.param_only] if multiplies or self.scaling else []
            if any(self._scale(v, total.times(-1)) for v in weights if total):
                total = NONE
        elif isinstance(op, Map) and op.fn == "linear" and len(set(given)) > 1:
            for v, power in zip(op.ins, given):
                if power:
                    self.take_back(v, power.times(-1))
            total = NONE
        else:
            args = made.args if made is not None and made.name == op.name else ()
            total = self._of(_Call(op.name, args, op.node, op.fx, op.ins, given))
        if total:
            self.powers.update(dict.fromkeys(op.outs, total))

    def _of(self, call: _Call) -> Power:
        """Return the factor on what a call gives."""
        first, alike, takes_all = call.given[0], len(set(call.given)) == 1, len(call.ins) == len(tensors_in(call.args))
        if call.name == "mul":
            return _sum(call.given)
        if call.name == "div" and takes_all and len(call.args) == 2:
            return _sum([first, *(p.times(-1) for p in call.given[1:])])
        values = 2 if call.name == "lerp" else 1
        if call.name in PICKED and len(set(call.given[:values])) == 1 and not any(call.given[values:]):
            return first
        if call.name in DEGREES and len(call.ins) == 1:
            degree = DEGREES[call.name] or call.args[1]
            if isinstance(degree, (int, float)):
                return first.times(degree)
        if takes_all and len(call.ins) == 1 == len(call.numbers) and call.name in WITH_EPS:
            self.out.numbers[call.node] = first
            return first
        if takes_all and alike and call.name in ALIKE and (len(call.ins) > 1 or call.name not in ("add", "sub")):
            return first
        raise self.changed(call.place)

    def changed(self, place: str) -> Refusal:
        """Return the refusal of an op that a factor does not go through."""
        return Refusal(f"{place} changes a value whose scale depends on how many positions there are")

    def _scale(self, value: Value, power: Power) -> bool:
        """Let a parameter be scaled, if a value is one, perhaps with a number added, and nothing else reads it."""
        shift, readers = 0.0, self.tape.ops_of[self.atom]
        while self.dims(value) and sum(op.ins.count(value) for op in readers) == 1:
            if value.source is not None:
                before = self.out.factors.get(value.source, Scaling(NONE, shift))
                self.out.factors[value.source] = Scaling(_sum([before.power, power]), shift)
                return True
            made = value.made
            if made is None or len(made.ins) != 1:
                return False
            if made.name == "add" and len(made.numbers) == 1 and len(tensors_in(made.args)) == 1:
                shift += made.numbers[0]
            elif made.name not in SAME and (made.name not in REARRANGED or shift):
                return False
            value, = made.ins
        return False

    def taken_back(self, value: Value, power: Power) -> bool:
        """Return whether parameters in front of a value could be scaled; else nothing is."""
        before = dict(self.out.factors)
        try:
            self.take_back(value, power)
        except Refusal:
            self.out.factors = before
            return False
        return True

    def take_back(self, value: Value, power: Power) -> None:
        """Scale the parameters that a value is made by, which nothing but one op reads."""
        op, alone = value.op, sum(o.ins.count(value) for o in self.tape.ops_of[self.atom]) == 1
        if value.param_only or op is None or not alone or not self.dims(value):
            raise Refusal("no weight can take back how many positions there are")
        weights = [v for v in op.ins if v.param_only]
        if isinstance(op, (Normalise, Contract)):
            done = bool(weights) and all(self._scale(v, power) for v in weights)
        elif isinstance(op, Map) and op.fn in ("mul", "div"):
            done = op.fn == "mul" and any(self._scale(v, power) for v in weights)
            if not done:
                self.take_back(op.ins[0], power)
                return
        elif op.name in POWERS and len(op.ins) == 1 and (degree := POWERS[op.name] or value.made.args[1]):  # type: ignore[union-attr]
            self.take_back(op.ins[0], power.times(1 / degree))
            return
        else:
            done = isinstance(op, Map) and (op.fn == "linear" or op.name in HOMOGENEOUS) and not op.const
            for v in op.ins if done else ():
                if v.param_only:
                    done = done and self._scale(v, power)
                else:
                    self.take_back(v, power)
        if not done:
            raise Refusal(f"{op.node} lies between a sum of copies and the weight that could take back how many they are")

    def check_ends(self) -> None:
        """Refuse a factor on a value without the class that something else than the followed ops reads."""
        if not any(self.powers.values()):
            return
        readers: dict[Value, list[Value]] = {}
        for value in self.tape.values.values():
            for v in value.made.ins if value.made is not None else ():
                readers.setdefault(v, []).append(value)
        given = set(self.tape.given)
        waiting = [v for v, power in self.powers.items() if power and not self.dims(v)]
        while waiting:
            value = waiting.pop()
            nexts = [v for v in readers.get(value, ()) if not self.dims(v)]
            if value in given or value in self.tape.lost or (value not in readers and value.op is not None):
                raise self.changed(value.op.node if value.op is not None else "the model's output")
            waiting += [v for v in nexts if v not in self.powers and self.power(v)]


def _sum(powers: Iterable[Power]) -> Power:
    total = NONE
    for power in powers:
        total = total.plus(power)
    return total
