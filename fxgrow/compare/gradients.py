"""Gradients of two models that should compute the same: equal at their inputs, and stopped where they were stopped.

What lives here: one backward pass of each, and what must hold of both. What does not: the forward passes (running.py).
"""
import torch
from torch import Tensor

from fxgrow.compare.outputs import Difference, tolerance_of
from fxgrow.compare.running import Twin

SHOWN = 3  # names in a note


def incoming(outputs: list[Tensor], seed: int) -> list[Tensor]:
    """Return a random gradient for each output, small where its numbers are large, so that none hides another."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for out in outputs:
        value = out.detach()
        finite = value.isfinite()
        largest = float(value[finite].abs().max()) if finite.any() else 0.0
        noise = torch.randn(value.shape, generator=generator).to(value)
        found.append(noise.masked_fill(~finite, 0) / (largest or 1.0))
    return found


def compare_gradients(pairs: list[tuple[Tensor, Tensor]], ours: Twin, theirs: Twin, tolerance: float) -> Difference:
    """Compare the gradients of the inputs, and which parameters that both models name get one.

    At a kink (a ReLU at nearly zero) a rounding error may turn a single path off, so the whole gradient of an input is
    compared, by its norm and within the root of the tolerance.

    Args:
        pairs: the outputs of the last call of both.
        ours, theirs: the two models.
        tolerance: of the models' type.
    """
    weights = incoming([x for x, _ in pairs], seed=0)
    our_inputs, our_parameters = ours.gradients([(x, w) for (x, _), w in zip(pairs, weights)])
    their_inputs, their_parameters = theirs.gradients([(y, w) for (_, y), w in zip(pairs, weights)])
    found = Difference()
    for i, (g, h) in enumerate(zip(our_inputs, their_inputs)):
        _compare(g, h, tolerance, f"the gradient of floating input {i}", found)
    common = our_parameters.keys() & their_parameters.keys()
    freed = [n for n in common if our_parameters[n] is None and their_parameters[n] is not None]
    stopped = [n for n in common if their_parameters[n] is None and our_parameters[n] is not None]
    one, two = ours.parameters(), theirs.parameters()
    kept = [n for n in freed if one[n].shape == two[n].shape]
    if kept:
        found.never(f"{_some(kept)} get no gradient in the first model, and one in the second")
    grown = [n for n in freed if n not in kept]
    if grown:
        found.notes.append(f"{_some(grown)} get no gradient in the first model, and, larger, one in the second")
    if stopped:
        found.notes.append(f"{_some(stopped)} get a gradient in the first model, and none in the second")
    return found


def _compare(g: Tensor | None, h: Tensor | None, tolerance: float, place: str, found: Difference) -> None:
    """Take the distance of two gradients in; none at all is one of zeros."""
    if g is None and h is None:
        return
    x, y = (torch.zeros(1) if t is None else t.detach().cpu() for t in (g, h))
    x, y = (torch.view_as_real(t) if t.is_complex() else t for t in (x, y))
    x, y = torch.broadcast_tensors(x.double(), y.double())
    if g is None or h is None:
        if bool((x != y).any()):
            found.never(f"{place} arrives in the {'second' if g is None else 'first'} model alone")
        return
    finite = x.isfinite() & y.isfinite()
    if not bool((finite | (x == y) | (x.isnan() & y.isnan())).all()):
        found.never(f"{place} has NaN or infinity in one model alone")
        return
    gap, norm = float((x - y)[finite].norm()), float(x[finite].norm())
    if gap > norm * max(tolerance, tolerance_of(g.dtype)) ** 0.5:  # else it is no error of the outputs
        found.apart(gap, norm, 0.0, place, "norm")


def _some(names: list[str]) -> str:
    """Name the first few of several parameters."""
    names = sorted(names)
    more = f" and {len(names) - SHOWN} more parameters" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
