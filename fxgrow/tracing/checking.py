"""The check of a capture by itself: graph and model on other values and another batch, twice, in both modes, on copies.

Where the model takes no values but such as the example's, on the example.

Only networks of little work are run (others are compared on meta tensors while they are recorded, see replay.py).
"""
from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from fxgrow.aten import tree_leaves, tree_map
from fxgrow.common import one_line
from fxgrow.errors import CaptureError
from fxgrow.graph import kept_attributes, running_copy, set_mode, uncached, values_kept
from fxgrow.tracing.fresh import Inputs, axes_of, redraw
from fxgrow.tracing.outputs import compare_outputs
from fxgrow.tracing.state import State, seeded

MOST_WORK = 2e7  # multiplications of one forward pass, roughly: a few milliseconds
CALL = 1e4  # and what each call in it takes, whatever its size
OUTPUT, GRADIENTS = "its output", "the gradients of its parameters"
CHANNELS_LAST = 3  # with more dimensions the second one is mostly that of channels
ROUNDING = 1e-5  # so far apart two results may be, relative to the largest number
MOST_NUMBERS = 2e6  # parameters, which are copied


def check_capture(model: nn.Module, gm: GraphModule, args: tuple, kwargs: dict) -> None:
    """Compare a captured graph with its model.

    Raises:
        CaptureError: it computes something else; the first layer that differs is named.
    """
    if _is_large(gm) or any(t.is_meta for t in (*tree_leaves((args, kwargs)), *model.parameters()) if isinstance(t, Tensor)):
        return
    gm.recompile()
    for training in (False, True):
        if _difference(model, gm, (args, kwargs), training, []):
            layers = list(dict.fromkeys(str(n.target) for n in gm.graph.nodes if n.op == "call_module"))
            where = _difference(model, gm, (args, kwargs), training, layers) or OUTPUT  # once more, and look closer
            mode = "train" if training else "eval"
            raise CaptureError(f"the graph of {type(model).__name__} computes something else than the model does in {mode} "
                               f"mode, first at {where}: pass the part that you want to grow, or check=False if you know "
                               "better")


def _difference(model: nn.Module, gm: GraphModule, example: Inputs, training: bool, layers: list[str]) -> str:
    """Return which of `layers`, or what else, is the first to differ in a mode; `""` if nothing does."""
    one, two = (set_mode(running_copy(m), training) for m in (model, gm))
    outside, keeps, compared = State(one), kept_attributes(two), False
    waiting = list(itertools.islice(_others(example), 2 if training else 3))[::-1]
    while waiting:
        inputs, gradients = waiting.pop(), not compared
        try:
            with uncached(one):
                expected, mine = _run(one, inputs, layers, gradients, keeps)
        except Exception:  # not for such inputs
            waiting = [] if compared or inputs is example else [example]
            continue
        finally:
            outside.restore_outside()
        compared = True
        try:
            found, its = _run(two, inputs, layers, gradients, keeps)
        except CaptureError:  # it says that it was captured for another size
            break
        except Exception as error:
            return f"its output (the graph raises {one_line(error)})"
        finally:
            outside.restore_outside()
        if not equal(expected[-2:], found[-2:]):
            return _first_difference(expected, found)
        for name, a, b in zip(keeps, mine, its):
            if b is not None and not equal(a, b):  # None: it is kept in the other mode
                return f"its attribute {'.'.join(filter(None, name))}"
    return ""


def _others(inputs: Inputs) -> Iterator[Inputs]:
    """Yield inputs with other values, ones with a row more as well, and then longer ones (of pictures larger ones)."""
    yield redraw(inputs, 0)
    groups = [ways[0] for ways in axes_of(inputs)]
    largest = max((t.ndim for t in tree_leaves(inputs) if isinstance(t, Tensor)), default=0)
    groups[1:] = sorted(groups[1:], key=lambda axes: largest > CHANNELS_LAST and any(dim == 1 for _, dim in axes.places))
    for axes in groups:
        yield redraw(axes.of(inputs), 1)


def _is_large(gm: GraphModule) -> bool:
    """Tell whether one forward pass would take more than a few milliseconds."""
    work = numbers = 0.0
    for node in gm.graph.nodes:
        work += CALL
        out = next((t for t in tree_leaves(node.meta.get("val")) if isinstance(t, Tensor)), None)
        if out is not None:
            layer = gm.get_submodule(str(node.target)).parameters() if node.op == "call_module" else ()
            weights = [p for p in layer if p.ndim > 1]
            numbers += sum(p.numel() for p in weights)
            work += 10 * out.numel() + sum(out.numel() * p.numel() / max(p.shape[0], 1) for p in weights)
        if work > MOST_WORK or numbers > MOST_NUMBERS:
            return True
    return False


def _run(model: nn.Module, inputs: Inputs, layers: list[str], gradients: bool,
         keeps: list[tuple[str, str]]) -> tuple[list[tuple[str, Any]], list[Any]]:
    """Return what `layers` give, in order, then the output, and (if asked for) which parameters get a gradient.

    And beside it what the model keeps as the attributes `keeps`.
    """
    seen: list[tuple[str, Any]] = []

    def keep(name: str):
        return lambda module, args, out: seen.append((f"{name!r}", tree_map(copied, out)))

    def copied(value: Any) -> Any:
        return value.clone() if isinstance(value, Tensor) else value

    hooks = [model.get_submodule(name).register_forward_hook(keep(name)) for name in layers]
    try:
        with seeded(0), torch.enable_grad():
            args, kwargs = tree_map(copied, inputs)
            out = model(*args, **kwargs)
            kept = tree_map(copied, values_kept(model, keeps))
            wanted = {n: p for n, p in model.named_parameters() if p.requires_grad}
            outputs = [t for t in tree_leaves(out) if isinstance(t, Tensor) and t.requires_grad and t.is_floating_point()]
            grads = torch.autograd.grad([t.sum() for t in outputs], list(wanted.values()), allow_unused=True) \
                if gradients and outputs and wanted else ()
    finally:
        for hook in hooks:
            hook.remove()
    learning = tuple(sorted(n for n, g in zip(wanted, grads) if g is not None))
    return [*seen, (OUTPUT, out), (GRADIENTS, learning)], kept


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
    return compare_outputs(one, two, ROUNDING).relative <= ROUNDING
