"""Gradients of two models that should compute the same: equal at their inputs, and stopped where they were stopped.

What lives here: one backward pass of each, and what must hold of both. What does not: the forward passes (running.py).
"""
import torch
from torch import Tensor

from fxgrow.compare.running import Twin
from fxgrow.tracing import Difference, same_oddities, tolerance_of

SHOWN = 3  # names in a note
GRADIENT = "the gradient of"  # so begins the name of what is compared


class OwnGradients:
    """The gradients of the first model, taken before the second one runs: by then nothing of its activations is left."""

    def __init__(self, ours: Twin, outputs: list[Tensor]):
        generator = torch.Generator().manual_seed(0)
        self.outputs, self.parameters = outputs, ours.parameters()
        self.weights = [_incoming(out.detach(), generator) for out in outputs]
        self.inputs, self.arrived = ours.gradients(list(zip(outputs, self.weights)))

    def are_of(self, pairs: list[tuple[Tensor, Tensor]]) -> bool:
        """Tell whether these are the outputs that were compared with those of the second model."""
        return len(pairs) == len(self.outputs) and all(
            one is out or not (one.requires_grad or out.requires_grad) for (one, _), out in zip(pairs, self.outputs))


def compare_gradients(ours: OwnGradients, theirs: Twin, outputs: list[Tensor], tolerance: float) -> Difference:
    """Compare the gradients of the inputs, and which parameters that both models name get one.

    At a kink (a ReLU at nearly zero) a rounding error may turn a single path off, so the whole gradient of an input is
    compared, by its norm and within the root of the tolerance.

    Args:
        ours: the gradients of the first model.
        theirs, outputs: the second model, and what its last call gave for each output of `ours`.
        tolerance: of the models' type.
    """
    weights, our_inputs, one = ours.weights, ours.inputs, ours.arrived
    their_inputs, two = theirs.gradients(list(zip(outputs, weights)))
    noise = max((float(w.abs().max()) * torch.finfo(w.dtype).eps for w in weights if w.numel()), default=0.0)
    found = Difference()
    for i, (g, h) in enumerate(zip(our_inputs, their_inputs)):
        _compare(g, h, tolerance, noise, f"{GRADIENT} floating input {i}", found)
    freed = [n for n in one if n in two and two[n] and not one[n]]
    kept = [n for n in freed if ours.parameters[n].shape == theirs.parameters()[n].shape]
    if kept:
        found.never(f"{_some(kept)} get no gradient in the first model, and one in the second")
    if grown := [n for n in freed if n not in kept]:
        found.notes.append(f"{_some(grown)} get no gradient in the first model, and, larger, one in the second")
    if stopped := [n for n in one if n in two and one[n] and not two[n]]:
        found.notes.append(f"{_some(stopped)} get a gradient in the first model, and none in the second")
    return found


def _incoming(out: Tensor, generator: torch.Generator) -> Tensor:
    """Return a random gradient for an output, small where its numbers are large, so that none hides another."""
    known = out[out.isfinite()]
    largest = float(known.abs().max()) if len(known) else 0.0
    return torch.randn(out.shape, generator=generator).to(out).masked_fill(~out.isfinite(), 0) / (largest or 1.0)


def _compare(g: Tensor | None, h: Tensor | None, tolerance: float, noise: float, place: str, found: Difference) -> None:
    """Take the distance of two gradients in, if it is above the noise; none at all is one of zeros."""
    known = [torch.view_as_real(t) if t.is_complex() else t for t in (g, h) if t is not None]
    if len(known) < 2:
        if known and known[0].any():
            found.never(f"{place} arrives in the {'second' if g is None else 'first'} model alone")
        return
    x, y = (t.detach().cpu().double() for t in known)
    if not same_oddities(x, y):
        found.never(f"{place} has NaN or infinity in one model alone")
        return
    finite = x.isfinite()
    gap, norm = float((x - y)[finite].norm()), float(x[finite].norm())
    if gap > max(noise, norm * max(tolerance, tolerance_of(known[0].dtype)) ** 0.5):  # else it is no error of the outputs
        found.apart(gap, norm, 0.0, place, "norm")


def _some(names: list[str]) -> str:
    """Name the first few of several parameters."""
    more = f" and {len(names) - SHOWN} more parameters" if len(names) > SHOWN else ""
    return ", ".join(sorted(names)[:SHOWN]) + more
