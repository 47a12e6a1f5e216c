"""The check of a capture by itself: graph and model on other values and another batch, twice, in both modes, on copies.

Only networks of little work are run (others are compared on meta tensors while they are recorded, see replay.py).
"""
from __future__ import annotations

from dataclasses import is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from fxgrow.aten import tree_flatten, tree_leaves, tree_map
from fxgrow.errors import CaptureError
from fxgrow.graph import clone_structure, uncached
from fxgrow.tracing.modes import set_mode

MOST_WORK = 2e7  # multiplications of one forward pass, roughly: a few milliseconds
OUTPUT, GRADIENTS = "its output", "the gradients of its parameters"
MOST_NUMBERS = 2e6  # parameters, which are copied


def check_capture(model: nn.Module, gm: GraphModule, args: tuple, kwargs: dict) -> None:
    """Compare a captured graph with its model.

    Raises:
        CaptureError: it computes something else; the first layer that differs is named.
    """
    if any(t.is_meta for t in (*tree_leaves((args, kwargs)), *model.parameters()) if isinstance(t, Tensor)) or _is_large(gm):
        return
    for training in (False, True):
        one, two = (set_mode(clone_structure(m, lambda t: t.detach().clone()), training) for m in (model, gm))
        two.recompile()  # type: ignore[operator]
        for longer in (0, 1):
            inputs = _other(args, kwargs, longer)
            try:
                with uncached(one):
                    expected = _run(one, inputs, gm)
            except Exception:  # not for such inputs
                break
            try:
                found = _run(two, inputs, gm)
            except CaptureError:  # it says that it was captured for another size
                break
            except Exception as error:
                found = [(OUTPUT, error), (GRADIENTS, None)]
            if not equal(expected[-2:], found[-2:]):
                where = _first_difference(expected, found)
                raise CaptureError(f"the graph of {type(model).__name__} computes something else than the model does in "
                                   f"{'train' if training else 'eval'} mode, first at {where}: pass the part that you want to grow, "
                                   "or check=False if you know better")


def _is_large(gm: GraphModule) -> bool:
    """Tell whether one forward pass would take more than a few milliseconds."""
    work = numbers = 0.0
    for node in gm.graph.nodes:
        out = next((t for t in tree_leaves(node.meta.get("val")) if isinstance(t, Tensor)), None)
        if out is not None:
            layer = gm.get_submodule(str(node.target)).parameters() if node.op == "call_module" else ()
            weights = [p for p in layer if p.ndim > 1]
            numbers += sum(p.numel() for p in weights)
            work += 10 * out.numel() + sum(out.numel() * p.numel() / p.shape[0] for p in weights)
    return work > MOST_WORK or numbers > MOST_NUMBERS


def _other(args: tuple, kwargs: dict, longer: int) -> tuple[tuple, dict]:
    """Return inputs with other values, drawn like those of the example, and `longer` by so many rows."""
    generator = torch.Generator().manual_seed(longer)

    def draw(value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.numel():
            return value
        shape = [value.shape[0] + longer, *value.shape[1:]] if value.ndim else []
        if value.is_floating_point():
            spread = float(value.std()) if value.numel() > 1 else 0.0
            return (torch.randn(shape, generator=generator) * (spread or 1.0) + float(value.mean())).to(value)
        flat = value.flatten()
        return flat[torch.randint(len(flat), shape, generator=generator).to(flat.device)]
    return tree_map(draw, (args, kwargs))


def _run(model: nn.Module, inputs: tuple[tuple, dict], gm: GraphModule) -> list[tuple[str, Any]]:
    """Return what the layers of a graph give, in order, then the output, and which parameters get a gradient."""
    names = dict.fromkeys(str(n.target) for n in gm.graph.nodes if n.op == "call_module")
    seen: list[tuple[str, Any]] = []

    def keep(name: str):
        return lambda module, args, out: seen.append((f"{name!r}", tree_map(lambda t: t.detach().clone() if isinstance(t, Tensor) else t, out)))

    hooks = [model.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    try:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(0)
            args, kwargs = tree_map(lambda t: t.clone() if isinstance(t, Tensor) else t, inputs)
            out = model(*args, **kwargs)
            wanted = {n: p for n, p in model.named_parameters() if p.requires_grad}
            sums = [t.sum() for t in tree_leaves(out) if isinstance(t, Tensor) and t.requires_grad and t.is_floating_point()]
            grads = torch.autograd.grad(sum(sums), list(wanted.values()), allow_unused=True) if sums and wanted else ()
    finally:
        for hook in hooks:
            hook.remove()
    learning = tuple(sorted(n for n, g in zip(wanted, grads) if g is not None))
    return [*seen, (OUTPUT, out), (GRADIENTS, learning)]


def _first_difference(expected: list[tuple[str, Any]], found: list[tuple[str, Any]]) -> str:
    """Name the first layer whose results differ; a graph computes what is for the other mode as well."""
    rest = iter(found)
    for one in expected:
        two = next((f for f in rest if f[0] == one[0]), None)
        if two is None or not equal(one, two):
            return one[0]
    return OUTPUT


def equal(one: Any, two: Any) -> bool:
    """Tell whether two results are equal but for rounding."""
    (a, form), (b, other) = tree_flatten(one), tree_flatten(two)
    return form == other and all(_same(x, y) for x, y in zip(a, b))


def _same(a: Any, b: Any) -> bool:
    if type(a) is float and type(b) is float:
        a, b = (torch.tensor(value, dtype=torch.float64) for value in (a, b))
    if is_dataclass(a):
        return type(a) is type(b) and equal(vars(a), vars(b))
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
        return type(a) is type(b) and (not isinstance(a, (bool, int, float, str, type(None))) or a == b)
    if a.shape != b.shape or a.dtype is not b.dtype:
        return False
    if not a.is_floating_point():
        return torch.equal(a, b)
    size = float(a.detach().abs().max().nan_to_num(1.0, 1.0)) if a.numel() else 1.0
    return torch.allclose(a, b, rtol=1e-5, atol=1e-5 * size, equal_nan=True)
