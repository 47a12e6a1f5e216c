"""Verification: two models side by side on several inputs, in eval and in train mode, compared number by number.

What lives here: which runs are made, and the report. What does not: running one model (running), gradients, drawing inputs
and comparing outputs, which the check of a capture does too (tracing).
"""
from __future__ import annotations

import contextlib
import functools
import io
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from fxgrow.aten import HALF, cast, tree_leaves, tree_map
from fxgrow.common import one_line
from fxgrow.compare.gradients import GRADIENT, OwnGradients, compare_gradients
from fxgrow.compare.rounding import rounding_note, rounding_of
from fxgrow.compare.running import Autograd, Mode, Narrowing, Twin, rounded, takes_gradient
from fxgrow.errors import CaptureError
from fxgrow.graph import as_call, is_captured, kept_attributes, outer, values_kept
from fxgrow.tracing import INF, Axes, Difference, Inputs, axes_of, compare_outputs, redraw, same_numbers, tolerance_of

ROUNDING = 10  # so many times as far apart as by rounding alone two models may be
BEHIND = "behind calls in train mode "
MAGNIFIED = 1e-2  # and so far in all
BESIDE = 3  # how often gradients are compared beside a kink


@dataclass
class Verification:
    """Distance of two models. Errors are those of eval mode; each output's is relative to its own largest number.

    An output is judged by the tolerance of its own type (of the models', where that is less exact). NaN and infinity are
    equal at the same places alone; what is no floating number (whole numbers, truth values, words, structure) is equal or
    infinitely far apart; what cannot be compared is not equal. A note says why. Of numbers of 16 bits, another one says how
    far the first model is from itself in float32.

    exact_in: the modes in which all is equal. errors: the largest of each mode. tolerance: that of the models' type.
    compared: what was compared, in words.
    """
    max_abs_error: float
    max_rel_error: float
    exact_in: tuple[str, ...]
    tolerance: float
    errors: dict[str, float]
    notes: tuple[str, ...] = ()
    compared: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Equality in eval mode, within the tolerance of the type (float64 1e-9, float32 1e-4)."""
        return "eval" in self.exact_in

    def to_json(self) -> dict:
        """Return all fields and `ok`."""
        return {**asdict(self), "ok": self.ok}

    def __str__(self):
        modes = " and ".join(self.exact_in) or "neither eval nor train"
        verdict = "equal" if self.ok else "NOT equal"
        compared = f"; compared: {', '.join(self.compared)}" if self.compared else ""
        return (f"{verdict}: max relative error {self.max_rel_error:.2e} (absolute {self.max_abs_error:.2e}), "
                f"exact in {modes} mode{compared}")


def verify(before: nn.Module, after: nn.Module, example_inputs, seed: int = 0, *, extended: bool = False) -> Verification:
    """Compare two models in eval and in train mode, on copies of both and under the same random numbers.

    Both are called twice in a row, on the example and on other inputs of its spread; in eval mode also on inputs of another
    size, along each axis along which `before` takes some, and behind the calls in train mode. Gradients of floating inputs
    must be equal in eval mode, and `after` may train no parameter that gets no gradient in `before`. Of models grown in
    parts (detectors, which may find nothing) what the parts give is compared as well.

    Args:
        before, after: any two modules; outputs may be anything that is made of tensors, arrays, numbers and words.
        example_inputs: a tensor, a tuple of positional arguments, or a dictionary of keyword arguments.
        seed: of the numbers that are drawn.
        extended: `after` may have more outputs along any axis (classes that were added at the end); the old are compared.

    Raises:
        Exception: what a model raises on the example in eval mode. What `before` raises elsewhere becomes a note, and what
            `after` alone raises a difference.
    """
    return _Comparison(before, after, as_call(example_inputs), seed, extended).verified()


@dataclass(frozen=True, eq=False)
class _Call:
    """One call of both models. name: of its inputs, in words. behind: in eval mode, behind calls in train mode."""
    name: str
    inputs: Inputs
    autograd: Autograd = "off"
    resized: bool = False
    behind: bool = False


class _BeforeRaises(Exception):
    """The first model raises at a call, which therefore compares nothing."""

    def __init__(self, call: _Call, error: Exception):
        super().__init__(one_line(error))
        self.call, self.error = call, error


class _CapturedForAnother(Exception):
    """The second model says that it was captured for another size."""


class _Comparison:
    """Two models, the runs of both, and what is to be told of them."""

    def __init__(self, before: nn.Module, after: nn.Module, inputs: Inputs, seed: int, extended: bool):
        self.before, self.after, self.seed, self.extended = before, after, seed, extended
        self.example = _Call("the example", inputs)
        there = dict(before.named_modules())
        self.parts = outer([name for name, m in after.named_modules() if name in there and name and is_captured(m)])
        self.tolerance = max(map(tolerance_of, _types(before, inputs)), default=1e-4)
        self.keeps = kept_attributes(after)
        self.twins: dict[Mode, tuple[Twin, Twin]] = {}
        self.compared: list[str] = []
        self.notes: dict[str, None] = {}
        self.fused = True  # whether attention may be computed by torch's fused kernels

    def verified(self) -> Verification:
        """Run all comparisons and sum them up."""
        second, found = self._eval()
        if found.relative < INF:
            found.add(self._other_sizes(second))
        self.twins.clear()  # these copies are not needed in train mode
        self.__dict__.pop("probe", None)
        results = {"eval": found}
        trained = self._train(second)
        if trained is not None:
            results["train"] = trained
        self.compared.append(f"{' and '.join(results)} mode")
        for note in dict.fromkeys(note for result in results.values() for note in result.notes):
            modes = [mode for mode, result in results.items() if note in result.notes]
            self.notes[f"{note} in {' and '.join(modes)} mode"] = None
        self._note_rounding(found)
        return Verification(found.absolute, found.relative, tuple(mode for mode, result in results.items() if result.equal),
                            self.tolerance, {mode: result.relative for mode, result in results.items()},
                            tuple(self.notes), tuple(self.compared))

    def _note_rounding(self, found: Difference) -> None:
        """Note beside a distance of numbers of 16 bits how far the first model is from itself in float32."""
        dtype = next((p.dtype for p in self.before.parameters() if p.dtype in HALF), None)
        own = rounding_of(self.before, self.example.inputs, self.seed) if dtype and 0 < found.relative < INF else None
        if dtype and own is not None:
            self.notes[rounding_note(dtype, own)] = None

    @functools.cached_property
    def probe(self) -> Twin:
        """A copy of the first model that only tells which inputs it takes."""
        return Twin(self.before, "eval")

    # --- which runs ---

    def _eval(self) -> tuple[_Call, Difference]:
        """Compare on the first of other calls that the first model takes, and then on the example.

        Gradients come first: what a model keeps of a call without them has none.
        """
        for second in self._second_calls():
            try:
                found = self._run("eval", second, self.example)
            except _BeforeRaises as stop:
                if stop.call is self.example:
                    raise stop.error from None
                what = "gradients" if second.autograd == "compared" else second.name
                self.notes[f"{what} not compared: the first model raises {stop}"] = None
                continue
            self.compared += [*dict.fromkeys((self.example.name, second.name)), "two calls in a row"]
            if second.autograd == "compared":
                count = sum(isinstance(v, Tensor) and takes_gradient(v) for v in tree_leaves(second.inputs))
                inputs = f"gradients of {count} input{'s' * (count > 1)} and " if count else ""
                self.compared.append(f"{inputs}which parameters get gradients")
            return second, found
        self.compared.append(self.example.name)
        try:
            return self.example, self._run("eval", self.example)
        except _BeforeRaises as stop:
            raise stop.error from None

    def _second_calls(self) -> Iterator[_Call]:
        """Yield calls beside the example, the one that tells the most first."""
        known = [self.example.inputs]
        for name, whole in (("fresh inputs", True), ("fresh floating inputs", False)):
            drawn = redraw(known[0], self.seed, whole)
            if not any(same_numbers(drawn, other) for other in known):
                known.append(drawn)
                yield _Call(name, drawn, "compared")
                yield _Call(name, drawn)
        yield replace(self.example, autograd="compared")
        yield replace(self.example)

    def _other_sizes(self, second: _Call) -> Difference:
        """Compare on inputs that are longer along all axes along which the first model takes such, together if it can be.

        And on a batch of one, for which some forwards have a way of their own.
        """
        rest = list(axes_of(second.inputs))
        single = [[replace(way, by=1 - way.size) for way in rest[0] if way.size > 1]] if rest else []
        by_dimension = sorted(rest, key=lambda ways: all(dim != 1 for _, dim in ways[0].places))  # channels, mostly
        total = Difference()
        for left_out in (None, *by_dimension) if len(rest) > 1 else ():
            together = self._resized([ways[0] for ways in rest if ways is not left_out], second)
            if together is not None:
                total, rest = together, [ways for ways in rest if ways is left_out]
                break
        for ways in rest + single:
            each = (self._resized([way], second) for way in ways)
            total.add(next((found for found in each if found is not None), Difference()))
        return total

    def _resized(self, axes: list[Axes], second: _Call) -> Difference | None:
        """Compare on inputs with other axes; None: the first model does not take them, or the second none of several."""
        inputs = functools.reduce(lambda found, each: each.of(found), axes, second.inputs)
        if second.name != self.example.name:
            inputs = redraw(inputs, self.seed, whole=False)
        call = _Call(" and ".join(map(str, axes)), inputs, resized=True)
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # a captured model prints where it stopped
                self.probe.run(inputs, self.seed)
        except Exception:
            return None
        try:
            found = self._run("eval", call)
        except _BeforeRaises:
            return None
        except _CapturedForAnother as why:
            if len(axes) > 1:
                return None
            self.notes[f"{call.name}: the second model says {why}"] = None
            return Difference()
        self.compared.append(call.name)
        return found

    def _train(self, second: _Call) -> Difference | None:
        """Compare in train mode, with autograd on, and in eval mode behind it; None: the first model does not run so."""
        autograd: Autograd
        for autograd in ("on", "off"):  # some functions take no gradients at all
            example, other = (replace(call, autograd=autograd) for call in (self.example, second))
            behind = replace(self.example, behind=True)  # with the running statistics that are left, say
            for calls in ((example, other, behind), (example, example, behind), (example,)):
                try:
                    return self._run("train", *calls)
                except _BeforeRaises as stop:  # a batch of one under batch norm, a detector without targets
                    why = stop
                    if stop.call is example:
                        break
        self.notes[f"train mode not run: {why}"] = None
        return None

    # --- one run ---

    def _run(self, mode: Mode, *calls: _Call) -> Difference:
        """Compare both models on some calls in a row, after those that they took in this mode before."""
        if mode not in self.twins:
            self.twins[mode] = self._twins(self.after, mode)
        try:
            total = self._in_a_row(*self.twins[mode], calls)
        except (_BeforeRaises, _CapturedForAnother):
            del self.twins[mode]  # one has gone on, and the other has not
            raise
        if total.beyond and total.relative < INF:
            total = self._without_fast_path(total, mode, calls)
            self._excuse(total, mode, calls)
            self._excuse_cancelling(total, mode, calls)
            self._excuse_kinks(total, mode, calls)
        total.errors = {p: e for p, e in total.errors.items() if p in total.beyond or not p.startswith(BEHIND)}
        total.notes += [f"{place} differs by {total.errors[place]:.1e} of its {whole}"
                        for place, whole in total.beyond.items()]
        if total.equal and total.met == {"empty"}:
            total.notes.append("the outputs are empty, so nothing was compared")
        elif total.equal and "numbers" not in total.met:
            total.never("there are no numbers in the outputs to compare")
        return total

    def _twins(self, after: nn.Module, mode: Mode) -> tuple[Twin, Twin]:
        return Twin(self.before, mode, self.parts, self.fused), Twin(after, mode, self.parts, self.fused)

    def _in_a_row(self, ours: Twin, theirs: Twin, calls: tuple[_Call, ...]) -> Difference:
        total = Difference()
        for number, call in enumerate(calls):
            total.add(self._compared(ours, theirs, call, self.seed + number))
            total.pairs.clear()
        return total

    def _without_fast_path(self, found: Difference, mode: Mode, calls: tuple[_Call, ...]) -> Difference:
        """Compare anew without torch's fused attention, if the first model alone is as far apart with it and without it.

        Without gradients `nn.TransformerEncoder` leaves zeros where its mask hides positions, and with them it does not.
        """
        if not self.fused:
            return found
        try:
            own = self._in_a_row(Twin(self.before, mode), Twin(self.before, mode, fused=False), calls)
        except Exception:
            return found
        if not found.beyond.keys() <= own.beyond.keys():
            return found
        self.fused = False
        self.notes["compared without torch's fused attention, with which the first model gives other numbers"] = None
        self.twins[mode] = self._twins(self.after, mode)
        return self._in_a_row(*self.twins[mode], calls)

    def _excuse(self, found: Difference, mode: Mode, calls: tuple[_Call, ...]) -> None:
        """Take back what the first model does too where its numbers are rounded otherwise, by the least exact type inside.

        A batch norm over two positions of nearly one value magnifies rounding errors; a model in float64 may have its norms
        computed in float32.
        """
        try:
            with Narrowing() as least:
                Twin(self.before, mode).run(calls[0].inputs, self.seed)
            noise = self._in_a_row(*self._twins(rounded(self.before, self.seed, least.dtype), mode), calls).errors
        except Exception:
            return
        for place in list(found.beyond):
            if found.errors[place] <= min(ROUNDING * noise.get(place, 0.0), MAGNIFIED):
                del found.beyond[place]
                found.notes.append(f"{place} differs by {found.errors[place]:.1e}, and by {noise[place]:.1e} in the first "
                                   "model itself where its numbers are rounded otherwise")

    def _excuse_cancelling(self, found: Difference, mode: Mode, calls: tuple[_Call, ...]) -> None:
        """Take back what both models give alike when they compute in float64: large new numbers, say, whose pairs cancel."""
        if not found.beyond or not any(t.itemsize < 8 for t in _types(self.before, calls[0].inputs)):
            return
        try:
            one, two = self._twins(self.after, mode)
            one.model.double(), two.model.double()
            wide = tuple(replace(call, inputs=cast(call.inputs, torch.float64)) for call in calls)
            exact = self._in_a_row(one, two, wide).errors
        except Exception:  # its code may ask for other types
            return
        for place in [place for place in found.beyond if place in exact]:
            error, left = found.errors[place], exact[place]
            if left <= self.tolerance and ROUNDING * left <= error <= MAGNIFIED:
                del found.beyond[place]
                found.notes.append(f"{place} differs by {error:.1e}, and by {left:.1e} where both compute in float64")

    def _excuse_kinks(self, found: Difference, mode: Mode, calls: tuple[_Call, ...]) -> None:
        """Take gradients back that are apart at a kink (a ReLU at nearly zero, two equal maxima) and not beside it.

        There a rounding error turns a path off; what is wrong with a gradient is so at other inputs, too.
        """
        for attempt in range(BESIDE):
            apart = [place for place in found.beyond if place.startswith(GRADIENT)]
            if not apart:
                return
            beside = tuple(replace(call, inputs=_moved(call.inputs, self.seed + attempt)) for call in calls)
            try:
                again = self._in_a_row(*self._twins(self.after, mode), beside)
            except Exception:
                return
            for place in set(apart) - again.beyond.keys():
                del found.beyond[place]
                found.notes.append(f"{place} differs by {found.errors[place]:.1e} of its norm at a kink, and not beside it")
                found.errors[place] = again.errors.get(place, 0.0)

    def _compared(self, ours: Twin, theirs: Twin, call: _Call, seed: int) -> Difference:
        """Compare what both give in one call, and its gradients if asked to."""
        found = Difference()
        if call.behind:
            ours.model.eval()
            theirs.model.eval()
        try:
            one = ours.run(call.inputs, seed, call.autograd)
        except Exception as error:
            raise _BeforeRaises(call, error) from error
        own = self._own_gradients(ours, one, call) if call.autograd == "compared" else None
        try:
            two = theirs.run(call.inputs, seed, call.autograd)
        except Exception as error:
            if call.resized and isinstance(error, CaptureError):
                raise _CapturedForAnother(one_line(error)) from error
            if call is self.example:
                raise
            found.never(f"the second model raises on {call.name}: {one_line(error)}")
            return found
        found.add(self._outputs((one, ours.heard), (two, theirs.heard), call))
        if self.keeps:
            found.add(self._attributes(ours.model, theirs.model))
        if own is not None and found.relative < INF:
            found.add(self._gradients(own, theirs, two, call, seed, found.pairs))
        return found

    def _outputs(self, ours: tuple[Any, list], theirs: tuple[Any, list], call: _Call) -> Difference:
        """Compare what two calls gave, and what was heard of the parts in them."""
        place = f"{BEHIND}the output" if call.behind else "the output"
        found = compare_outputs(ours[0], theirs[0], self.tolerance, extended=self.extended, place=place)
        found.add(compare_outputs(ours[1], theirs[1], self.tolerance, extended=self.extended, strict=False,
                                  place="what the parts give"))
        return found

    def _attributes(self, ours: nn.Module, theirs: nn.Module) -> Difference:
        """Compare what both keep as attributes that the graph of the second keeps in this mode."""
        pairs = zip(values_kept(ours, self.keeps), values_kept(theirs, self.keeps))
        one, two = zip(*((mine, its if its is not None else mine) for mine, its in pairs))
        return compare_outputs(one, two, self.tolerance, place="what it keeps")

    def _own_gradients(self, ours: Twin, one: Any, call: _Call) -> OwnGradients:
        """Take the gradients of the first model's call, of all outputs that there are to compare.

        Raises:
            _BeforeRaises: it has none.
        """
        mine = one, ours.heard
        try:
            return OwnGradients(ours, [out for out, _ in self._outputs(mine, mine, call).pairs])
        except RuntimeError as error:
            raise _BeforeRaises(call, error) from error

    def _gradients(self, own: OwnGradients, theirs: Twin, two: Any, call: _Call, seed: int,
                   pairs: list[tuple[Tensor, Tensor]]) -> Difference:
        """Compare the gradients of the outputs that both models give."""
        try:
            if not own.are_of(pairs):  # the second gives less: once more, of these alone
                again = Twin(self.before, "eval", self.parts, self.fused)
                one = again.run(call.inputs, seed, call.autograd)
                pairs = self._outputs((one, again.heard), (two, theirs.heard), call).pairs
                own = OwnGradients(again, [out for out, _ in pairs])
            return compare_gradients(own, theirs, [out for _, out in pairs], self.tolerance)
        except RuntimeError as error:
            raise _BeforeRaises(call, error) from error


def _types(model: nn.Module, inputs: Inputs) -> set[torch.dtype]:
    """Return the floating types that a model computes in: of its parameters, or of its inputs where it has none."""
    held = {p.dtype for p in model.parameters() if p.is_floating_point()}
    return held or {v.dtype for v in tree_leaves(inputs) if isinstance(v, Tensor) and v.is_floating_point()}


def _moved(inputs: Inputs, seed: int) -> Inputs:
    """Return inputs whose floating numbers are others by a thousandth."""
    generator = torch.Generator().manual_seed(seed)

    def move(value: Any) -> Any:
        if not isinstance(value, Tensor) or not takes_gradient(value):
            return value
        return value * (1 + 1e-3 * torch.randn(value.shape, generator=generator).to(value))
    return tree_map(move, inputs)
