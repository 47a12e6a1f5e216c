"""The numbers that a new block starts with: drawn like its neighbour's, and such that it computes the identity."""
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fxgrow.axis import Atom, Prod, Sum, Tape, analyse, atoms, resolve, source_of
from fxgrow.common import Refusal
from fxgrow.contents import Certificate, certify
from fxgrow.growth import Piece
from fxgrow.identity import Demand, Range, Start, Trace
from fxgrow.passes.methods import EXTEND, Drawing, deviation, generators
from fxgrow.rewrite import Growth, grow_tensor, grow_tensors


class Numbers:
    """What new numbers are drawn from."""

    def __init__(self, seed: int):
        self.generator, self.uniform = generators(seed)

    def drawing(self, n: int, m: int, x: Tensor) -> Drawing:
        source = torch.arange(n).repeat(m // n - 1) if n else torch.arange(0)
        single = x.numel() == max(x.shape, default=1)
        return Drawing(n, m, "match_std", source, torch.ones(m), self.generator, self.uniform, per_position=single,
                       std=None if single else deviation(x))

    def redraw(self, piece: Piece, trace: Trace) -> None:
        """Every parameter of a piece drawn with the deviation that it has; those of one number a position are the mean of
        it, and so are running statistics."""
        with torch.no_grad():
            for _, p in piece.module.named_parameters():
                if p.is_floating_point() and p.ndim:
                    p.copy_(self.drawing(1, 2, p).new(p, 0, p.shape[0], torch.arange(p.shape[0])))
            for name in _statistics(trace):
                buffer = piece.tensors()[name]
                buffer.fill_(buffer.mean())
            for name, buffer in piece.module.named_buffers():
                if name.endswith("num_batches_tracked"):
                    buffer.zero_()


def _statistics(trace: Trace) -> set[str]:
    """The running means and variances of a piece."""
    return {of.source for v in trace.gives.values() for n in _norms(v) for of in n.of[3:5] if of is not None and of.source}


def _norms(v) -> list:
    found, queue, seen = [], [v], set()
    while queue:
        each = queue.pop()
        if each not in seen:
            seen.add(each)
            found += [each] if each.name == "native_batch_norm" else []
            queue += each.ins
    return found


def settle(piece: Piece, given: Range, *, pairs: bool, draw: bool, numbers: Numbers, normal: bool = False) -> Start:
    """Gives a piece numbers by which it computes the identity on values in the interval `given`; says how.

    pairs: the last products take pairs with opposite signs where they can (R2R); else they are zero.
    draw: all numbers are drawn; else those that are there stay.
    normal: what is given comes out of a LayerNorm without weight and bias.

    Raises:
        Refusal: no numbers do.
    """
    trace = Trace(piece.module, {"x": given})
    paired = _Pairs(piece) if pairs else None
    demand = Demand(trace.gives["x"], piece.tensors().__contains__, paired.able if paired else None, normal)
    start = demand.identity(trace.gives[piece.out.name])
    if draw:
        numbers.redraw(piece, trace)
    tensors = piece.tensors()
    with torch.no_grad():
        if paired is not None:
            for name, value in paired.numbers(start.pairs, numbers).items():
                tensors[name].copy_(value)
        for name in start.zeros:
            tensors[name].zero_()
        for name in start.ones:
            tensors[name].fill_(1)
        for name, slope in start.slopes.items():
            tensors[name].fill_(slope)
    return start


class _Pairs:
    """Which weights of a piece can take pairs with opposite signs, and the numbers that do it."""

    def __init__(self, piece: Piece):
        self.piece = piece
        self.tape: Tape | None = None
        self.chosen: dict[str, dict[Atom, Certificate]] = {}

    def able(self, weight: str) -> bool:
        """Whether all that `weight` sums over can come in pairs."""
        if self.tape is None:
            self.tape = analyse(self.piece.module)
        if weight not in self.chosen:
            sums = [[e for i, _, e in op.reduced if op.ins[i].param_only and source_of(op.ins[i]) == weight]
                    for op in self.tape.ops if op.kind == "contract"]
            found = [next((c for e in axes if (c := self._cover(e)) is not None), None) for axes in sums if axes]
            self.chosen[weight] = {a: c for each in found for a, c in (each or {}).items()} if found and None not in found \
                else {}
        return bool(self.chosen[weight])

    def _cover(self, e) -> dict[Atom, Certificate] | None:
        """Classes that make all of an axis pairs when each of their positions is one of a pair."""
        e = resolve(e)
        if isinstance(e, Atom):
            if e.size % 2 or e.reason is not None:
                return None
            try:
                return {e: certify(self.tape, e, "pair")}  # type: ignore[arg-type]
            except Refusal:
                return None
        parts = [self._cover(p) for p in e.parts] if isinstance(e, (Prod, Sum)) else [None]
        if isinstance(e, Prod):
            return next((p for p in parts if p is not None), None)
        return None if None in parts else {a: c for p in parts for a, c in p.items()}  # type: ignore[union-attr]

    def numbers(self, weights: Sequence[str] | set[str], numbers: Numbers) -> dict[str, Tensor]:
        """The tensors that hold the pairs: what growing each class to twice its size would put behind its positions, in
        their place."""
        certificates = {a: c for w in sorted(weights) for a, c in self.chosen[w].items()}
        if not certificates:
            return {}
        tensors = self.piece.tensors()

        def extend(content, x: Tensor, axis: int, growth: Growth, key):
            whole = tensors[key[0]]
            drawing = numbers.drawing(growth.atom.size, growth.size, whole)
            return EXTEND[content](x, axis, drawing)

        growths = [Growth(a, 2 * a.size, c, extend, source=torch.arange(a.size), shares=torch.ones(2 * a.size))
                   for a, c in certificates.items()]
        of = {g.atom: g for g in growths}
        grown = grow_tensors(self.tape, tensors, growths)  # type: ignore[arg-type]
        out = {}
        for name, value in grown.items():
            for dim, axis in enumerate(self.tape.params[name].axes):  # type: ignore[union-attr]
                there = {a: of[a].certificate.contents[name, dim] for a in atoms(axis)
                         if a in of and (name, dim) in of[a].certificate.contents}
                if there:
                    value = value.index_select(dim, _without_old(axis, there).to(value.device))
            out[name] = value
        return out


def _without_old(axis, contents: dict) -> Tensor:
    """The positions of an axis whose given classes are twice as large, without the old ones of these classes."""
    def fill(atom, content, x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(x), torch.ones_like(x)

    kept = torch.ones(resolve(axis).size, dtype=torch.bool)
    return grow_tensor(kept, [axis], {0: contents}, {a: 2 * a.size for a in contents}, lambda dim: fill).nonzero().flatten()
