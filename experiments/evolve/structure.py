"""The structure of a captured network as a labelled graph, compared by the hashes of Weisfeiler and Lehman.

N. Shervashidze et al., "Weisfeiler-Lehman Graph Kernels", JMLR 12, 2011. The digests are those of networkx from 3.5 on.
"""
import operator
from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import blake2b

from torch import nn
from torch.fx import GraphModule, Node
from torch.fx.node import map_aggregate

from fxgrow.graph import Shared, title

ROUNDS = 4
Edges = tuple[list[tuple[str, str]], list[tuple[str, str]]]  # labels of edges, and the nodes at their other ends


def graph_hash(gm: GraphModule) -> str:
    """Return a hash of operations with their settings and of the shapes of parameters, but of no names and numbers."""
    return Hashes(gm).own


class Hashes:
    """The hash of a network, and those of its children, of which only what is near something new is labelled anew."""

    def __init__(self, gm: GraphModule):
        self.first: dict[str, str] = {}  # labels by the nodes' names, at first and after each round
        self.rounds: list[dict[str, str]] = [{} for _ in range(ROUNDS)]
        self.edges: dict[str, Edges] = {}
        self.own, self.first, self.edges, self.rounds = self._hash(gm, None)

    def of(self, child: GraphModule, shared: Shared) -> str:
        """Return what `graph_hash(child)` is, where it is known which calls the child shares with its parent."""
        return self._hash(child, shared)[0]

    def _hash(self, gm: GraphModule, shared: Shared | None) -> tuple[str, dict[str, str], dict[str, Edges],
                                                                     list[dict[str, str]]]:
        layers = dict(gm.named_modules(remove_duplicate=False)) if shared is None else shared.layers
        twins = {} if shared is None else shared.twins
        nodes = list(gm.graph.nodes)
        edges = _edges(nodes, numbered=True)
        first = {n.name: self.first[n.name] if n in twins else _layer_or_call(gm, layers, n) for n in nodes}
        anew = {n for n, label in first.items() if self.first.get(n) != label or self.edges.get(n) != edges[n]}
        labels, rounds = first, []
        for known in self.rounds:
            anew |= {other for name in anew for near in edges[name] for _, other in near}
            labels = {name: _relabelled(name, labels, edges) if name in anew else known[name] for name in labels}
            rounds.append(labels)
        own = _digest(str(tuple(pair for held in rounds for pair in sorted(Counter(held.values()).items()))))
        return own, first, edges, rounds


def subtree_hashes(gm: GraphModule) -> list[str]:
    """Return a hash for each node and the operations that it reads, up to two steps back."""
    nodes = list(gm.graph.nodes)
    edges = _edges(nodes, backwards=True)
    labels, rounds = {node.name: ascii(title(gm, node)) for node in nodes}, []
    for _ in range(2):
        labels = {name: _relabelled(name, labels, edges) for name in labels}
        rounds.append(labels)
    return [held[node.name] for node in nodes for held in rounds]


def _edges(nodes: Sequence[Node], *, numbered: bool = False, backwards: bool = False) -> dict[str, Edges]:
    """Return the edges of each node, those that begin there and those that end there, by the nodes' names.

    numbered: which argument an edge is counts as well. backwards: edges go against the data.
    """
    edges: dict[str, Edges] = {node.name: ([], []) for node in nodes}
    for node in nodes:
        for position, read in enumerate(node.all_input_nodes):
            start, end = (node.name, read.name) if backwards else (read.name, node.name)
            edges[start][0].append((str(position) if numbered else "s_", end))
            edges[end][1].append((str(position) if numbered else "p_", start))
    return edges


def _relabelled(name: str, labels: Mapping[str, str], edges: Mapping[str, Edges]) -> str:
    """Return the label of a node after a round, which takes in those of its neighbours."""
    behind, before = edges[name]
    return _digest("".join([labels[name], *sorted([edge + labels[other] for edge, other in behind]),
                            *sorted([edge + labels[other] for edge, other in before])]))


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
