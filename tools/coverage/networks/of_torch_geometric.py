"""Graph networks of torch_geometric, on graphs of other sizes."""
import functools

import torch
from measuring import Network
from torch_geometric import nn as pyg
from torch_geometric.nn import models


def graph(batch: int, longer: int) -> tuple:
    """Return features of nodes, and edges between them."""
    nodes, edges = 6 + batch + 3 * longer, 14 + 2 * batch + 7 * longer
    return torch.randn(nodes, 8), torch.randint(0, nodes, (2, edges))


class Stack(torch.nn.Module):
    """Two layers of one kind."""

    def __init__(self, kind: str, options: dict):
        super().__init__()
        make = getattr(pyg, kind)
        self.first, self.second, self.head = make(8, 16, **options), make(16, 16, **options), torch.nn.Linear(16, 3)

    def forward(self, x, edge_index):
        return self.head(torch.relu(self.second(torch.relu(self.first(x, edge_index)), edge_index)))


STOCK = ("GCN", "GraphSAGE", "GIN", "GAT", "PNA", "EdgeCNN")
LAYERS = {"GCNConv": {}, "SAGEConv": {}, "GATConv": dict(heads=2, concat=False), "GATv2Conv": dict(heads=2, concat=False),
          "GraphConv": {}, "TransformerConv": dict(heads=2, concat=False), "ChebConv": dict(K=2), "TAGConv": {},
          "ARMAConv": {},
          "SGConv": {}, "LEConv": {}, "ClusterGCNConv": {}, "ResGatedGraphConv": {}, "GENConv": {}, "MFConv": {},
          "FeaStConv": {},
          "FiLMConv": {}, "GeneralConv": {}}


def stock(name: str):
    more = {"aggregators": ["mean", "max"], "scalers": ["identity"],
            "deg": torch.tensor([0, 3, 4, 2])} if name == "PNA" else {}
    return getattr(models, name)(8, 16, 2, 3, **more)


NETWORKS = {name: Network(functools.partial(stock, name), graph) for name in STOCK}
NETWORKS |= {f"{name}, two of it": Network(functools.partial(Stack, name, options), graph) for name,
             options in LAYERS.items()}
NETWORKS |= {"MLP": Network(functools.partial(models.MLP, [8, 16, 16, 3]), lambda batch, longer: graph(batch, longer)[:1])}
