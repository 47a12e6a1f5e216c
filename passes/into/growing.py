"""grow_into: the numbers of a small model as a start for a bigger one of a stock class. No rule here knows a model."""
import copy
import math
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from fxgrow.axis import analyse
from fxgrow.compare import TOLERANCE, Verification, verify
from fxgrow.errors import GrowthError
from fxgrow.graph import as_tuple, skeleton, tensors_of, uncached
from fxgrow.passes.into.constants import absorb_constants
from fxgrow.passes.into.new_parts import numbers_of
from fxgrow.passes.into.omitted import Omitted
from fxgrow.passes.into.pairing import Pairing
from fxgrow.passes.into.plan import Options, Plan
from fxgrow.passes.into.result import GrownInto
from fxgrow.passes.into.widening import Widening, with_larger_kernels
from fxgrow.passes.support import seed_of
from fxgrow.record import GrowthRecord, ParameterRecord
from fxgrow.tracing import capture_graph


def grow_into(small: nn.Module, big: nn.Module, example_inputs, *, method: Literal["r2r", "net2net", "netmorph"] = "r2r",
              place: Literal["end", "spread", "interleave"] = "end", approximate: bool = False, extend: bool = False,
              check: bool = True, seed: int | None = None) -> GrownInto:
    """Return numbers for `big`, an untouched model of any class, by which it computes in eval mode what `small` does.

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
    return Into(small, big, example_inputs, Options(method, place, approximate, extend, seed_of(seed))).grow(check)


class Into:
    """The steps from a small model to a big one, each with the numbers that it found."""

    def __init__(self, small: nn.Module, big: nn.Module, example_inputs, options: Options):
        self.options, self.inputs = options, as_tuple(example_inputs)
        self.small, self.big = small, _like(big, small)
        small_gm, big_gm = capture_graph(small, self.inputs), capture_graph(self.big, self.inputs)
        self.pairing = pairing = Pairing(small_gm, big_gm, options.place)
        self.plan = Plan()
        steps = self.plan.steps
        gm = with_larger_kernels(pairing, steps)
        self.omitted = Omitted(analyse(big_gm), pairing.match.extras)
        grown, self.record = Widening(pairing, self.omitted, options, steps).widened(gm)
        self.rescaling = absorb_constants(pairing, None if grown is gm else grown, steps)
        tensors = tensors_of(grown)
        self.old = self.rescaling.rescaled({theirs: tensors[ours].detach() for theirs, ours in pairing.names.items()})
        self.new: dict[str, Tensor] = {}
        for extra in pairing.extras:
            self.new |= numbers_of(extra, pairing, self.old, options, steps)

    def grow(self, check: bool = True) -> GrownInto:
        """Return the numbers of the big model, compared with the small one if asked to; refuse where the models differ."""
        model = copy.deepcopy(self.big)
        tensors = tensors_of(model)
        record = GrowthRecord(lineage=[{"pass": "grow_into", "method": self.options.method, "seed": self.options.seed}],
                              certificate=self.plan.to_json(), origin={"": skeleton(self.pairing.small.gm)})
        record.parameters = {n: ParameterRecord.new(t.ndim) for n, t in tensors.items()}
        for theirs, ours in self.pairing.names.items():
            entry = self.omitted.entry(theirs, self.record.entry(ours, tensors[theirs].ndim))
            entry.scale *= math.exp(self.rescaling.logs.get(theirs, 0.0))
            record.parameters[theirs] = entry
        record.removed = tensors_of(self.pairing.small.gm).keys() - tensors.keys()
        with torch.no_grad():
            self._fill(tensors)
            self._hand_on_norms(tensors, record)
        found = GrownInto.of(model)
        found.plan, found.record, found.verification = self.plan, record, self._verified(model) if check else None
        return found

    def _fill(self, tensors: dict[str, Tensor]) -> None:
        """Put all numbers into the big model."""
        for name, number in self.pairing.neutral().items():
            tensors[name].fill_(number)
        self.omitted.blank(tensors, self.pairing.names)
        for name, value in [*self.old.items(), *self.new.items()]:
            value = self.omitted.placed(name, tensors[name], value)
            if tensors[name].shape != value.shape:
                raise GrowthError(f"{name} is {list(tensors[name].shape)} in the big model, and would be "
                                  f"{list(value.shape)} by what its class grows to")
            tensors[name].copy_(value)

    def _hand_on_norms(self, tensors: dict[str, Tensor], record: GrowthRecord) -> None:
        """Give the last norm of a new block weight and bias of the norm in front of it, which then has neither."""
        for extra in self.pairing.extras:
            for front, end, plain in zip(*(extra.norms or ((), ())), (1.0, 0.0)):
                tensors[end].copy_(tensors[front])
                tensors[front].fill_(plain)
                record.parameters[end], record.parameters[front] = record.parameters[front], ParameterRecord.new(1)

    def _verified(self, model: nn.Module) -> Verification:
        """Compare both models by the tolerance of the least exact type that the big one computes in."""
        with uncached(self.small, model):
            checked = verify(self.small, model, self.inputs, extended=self.options.extend)
        made = self.pairing.big.trace.made.values()
        kinds = {v.tensor.dtype for ops in made for v in ops if v.tensor.is_floating_point()}
        tolerance = max((TOLERANCE[k] for k in kinds if k in TOLERANCE), default=0.0)
        if tolerance > checked.tolerance:
            exact = tuple(mode for mode, error in checked.errors.items() if error <= tolerance)
            note = "its class computes partly in a type of less precision"
            checked = replace(checked, tolerance=tolerance, exact_in=exact, notes=(*checked.notes, note))
        if not checked.ok and not self.options.approximate:
            doubts = "".join(f"; {s.name}: {s.note}" for s in self.plan.steps if s.method == "not possible")
            raise GrowthError(f"the two models differ by {checked.max_rel_error:.2g} of the largest output{doubts}; "
                              "`approximate` gives these numbers all the same")
        return checked


def _like(big: nn.Module, small: nn.Module) -> nn.Module:
    """Return the big model with numbers of the small one's type, on its device."""
    if any(t.is_meta for model in (small, big) for t in tensors_of(model).values()):
        raise GrowthError("a model on the meta device has no numbers: build both with numbers")
    like = next((p for p in small.parameters() if p.is_floating_point()), None)
    first = next((p for p in big.parameters() if p.is_floating_point()), None)
    if like is None or first is None or (like.dtype, like.device) == (first.dtype, first.device):
        return big
    return copy.deepcopy(big).to(dtype=like.dtype, device=like.device)
