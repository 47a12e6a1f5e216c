"""The interpreter: carries the contents of a class's new positions through the ops that touch it."""
from __future__ import annotations

from collections.abc import Callable, Sequence

from fxgrow.aten import DIMENSION_VIEWS, REARRANGED
from fxgrow.axis import Contract, Fold, Map, Near, Normalise, Op, Reduce, Sum, Value, atoms, resolve
from fxgrow.common import Refusal
from fxgrow.contents import kinds
from fxgrow.contents.bindings import Certificate, Flip, Power
from fxgrow.contents.factors import Factors
from fxgrow.contents.kinds import AVERAGE, CONST, COPY, FREE, NIL, PAIR, SIGNED, ZERO, ByPart, Content, Known, Tag, Var
from fxgrow.contents.learning import Learning
from fxgrow.contents.norms import normalised, refuse_division_by_zero
from fxgrow.contents.rows import in_front, insist_on_measures, measure
from fxgrow.contents.zeros import makers_of_zeros, may_vanish, scaled_to_zero, slope_of

Sources = Sequence[tuple[int, int]]  # (input, dimension) pairs
# What may be taken over contents, and the factor that this leaves on it (on a deviation: its root).
REDUCED = {(COPY, "max"): Power(), (COPY, "mean"): Power(), (COPY, "sum"): Power(1), (COPY, "norm"): Power(0.5),
           (COPY, "sample variance"): Power(1, -1), (ZERO, "sum"): Power(), (ZERO, "norm"): Power(),
           (ZERO, "norm of another order"): Power(),
           (ZERO, "mean"): Power(-1), (AVERAGE, "mean"): Power(),
           (AVERAGE, "var"): Power(-1), (AVERAGE, "sample variance"): Power(0, -1), (SIGNED, "sum"): Power(),
           (SIGNED, "mean"): Power(-1)}
DEVIATIONS = {"var": 1.0, "var_mean": 1.0, "std": 0.5, "std_mean": 0.5}


class NeedsFlip(Refusal):
    """Products over the class that do not vanish, or never learn: one side's producers must carry the complement."""

    def __init__(self, reason: str, *ops: Op):
        super().__init__(reason)
        self.ops = ops


class NeedsZeros(Refusal):
    """New positions that are zero only if these parameter axes are zero there."""

    def __init__(self, reason: str, places: set[tuple[str, int]]):
        super().__init__(reason)
        self.places = places


class Interpreter(Factors):
    """Carries the contents of one atom's new positions through the ops that touch it."""

    def run(self) -> Certificate:
        """Return the certificate; refuse at the first op that keeps no invariant."""
        for op in self.tape.ops_of[self.atom]:
            STEPS[type(op)](self, op)
            if self.powers:
                self.follow(op)
        for name, dim in self.tape.params_of[self.atom]:
            if (name, dim) not in self.out.contents:
                self.bind(Var(name, dim))
        insist_on_measures(self)
        self.check_ends()
        if self.doubts:
            self._insist_on_learning()
        return self.out

    def _insist_on_learning(self) -> None:
        """Refuse contents of which some would get no gradient, ever, and note which wait for longer than two steps."""
        first = Learning(self).first_gradients()
        dead = [name for name, step in first.items() if step is None]
        if dead:
            where = ", ".join(dict.fromkeys(op.node for op in self.doubts))
            raise NeedsFlip(f"new positions of {', '.join(dead)} would never learn: {where} passes no gradient to zeros",
                            *self.doubts)
        self.out.late = [name for name, step in first.items() if step is not None and step > 2]

    def bind(self, var: Var, content: Known = CONST) -> Known:
        """Settle the content of a parameter, or what there is behind a norm of its rows."""
        if var.norm is None:
            return super().bind(var, content)
        content = self.produced(var) if content == CONST else content
        chosen = [in_front(self, var, var.norm, each) for each in getattr(content, "contents", [content])]
        fronts, behind = zip(*chosen)
        if isinstance(content, ByPart):
            super().bind(Var(var.source, var.dim), ByPart(content.atom, fronts))
            content = ByPart(content.atom, behind)
        else:
            super().bind(Var(var.source, var.dim), fronts[0])
            content, = behind
        if self.behind.setdefault(var, content) != content:
            raise Refusal(f"{var.source} would need several contents at once")
        return content

    def _split(self, op: Op, sources: Sources) -> tuple[list[Known], list[Var]]:
        """Return the contents that arrive, and the parameters whose contents are still open."""
        tags = [self.tag(op.ins[i], d) for i, d in sources]
        return [t for t in tags if not isinstance(t, Var)], [t for t in tags if isinstance(t, Var)]

    def _map(self, op: Map | Normalise) -> None:
        steps = {"linear": self._linear, "mul": self._mul, "div": self._div}
        combine: Callable[[Op, Sources], Tag] = steps.get(op.fn, self._any) if isinstance(op, Map) else self._any
        for dim in {d for out in op.outs for d in self.dims(out)}:
            self.give(op, dim, combine(op, self.sources(op, dim)))

    def _linear(self, op: Op, sources: Sources) -> Tag:
        """Return the content of a sum; a summand that has not the class adds a constant."""
        known, open_ones = self._split(op, sources)
        if AVERAGE in known and self._centres(op):
            return ZERO
        constant = not sources or self._adds_constant(op, sources)
        some = [t for t in known if t != NIL]
        if not some and len(open_ones) == len(sources) == 1 and not constant and op.outs[0].param_only:
            return open_ones[0]
        if open_ones:
            joined = kinds.by_part(kinds.added, some) if some else CONST
            if joined == ZERO and self.zeroed and self.base == FREE:  # a bias learns where a weight had to be zero
                joined = CONST
            some += [self.bind(var, joined) for var in open_ones]
        some = some or known[:1]
        return kinds.by_part(kinds.added, [*some, CONST] if constant else some)

    def _centres(self, op: Op) -> bool:
        """Return whether an op takes the mean over the class out of a value, which averages are equal to."""
        mean = op.ins[-1]
        while mean.made is not None and mean.made.name in REARRANGED and len(mean.made.ins) == 1:
            mean, = mean.made.ins
        made = op.outs[0].made
        return op.name == "sub" and made is not None and len(made.args) == 2 and self.means.get(mean) is op.ins[0]

    def _adds_constant(self, op: Op, sources: Sources) -> bool:
        if isinstance(op, Map) and (op.const or op.joined):
            return op.const
        summands = len(op.ins) - 1 if op.name == "where" else len(op.ins)  # a condition is none
        return len({i for i, _ in sources}) < summands

    def _mul(self, op: Op, sources: Sources) -> Tag:
        known, open_ones = self._split(op, sources)
        if NIL in known:
            return NIL
        if set(known) <= {CONST} and len(open_ones) == 1 and op.outs[0].param_only:
            return open_ones[0]
        if isinstance(op, Map) and known == [AVERAGE] and len(open_ones) == 1 and self._is_per_position(open_ones[0]):
            return self._layer_scale(op, sources, open_ones[0])
        contents = self._carried(known, open_ones)
        if kinds.zeros(contents) > 1:
            self.doubts.append(op)
        return kinds.by_part(kinds.multiplied, contents)

    def _carried(self, known: list[Known], open_ones: list[Var]) -> list[Known]:
        """Return all contents, those of parameters chosen so that the others survive."""
        content = kinds.by_part(kinds.carrier, known) if known and open_ones else CONST
        return known + [self.bind(var, content) for var in open_ones]

    def _div(self, op: Op, sources: Sources) -> Tag:
        varying = [(i, d) for i, d in sources if i == 0 or self.tag(op.ins[i], d) != CONST]
        content = self._passed_on(op, varying) if all(i == 0 for i, _ in varying) else self._any(op, sources)
        if any(i > 0 and may_vanish(self, op.ins[i], d) for i, d in varying):
            raise Refusal(f"{op.node} divides by it, and new positions would be zero")
        return content

    def _passed_on(self, op: Op, sources: Sources) -> Tag:
        """Return the content of a result that is the first source times something without the class."""
        known, open_ones = self._split(op, sources)
        if not op.outs[0].param_only:
            known += [self.bind(var) for var in open_ones]
        return known[0] if known else open_ones[0]

    def _any(self, op: Op, sources: Sources) -> Known:
        """Return the content of any function that acts on each position alone."""
        contents = self._carried(*self._split(op, sources))
        if scaled_to_zero(self, op):
            return ZERO
        if kinds.zeros(contents) and not isinstance(op, Normalise):
            self._doubt(op, len(sources))
        if len(sources) == 1:
            odd = isinstance(op, Normalise) and len(op.ins) == 1 and SIGNED in contents  # along what is kept
            fn = op.fn if isinstance(op, (Map, Reduce)) else "odd" if odd else "any"
            return kinds.by_part(lambda tags: kinds.mapped(fn, tags[0]), contents)
        return kinds.by_part(kinds.met, contents)

    def _doubt(self, op: Op, operands: int) -> None:
        """Note that a function may have no slope at zero; refuse one that has none which is finite."""
        found = slope_of(op)
        if found is None:
            raise Refusal(f"{op.node} is not finite at zero, or its slope")
        if operands > 1 or not found[1]:
            self.doubts.append(op)

    def _is_per_position(self, var: Var) -> bool:
        """Return whether a parameter is one number for each position of the class."""
        axes = self.tape.params[var.source].axes
        return all(axis.size == 1 or (d == var.dim and self.is_alone(axis)) for d, axis in enumerate(axes))

    def _layer_scale(self, op: Op, sources: Sources, scale: Var) -> Content:
        """Prove an average times a layer scale: the producers take the average weighted by the scale."""
        (i, d), = [(i, d) for i, d in sources if not isinstance(self.tag(op.ins[i], d), Var)]
        for name, dim, _ in self.producers(op.ins[i], d, alone=True):
            self.out.weights[name, dim] = (scale.source, scale.dim)
        self.out.contents[scale.source, scale.dim] = FREE
        self.out.scales.add((scale.source, scale.dim))
        return AVERAGE

    def _contract(self, op: Contract) -> None:
        summed = [(i, d) for i, d, e in op.reduced if self.atom in atoms(e)]
        if summed:
            self._annihilate(op, summed)
        for dim in self.dims(op.outs[0]):
            sources = self.sources(op, dim)
            tag = self._mul(op, sources) if len(sources) > 1 else self._passed_on(op, sources)
            self.give(op, dim, self.bind(tag) if isinstance(tag, Var) else tag)

    def _annihilate(self, op: Op, summed: Sources) -> None:
        """Prove that the sum over the new positions vanishes, or shares out the old terms."""
        if len(summed) != 2:
            raise Refusal(f"it is summed over more than once in {op.node}")
        a, b = (self.tag(op.ins[i], d) for i, d in summed)
        if NIL in (a, b):
            return
        if isinstance(a, Var) and not isinstance(b, Var):
            a, b = b, a
        if isinstance(b, Var):
            both_open = isinstance(a, Var)
            a = self.bind(a) if isinstance(a, Var) else a
            cancelling = kinds.by_part(lambda tags: self._complement(op, tags[0]), [a])
            b = self.bind(b, cancelling if self.exact or both_open else FREE)
        if a == b == ZERO:
            self.doubts.append(op)
        elif self.exact and not kinds.vanishes(a, b) and not self._copies_add_up(op, a, b):
            raise NeedsFlip(f"{op.node} sums products over it, and neither side's new positions can be chosen to cancel", op)

    def _copies_add_up(self, op: Op, a: Tag, b: Tag) -> bool:
        """Return whether the sum over products of copies, k times the old one, is so only up to factors that undo that."""
        plain = all(tag == COPY or (isinstance(tag, ByPart) and set(tag.contents) == {COPY}) for tag in (a, b))
        if not plain:
            return False
        left = Power(1).plus(self.power(op.ins[0])).plus(self.power(op.ins[1]))
        of_data = [v for v in op.ins if not v.param_only]
        if left and self.scaling and of_data:
            self.take_back(of_data[0], left.times(-1))
            left = Power()
        if left:
            return False
        self.out.uniform = op.node
        self.powers[op.outs[0]] = left
        return True

    def _complement(self, op: Op, tag: Content) -> Content:
        if tag == CONST:
            raise Refusal(f"{op.node} sums over a value that is the same at every position")
        return tag.complement

    def _reduce(self, op: Reduce) -> None:
        for i, d, axis in op.reduced:
            if self.exact and self.atom in atoms(axis):
                self._check_reduced(op, self.tag(op.ins[i], d), axis)
        combine = self._linear if op.fn == "linear" else self._any
        for dim in self.dims(op.outs[0]):
            self.give(op, dim, combine(op, self.sources(op, dim)))

    def _check_reduced(self, op: Reduce, tag: Tag, axis) -> None:
        """Prove that what is taken over the class is what it was, up to a factor."""
        if isinstance(tag, Var) and measure(self, op, tag):
            return
        if isinstance(tag, Var):
            tag = self.bind(tag)
        how = {"mean": "var"}.get(op.how, op.how) if op.name in DEVIATIONS and tag != COPY else op.how
        left = None if isinstance(tag, ByPart) else REDUCED.get((tag, how))
        of_all = bool(left) or how == "mean"  # the number of positions matters
        if left is None or (of_all and not (self.is_covered(axis) if tag == COPY else self.is_alone(axis))):
            raise self._refused(op)
        alone = sum(a.size > 1 for _, _, a in op.reduced) == 1
        if left and not alone:
            raise Refusal(f"{op.node} takes the {op.how} over it together with other axes")
        if tag == COPY and of_all:
            self.out.uniform = op.node
        if tag == AVERAGE and alone and "mean" in op.name:
            self.means[op.outs[-1]] = op.ins[0]
        self.asked |= tag == ZERO or (tag == AVERAGE and bool(left))
        self._note_factor(op, left)

    def _refused(self, op: Reduce) -> Refusal:
        """Return the refusal of what is taken over the class; of parameters, one that asks for zeros if it may."""
        reason = f"{op.node} takes the {op.how} over it"
        zeros = [(i, d) for i, d, axis in op.reduced if self.atom in atoms(axis) and op.ins[i].param_only]
        if not zeros or REDUCED.get((ZERO, op.how)) != Power():
            return Refusal(reason)
        return NeedsZeros(reason, set().union(*(makers_of_zeros(self, op.ins[i], d) for i, d in zeros)))

    def zeros_for(self, op: Op) -> set[tuple[str, int]]:
        """Return the parameter axes which, zero at new positions, make a computed weight zero in a sum of products."""
        sides = [(op.ins[i], d) for i, d, e in op.reduced if self.atom in atoms(e)]
        try:
            return set().union(*(makers_of_zeros(self, v, d) for v, d in sides if v.param_only and not _is_a_parameter(v)))
        except Refusal:
            return set()

    def _note_factor(self, op: Reduce, left: Power) -> None:
        """Note the factor that is left on what is taken, and that which was there before."""
        if len(op.outs) > 1 and self.power(op.ins[0]):
            raise self.changed(op.node)
        if left and op.how == "sum" and self.scaling and self.taken_back(op.ins[0], left.times(-1)):
            return
        degree = DEVIATIONS.get(op.name, 0.5)
        before = self.power(op.ins[0])
        if left or before:  # together they may be none
            self.powers[op.outs[0]] = (left.times(degree) if op.name in DEVIATIONS else left).plus(before.times(2 * degree))

    def _normalise(self, op: Normalise) -> None:
        over = {d: axis for _, d, axis in op.reduced if self.atom in atoms(axis)}
        for dim in self.dims(op.outs[0]):
            self.give(op, dim, normalised(self, op, dim, over[dim]) if dim in over else
                      self._any(op, self.sources(op, dim)))
        refuse_division_by_zero(self, op)

    def _near(self, op: Near) -> None:
        """Prove that old positions meet zeros behind the last of them, as there were; new ones may become anything."""
        for dim in self.dims(op.outs[0]):
            tag = self._linear(op, self.sources(op, dim))
            if dim == op.dim:
                tag = self.bind(tag) if isinstance(tag, Var) else tag
                self._insist_on_zeros(op, tag)
                tag = NIL if tag == NIL else FREE
            self.give(op, dim, tag)

    def _insist_on_zeros(self, op: Near, tag: Tag) -> None:
        """Refuse positions that change what the last of the old ones are made of."""
        axis = resolve(op.ins[0].axes[op.dim])
        if not self.is_alone(axis.parts[-1] if isinstance(axis, Sum) else axis):
            raise Refusal(f"{op.node} runs over it and what is behind it")
        if self.exact and tag not in (ZERO, NIL):
            reason = f"{op.node} makes each of its positions of their neighbours, which new ones would be"
            raise NeedsZeros(reason, makers_of_zeros(self, op.ins[0], op.dim))

    def _fold(self, op: Fold) -> None:
        """Prove a fold: pairs vanish as their difference, and zeros do; what follows is padded by zeros."""
        (_, dim, axis), = op.reduced
        if dim in self.dims(op.ins[0]) and not (self.is_alone(axis) and self.tag(op.ins[0], dim) in (PAIR, ZERO, NIL)):
            raise Refusal(f"{op.node} folds equal pairs only")
        for d in self.dims(op.outs[0]):
            if d == dim and not (self.is_alone(op.outs[0].axes[d]) and self.base == PAIR):
                raise Refusal(f"{op.node} pads the skip path by pairs of zeros only")
            self.give(op, d, ZERO if d == dim else self._linear(op, self.sources(op, d)))

    def factors(self, op: Op) -> list[tuple[Value, int]]:
        """Return the operands of a product of values over the class."""
        is_product = isinstance(op, Contract) or getattr(op, "fn", "") == "mul"
        return [(op.ins[i], d) for i, d in self.sources(op, self.dims(op.outs[0])[0])] if is_product else []

    def producers(self, value: Value, dim: int, alone: bool = False) -> set[Flip]:
        """Return the parameter axes whose new positions arrive here: (name, dim, (told-apart atom, index) or None).

        Raises:
            Refusal: they are not known; with `alone`, one is used elsewhere too or something other than sums is between.
        """
        found: set[Flip] = set()
        seen: set[tuple] = set()
        queue: list[tuple] = [(value, dim, None)]
        while queue:
            v, d, part = step = queue.pop()
            if step in seen:
                continue
            seen.add(step)
            if alone:
                self._check_alone(v)
            if v.source is not None:
                found.add((v.source, d, part if part is not None and part[0] in atoms(v.axes[d]) else None))
            elif not v.constant:
                if v.op is None:
                    raise Refusal("its producers are not known")
                if isinstance(v.op, Map) and v.op.pick:
                    part = (v.op.pick[0], v.op.pick[1][v.op.outs.index(v)])
                queue += [(v.op.ins[i], dd, part) for i, dd in reversed(self.sources(v.op, d))]
        return found

    def _check_alone(self, value: Value) -> None:
        """Refuse a value that is used twice, or made by anything but sums."""
        if sum(op.ins.count(value) for op in self.tape.ops_of[self.atom]) > 1:
            raise Refusal(f"{value.source} is used in several places" if value.source is not None else
                          "a value is used before and after its layer scale")
        op = None if value.source is not None or value.constant else value.op
        if op is not None and not isinstance(op, Contract) and not (isinstance(op, Map) and op.fn == "linear"):
            raise Refusal(f"{op.node} lies between its producers and its layer scale")


def _is_a_parameter(value: Value) -> bool:
    """Tell whether a value is a parameter as it is, perhaps transposed: no computed one."""
    while value.op is not None and value.op.name in DIMENSION_VIEWS:
        value = value.op.ins[0]
    return value.source is not None


STEPS: dict[type[Op], Callable] = {Map: Interpreter._map, Contract: Interpreter._contract, Reduce: Interpreter._reduce,
                                   Normalise: Interpreter._normalise, Fold: Interpreter._fold, Near: Interpreter._near}
