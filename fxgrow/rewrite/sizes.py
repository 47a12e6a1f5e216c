"""Sizes of a rewritten graph: it runs once on meta tensors, and every size in it is compared with the analysis.

A node that disagrees gets its size arguments written out; one that still disagrees refuses the growth (`Refusal`), and
the caller leaves those classes alone. The ops inside a node are compared too: their sizes, and where slices start.
"""
import itertools
import math
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from fxgrow.aten import Shapes, all_numbers_in, effects, tensors_in
from fxgrow.axis import Atom, Value, atoms
from fxgrow.common import Refusal
from fxgrow.graph import MetaRunner, form_of, meta_twin, nested_shape, place_of, set_mode
from fxgrow.rewrite.arguments import keep_old_numbers, write_sizes
from fxgrow.rewrite.growth import GrownSizes
from fxgrow.rewrite.numbers import Numbers

SILENT = ("detach", "alias")  # ops that torch adds or leaves out as it likes


def correct_sizes(gm: GraphModule, grown: GrownSizes) -> None:
    """Run the graph on meta tensors, writing sizes into arguments until every shape is the expected one."""
    runner = _SizeRunner(gm, grown)
    with runner.watch:
        runner.run()
    runner.numbers.drop_unused()


class _Watch(Shapes):
    """Keeps the ATen ops of a node: their names, the shapes of their results, their numbers."""

    def __init__(self):
        super().__init__()
        self.seen: list[tuple[str, list, list]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = super().__torch_dispatch__(func, types, args, kwargs)
        name = effects(func)[0]
        self.seen.append((name, [tuple(o.shape) for o in tensors_in((out,))], all_numbers_in(name, args, kwargs or {})))
        return out


class _SizeRunner(MetaRunner):
    """Runs a rewritten graph and corrects the sizes in it node by node; what nothing of grew gives what it gave before."""
    both_modes = True

    def __init__(self, gm: GraphModule, grown: GrownSizes):
        super().__init__(gm, gm, grown.tape.inputs)
        self.on_meta: set[str] = set()  # the layers that have run
        self.grown, self.watch = grown, _Watch()
        self.numbers = Numbers(self, grown)
        tape = grown.tape
        self.touched = {op.fx for atom in grown.sizes for op in tape.ops_of.get(atom, ())}  # nodes with classes that grow
        larger = {name for atom in grown.sizes for name, _ in tape.params_of.get(atom, ())}
        self.larger = {path for name in larger for path in itertools.accumulate(name.split("."), "{}.{}".format)}
        self.as_before: set[Node] = set()  # nodes that give, on meta tensors, what they gave in the analysis

    def compute(self, node: Node) -> Any:
        if node.op == "placeholder":
            self.as_before.add(node)
            return self.run_node(node)
        if self._stays(node):
            self.as_before.add(node)
            return self.grown.tape.results[node.name]
        if node.op == "call_module":
            self._to_meta(str(node.target))
        if not node.meta.get("folded"):
            return self._resized(node)
        value, problem = self._attempt(node)
        if problem:
            raise Refusal(f"copies cannot go through the batch: {problem}; class left unchanged", node.name,
                          [a for a in self.grown.sizes if a.size == 1])
        return value

    def _to_meta(self, path: str) -> None:
        """Let a layer run without data; most layers of a network need not run."""
        if path not in self.on_meta:
            self.on_meta.add(path)
            with torch._C._DisableTorchDispatch():  # what is done here is none of the node's
                self.modules[path] = set_mode(meta_twin(self.modules[path]), False)

    def run_node(self, node: Node) -> Any:
        """Run one node; what it reads of the network goes to the meta device, and modes are those of evaluation."""
        value = super().run_node(node)
        if node.op != "get_attr":
            return value
        with torch._C._DisableTorchDispatch():
            return value.detach().to("meta") if isinstance(value, Tensor) else False

    def _stays(self, node: Node) -> bool:
        """Tell whether a node gives a tensor of which neither what it is made of nor what is asked of it has grown."""
        tape, name = self.grown.tape, node.name
        value, shape = tape.results.get(name), tape.shapes.get(name)
        return (isinstance(value, Tensor) and name not in self.touched and self.as_before.issuperset(node.all_input_nodes)
                and not (node.op in ("call_module", "get_attr") and node.target in self.larger)
                and not node.meta.get("folded") and not self.is_unknown(node)
                and nested_shape(value) == shape == self.grown.shapes(tape.node_values.get(name), shape))

    def after(self, node: Node, value: Any) -> Any:
        self.numbers.note(node, value)
        if node not in self.as_before and _is_as(value, self.grown.tape.results.get(node.name)):
            self.as_before.add(node)
        return super().after(node, value)

    def _resized(self, node: Node) -> Any:
        if node.op != "call_module":
            self.numbers.fit_groups(node)
        keep_old_numbers(node, self.numbers)
        shape = self.grown.shapes(self.grown.tape.node_values.get(node.name), self.grown.tape.shapes.get(node.name))
        value, problem = self._attempt(node, shape)
        if problem:
            write_sizes(node, self.grown, shape, self.numbers)
            value, problem = self._attempt(node, shape)
        if problem:
            place = place_of(node)
            raise Refusal(f"{problem}; class left unchanged", f"{place} ({node.name})" if place else node.name,
                          self._classes_at(node) or list(self.grown.sizes))
        return value

    def _attempt(self, node: Node, shape: Any = None) -> tuple[Any, str]:
        """Return the value of a node, and what is wrong with its sizes (nothing: `""`)."""
        self.watch.seen = []
        try:
            value = self.run_node(node)
        except Exception as error:  # any failure of a meta run means: these sizes do not fit
            return None, f"it cannot run: {type(error).__name__}: {error}".splitlines()[0]
        if not _agrees(shape, nested_shape(value)):
            return value, f"output would be {nested_shape(value)}, expected {shape}"
        return value, "" if node.meta.get("rescaled") else self._problem_inside(node)

    def _problem_inside(self, node: Node) -> str:
        """Describe the first op inside a node that has other sizes or numbers than expected."""
        before, now = ([op for op in ops if op[0] not in SILENT]
                       for ops in (self.grown.tape.inner.get(node.name, ()), self.watch.seen))
        if [name for name, *_ in before] == [name for name, *_ in now]:
            return next(filter(None, map(self._problem_of, before, now)), "")
        # what is of torch or ours does the same at any size, though perhaps by other ops
        return "it does other things at another size" if self.is_unknown(node) else ""

    def _problem_of(self, before: tuple[str, list, list], now: tuple[str, list, list]) -> str:
        (name, values, numbers), (_, shapes, new_numbers) = before, now
        expected = [self._shape_inside(v, s) for v, s in zip(values, shapes)]
        if expected != shapes:
            return f"{name} gives {shapes} inside, expected {expected}"
        if name == "slice" and isinstance(values[0], Value) and values[0].op:
            bounds = self.grown.bounds(values[0].op)
            numbers = numbers if bounds is None else [numbers[0], bounds[1], numbers[2]]
        same = numbers == new_numbers or _equal(numbers, new_numbers)
        return "" if same else f"{name} is given {new_numbers} inside, expected {numbers}"

    def _shape_inside(self, value: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the expected shape of a result: a value's new one, a shape that may not change, or any (None)."""
        if isinstance(value, Value):
            return self.grown.shape(value)
        return shape if value is None else value

    def _classes_at(self, node: Node) -> list[Atom]:
        """Return the grown classes that a node touches."""
        values: list[Any] = [v for op in self.grown.ops(node) for v in (*op.ins, *op.outs)]
        for n in (node, *node.all_input_nodes):
            result = self.grown.tape.node_values.get(n.name)
            values += result if isinstance(result, list) else [result]
        touched = {a for v in values if isinstance(v, Value) for axis in v.axes for a in atoms(axis)}
        return [a for a in touched if a in self.grown.sizes]


def _is_as(value: Any, before: Any) -> bool:
    """Tell whether a number or a tensor on the meta device is the one that it was."""
    if isinstance(value, Tensor) and isinstance(before, Tensor):
        return form_of(value) == form_of(before)
    return isinstance(value, (int, float, torch.Size)) and value == before


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(_equal, a, b))
    if isinstance(a, float) and isinstance(b, float):
        return a == b or math.isclose(a, b, rel_tol=1e-12) or (math.isnan(a) and math.isnan(b))
    return isinstance(a, torch.ScriptObject) or a == b


def _agrees(expected: Any, got: Any) -> bool:
    """Tell whether a nested shape is the expected one, where None stands for any."""
    if expected is None:
        return True
    if isinstance(expected, list):
        return isinstance(got, (list, tuple)) and all(_agrees(e, g) for e, g in zip(expected, got))
    return isinstance(got, tuple) and tuple(expected) == got
