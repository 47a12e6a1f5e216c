"""Parts of a captured graph that something is put behind or around: a layer, one call, or all that is below a module."""
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.passes.infra.pass_base import PassResult

from fxgrow.aten import tree_leaves
from fxgrow.axis import Value, analyse, atoms, classes
from fxgrow.common import Refusal
from fxgrow.graph import boundary, outer, owner_of
from fxgrow.growth.edit import Edit, insist_done
from fxgrow.record import Outcome


@dataclass(eq=False)
class Part:
    """A part of a graph between the value that it takes and the value that it gives.

    name: the module, layer or call (`module:node`) that it is. nodes: in the order of the graph.
    takes: the node outside whose value it reads (None: not asked for). gives: the node inside whose value others read.
    channel_axis: the axis of channels in `gives`, counted from the end, where that was asked for.
    concat_axis: the axis along which `gives` is only ever concatenated, so that the part can be left out.
    home: the module that new layers beside it belong to.
    """
    name: str
    nodes: list[Node]
    takes: Node | None
    gives: Node
    channel_axis: int = -1
    concat_axis: int | None = None
    home: str = ""

    @property
    def reader(self) -> Node:
        """Return the first node that reads the value which the part takes."""
        return next(n for n in self.nodes if self.takes in n.all_input_nodes)

    @property
    def rank(self) -> int:
        """Return the number of spatial axes behind the channels (0: layers there are linear)."""
        return -1 - self.channel_axis

    def beside(self, name: str) -> str:
        """Return the path of a new layer beside the part."""
        return f"{self.home}.{name}".lstrip(".")


Named = tuple[str, str, list[Node]]  # name, home and nodes of what may be a part
_CHANNELS: weakref.WeakKeyDictionary[GraphModule, tuple[dict, set]] = weakref.WeakKeyDictionary()  # axes; what layers make


def named(edit: Edit) -> dict[str, list[Named]]:
    """Return all that a name may mean: a module (the nodes below it), each call of a layer, a call (`module:node`)."""
    found: dict[str, list[Named]] = {}
    for node in edit.before.graph.nodes:
        owner = owner_of(node)
        if node.op == "call_module":
            path = str(node.target)
            owner = path.rpartition(".")[0]
            found.setdefault(path, []).append((path, owner, [node]))
        elif node.op in ("call_function", "call_method"):
            if isinstance(edit.values[node.name], Tensor):
                name = f"{owner}:{node.name}" if owner else node.name
                found.setdefault(name, []).append((name, owner, [node]))
        else:
            continue
        while owner:
            found.setdefault(owner, [(owner, owner, [])])[0][2].append(node)
            owner = owner.rpartition(".")[0]
    return found


def part_of(edit: Edit, name: str, home: str, nodes: list[Node]) -> Part:
    """Return nodes of the original as a part; refuse those that do not give one tensor."""
    return Part(name, nodes, None, _only(edit, boundary(nodes)[1], "gives"), home=home)


def _only(edit: Edit, nodes: list[Node], verb: str) -> Node:
    """Return the one node whose value is a tensor of real numbers."""
    nodes = [n for n in nodes if any(isinstance(v, Tensor) for v in tree_leaves(edit.values[n.name]))]
    if len(nodes) != 1:
        names = f" ({', '.join(n.name for n in nodes[:4])})" if nodes else ""
        raise Refusal(f"it {verb} {len(nodes) or 'no'} tensors{names}, not one: name a part of it that {verb} one")
    value = edit.values[nodes[0].name]
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise Refusal(f"what it {verb} ({nodes[0].name}) is no tensor of real numbers")
    return nodes[0]


def channel_axis(edit: Edit, node: Node) -> int:
    """Return the axis of a value that some layer makes (neither the batch nor space nor time), or refuse."""
    found = channel_axes(edit.before, node.name)
    if len(found) == 1:
        return found[0]
    if edit.values[node.name].ndim == 2:
        return 1
    raise Refusal(f"which axis of {node.name} its channels are on is not clear: {len(found) or 'none'} of them "
                  f"{'is' if len(found) < 2 else 'are'} made by layers")


def channel_axes(gm: GraphModule, node: str) -> list[int]:
    """Return the axes of a node's value that some layer makes: one, where it is clear which its channels are on."""
    if gm not in _CHANNELS:
        tape = analyse(gm)
        _CHANNELS[gm] = ({n: v.axes for n, v in tape.node_values.items() if isinstance(v, Value)},
                         {c.atom for c in classes(tape) if c.producers})
    axes, made = _CHANNELS[gm]
    return [d for d, axis in enumerate(axes.get(node, ())) if d and made.intersection(atoms(axis))]


def outermost(where: str | Sequence[str], names: Iterable[str], what: str) -> list[str]:
    """Return the names that globs match, each glob's without those below another one of them."""
    patterns = [where] if isinstance(where, str) else where
    return list(dict.fromkeys(n for pattern in patterns for n in outer(Edit.select(pattern, names, what))))


def apply(edit: Edit, where: str | Sequence[str], what: str, put: Callable[[Part], Outcome],
          takes: bool = False) -> PassResult:
    """Call `put` for each part that is named, the last one first, and keep the reasons where it refuses.

    what: what names are of, for the error. takes: the parts must take one value.
    """
    found = named(edit)
    chosen = [one for name in outermost(where, found, what) for one in found[name]]
    order = {node: i for i, node in enumerate(edit.before.graph.nodes)}
    chosen.sort(key=lambda one: order[one[2][-1]])
    for name, home, nodes in reversed(chosen):
        try:
            part = part_of(edit, name, home, nodes)
            if edit.read_elsewhere(edit.nodes[part.gives.name]):
                raise Refusal("the memory of what it gives is written to later and read under another name")
            if takes:
                part.takes = _only(edit, boundary(nodes)[0], "takes")
            edit.outcomes.insert(0, put(part))
        except Refusal as why:
            edit.outcomes.insert(0, Outcome(name, 0, 0, [name], reason=str(why)))
    insist_done(where, edit.outcomes)
    return edit.finish()


def read_parameter(edit: Edit, before: Node, name: str) -> Node:
    """Return a new node in front of `before` that reads a parameter."""
    with edit.graph.inserting_before(before):
        node = edit.graph.get_attr(name)
    node.meta["owner"] = name.rpartition(".")[0]
    return node


def kept(edit: Edit, before: Node, node: Node) -> Node:
    """Return a node's value as it is in front of `before`: a copy, if something writes to it later."""
    return edit.call(before, ".clone", node, owner=owner_of(before)) if edit.written(node) else node
