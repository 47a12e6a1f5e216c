"""Verification: two models on the same inputs, in eval and in train mode, compared number by number."""
import copy
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fxgrow.aten import tree_flatten, tree_leaves, tree_map, tree_unflatten
from fxgrow.common import one_line
from fxgrow.graph import as_tuple, is_captured

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
INF = float("inf")


@dataclass
class Verification:
    """Distance of two models. Errors are those of eval mode; relative ones are to the largest output.

    An output that is NaN or infinite is equal to nothing, and whole numbers and truth values are equal or infinitely far
    apart: their errors are then infinite, and a note says why.
    """
    max_abs_error: float
    max_rel_error: float
    exact_in: tuple[str, ...]
    tolerance: float
    errors: dict[str, float]
    notes: tuple[str, ...] = ()

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
        return (f"{verdict}: max relative error {self.max_rel_error:.2e} (absolute {self.max_abs_error:.2e}), "
                f"exact in {modes} mode")


def verify(before: nn.Module, after: nn.Module, example_inputs, seed: int = 0, *, extended: bool = False) -> Verification:
    """Compare two models on `example_inputs` in eval and in train mode (same random numbers drawn in both).

    Outputs may be tensors of any type, numbers, and tuples, lists, dicts and dataclasses of these. With `extended`, `after`
    may have more of them along any axis (classes that were added at the end), and the old ones are compared. Of models
    grown in parts (detectors, which may find nothing) what the parts give is compared as well.

    What a model raises in eval mode passes through; in train mode it becomes a note.
    """
    inputs = as_tuple(example_inputs)
    errors, exact, notes, absolute = {}, [], [], float("nan")
    tolerance = next((TOLERANCE.get(p.dtype, 1e-4) for p in after.parameters() if p.is_floating_point()), 1e-4)
    there = dict(before.named_modules())
    parts = [name for name, m in after.named_modules() if name in there and name and is_captured(m)]
    for mode in ("eval", "train"):
        try:
            a, b = (_run(model, inputs, mode, seed, parts) for model in (before, after))
        except Exception as error:  # a batch of one under batch norm, a detector without targets
            if mode == "eval":
                raise
            notes.append(f"train mode not run: {one_line(error)}")
            continue
        gap, errors[mode], note = _compare(a, _cut(a, b) if extended else b)
        if note:
            notes.append(f"{note} in {mode} mode")
        if mode == "eval":
            absolute = gap
        if errors[mode] <= tolerance:
            exact.append(mode)
    return Verification(absolute, errors["eval"], tuple(exact), tolerance, errors, tuple(notes))


def _run(model: nn.Module, inputs: tuple, mode: str, seed: int, parts: list[str]) -> Any:
    """Return what the model and its parts give for a copy of the inputs; running statistics are left alone."""
    if mode == "train":
        model = copy.deepcopy(model)
    of_parts: list[Any] = []
    hooks = [model.get_submodule(name).register_forward_hook(lambda m, args, out: of_parts.append(_plain(out)))
             for name in parts]
    was = {m: m.training for m in model.modules()}
    model.train(mode == "train")
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return [_plain(model(*tree_map(lambda v: v.clone() if isinstance(v, Tensor) else v, inputs))), of_parts]
    finally:
        for hook in hooks:
            hook.remove()
        for m, training in was.items():
            m.training = training


def _plain(out):
    """Return outputs that are like dicts, like tuples or dataclasses, as plain dicts and lists."""
    if isinstance(out, dict):
        return {k: _plain(v) for k, v in out.items()}
    if is_dataclass(out) and not isinstance(out, type):
        return {f.name: _plain(getattr(out, f.name)) for f in fields(out)}
    return [_plain(v) for v in out] if isinstance(out, (tuple, list)) else out


def _compare(a, b) -> tuple[float, float, str]:
    """Return the largest difference, the same relative to the largest output, and what makes it infinite."""
    (ours, ours_in), (theirs, theirs_in) = tree_flatten(a), tree_flatten(b)
    if ours_in != theirs_in or any(_kind(x) != _kind(y) for x, y in zip(ours, theirs)):
        return INF, INF, "outputs differ in number or shape"
    pairs = [(torch.as_tensor(x), torch.as_tensor(y)) for x, y in zip(ours, theirs) if _kind(x)]
    if not pairs:
        return INF, INF, "there are no numbers in the outputs to compare"
    gap = largest = 0.0
    for x, y in pairs:
        if not (x.is_floating_point() or x.is_complex()):
            if x.dtype is not y.dtype or not torch.equal(x, y):
                return INF, INF, "outputs that are whole numbers or truth values differ"
        elif x.numel():
            wide = torch.complex128 if x.is_complex() else torch.float64
            x, y = x.to(wide), y.to(wide)
            if not (x.isfinite().all() and y.isfinite().all()):
                return INF, INF, "outputs hold NaN or infinity, which equals nothing"
            gap, largest = max(gap, float((x - y).abs().max())), max(largest, float(x.abs().max()))
    empty = "" if any(x.numel() for x, _ in pairs) else "the outputs are empty, so nothing was compared"
    return gap, gap / largest if largest else gap, empty


def _cut(a, b):
    """Return `b` without the positions that `a` does not have."""
    ours, (theirs, form) = tree_leaves(a), tree_flatten(b)
    return tree_unflatten([y[tuple(map(slice, x.shape))] if isinstance(x, Tensor) and isinstance(y, Tensor)
                           and x.ndim == y.ndim else y for x, y in zip(ours, theirs)] + theirs[len(ours):], form)


def _kind(value) -> tuple | None:
    """Return what two outputs must have in common to be compared; None for what holds no number."""
    if isinstance(value, Tensor):
        return tuple(value.shape), value.is_floating_point() or value.is_complex()
    if isinstance(value, (int, float, complex)):
        return (), isinstance(value, (float, complex))
    return None
