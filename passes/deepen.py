"""Deepen: new layers and blocks that start as the identity, by R2R, Net2Net or network morphism."""
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Literal

import torch
from torch.fx import GraphModule
from torch.fx.passes.infra.pass_base import PassBase, PassResult

from fxgrow.blocks import make_room, next_names, put_in
from fxgrow.common import Refusal
from fxgrow.errors import CaptureError, GrowthError
from fxgrow.growth import INEXACT, Edit, Piece, insist_done
from fxgrow.identity import Range, Trace
from fxgrow.models import dtype_of
from fxgrow.passes.methods import Draws
from fxgrow.passes.support import (
    Norms,
    Place,
    Places,
    check_choices,
    default_method,
    listed,
    redraw,
    seed_of,
    seeded,
    start_as_identity,
)
from fxgrow.record import Outcome, ParameterRecord


@dataclass
class Deepen(PassBase):
    """Inserts layers or blocks that start as the identity, so that the network computes what it did.

    Args:
        where: what to insert behind: a block (`layer3.2`), a stage (`layer3`: behind its last block), a layer (`fc1`), a
            glob over these, `input` (a new first layer) or `output` (a new last one); None: behind the last block of every
            stage.
        times: how many to insert at each place.
        method: r2r (the block ends in pairs that cancel; all else is drawn), net2net (copies of the neighbour's numbers; an
            identity layer where there is no skip path), netmorph (drawn, the last factor zero; an identity layer with a
            parametric activation); or, neither exact, copy (the neighbour's numbers as they are) and random. None: r2r; of
            16-bit numbers net2net, which rounds least.
        block: clone (a block like its neighbour), or one built new: basic, bottleneck, mbconv, transformer, inception.
        seed: of every random choice; None takes one from torch's global generator.
    """
    where: str | Sequence[str] | None = None
    _: KW_ONLY
    times: int = 1
    method: Literal["r2r", "net2net", "netmorph", "copy", "random"] | None = None
    block: Literal["clone", "basic", "bottleneck", "mbconv", "transformer", "inception"] = "clone"
    seed: int | None = None

    def __post_init__(self) -> None:
        check_choices(self)
        if not isinstance(self.times, int) or self.times < 1:
            raise GrowthError(f"times {self.times} inserts nothing; it must be a whole number of at least 1")

    def call(self, graph_module: GraphModule) -> PassResult:
        """Insert layers or blocks behind each place that `where` names."""
        if self.method is None:
            return replace(self, method=default_method(dtype_of(graph_module))).call(graph_module)
        seed = seed_of(self.seed)
        where = listed(self.where)
        edit = Edit(graph_module, {"pass": "deepen", "where": where, "times": self.times, "method": self.method,
                                   "block": self.block, "seed": seed})
        trace = Trace.of(graph_module)
        order = {node: i for i, node in enumerate(graph_module.graph.nodes)}
        draws = Draws(seed)
        places, refused = Places(graph_module, trace, self.block, self.method).find(where or None)
        with seeded(seed):
            for place in sorted(places, key=lambda p: order[p.after], reverse=True):
                try:
                    self._insert(edit, trace, place, draws)
                except (Refusal, GrowthError, CaptureError) as why:
                    refused.append(Outcome(place.base, 0, 0, [], reason=str(why)))
        edit.outcomes = edit.outcomes[::-1] + refused
        insist_done(self.where, edit.outcomes, "be deepened", ". Name another block or layer, or have one built: "
                    'block="basic", "bottleneck", "mbconv", "inception" or "transformer"')
        return edit.finish()

    def _insert(self, edit: Edit, trace: Trace, place: Place, draws: Draws) -> None:
        """Insert `times` pieces, one behind the other; a refusal comes before anything is changed."""
        written = trace.val(trace.values[place.x.name]) is not trace.gives[place.x.name]
        if written and edit.read_elsewhere(edit.nodes[place.x.name]):
            raise GrowthError(f"the memory of {place.x.name} is written to later and read under another name; write to a "
                              "new tensor there, in the model's code")
        count = len(place.parts) or 1
        names = next_names(edit, place.base, self.times * count)
        pieces = [place.piece(names[i:i + count]) for i in range(0, len(names), count)]
        started = [self._start(piece, place, trace.gives[place.x.name].range, draws) for piece in pieces]
        make_room(edit, place.base, len(names))
        x, after = edit.nodes[place.x.name], edit.nodes[place.after.name]
        old, outs = x, []
        for piece, (method, why) in zip(pieces, started):
            after, x = put_in(edit, piece, after, x)
            outs.append(x)
            size = sum(p.numel() for p in piece.module.parameters())
            why += "" if place.joined is None else "; what it is concatenated for reads it by zeros"
            edit.outcomes.append(Outcome(piece.paths[0], 0, size, piece.paths, method, why))
        if place.joined is not None:
            place.joined.put(edit, old, outs)
        if place.norms is not None and self.method not in INEXACT:
            _hand_on(edit, place.norms, [piece.paths[0] for piece in pieces])

    def _start(self, piece: Piece, place: Place, x: Range, draws: Draws) -> tuple[str, str]:
        """Give a piece its numbers; return by which method, and why it is the identity."""
        method = self.method or "r2r"
        if method == "copy":
            if not place.draw:
                raise GrowthError(f"{place.base} is no block with numbers to copy: name one, or take another method")
            return method, "not exact: copies of the neighbour's numbers"
        if place.exact:
            return method, place.exact.format(last=piece.paths[-1])
        if method == "random":
            if place.draw:
                redraw(piece, Trace.of(piece.module), draws)
            return method, "not exact: everything is drawn"
        copies = method == "net2net" and place.draw
        start = start_as_identity(piece, x, draws, pairs=method == "r2r", draw=place.draw and not copies,
                                  normal=place.norms is not None)
        why = "; ".join([*(["copies of the neighbour's numbers"] if copies else []),
                         *(path.replace(f"{piece.paths[0]}.", "") for path in start.paths),
                         *(["the last norm takes weight and bias of the one in front, exact but for eps, which counts twice"]
                           if place.norms is not None else [])])
        if method == "r2r" and not start.pairs:
            return "netmorph", f"{why}; r2r is not exact here: nothing that it sums over can come in pairs"
        if method == "net2net" and not copies:
            return "netmorph", f"{why}; there are no numbers of a neighbour to copy"
        return method, why


def _hand_on(edit: Edit, norms: Norms, blocks: list[str]) -> None:
    """Give the last norm of each new block weight and bias of the norm in front of it, which then has neither."""
    front = norms.front
    with torch.no_grad():
        for block in blocks:
            last = [block + name for name in norms.last]
            for old, new, plain in zip(front, last, (1.0, 0.0)):
                edit.gm.get_parameter(new).copy_(edit.gm.get_parameter(old))
                edit.gm.get_parameter(old).fill_(plain)
                entry = edit.record.parameters.get(old) or ParameterRecord.same(old, 1)
                edit.record.parameters |= {new: entry, old: ParameterRecord.new(1)}
            front = last
