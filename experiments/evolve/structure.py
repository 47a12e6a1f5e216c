"""The structure of a captured network as a labelled graph, compared by the hashes of Weisfeiler and Lehman.

N. Shervashidze et al., "Weisfeiler-Lehman Graph Kernels", JMLR 12, 2011. The digests are those of networkx from 3.5 on.
"""
import operator
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from hashlib import blake2b

from torch import nn
from torch.fx import GraphModule, Node
from torch.fx.node import map_aggregate

from fxgrow.graph import title


def graph_hash(gm: GraphModule) -> str:
    """Return a hash of operations with their settings and of the shapes of parameters, but of no names and numbers."""
    modules = dict(gm.named_modules(remove_duplicate=False))
    rounds = _relabelled(gm, lambda node: _layer_or_call(gm, modules, node), 4, numbered=True)
    return _digest(str(tuple(pair for labels in rounds for pair in sorted(Counter(labels.values()).items()))))


def subtree_hashes(gm: GraphModule) -> list[str]:
    """Return a hash for each node and the operations that it reads, up to two steps back."""
    rounds = list(_relabelled(gm, lambda node: ascii(title(gm, node)), 2, backwards=True))
    return [labels[node] for node in gm.graph.nodes for labels in rounds]


def _relabelled(gm: GraphModule, label: Callable[[Node], str], rounds: int, *, numbered: bool = False,
                backwards: bool = False) -> Iterator[dict[Node, str]]:
    """Yield the labels of all nodes after each round, in which a node's label takes in those of its neighbours.

    numbered: which argument an edge is counts as well. backwards: edges go against the data.
    """
    nodes = list(gm.graph.nodes)
    behind: dict[Node, list[tuple[str, Node]]] = {node: [] for node in nodes}
    before: dict[Node, list[tuple[str, Node]]] = {node: [] for node in nodes}
    for node in nodes:
        for position, read in enumerate(node.all_input_nodes):
            start, end = (node, read) if backwards else (read, node)
            behind[start].append((str(position) if numbered else "s_", end))
            before[end].append((str(position) if numbered else "p_", start))
    labels = {node: label(node) for node in nodes}
    for _ in range(rounds):
        labels = {node: _digest("".join([own, *sorted([edge + labels[other] for edge, other in behind[node]]),
                                         *sorted([edge + labels[other] for edge, other in before[node]])]))
                  for node, own in labels.items()}
        yield labels


def _digest(text: str) -> str:
    return blake2b(text.encode("ascii"), digest_size=16).hexdigest()


def _layer_or_call(gm: GraphModule, modules: Mapping[str, nn.Module], node: Node) -> str:
    """Return a layer with its settings, or a call with its numbers; and the shapes of the parameters."""
    if node.op == "call_module":
        layer = modules[str(node.target)]
        held = layer.parameters() if layer._modules else (p for p in layer._parameters.values() if p is not None)
        what, tensors = f"{type(layer).__name__} {layer.extra_repr()}", list(dict.fromkeys(held))
    else:
        what, tensors = title(gm, node), [operator.attrgetter(str(node.target))(gm)] if node.op == "get_attr" else []
    arguments = map_aggregate((node.args, dict(node.kwargs)), lambda a: "_" if isinstance(a, Node) else a)
    return ascii(f"{what} {[tuple(getattr(t, 'shape', ())) for t in tensors]} {arguments}")
