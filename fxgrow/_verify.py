"""Verification: the two models on the same inputs, in eval and in train mode, compared number by number."""
from __future__ import annotations

import copy
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from fxgrow._capture import as_tuple

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}


@dataclass
class Verification:
    """How far two models are apart. Errors are those of eval mode; relative ones are to the largest output."""
    max_abs_error: float
    max_rel_error: float
    exact_in: tuple[str, ...]
    tolerance: float
    errors: dict[str, float]
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Equal in eval mode, within the tolerance of the type (float64 1e-9, float32 1e-4)."""
        return "eval" in self.exact_in

    def to_json(self) -> dict:
        return {**asdict(self), "ok": self.ok}

    def __str__(self):
        modes = " and ".join(self.exact_in) or "neither eval nor train"
        verdict = "equal" if self.ok else "NOT equal"
        return (f"{verdict}: max relative error {self.max_rel_error:.2e} (absolute {self.max_abs_error:.2e}), "
                f"exact in {modes} mode")


def _outputs(model: nn.Module, inputs: tuple, mode: str, seed: int) -> list[Tensor]:
    """Outputs of a copy of the model, so that running statistics are left alone."""
    if mode == "train":
        model = copy.deepcopy(model)
    was = {m: m.training for m in model.modules()}
    model.train(mode == "train")
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            leaves = tree_flatten(_plain(model(*inputs)))[0]
            return [t for t in leaves if isinstance(t, Tensor) and t.is_floating_point()]
    finally:
        for m, training in was.items():
            m.training = training


def _plain(out):
    """Dict-like and tuple-like model outputs as plain ones."""
    if isinstance(out, dict):
        return {k: _plain(v) for k, v in out.items()}
    return [_plain(v) for v in out] if isinstance(out, (tuple, list)) else out


def verify(before: nn.Module, after: nn.Module, example_inputs, seed: int = 0) -> Verification:
    """Compares two models on `example_inputs` in eval and in train mode (same random numbers drawn in both).

    Raises:
        nothing of its own: what a model raises in eval mode passes through; in train mode it becomes a note.
    """
    inputs = as_tuple(example_inputs)
    errors, exact, notes, absolute = {}, [], [], float("nan")
    dtype = next((p.dtype for p in after.parameters() if p.is_floating_point()), torch.float32)
    tolerance = TOLERANCE.get(dtype, 1e-4)
    for mode in ("eval", "train"):
        try:
            a, b = _outputs(before, inputs, mode, seed), _outputs(after, inputs, mode, seed)
        except Exception as error:  # a batch of one under batch norm, a detector without targets
            if mode == "eval":
                raise
            notes.append(f"train mode not run: {str(error).strip().splitlines()[0] if str(error) else type(error).__name__}")
            continue
        if len(a) != len(b) or any(x.shape != y.shape for x, y in zip(a, b)):
            notes.append(f"outputs differ in number or shape in {mode} mode")
            errors[mode] = float("inf")
            continue
        gap = max((float((x - y).abs().max()) for x, y in zip(a, b) if x.numel()), default=0.0)
        size = max((float(x.abs().max()) for x in a if x.numel()), default=0.0)
        errors[mode] = gap / size if size else gap
        if mode == "eval":
            absolute = gap
        if errors[mode] <= tolerance:
            exact.append(mode)
    return Verification(absolute, errors.get("eval", float("nan")), tuple(exact), tolerance, errors, tuple(notes))
