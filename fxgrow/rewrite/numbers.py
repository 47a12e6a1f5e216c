"""Numbers computed from sizes that grew: where one is no size itself (a scale, say), it stays what it was.

What lives here: nodes that give such numbers, in which free sizes (of the batch, say) stay live.
What does not: which arguments of a call are sizes (arguments.py).
"""
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

from torch.fx import Node
from torch.fx.node import map_aggregate

from fxgrow.axis import Sum, atoms, resolve, same
from fxgrow.common import Refusal
from fxgrow.graph import NodeRunner
from fxgrow.rewrite.growth import GROUPS, GrownSizes


class Numbers:
    """The numbers in a rewritten graph while it runs on meta tensors."""

    def __init__(self, runner: NodeRunner, grown: GrownSizes):
        self.runner, self.grown = runner, grown
        self.old: dict[Node, Any] = {}  # for each that depends on a grown size, what gives it as it was (None: nothing yet)
        self.groups: dict[Node, Any] = {}  # for a call, the number of groups that is computed for it

    def note(self, node: Node, value: Any) -> None:
        """Take notice of a value that is a number and depends on a grown size."""
        if isinstance(value, (int, float)) and (value != self.before(node, value) or
                                                not self.old.keys().isdisjoint(node.all_input_nodes)):
            self.old[node] = None

    def before(self, node: Node, otherwise: Any = None) -> Any:
        """Return the shape or number that a node gave before the growth."""
        return self.grown.tape.shapes.get(node.name, otherwise)

    def value(self, argument: Any) -> Any:
        """Return the value of an argument."""
        return self.runner.look_up(argument)

    def as_before(self, arguments: Any, user: Node) -> Any:
        """Return arguments with what gives the old number in the place of each that depends on a grown size.

        Raises:
            Refusal: nothing can give it.
        """
        def kept(a: Any) -> Any:
            return self._old(a, user) if isinstance(a, Node) and a in self.old and a is not self.groups.get(user) else a
        return map_aggregate(arguments, kept)

    def fit_groups(self, node: Node) -> None:
        """Let a number of groups that is computed be that of the classes as they are now."""
        for op in self.grown.ops(node):
            axis = getattr(op, "groups", None)
            name, position = GROUPS.get(type(op), ("", 0))
            stated = node.kwargs.get(name, node.args[position] if len(node.args) > position else None)
            if axis is not None and isinstance(stated, Node):
                self.groups[node] = fitted = self.fit_along(stated, self.grown.of(axis), axis, node)
                node.args = tuple(fitted if a is stated else a for a in node.args)
                node.kwargs = {k: fitted if a is stated else a for k, a in node.kwargs.items()}

    def fit(self, stated: Any, wanted: int, dim: int, user: Node) -> Any:
        """Return what gives the size that is wanted along a dimension of a result, where another may be stated."""
        result = self.grown.value(user)
        return self.fit_along(stated, wanted, None if result is None else result.axes[dim], user)

    def fit_along(self, stated: Any, wanted: int, axis: Any, user: Node) -> Any:
        """Return what gives the size that is wanted along an axis (None: an unknown one), where another may be stated."""
        value = self.value(stated)
        if value in (-1, wanted):
            return stated
        if not isinstance(stated, Node):
            return wanted
        if stated in self.old and self.before(stated) == wanted:
            return self._old(stated, user)
        return wanted if axis is None else self._converted(stated, value, wanted, [axis], user)

    def bound(self, stated: Any, wanted: int | None, dim: int, user: Node) -> Any:
        """Return what gives the bound that is wanted of a slice; a size of the inputs stays one.

        Raises:
            Refusal: a size of the inputs says where to cut a dimension that grew.
        """
        if not isinstance(stated, Node) or stated in self.old:
            return wanted
        if self.value(stated) == wanted:
            return stated
        value = self.grown.value(user.args[0])
        cut = [a for a in atoms(value.axes[dim]) if a in self.grown.sizes] if value else []
        if not cut:
            return stated
        raise Refusal("it is cut where a size of the inputs says, which differs from call to call; class left unchanged",
                      user.name, cut)

    def call(self, function: Callable, args: tuple, user: Node) -> Any:
        """Return a new node in front of `user` that calls a function, or its result where nothing is live in it."""
        if not any(isinstance(a, Node) for a in args):
            return function(*args)
        with user.graph.inserting_before(user):
            node = user.graph.call_function(function, args)
        node.meta["owner"] = user.meta.get("owner", "")
        self.runner.values[node] = self.runner.run_node(node)
        return node

    def drop_unused(self) -> None:
        """Take out the numbers that nothing reads any more."""
        for node in reversed(self.old):
            if not node.users:
                node.graph.erase_node(node)

    def _old(self, node: Node, user: Node) -> Any:
        if self.old[node] is None:
            if self.old.keys().isdisjoint(node.all_input_nodes):
                axes = self._axes_read(node)
                self.old[node] = self._converted(node, self.value(node), self.before(node), axes, user)
            elif node.op != "call_function" or node.kwargs:
                raise self._refusal(node)
            else:
                self.old[node] = self.call(node.target, self.as_before(node.args, user), user)  # type: ignore[arg-type]
        return self.old[node]

    def _axes_read(self, node: Node) -> Sequence:
        """Return the axes whose sizes a node multiplies: one, or all of a tensor."""
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        source, dim = node.args[0] if node.args else None, slice(None)
        if name in ("getitem", "size"):
            dim = self.value(node.args[1] if len(node.args) > 1 else node.kwargs.get("dim"))
        if name == "getitem" and isinstance(source, Node) and (source.target == "size" or source.args[1:] == ("shape",)):
            source = source.args[0]
        value = self.grown.value(source) if isinstance(source, Node) else None
        if value is None or name not in ("getitem", "size", "numel", "nelement"):
            raise self._refusal(node)
        return value.axes[dim] if isinstance(dim, slice) else [value.axes[dim]]

    def _converted(self, number: Node, value: int, wanted: int, axes: Sequence, user: Node) -> Any:
        """Return what gives `wanted` where the number, a size or product of sizes along `axes`, is `value`."""
        if all(map(self._is_grown, axes)):
            return wanted
        if all(map(self._is_product, axes)):
            common = math.gcd(value, wanted)
            for function, factor in ((operator.mul, wanted // common), (operator.floordiv, value // common)):
                number = self.call(function, (number, factor), user) if factor > 1 else number
            return number
        if all(map(self._is_of_a_parameter, axes)):
            return wanted
        axis = resolve(axes[0])
        if len(axes) > 1 or not isinstance(axis, Sum) or not all(
                self._is_grown(part) for part in axis.parts if self.grown.of(part) != part.size):
            raise self._refusal(number, axes)
        return self.call(operator.add, (number, wanted - value), user)

    def _is_grown(self, axis: Any) -> bool:
        """Tell whether an axis is made of grown classes alone, and so has one size with all inputs."""
        axis = resolve(axis)
        return all(map(self._is_grown, axis.parts)) if hasattr(axis, "parts") else axis in self.grown.sizes

    def _is_of_a_parameter(self, axis: Any) -> bool:
        """Tell whether an axis is one of a parameter, which has one size with all inputs too."""
        return any(same(axis, other) for value in self.grown.tape.params.values() for other in value.axes)

    def _is_product(self, axis: Any) -> bool:
        """Tell whether what grew in an axis is a factor of its size."""
        axis = resolve(axis)
        if isinstance(axis, Sum):
            return self._is_grown(axis) or self.grown.of(axis) == axis.size
        return all(map(self._is_product, getattr(axis, "parts", ())))

    def _refusal(self, node: Node, axes: Sequence = ()) -> Refusal:
        """Return the refusal of the classes along these axes, or of all where it is not known which it is."""
        read = [a for axis in axes for a in atoms(axis) if a in self.grown.sizes]
        return Refusal("a number is computed from its size in a way that is not followed; class left unchanged", node.name,
                       read or list(self.grown.sizes))
