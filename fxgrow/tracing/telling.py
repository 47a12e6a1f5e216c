"""What tensors tell that is known without their data: a number that is a size as well, and a draw beside its range.

`lengths.max().item()` is most often the length of a padded axis, and `torch.rand(1).item() < 0.0` holds never. What does
not live here: what is written down for it (recorder.py).
"""
from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.fx.node import map_aggregate

from fxgrow.aten import device_constructors, noted_counts, tensors_in, tree_leaves, tree_map
from fxgrow.errors import CaptureError
from fxgrow.graph import NodeRunner, arguments_of, to_meta
from fxgrow.layers import drawn
from fxgrow.tracing.fresh import Axes, Inputs, axes_of

RANDOM = {"rand", "randint", "randn", "randperm", "rng_state"}
ORDER = {"lt": operator.lt, "le": operator.le, "gt": operator.gt, "ge": operator.ge}
CONSTRUCTORS = device_constructors()
FEW = 10_000  # numbers in a tensor of which the data are kept
CPU, META = torch.device("cpu"), torch.device("meta")
Place = tuple[Node, int]  # a node of the graph, and a dimension of what it gives


class _Run(NodeRunner):
    """A run of what has been recorded so far, with the data of whole numbers and on the meta device for the rest."""

    def __init__(self, root: nn.Module, inputs: Iterator[Any]):
        super().__init__((), root, inputs)
        self.done, self.stopped, self.has_data, self.by_zeros = 0, False, True, False
        self.made_up: set[Node] = set()  # nodes of a shape that data say which nobody knows, and what is made of them

    def go_on(self, events: list[Node]) -> bool:
        """Run what has been recorded since; return whether all of it ran."""
        with torch.no_grad():
            while self.done < len(events) and not self.stopped:
                node = events[self.done]
                given = tensors_in([self.values[n] for n in node.all_input_nodes])
                makes = bool(given) or (node.target in CONSTRUCTORS and node.target.__name__ not in RANDOM)
                self.has_data = makes and node.op != "call_module" and not any(t.is_meta for t in given)
                counts: list[int] = []
                try:
                    with noted_counts(counts):
                        self.values[node] = self.after(node, self.compute(node))
                except CaptureError:
                    self.stopped = True
                if (counts and not self._is_known_by_zeros(node)) or not self.made_up.isdisjoint(node.all_input_nodes):
                    self.made_up.add(node)
                self.done += 1
        return not self.stopped

    def _is_known_by_zeros(self, node: Node) -> bool:
        """Run a node whose shape data say on zeros in place of other numbers than whole ones, and tell whether that went."""
        self.by_zeros = True
        try:
            self.values[node] = tree_map(to_meta, self.compute(node))
        except CaptureError:
            return False
        finally:
            self.by_zeros = False
        return True

    def look_up(self, arguments: Any) -> Any:
        """Return arguments of a node, all of their tensors with data or all without."""
        def value(argument: Any) -> Any:
            if isinstance(argument, Tensor) and self.by_zeros:
                return _zeros(argument)
            if isinstance(argument, Tensor):
                return argument if self.has_data or argument.is_meta else to_meta(argument)
            return (CPU if self.has_data else META) if isinstance(argument, torch.device) else argument
        return map_aggregate(super().look_up(arguments), lambda a: tree_map(value, a))

    def after(self, node: Node, value: Any) -> Any:
        """Return the value to keep for a node."""
        return tree_map(_with_few, value) if node.op == "get_attr" or self.has_data else value


def _with_few(value: Any) -> Any:
    """Return a tensor without data, unless these are few whole numbers: then with its own, on the CPU."""
    if not isinstance(value, Tensor) or value.is_meta:
        return value
    kept = not (value.is_floating_point() or value.is_complex()) and value.numel() <= FEW
    return value.detach().cpu().clone() if kept else to_meta(value)


def _zeros(tensor: Tensor) -> Tensor:
    """Return a tensor that has its data, or zeros, of which no shape depends.

    Raises:
        CaptureError: these may be what a shape depends on, or they are many.
    """
    if not tensor.is_meta:
        return tensor
    if not tensor.is_floating_point() or tensor.numel() > FEW:
        raise CaptureError("nobody knows how many positions there are")
    return torch.zeros(tensor.shape, dtype=tensor.dtype)


class Telling:
    """What the whole numbers in the inputs tell, in the example and in inputs beside it.

    Args:
        root: the model on meta tensors. args, kwargs: the example inputs, with their data.
    """

    def __init__(self, root: nn.Module, args: tuple, kwargs: dict):
        self.root, self.inputs = root, (args, kwargs)
        self.runs: list[_Run] | None = None
        self.at_zero: list[_Run] = []  # the one of them that tells sizes alone: all data of its inputs are zero

    def place_of(self, node: Node, events: list[Node], dim: int | None = None) -> Place | None:
        """Return where a size is that is always the number that a node gives, or None: in the example and beside it.

        dim: it is not the number that the node gives, but the size of this dimension of it, which the data say.
        """
        if self.runs is None:
            known = tree_map(_with_few, self.inputs)
            has_data = any(isinstance(t, Tensor) and not t.is_meta for t in tree_leaves(known))
            inputs = (known, *_beside(known), tree_map(_without, known)) if has_data else ()
            self.runs = [_Run(self.root, self._arguments(given)) for given in inputs]
            self.at_zero = self.runs[-1:]
        self.runs = [run for run in self.runs if run.go_on(events)]
        runs = [run for run in self.runs if dim is not None or run not in self.at_zero]
        if dim is None:
            told = [run.values[node] for run in runs]
            numbers = [] if any(t.is_meta or t.numel() != 1 for t in told) else [int(t) for t in told]
        else:
            numbers = [] if any(node in run.made_up for run in runs) else [run.values[node].shape[dim] for run in runs]
            numbers = numbers if len(set(numbers)) > 1 else []  # one alone may be any size
        return next((place for place in _places(events) if place[0] is not node
                     and not any(place[0] in run.made_up for run in runs)
                     and [_size(run.values[place[0]], place[1]) for run in runs] == numbers), None) if numbers else None

    def _arguments(self, inputs: Inputs) -> Iterator[Any]:
        """Yield the values of the placeholders, which a run may write to."""
        return (tree_map(_with_few, a.value) for a in arguments_of(self.root, *inputs))


def _without(value: Any) -> Any:
    """Return zeros in place of the data of a tensor."""
    return torch.zeros_like(value) if isinstance(value, Tensor) and not value.is_meta else value


def _beside(inputs: Inputs) -> Iterator[Inputs]:
    """Yield inputs with axes that are one longer, one shorter or twice as long, those of a size together and each alone."""
    for batch, (group, *_) in zip(itertools.chain([True], itertools.repeat(False)), axes_of(inputs)):
        alone = () if batch else (frozenset([place]) for place in group.places)
        for places, by in itertools.product(dict.fromkeys((group.places, *alone)), (1, -1, group.size)):
            if group.size + by:
                yield _longer(inputs, Axes(group.size, places, by))


def _longer(inputs: Inputs, axes: Axes) -> Inputs:
    """Return inputs with some axes of another size, and that in place of the old one in tensors that lack these axes."""
    tensors = [v for v in tree_leaves(inputs) if isinstance(v, Tensor)]
    own = {id(tensors[number]) for number, _ in axes.places}

    def followed(value: Any) -> Any:
        tells = isinstance(value, Tensor) and not value.is_meta and value.dtype is not torch.bool and id(value) not in own
        return value.where(value != axes.size, axes.size + axes.by) if tells else value
    return axes.of(tree_map(followed, inputs))


def _places(events: list[Node]) -> Iterator[Place]:
    values = ((node, node.meta.get("val")) for node in events if node.op != "get_attr")
    return ((node, dim) for node, value in values if isinstance(value, Tensor) for dim in range(value.ndim))


def _size(value: Any, dim: int) -> int | None:
    return value.shape[dim] if isinstance(value, Tensor) and value.ndim > dim else None


def answer_of(node: Node) -> bool | None:
    """Return the answer to a question about a draw if it is the same for each number between 0 and 1, else None."""
    compare = ORDER.get(getattr(node.target, "__name__", str(node.target)).strip("_"))
    return answer_to(compare, node.args) if compare and len(node.args) == 2 and not node.kwargs else None


def answer_to(compare: Callable, operands: tuple) -> bool | None:
    """Return the answer to a question about numbers and draws if it is the same for all draws, else None."""
    if sum(map(is_draw, operands)) != 1 or not all(is_draw(o) or type(o) in (int, float) for o in operands):
        return None
    low, high = (compare(*(number if is_draw(o) else o for o in operands)) for number in (5e-324, 1 - 2 ** -53))
    return low if low is high and compare in ORDER.values() else None


def is_draw(value: Any) -> bool:
    """Tell whether a value of a graph is a number drawn evenly between 0 and 1."""
    while isinstance(value, Node) and value.target in (drawn, operator.getitem):
        value = value.args[0]
    return isinstance(value, Node) and getattr(value.target, "__name__", "") == "rand"
