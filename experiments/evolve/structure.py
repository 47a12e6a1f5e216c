"""The structure of a captured network as a labelled graph, compared by the hashes of Weisfeiler and Lehman."""
import operator
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from torch.fx import GraphModule, Node
from torch.fx.node import map_aggregate

from fxgrow.experiments.settings import optional
from fxgrow.graph import title


def graph_hash(gm: GraphModule) -> str:
    """Return a hash of operations with their settings and of the shapes of parameters, but of no names and numbers."""
    modules = dict(gm.named_modules(remove_duplicate=False))
    return _hashed("weisfeiler_lehman_graph_hash", gm, lambda node: _layer_or_call(gm, modules, node), iterations=4,
                   edge_attr="label")


def subtree_hashes(gm: GraphModule) -> list[str]:
    """Return a hash for each node and the operations that it reads, up to two steps back."""
    of_nodes = _hashed("weisfeiler_lehman_subgraph_hashes", gm, lambda node: ascii(title(gm, node)), iterations=2,
                       backwards=True)
    return [name for names in of_nodes.values() for name in names]


def _hashed(algorithm: str, gm: GraphModule, label: Callable[[Node], str], *, backwards: bool = False, **options: Any):
    """Run an algorithm of networkx on the network, whose edges go with the data or backwards."""
    networkx = optional("networkx", "structures are compared by the package networkx", "evolve")
    graph = networkx.DiGraph()
    for node in gm.graph.nodes:
        graph.add_node(node.name, label=label(node))
    for node in gm.graph.nodes:
        for position, read in enumerate(node.all_input_nodes):
            graph.add_edge(read.name, node.name, label=str(position))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # hashes differ from those of networkx before 3.5
        return getattr(networkx, algorithm)(graph.reverse() if backwards else graph, node_attr="label", **options)


def _layer_or_call(gm: GraphModule, modules: Mapping[str, nn.Module], node: Node) -> str:
    """Return a layer with its settings, or a call with its numbers; and the shapes of the parameters."""
    what, tensors = title(gm, node), []
    if node.op == "call_module":
        layer = modules[str(node.target)]
        what, tensors = f"{type(layer).__name__} {layer.extra_repr()}", list(layer.parameters())
    elif node.op == "get_attr":
        tensors = [operator.attrgetter(str(node.target))(gm)]
    arguments = map_aggregate((node.args, dict(node.kwargs)), lambda a: "_" if isinstance(a, Node) else a)
    return ascii(f"{what} {[tuple(getattr(t, 'shape', ())) for t in tensors]} {arguments}")  # networkx takes no others
