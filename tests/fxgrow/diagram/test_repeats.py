"""Networks written by hand: repetitions in the sequence of operations, order, and a bound on what a picture shows."""
from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxgrow
from fxgrow.diagram.build import build, kinds_of
from fxgrow.diagram.parts import Diagram
from fxgrow.diagram.periods import periods
from fxgrow.diagram.repeats import MOST, chosen
from fxgrow.record import captured


def diagram(model: nn.Module, x) -> Diagram:
    model, gm = captured(model, x)
    return build(gm, kinds_of(model))


def linears(count: int, size: int = 8) -> nn.ModuleList:
    return nn.ModuleList(nn.Linear(size, size) for _ in range(count))


class Loop(nn.Module):
    """Blocks of two layers that the model itself adds to a stream."""

    def __init__(self, count: int = 24):
        super().__init__()
        self.embed, self.head = nn.Linear(4, 8), nn.Linear(8, 2)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8)) for _ in range(count))

    def forward(self, x):
        x = self.embed(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


class Graph(nn.Module):
    """A graph network: several lists of layers in one loop, all of which read the adjacency."""

    def __init__(self, count: int = 30):
        super().__init__()
        self.convs, self.norms = linears(count), nn.ModuleList(nn.LayerNorm(8) for _ in range(count))

    def forward(self, x, adjacency):
        for conv, norm in zip(self.convs, self.norms):
            x = x + torch.relu(norm(adjacency @ conv(x)))
        return x


class Skips(nn.Module):
    """A U of layers: each on the way up reads one on the way down."""

    def __init__(self, count: int = 40):
        super().__init__()
        self.down, self.up = (nn.ModuleList(nn.Linear(a + i, b + i) for i in range(count)) for a, b in ((8, 9), (9, 8)))

    def forward(self, x):
        kept = []
        for layer in self.down:
            x = torch.relu(layer(x))
            kept.append(x)
        for layer in reversed(self.up):
            x = layer(x * kept.pop())
        return x


class Irregular(nn.Module):
    """No two layers alike."""

    def __init__(self, count: int = 300):
        super().__init__()
        sizes = [random.Random(i).randint(3, 60) for i in range(count + 1)]
        sizes[0] = 8
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes, sizes[1:]))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


class Heads(nn.Module):
    def __init__(self, count: int = 70):
        super().__init__()
        self.heads = linears(count)

    def forward(self, x):
        return torch.cat([torch.relu(head(x)) for head in self.heads], -1)


NETWORKS = {"loop": (Loop, torch.zeros(2, 4)), "graph": (Graph, (torch.zeros(5, 8), torch.zeros(5, 5))),
            "skips": (Skips, torch.zeros(2, 8)), "irregular": (Irregular, torch.zeros(2, 8)),
            "heads": (Heads, torch.zeros(2, 8))}


@pytest.mark.parametrize("name", NETWORKS)
def test_any_network_fits_in_its_order_and_without_a_cycle(name):
    network, x = NETWORKS[name]
    whole = diagram(network(), x)
    for d in (whole, whole.fold(1), whole.fold(2), chosen(whole, None, (), None)):
        at = {box.key: i for i, box in enumerate(d.root.boxes())}
        assert all(at[e.tail.key] < at[e.head.key] for e in d.edges())
        assert {n for b in d.root.boxes() for n in d.all_nodes(b)} == {n for b in whole.root.boxes() for n in b.nodes}
    assert len(at) <= MOST < len(list(whole.root.boxes()))
    assert ("html" in d.note) == (name in ("skips", "irregular"))


@pytest.mark.parametrize("name,times,last", [
    ("loop", 24, "blocks.23"), ("graph", 30, "convs.29"), ("heads", 70, "heads.69")])
def test_rounds_of_a_loop_are_drawn_once(name, times, last):
    network, x = NETWORKS[name]
    d = chosen(diagram(network(), x), None, (), None)
    assert [(i.times, i.last) for i in d.root.items() if i.times > 1] == [(times, last)]
    assert len(list(d.root.boxes())) <= 8


def test_a_picture_that_leaves_much_out_says_where_all_of_it_is(tmp_path):
    assert ".html page" in fxgrow.draw(Irregular(80), torch.zeros(2, 8), tmp_path / "a.dot").read_text()


def test_periods_cover_most():
    beside = [[((1, 0), i)] for i in range(12)]  # each reads the one before it
    assert periods([7, 1, 2, 1, 2, 1, 2, 9], beside[:8])[1] == [2]
    assert periods([3] * 6, beside[:6])[0] == [1]
    assert periods(list(range(8)), beside[:8]) == [[]] * 8
    skipping = [[((1 + i % 2, 0), i)] for i in range(12)]  # every other one reads the one before that
    assert periods([3] * 12, skipping)[0][-1] == 2


def test_layers_that_run_several_times_say_so():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.out = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            x = torch.relu(self.fc(torch.relu(self.fc(x))))
            return self.fc(self.out(x))

    d = chosen(diagram(Shared(), torch.zeros(2, 8)), None, (), None)
    found = list(d.root.boxes())
    assert (found[1].times, found[1].how) == (2, "shared")
    assert found[3].rows[0].lines("", found[3].times) == ["× 3, shared: call 3"]
    assert len(list(chosen(diagram(Shared(), torch.zeros(2, 8)), None, (), False).root.boxes())) == 6


def test_what_is_read_and_given_is_named():
    class Told(nn.Module):
        def __init__(self):
            super().__init__()
            self.emb, self.pos, self.mix = nn.Embedding(9, 8), nn.Embedding(7, 8), nn.Parameter(torch.zeros(8, 8))
            self.rnn = nn.LSTM(8, 4, 2, bidirectional=True, batch_first=True)
            self.head = nn.Linear(8, 9, bias=False)
            self.head.weight = self.emb.weight

        def forward(self, ids, at):
            x = self.emb(ids) + self.pos(torch.arange(ids.shape[1]))
            x = self.rnn(torch.einsum("btd,de->bte", x, self.mix))[0]
            return {"logits": self.head(x), "more": {"first": F.linear(x[:, 0], self.mix), "some": x[at]}}

    whole = diagram(Told(), (torch.zeros(2, 5, dtype=torch.long), torch.zeros(3, dtype=torch.long)))
    rows = {row.name or row.title: row for box in whole.root.boxes() for row in box.rows}
    assert rows["pos"].family == rows["emb"].family == "embedding"
    assert rows["einsum"].settings == "btd,de->bte" and rows["einsum"].parameters == ("mix",)
    assert rows["rnn"].settings == "8→4 layers=2 bidirectional"
    assert rows["head"].parameters == ("emb.weight",) and rows["linear"].parameters == ("mix",)
    assert rows["output"].notes == ("logits: 2×5×9", "more.first: 2×8", "more.some: 3×5×8")
    assert {"slice", "index"} <= set(rows)
