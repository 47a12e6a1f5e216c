"""The numbers that a new block starts with: drawn like its neighbour's, and such that it computes the identity."""
import torch
from torch import Tensor

from fxgrow.aten import wide
from fxgrow.axis import Atom, Contract, Prod, Sum, Tape, analyse, atoms, resolve, source_of
from fxgrow.common import Refusal
from fxgrow.contents import PAIR, Certificate, certify
from fxgrow.growth import Piece
from fxgrow.identity import Demand, Range, Start, Trace
from fxgrow.passes.methods import EXTEND, Drawing, Draws, deviation, statistics
from fxgrow.rewrite import Growth, grow_tensor, grow_tensors

Cover = dict[Atom, Certificate]  # classes, each with the proof that its new positions can be pairs


def redraw(piece: Piece, trace: Trace, draws: Draws) -> None:
    """Draw every parameter of a piece anew, with the deviation that it has.

    Those of one number a position become their mean, and so do running statistics.
    """
    with torch.no_grad():
        for p in piece.module.parameters():
            if p.is_floating_point() and p.ndim:
                p.copy_(_doubling(draws, 1, p).new(p, 0, p.shape[0], torch.arange(p.shape[0])))
        norms = [v for ops in trace.made.values() for v in ops if v.name == "native_batch_norm"]
        for name in {of.source for norm in norms for of in norm.of[3:5] if of is not None and of.source}:
            buffer = piece.tensors()[name]
            buffer.fill_(buffer.mean())
        for name, buffer in piece.module.named_buffers():
            if name.endswith("num_batches_tracked"):
                buffer.zero_()


def _doubling(draws: Draws, n: int, x: Tensor) -> Drawing:
    """Return how n positions become twice as many, by numbers of the deviation of x."""
    single = x.numel() == max(x.shape, default=1)
    return Drawing(n, 2 * n, "match_std", torch.arange(n), torch.ones(2 * n), draws, per_position=single,
                   std=None if single else deviation(x))


def start_as_identity(piece: Piece, x: Range, draws: Draws, *, pairs: bool, draw: bool, normal: bool = False) -> Start:
    """Give a piece numbers by which it computes the identity on values in the interval `x`, and return how.

    pairs: the last products take pairs with opposite signs where they can (R2R); else they are zero.
    draw: all numbers are drawn; else those that are there stay.
    normal: the values come out of a LayerNorm without weight and bias. Where no numbers do, it refuses.
    """
    return Beginning(piece, x, pairs=pairs, normal=normal).write(draws, draw)


class Beginning:
    """The start of a piece as the identity, found once for all numbers that it may hold; arguments as above."""

    def __init__(self, piece: Piece, x: Range, *, pairs: bool, normal: bool = False):
        self.piece, self.trace = piece, Trace.of(piece.module, {"x": x})
        self.paired = _Pairs(piece) if pairs else None
        demand = Demand(self.trace.gives["x"], piece.tensors().__contains__,
                        self.paired.can_be_pairs if self.paired else None, normal)
        self.start = demand.identity(self.trace.gives[piece.out.name])

    def write(self, draws: Draws, draw: bool) -> Start:
        """Let the piece begin as the identity, whatever its numbers are now, and return how."""
        if draw:
            redraw(self.piece, self.trace, draws)
        start, tensors = self.start, self.piece.tensors()
        with torch.no_grad():
            if self.paired is not None:
                for name, value in self.paired.numbers(start.pairs, draws).items():
                    tensors[name].copy_(value)
            for name, number in {**dict.fromkeys(start.zeros, 0), **dict.fromkeys(start.ones, 1), **start.slopes}.items():
                tensors[name].fill_(number)
        return start


class _Pairs:
    """Finds the weights of a piece that can take pairs with opposite signs, and the numbers that do it."""

    def __init__(self, piece: Piece):
        self.piece = piece
        self.tape: Tape | None = None
        self.covers: dict[str, Cover] = {}  # by weight

    def can_be_pairs(self, weight: str) -> bool:
        """Return whether all that `weight` sums over can come in pairs."""
        if self.tape is None:
            self.tape = analyse(self.piece.module)
        if weight not in self.covers:
            sums = [[axis for i, _, axis in op.reduced if op.ins[i].param_only and source_of(op.ins[i]) == weight]
                    for op in self.tape.ops if isinstance(op, Contract)]
            self.covers[weight] = _merged([self._first_cover(axes) for axes in sums if axes]) or {}
        return bool(self.covers[weight])

    def _first_cover(self, axes) -> Cover | None:
        return next((cover for cover in map(self._cover, axes) if cover is not None), None)

    def _cover(self, axis) -> Cover | None:
        """Return classes that make all of an axis pairs when each of their positions is one of a pair."""
        axis = resolve(axis)
        if isinstance(axis, Prod):
            return self._first_cover(axis.parts)
        if isinstance(axis, Sum):
            return _merged([self._cover(part) for part in axis.parts])
        if not isinstance(axis, Atom) or axis.size % 2 or axis.reason is not None:
            return None
        try:
            return {axis: certify(self.tape, axis, PAIR)}  # type: ignore[arg-type]
        except Refusal:
            return None

    def numbers(self, weights: set[str], draws: Draws) -> dict[str, Tensor]:
        """Return the tensors that hold the pairs: what twice as many positions would bring, in the place of the old ones."""
        cover = {a: c for w in sorted(weights) for a, c in self.covers[w].items()}
        if not cover:
            return {}
        tensors = self.piece.tensors()

        def extend(content, x: Tensor, axis: int, growth: Growth, key):
            drawing = _doubling(draws, growth.atom.size, tensors[key[0]])
            if key in growth.certificate.rows:
                drawing.rows = statistics(wide(tensors[key[0]].detach()), growth.certificate.rows[key], key[1], x.ndim)
            return EXTEND[content](x, axis, drawing)

        growths = [Growth(a, 2 * a.size, c, extend, source=torch.arange(a.size), shares=torch.ones(2 * a.size))
                   for a, c in cover.items()]
        grown = grow_tensors(self.tape, tensors, growths)  # type: ignore[arg-type]
        return {name: self._new_half(name, value, cover) for name, value in grown.items()}

    def _new_half(self, name: str, value: Tensor, cover: Cover) -> Tensor:
        """Return a tensor grown to twice its size without its old positions."""
        for dim, axis in enumerate(self.tape.params[name].axes):  # type: ignore[union-attr]
            contents = {a: cover[a].contents[name, dim] for a in atoms(axis)
                        if a in cover and (name, dim) in cover[a].contents}
            if contents:
                new = grow_tensor(torch.ones(resolve(axis).size), [axis], {0: contents}, {a: 2 * a.size for a in contents},
                                  lambda _: lambda atom, content, x, at: (torch.zeros_like(x), torch.ones_like(x)))
                value = value.index_select(dim, new.nonzero().flatten().to(value.device))
        return value


def _merged(covers: list[Cover | None]) -> Cover | None:
    """Return all covers as one (None: one of them is missing)."""
    found: Cover = {}
    for cover in covers:
        if cover is None:
            return None
        found |= cover
    return found
