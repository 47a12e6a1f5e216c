"""A torch.fx graph as JSON and back.

torch.fx turns a graph into Python source, so every name that would end up there is checked to be a plain name, and every
target is looked up in the allow-lists.
"""
import dataclasses
import keyword
from typing import Any

from torch.fx import Graph, GraphModule, Node

from fxgrow.archive import allow
from fxgrow.archive.own import missing
from fxgrow.archive.structure import is_readable
from fxgrow.archive.tree import Tree
from fxgrow.archive.values import Unencodable, decode, encode, fields
from fxgrow.errors import ArchiveError
from fxgrow.graph import find_module, keep_grad_mode
from fxgrow.layers import Applied

MAX_NODES = 100_000  # torch.fx compiles a function of as many lines
NODE = {"op": str, "name": str, "target": (str, dict), "args": list, "kwargs": dict}
OPS = ("placeholder", "get_attr", "call_function", "call_method", "call_module", "output")


def encode_graph(gm: GraphModule) -> list[dict]:
    """Return the nodes of the model's graph in order; an ArchiveError names the node that a file cannot hold."""
    graph = gm.graph
    if len(graph.nodes) > MAX_NODES:
        raise ArchiveError(f"the graph has {len(graph.nodes)} nodes; an archive holds at most {MAX_NODES}")
    for node in graph.nodes:
        if node.op == "get_attr" and not is_readable(gm, str(node.target)):
            raise ArchiveError(f"node {node.name!r} reads {node.target!r}, which is not a parameter or buffer; register it "
                               "as a buffer")
        if node.op == "call_function" and node.target is getattr:
            _function("builtins.getattr", node.args, node.kwargs)
    return [_encode_node(node) for node in graph.nodes]


def _encode_node(node: Node) -> dict:
    def special(value):
        return {"node": value.name} if isinstance(value, Node) else None

    try:
        entry = {"op": node.op, "name": node.name, "target": _encode_target(node),
                 "args": [encode(a, special) for a in node.args],
                 "kwargs": {k: encode(v, special) for k, v in node.kwargs.items()}}
    except Unencodable as error:
        raise ArchiveError(f"node {node.name!r} is given a value of type {error}, which an archive cannot hold; "
                           "keep it in a module's attribute or make it a tensor") from None
    if isinstance(node.meta.get("owner"), str):
        entry["owner"] = node.meta["owner"]
    return entry


def _encode_target(node: Node) -> Any:
    if node.op != "call_function":
        if node.op == "call_method" and node.target not in allow.METHODS:
            raise ArchiveError(f"node {node.name!r} calls the method {node.target!r}, which an archive may not call")
        return node.target
    function: Any = node.target
    name = allow.function_name(function)
    if name is not None:
        return name
    if isinstance(function, Applied):
        return {"function": f"{function.function.__module__}.{function.function.__qualname__}"}
    if allow.is_named_tuple(function):
        return {"namedtuple": [function.__name__, list(function._fields)]}
    if dataclasses.is_dataclass(function):
        names = [f.name for f in dataclasses.fields(function) if f.init]
        return allow.OUTPUTS.name_of(function) or {"dataclass": [function.__name__, names]}  # type: ignore[arg-type, union-attr]
    called = f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', function)}"
    raise ArchiveError(f"node {node.name!r} calls {called}, which is not a function of torch or torchvision; an archive "
                       "holds no code, so write it with torch's functions, or return a tuple or dict instead of your class")


def decode_graph(data: Any, tree: Tree) -> Graph:
    """Return the graph, its targets resolved, over the modules and tensors of `tree`, or raise ArchiveError."""
    graph = Graph()
    nodes: dict[str, Node] = {}
    if not isinstance(data, list) or not 0 < len(data) <= MAX_NODES:
        raise ArchiveError(f"the graph has no nodes, or more than {MAX_NODES}")
    for position, entry in enumerate(data):
        if isinstance(entry, dict) and entry.get("op") == "output" and position != len(data) - 1:
            raise ArchiveError("the graph has an output before its end")
        _decode_node(graph, nodes, entry, tree)
    if data[-1]["op"] != "output":
        raise ArchiveError("the graph has no output")
    keep_grad_mode(graph)
    return graph


def _is_name(name: Any) -> bool:
    """Tell a plain Python name; `self` would hide the module in the code that torch.fx writes, `torch` the library."""
    return (isinstance(name, str) and allow.IDENTIFIER.fullmatch(name) is not None and len(name) < 1000
            and not keyword.iskeyword(name) and name not in ("self", "torch") and not name.startswith("__"))


def _decode_node(graph: Graph, nodes: dict[str, Node], entry: Any, tree: Tree) -> None:
    owner = {"owner": str} if isinstance(entry, dict) and "owner" in entry else {}
    op, name, target, args, kwargs, *owned = fields(entry, "a node of the graph", {**NODE, **owner})
    if op not in OPS or not _is_name(name) or name in nodes or not all(_is_name(k) for k in kwargs):
        raise ArchiveError(f"node {name[:60]!r} has no proper name, operation or arguments")

    def known_node(content, inner):
        if not isinstance(content, str) or content not in nodes:
            raise ArchiveError(f"node {name!r} uses {str(content)[:60]!r}, which does not come before it")
        return nodes[content]

    values = tuple(decode(a, {"node": known_node}) for a in args)
    named = {k: decode(v, {"node": known_node}) for k, v in kwargs.items()}
    try:
        called = _TARGETS[op](target, values, named, tree)
    except ArchiveError as error:
        raise ArchiveError(f"node {name!r}: {error}") from error
    if op == "placeholder" and any(n.op != "placeholder" for n in nodes.values()):
        raise ArchiveError(f"node {name!r}: an input comes after the first operation")
    nodes[name] = graph.create_node(op, called, values, named, name)
    if owned:
        nodes[name].meta["owner"] = owned[0]


def _function(target, args: tuple, kwargs: dict, tree: Tree | None = None):
    if isinstance(target, dict) and "function" in target:
        name, = fields(target, "a function of a network's own", {"function": str})
        return Applied(missing(name) if tree is None or tree.donor is None else tree.donor.function(name))
    if isinstance(target, dict):
        kind = "dataclass" if "dataclass" in target else "namedtuple"
        content, = fields(target, "a class of outputs", {kind: list})
        if len(content) != 2 or not isinstance(content[0], str) or not isinstance(content[1], list):
            raise ArchiveError("a class of outputs has a name and fields")
        return allow.output_class(kind, content[0], tuple(map(str, content[1])))
    if isinstance(target, str) and target.startswith(allow.OUTPUTS.prefixes):
        return allow.OUTPUTS.find(target)
    function = allow.find_function(target)
    if function is getattr and (kwargs or len(args) != 2 or not isinstance(args[0], Node) or not isinstance(args[1], str)
                                or args[1] not in allow.ATTRIBUTES):
        raise ArchiveError(f"it reads an attribute that an archive may not read ({allow.shown(args[1:2])})")
    return function


def _method(target, args: tuple, kwargs: dict, tree: Tree) -> str:
    if not isinstance(target, str) or target not in allow.METHODS:
        raise ArchiveError(f"{allow.shown(target)} is not a method that an archive may call")
    if not args or not isinstance(args[0], Node):
        raise ArchiveError("a method is called on nothing")
    return target


def _module(target, args: tuple, kwargs: dict, tree: Tree) -> str:
    if not isinstance(target, str) or not tree.is_layer(find_module(tree.root, target)):
        raise ArchiveError(f"{allow.shown(target)} is not a layer of the model")
    return target


def _attribute(target, args: tuple, kwargs: dict, tree: Tree) -> str:
    if args or kwargs or not isinstance(target, str) or not is_readable(tree.root, target):
        raise ArchiveError(f"{allow.shown(target)} is not a parameter, a buffer or a training flag of the model")
    return target


def _placeholder(target, args: tuple, kwargs: dict, tree: Tree) -> str:
    if not _is_name(target) or len(args) > 1 or kwargs or any(isinstance(a, Node) for a in args):
        raise ArchiveError("it is not a proper input")
    return target


def _output(target, args: tuple, kwargs: dict, tree: Tree) -> str:
    if target != "output" or len(args) != 1 or kwargs:
        raise ArchiveError("it is not a proper output")
    return target


_TARGETS = {"call_function": _function, "call_method": _method, "call_module": _module, "get_attr": _attribute,
            "placeholder": _placeholder, "output": _output}
