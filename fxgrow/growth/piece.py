"""Pieces: small captured modules that are to be put into a graph."""
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.fx import GraphModule, Node


@dataclass
class Piece:
    """A captured module that is to be put into a graph, on one value.

    paths: where its layers are, under the names that they are to have. others: nodes of that graph that it reads besides.
    writes_input: it writes to the value. gives: its result on meta tensors, where that was asked for.
    """
    module: GraphModule
    paths: list[str] = field(default_factory=list)
    others: list[Node] = field(default_factory=list)
    writes_input: bool = False
    gives: Any = None

    @property
    def out(self) -> Node:
        """Return the node of `module` whose value goes out."""
        return next(iter(self.module.graph.find_nodes(op="output"))).args[0]  # type: ignore[return-value]

    def tensors(self) -> dict[str, Tensor]:
        """Return its parameters and buffers by name."""
        return {**dict(self.module.named_parameters()), **dict(self.module.named_buffers())}
