"""Widen: more positions on the output axes of layers, by R2R, Net2Net, network morphism or at random."""
import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.passes.infra.pass_base import PassBase, PassResult

from fxgrow.aten import wide
from fxgrow.axis import Atom, AxisClass, Fold, Tape, analyse
from fxgrow.common import Refusal
from fxgrow.contents import AVERAGE, COPIES, COPY, FALLBACKS, FREE, PAIR, SCALED, ZERO, Certificate, Content, certify
from fxgrow.errors import GrowthError
from fxgrow.graph import tensors_of
from fxgrow.growth import insist_done
from fxgrow.models import dtype_of
from fxgrow.passes.methods import BASES, EXTEND, INITS, METHOD_OF, Drawing, Draws, Init, statistics
from fxgrow.passes.support import check_choices, default_method, listed, rounded, seed_of, select_classes
from fxgrow.record import Outcome, keep_growth
from fxgrow.rewrite import Extend, Growth, record_of, rewrite, with_folds

WHY = {PAIR: "new positions come in equal pairs, consumed with opposite signs",
       FREE: "new positions are free, consumed by zeros",
       COPY: "new positions copy old ones, whose uses are shared out",
       AVERAGE: "new positions hold the mean of the old ones: the norm makes them zero; its weight and eps are rescaled",
       ZERO: "new positions are zero: the norm's weight and eps are rescaled",
       "random": "not exact: everything is drawn",
       "extend": "new outputs are an extension: the old ones stay, the new ones are drawn and have no counterpart",
       "fold": "; skip paths fold the pairs: x_old + x_L - x_R"}
Fit = Callable[[AxisClass, int, Certificate], tuple[int, str]]


def root_mean_square(scale: Tensor) -> Tensor:
    """Return the root mean square of a layer scale (1 where it is all zero): the scale of new positions."""
    rms = scale.abs().square().mean().sqrt()
    return torch.where(rms > 0, rms, torch.ones_like(rms))


@dataclass
class Widen(PassBase):
    """Widens the output axes of layers without changing what the network computes.

    Args:
        where: a glob, or several, over qualified names of the layers whose output axis grows, or over class names as
            `fxgrow axes` prints them (`*:head_dim`); None: every class that can grow. A layer of the model's outputs
            grows only if it is named in full: new outputs are an extension, the old ones stay what they are.
        factor: new size / old size (at least 1). Sizes are rounded to the nearest integer, pairs upwards.
        to: the new size of the output axis, in positions.
        by: the number of new positions of the output axis. One of factor, to, by must be given.
        method: r2r (Painter), net2net (Chen 2015; `net2net-unequal` shares unequally), netmorph (Wei 2016), or random,
            which is not exact. None: r2r; of 16-bit numbers net2net, which rounds least, and whose copies learn alike
            (to train on in 16 bits: r2r).
        init: of free numbers: match_std (uniform, with the standard deviation of the existing kernel), kaiming, xavier,
            copy (pairs start as copies of existing filters), zero, a standard deviation, or `f(shape, generator)`.
        noise: net2net: deviation of the noise on copies, as a fraction of the kernel's (0: exact).
        residual: grow (the whole residual stream grows together) or fold (by r2r: each volume between two additions grows
            alone, and the skip path folds its pairs: x_old + x_L - x_R).
        fallback: auto (a method that is exact is used where the asked one is not) or never (the class is left alone).
        seed: of every random choice; None takes one from torch's global generator.
    """
    where: str | Sequence[str] | None = None
    _: KW_ONLY
    factor: float | None = None
    to: int | None = None
    by: int | None = None
    method: Literal["r2r", "net2net", "net2net-unequal", "netmorph", "random"] | None = None
    init: Init = "match_std"
    noise: float = 0.0
    residual: Literal["grow", "fold"] = "grow"
    fallback: Literal["auto", "never"] = "auto"
    seed: int | None = None

    def __post_init__(self) -> None:
        given = [v for v in (self.factor, self.to, self.by) if v is not None]
        if len(given) != 1:
            raise GrowthError("give exactly one of factor, to and by")
        if self.factor is not None and not (math.isfinite(self.factor) and self.factor >= 1):
            raise GrowthError(f"factor {self.factor} would shrink; it must be at least 1")
        if self.by is not None and self.by < 1:
            raise GrowthError(f"by {self.by} adds nothing; it must be at least 1")
        check_choices(self)
        if not (math.isfinite(self.noise) and self.noise >= 0):
            raise GrowthError(f"noise {self.noise} is no deviation; it must be zero or more")
        if self.residual == "fold" and self.method not in ("r2r", None):
            raise GrowthError(f'residual="fold" folds the pairs of r2r; with {self.method} use residual="grow"')
        if isinstance(self.init, str) and self.init not in INITS:
            raise GrowthError(f"init {self.init!r} is not known; choose one of {', '.join(INITS)}, a number or a callable")

    def call(self, graph_module: GraphModule) -> PassResult:
        """Widen the classes that `where` names; those that a rewriting refuses stay as they are."""
        if self.method is None:
            best = default_method(dtype_of(graph_module))
            return replace(self, method="r2r" if self.residual == "fold" else best).call(graph_module)
        tape = analyse(graph_module)
        if self.residual == "fold":
            graph_module = with_folds(graph_module, tape)
            tape = analyse(graph_module)
        seed = seed_of(self.seed)
        wanted, fixed = select_classes(tape, self.where)
        unable = [Outcome(c.name, c.size, c.size, c.producers, reason=c.reason or "no layer produces it") for c in fixed]
        refused: dict[Atom, str] = {}
        while True:
            outcomes, growths = self._plan(tape, graph_module, wanted, refused, seed)
            insist_done(self.where, outcomes + unable, "grow")
            try:
                new = rewrite(graph_module, tape, growths)
                break
            except Refusal as why:
                found = [a for a in why.classes if a not in refused]
                if not found:
                    raise GrowthError(str(why)) from why
                refused.update(dict.fromkeys(found, str(why)))
        sizes = {"factor": self.factor, "to": self.to, "by": self.by}
        step = {"pass": "widen", "where": listed(self.where), **{name: n for name, n in sizes.items() if n is not None},
                "method": self.method, "seed": seed,
                "init": self.init if isinstance(self.init, (str, int, float)) else "callable"}
        keep_growth(graph_module, new, record_of(tape, growths, step), outcomes + unable)
        return PassResult(new, True)

    def _plan(self, tape: Tape, gm: GraphModule, wanted: list[list[AxisClass]], refused: dict[Atom, str],
              seed: int) -> tuple[list[Outcome], list[Growth]]:
        """Return the growths, of each group the first that is possible; and what became of each class."""
        outcomes, growths = [], []
        draws = Draws(seed, tensors_of(gm))
        for group in wanted:
            tried = []
            for c in group:
                try:
                    if c.atom in refused:
                        raise Refusal(refused[c.atom])
                    growth = self.growth(tape, c, self._size(tape, c), draws)
                    growths.append(growth)
                    tried = [Outcome(c.name, c.size, growth.size, c.producers, growth.method, growth.note)]
                    break
                except Refusal as why:
                    tried.append(Outcome(c.name, c.size, c.size, c.producers, reason=str(why)))
            outcomes += tried
        return outcomes, growths

    @property
    def _method(self) -> str:
        return self.method or "r2r"

    def growth(self, tape: Tape, c: AxisClass, size: int, draws: Draws, fit: Fit = rounded) -> Growth:
        """Return the growth of one class by the first method that is exact for it and its size, or refuse.

        fit: from the class, its new size and a certificate, the size that these contents can have and a note on it.
        """
        base, opened, reasons = BASES[self._method], c.atom in tape.opened, []
        if base is None or opened:
            how = "extend" if opened else "random"
            try:
                certificate = certify(tape, c.atom, FREE, exact=opened)
                return Growth(c.atom, size, certificate, *self._extend(c, size, draws, certificate), how, WHY[how],
                              self._kind(c.size, size, certificate))
            except Refusal as why:  # a norm runs over the outputs
                reasons.append(str(why))
        for candidate, scaling in () if base is None else self._ways(base):
            if scaling and any("integer factor" in reason for reason in reasons):
                break
            try:
                certificate = certify(tape, c.atom, candidate, scaling=scaling)
                size_found, note = fit(c, size, certificate)
            except Refusal as why:
                reasons.append(str(why))
                continue
            method = self._method if candidate == base else METHOD_OF[candidate]
            fold = WHY["fold"] if any(isinstance(op, Fold) for op in tape.ops_of[c.atom]) else ""
            instead = f"; {self.method} is not exact here: {reasons[0]}" if reasons else ""
            return Growth(c.atom, size_found, certificate, *self._extend(c, size_found, draws, certificate), method,
                          WHY[candidate] + note + fold + self._waits(certificate) + instead,
                          self._kind(c.size, size_found, certificate))
        raise Refusal(next((r for r in reversed(reasons) if "integer factor" in r), reasons[0]))

    def _waits(self, certificate: Certificate) -> str:
        """Say which new numbers get no gradient in the first two steps, and why."""
        late = f"; a gradient reaches {', '.join(certificate.late)} in the third step only, through two zeros" \
            if certificate.late else ""
        return late + ("; by init zero, new numbers on both sides of a product may be zero, and then get no gradient, ever"
                       if self.init in ("zero", 0) else "")

    def _ways(self, base: Content) -> list[tuple[Content, bool]]:
        """Return the contents to try, and with each whether weights that are no norm's may be scaled for them."""
        contents = FALLBACKS[base] if self.fallback == "auto" else (base,)
        return [*((c, False) for c in contents), *((c, True) for c in contents if c in SCALED)]

    def _size(self, tape: Tape, c: AxisClass) -> int:
        """Return the new size of the class from factor, to or by."""
        if self.factor is None:
            size = self._width(tape, c)
        elif c.role == "copies" and self.factor % 1:
            raise Refusal("only an integer factor is possible (its positions are shuffled or cut unevenly): try "
                          f"{math.ceil(self.factor)} times")
        else:
            size = max(math.floor(c.size * self.factor + 0.5), c.size + 1 if self.factor > 1 else c.size)
        if size == c.size:
            raise Refusal("it has the size asked for already")
        return size

    def _width(self, tape: Tape, c: AxisClass) -> int:
        """Return the size by which the layer's whole output axis, of which the class is a factor, gets its width."""
        width = next((tape.params[n].axes[0].size for n, d in tape.params_of[c.atom] if d == 0
                      and c.producers and n.startswith(c.producers[0] + ".")), c.size)
        repeat = max(width // c.size, 1)
        target = self.to if self.to is not None else width + (self.by or 0)
        if target < width:
            raise GrowthError(f"{c.name} has {width} positions; to={target} would shrink it")
        if c.role == "copies" and (target - width) % repeat:
            raise Refusal(f"only whole multiples are possible (its positions are shuffled or cut unevenly): try "
                          f"{width * (-(-target // width))}")
        return c.size + math.ceil((target - width) / repeat)

    def _kind(self, n: int, m: int, certificate: Certificate) -> Hashable:
        """Return what tells growths apart that extend a tensor by drawn numbers (None: by others too)."""
        others = certificate.scales or certificate.weights or certificate.rows or _has_copies(certificate)
        return None if others or self.init not in ("match_std", "zero") else (n, m)

    def _shares(self, n: int, source: Tensor, draws: Draws) -> Tensor:
        """Return the share of each position in its old one, of which there are n and then those of `source`."""
        raw = torch.ones(n + len(source), dtype=torch.float64)
        if self.method == "net2net-unequal":
            raw = torch.rand(n + len(source), generator=draws.generator, dtype=torch.float64) + 0.5
        index = torch.cat([torch.arange(n), source])
        return raw / torch.zeros(n, dtype=torch.float64).index_add(0, index, raw)[index]

    def _extend(self, c: AxisClass, m: int, draws: Draws, certificate: Certificate) -> tuple[Extend, Tensor, Tensor]:
        """Return the function that extends a tensor along this class, and the positions and shares drawn for it."""
        n = c.size
        source = torch.randint(n, (m - n,), generator=draws.generator) if m % n else torch.arange(n).repeat(m // n - 1)
        shares = self._shares(n, source, draws) if _has_copies(certificate) else torch.ones(m, dtype=torch.float64)
        noise = self.noise if self._method.startswith("net2net") else 0
        drawing = Drawing(n, m, self.init, source, shares, draws, noise)

        def extend(content: Content, x: Tensor, axis: int, growth: Growth, key: tuple[str, int]):
            certificate = growth.certificate
            if key in certificate.scales:
                return x, root_mean_square(x).expand(*x.shape[:axis], m - n, *x.shape[axis + 1:])
            drawing.weight = None
            if key in certificate.weights:
                scale = wide(draws.tensors[certificate.weights[key][0]].detach()).reshape(-1)
                drawing.weight = scale / (n * root_mean_square(scale))
            old = draws.tensors[key[0]].detach()
            rows = certificate.rows.get(key)
            drawing.rows = None if rows is None else statistics(wide(old), rows, key[1], x.ndim)
            shape = old.shape
            drawing.per_position = math.prod(shape) == max(shape)
            drawing.std = draws.deviation(key[0]) if self.init == "match_std" and not drawing.per_position else None
            return EXTEND[content](x, axis, drawing)

        return extend, source, shares


def _has_copies(certificate: Certificate) -> bool:
    """Tell whether new positions copy old ones anywhere."""
    return any(not COPIES.isdisjoint(getattr(content, "contents", (content,))) for content in certificate.contents.values())
