"""The interpreter: carries the contents of a class's new positions through the ops that touch it."""
from __future__ import annotations

from collections.abc import Callable, Sequence

from fxgrow.axis import Atom, Op, Prod, Sum, Tape, Value, atoms, resolve
from fxgrow.common import Refusal
from fxgrow.contents.certificate import Certificate, Norm
from fxgrow.contents.kinds import COMPLEMENT, CONST, COPIES, NIL, ByPart, Content, Var


class NeedsFlip(Refusal):
    """A sum of products over the class that does not vanish: one side's producers must carry the complement."""

    def __init__(self, op: Op):
        super().__init__(f"{op.node} sums products over it, and neither side's new positions can be chosen to cancel")
        self.op = op


class Interpreter:
    """Carries the contents of one atom's new positions through the ops that touch it."""

    def __init__(self, tape: Tape, atom: Atom, base: str, flips=(), exact: bool = True):
        self.tape, self.params, self.ops = tape, tape.params, tape.ops_of[atom]
        self.atom, self.base, self.exact = atom, base, exact
        self.flips = set(flips)
        self.tags: dict[tuple[Value, int], Content] = {}
        self.out = Certificate(atom, base)
        self.powers: dict[Value, float] = {}  # the value is k ** power times the old one, k copies a position
        self.uses: dict[Value, int] = {}
        for op in self.ops:
            for v in op.ins:
                self.uses[v] = self.uses.get(v, 0) + 1

    def run(self) -> Certificate:
        for op in self.ops:
            getattr(self, f"_{op.kind}")(op)
            if self.powers:
                self._keep_power(op)
        for name, dim in self.tape.params_of[self.atom]:
            if (name, dim) not in self.out.contents:
                self._bind(Var(name, dim), self._base(name, dim))
        return self.out

    # -- looking up ---------------------------------------------------------------------------------------------------

    def _dims(self, value: Value) -> Sequence[int]:
        return value.places.get(self.atom, ())

    def _tag(self, value: Value, dim: int) -> Content:
        if value.source is not None:
            return self.out.contents.get((value.source, dim), Var(value.source, dim))
        tag = self.tags.get((value, dim))
        if tag is None and value.constant:
            return NIL if value.constant == "zeros" else CONST
        if tag is None:
            raise Refusal("its content is not known here")
        if isinstance(tag, Var):
            return self.out.contents.get((tag.source, tag.dim), tag)
        return tag

    def _base(self, name: str, dim: int) -> Content:
        """The content produced by a parameter: the base, or its complement where a product of two values asks for it."""
        flips = [f for f in self.flips if f[:2] == (name, dim)]
        if not flips:
            return self.base
        turned = COMPLEMENT[self.base]
        if any(f[2] is None for f in flips):
            return turned
        part = flips[0][2][0]
        chosen = {f[2][1] for f in flips if f[2][0] is part}
        return ByPart(part, tuple(turned if i in chosen else self.base for i in range(part.size)))

    def _bind(self, var: Var, content: Content) -> Content:
        if content == CONST:
            content = self._base(var.source, var.dim)
        if isinstance(content, ByPart) and content.atom not in atoms(self.params[var.source].axes[var.dim]):
            raise Refusal(f"{var.source} would need several contents at once")
        if self.out.contents.get((var.source, var.dim), content) != content:
            raise Refusal(f"{var.source} would have to be its own complement")
        self.out.contents[var.source, var.dim] = content
        return content

    def _set(self, op: Op, dim: int, tag: Content) -> None:
        if isinstance(tag, ByPart) and op.pick and op.pick[0] is tag.atom:
            tags = [tag.contents[k] for k in op.pick[1]]
        else:
            tags = [tag] * len(op.outs)
        for out, t in zip(op.outs, tags):
            if isinstance(t, ByPart) and not any(t.atom in atoms(a) for a in out.axes):
                raise Refusal(f"contents of several kinds meet in {op.node}")
            self.tags[out, dim] = t

    # -- ops ----------------------------------------------------------------------------------------------------------

    def _sources(self, op: Op, out_dim: int) -> list[tuple[int, int]]:
        """(input, dimension) pairs of this class that arrive at an output dimension."""
        gone = {(i, d) for i, d, e in op.reduced if self.atom in atoms(e)} if op.kind != "norm" else set()
        found = []
        for i, value in enumerate(op.ins):
            dmap = op.dmaps[i]
            for d in self._dims(value):
                if (i, d) not in gone and (dmap is None or dmap.get(d) == out_dim):
                    found.append((i, d))
        return found

    def _out_dims(self, op: Op) -> Sequence[int]:
        return self._dims(op.outs[0]) if op.outs else ()

    def _map(self, op: Op) -> None:
        combine: Callable = {"linear": self._linear, "mul": self._mul, "div": self._div}.get(op.fn, self._any)
        outs = {d for o in op.outs for d in self._dims(o)}
        for dim in outs:
            self._set(op, dim, combine(op, self._sources(op, dim)))

    def _contents(self, op: Op, sources) -> tuple[list, list[Var]]:
        tags = [self._tag(op.ins[i], d) for i, d in sources]
        return [t for t in tags if not isinstance(t, Var)], [t for t in tags if isinstance(t, Var)]

    def _linear(self, op: Op, sources) -> Content:
        known, free = self._contents(op, sources)
        lone = op.extra.get("cat") is None and len({i for i, _ in sources}) < len(op.ins) - (op.name == "where")
        constant = op.const or lone or not sources
        known = [t for t in known if t != NIL] or known[:1] * (not free)
        if free and not known:
            if len(sources) == 1 and not constant and op.outs[0].param_only:
                return free[0]
            known = [self._bind(v, self._base(v.source, v.dim)) for v in free]
        elif free:
            joined = self._lift(self._add, known)
            known += [self._bind(v, joined) for v in free]
        return self._lift(self._add, known + [CONST] * constant)

    def _mul(self, op: Op, sources) -> Content:
        known, free = self._contents(op, sources)
        if not known and not free:
            return CONST
        if NIL in known:
            return NIL
        if free and not known:
            if len(free) == 1 and op.outs[0].param_only:
                return free[0]
            known = [self._bind(v, self._base(v.source, v.dim)) for v in free]
        elif op.kind == "map" and known == ["average"] and len(free) == 1 and self._per_position(free[0]):
            return self._layer_scale(op, sources, free[0])
        else:
            known += [self._bind(v, self._carrier(known)) for v in free]
        return self._lift(self._times, known)

    def _div(self, op: Op, sources) -> Content:
        if all(i == 0 for i, _ in sources):
            return self._linear_alone(op, sources)
        return self._any(op, sources)

    def _linear_alone(self, op: Op, sources) -> Content:
        known, free = self._contents(op, sources)
        if free and not op.outs[0].param_only:
            known += [self._bind(v, self._base(v.source, v.dim)) for v in free]
        return known[0] if known else free[0]

    def _any(self, op: Op, sources) -> Content:
        known, free = self._contents(op, sources)
        if free:
            carrier = self._carrier(known) if known else None
            known += [self._bind(v, carrier or self._base(v.source, v.dim)) for v in free]
        if len(sources) == 1:
            return self._lift(lambda ts: self._unary(op.fn, ts[0]), known)
        return self._lift(self._nonlinear, known)

    def _carrier(self, known: list) -> Content:
        """What a per-channel parameter holds so that the content it meets survives."""
        def one(tags):
            tags = set(tags) - {CONST, NIL}
            if not tags:
                return CONST
            if tags & set(COPIES):
                return "copy"
            return "pair" if tags <= {"pair", "signed"} else "free"
        return self._lift(one, known)

    def _per_position(self, var: Var) -> bool:
        """Whether a parameter is one number for each position of the class."""
        axes = self.params[var.source].axes
        return all(axis.size == 1 or d == var.dim and self._alone(axis) for d, axis in enumerate(axes))

    def _layer_scale(self, op: Op, sources, scale: Var) -> Content:
        """An average times a layer scale: the producers take the average weighted by the scale."""
        (i, d), = [(i, d) for i, d in sources if not isinstance(self._tag(op.ins[i], d), Var)]
        for source in self._producers(op.ins[i], d, alone=True):
            self.out.weights[source[:2]] = (scale.source, scale.dim)
        self.out.contents[scale.source, scale.dim] = "free"
        self.out.scales.add((scale.source, scale.dim))
        return "average"

    def _contract(self, op: Op) -> None:
        reduced = [(i, d) for i, d, e in op.reduced if self.atom in atoms(e)]
        if reduced:
            self._annihilate(op, reduced)
        for dim in self._out_dims(op):
            sources = self._sources(op, dim)
            if len(sources) == 1 and isinstance(self._tag(op.ins[sources[0][0]], sources[0][1]), Var):
                i, d = sources[0]
                var = self._tag(op.ins[i], d)
                self._set(op, dim, self._bind(var, self._base(var.source, var.dim)))
            else:
                self._set(op, dim, self._mul(op, sources) if len(sources) > 1 else self._linear_alone(op, sources))

    def _annihilate(self, op: Op, reduced) -> None:
        """The sum over the new positions must vanish, or share out the old terms."""
        if len(reduced) != 2:
            raise Refusal(f"it is summed over more than once in {op.node}")
        tags = [self._tag(op.ins[i], d) for i, d in reduced]
        if NIL in tags:
            return
        for one, two in ((0, 1), (1, 0)):
            if isinstance(tags[one], Var) and not isinstance(tags[two], Var):
                complement = self._lift(lambda ts: self._complement(op, ts[0]), [tags[two]])
                tags[one] = self._bind(tags[one], complement if self.exact else "free")
        if all(isinstance(t, Var) for t in tags):
            tags[0] = self._bind(tags[0], self._base(tags[0].source, tags[0].dim))
            tags[1] = self._bind(tags[1], self._lift(lambda ts: self._complement(op, ts[0]), [tags[0]]))
        if not self.exact or self.powers and self._cancels(op):
            return
        if any(isinstance(t, ByPart) for t in tags):
            ok = all(isinstance(t, ByPart) for t in tags) and all(map(self._vanish, tags[0].contents, tags[1].contents))
        else:
            ok = self._vanish(*tags)
        if not ok:
            raise NeedsFlip(op)

    def _complement(self, op: Op, tag: str) -> str:
        if tag == CONST:
            raise Refusal(f"{op.node} sums over a value that is the same at every position")
        return COMPLEMENT[tag]

    @staticmethod
    def _vanish(a: str, b: str) -> bool:
        """Zero on both sides would vanish too, but neither side would ever get a gradient."""
        return "zero" in (a, b) and a != b and not {a, b} & {*COPIES} or {a, b} == {"pair", "signed"} or {a, b} == {*COPIES}

    def _reduce(self, op: Op) -> None:
        for i, d, e in op.reduced:
            if self.atom not in atoms(e) or not self.exact:
                continue
            tag = self._tag(op.ins[i], d)
            if isinstance(tag, Var):
                tag = self._bind(tag, self._base(tag.source, tag.dim))
            if tag == "copy" and op.how == "mean" and self._covers(e):
                self.out.uniform = op.node
            elif not (tag == "copy" and op.how == "max" or tag == "average" and op.name == "mean" and self._alone(e)
                      or tag == "zero" and op.how in ("sum", "norm") or tag == "signed" and op.how == "sum"):
                raise Refusal(f"{op.node} takes the {op.how} over it")
        combine = self._linear if op.fn == "linear" else self._any
        for dim in self._out_dims(op):
            self._set(op, dim, combine(op, self._sources(op, dim)))

    def _norm(self, op: Op) -> None:
        reduced = [(i, d, e) for i, d, e in op.reduced if self.atom in atoms(e)]
        if not reduced:
            self._map(op)
            kept = [self._tag(op.ins[0], d) for d in self._dims(op.ins[0])] if op.name == "weight norm" else []
            if any(t == "zero" or isinstance(t, ByPart) and "zero" in t.contents for t in kept):
                raise Refusal(f"{op.node} divides by the norm of each position, and new ones would be zero")
            return None
        (_, dim, axis), *more = reduced
        x, *affine = op.ins
        tag = self._tag(x, dim)
        if isinstance(tag, Var) and op.name == "weight norm" and self.exact:
            tag = self._bind(tag, "zero")
        if isinstance(tag, Var):
            raise Refusal(f"{op.node} normalises a parameter over it")
        whole = self._alone(axis) and not more and len([r for r in op.reduced if r[2].size > 1]) == 1
        wanted = "average" if op.how == "layer" else "zero"
        if op.how == "unit" and tag == "zero":
            return self._set(op, dim, "zero")
        if tag == "copy" and self._covers(axis):
            self.out.uniform = op.node
            for v in affine:
                self._bind_all(v, "copy")
            if op.how == "unit":
                self.powers.update(dict.fromkeys(op.outs, -0.5))
            return self._set(op, dim, "copy")
        if tag != wanted or not self.exact:
            if not self.exact:
                for v in affine:
                    self._bind_all(v, "free")
                return self._set(op, dim, "free")
            raise Refusal(f"{op.node} normalises over it")
        if not whole:
            raise Refusal(f"{op.node} normalises over it together with other axes")
        if not affine:
            raise Refusal(f"{op.node} normalises over it and has no weight to rescale")
        if affine[0].source is None:
            raise Refusal(f"the weight of {op.node} is computed")
        if not self._dims(affine[0]):
            raise Refusal(f"the weight of {op.node} has other positions, and cannot rescale these")
        if any(affine[0] in other.ins and not (other.kind == "norm" and self.atom in other.reduced_atoms())
               for other in self.tape.ops_of[self.atom]):
            raise Refusal(f"the weight of {op.node} is used elsewhere too, and cannot be rescaled")
        self._bind_all(affine[0], "free")
        for v in affine[1:]:
            self._bind_all(v, "zero")
        self.out.norms.append(Norm(op, affine[0].source))
        self._set(op, dim, "zero")

    def _fold(self, op: Op) -> None:
        """Pairs vanish as their difference, and zeros do; what follows is padded by zeros."""
        (_, dim, axis), = op.reduced
        for d in self._dims(op.ins[0]):
            if d == dim and (not self._alone(axis) or self._tag(op.ins[0], d) not in ("pair", "zero", NIL)):
                raise Refusal(f"{op.node} folds equal pairs only")
        for d in self._out_dims(op):
            if d == dim and (not self._alone(op.outs[0].axes[d]) or self.base != "pair"):
                raise Refusal(f"{op.node} pads the skip path by pairs of zeros only")
            self._set(op, d, "zero" if d == dim else self._linear(op, self._sources(op, d)))

    def _bind_all(self, value: Value, content: str) -> None:
        for d in self._dims(value):
            tag = self._tag(value, d)
            if isinstance(tag, Var):
                self._bind(tag, content)
            elif tag != content:
                raise Refusal(f"{value.source or 'a parameter'} is shared and would need two contents")

    def _alone(self, axis) -> bool:
        return resolve(axis) is self.atom

    def _covers(self, axis) -> bool:
        """Whether duplicating the atom duplicates every position of the axis."""
        axis = resolve(axis)
        if isinstance(axis, Prod):
            return any(map(self._covers, axis.parts))
        return all(map(self._covers, axis.parts)) if isinstance(axis, Sum) else axis is self.atom

    def _keep_power(self, op: Op) -> None:
        """Follows the factor k ** -1/2 that normalising k copies leaves, until a product of two such values cancels it."""
        power = {self.powers.get(v, 0.0) for v in op.ins}
        if power == {0.0} or op.kind == "contract" and self._cancels(op):
            return
        if op.fn != "linear" or op.kind != "map" or op.const or len(power) > 1:
            raise Refusal(f"{op.node} changes a value normalised over it before its product is taken")
        self.powers.update(dict.fromkeys(op.outs, power.pop()))

    def _cancels(self, op: Op) -> bool:
        """Whether an op sums products of two unit vectors made of k copies each: k * k ** -1/2 * k ** -1/2 = 1."""
        summed = [self._tag(op.ins[i], d) for i, d, e in op.reduced if self.atom in atoms(e)]
        return len(summed) == 2 and all(self.powers.get(v) == -0.5 for v in op.ins) and \
            all(t == "copy" or isinstance(t, ByPart) and set(t.contents) == {"copy"} for t in summed)

    # -- the algebra of contents --------------------------------------------------------------------------------------

    def _lift(self, fn: Callable[[list], str], tags: list) -> Content:
        """Applies `fn` to plain contents, part by part where parts differ."""
        parted = [t for t in tags if isinstance(t, ByPart)]
        if not parted:
            return fn(tags)
        if len({id(t.atom) for t in parted}) > 1:
            raise Refusal("contents of several kinds meet")
        return ByPart(parted[0].atom, tuple(fn([t.contents[k] if isinstance(t, ByPart) else t for t in tags])
                                            for k in range(parted[0].atom.size)))

    def _add(self, tags: list) -> str:
        """Contents under addition."""
        kinds = set(tags)
        if len(kinds) == 1:
            return tags[0]
        constant = CONST in kinds
        kinds -= {CONST, NIL}
        if not kinds:
            return CONST
        if kinds & {*COPIES}:
            if kinds == {"copy"}:
                return "copy"
            raise Refusal("copies are added to something that is not copied alike")
        kinds -= {"zero"} if len(kinds) > 1 and "average" not in kinds else set()
        if len(kinds) > 1:
            return "free"
        kind, = kinds
        if not constant:
            return kind
        return {"pair": "pair", "average": "average", "zero": "pair"}.get(kind, "free")

    def _times(self, tags: list) -> str:
        """Contents under multiplication."""
        kinds = [t for t in tags if t != CONST]
        if not kinds:
            return CONST
        if set(kinds) & {*COPIES}:
            if set(kinds) <= {*COPIES} and kinds.count("share") <= 1:
                return "share" if "share" in kinds else "copy"
            raise Refusal("copies are multiplied by something that is not copied alike")
        if "zero" in kinds:
            return "zero"
        if set(kinds) <= {"pair", "signed"}:
            return "signed" if kinds.count("signed") % 2 else "pair"
        return kinds[0] if len(kinds) == 1 else "free"

    def _unary(self, fn: str, tag: str) -> str:
        """Contents under a function of one value, the same at every position."""
        if tag in ("pair", "copy", CONST) or tag == NIL and fn in ("fn0", "odd"):
            return tag
        if tag == NIL:
            return CONST
        if tag == "share":
            raise Refusal("shares of a copy pass a non-linear function")
        if tag == "zero":
            return "zero" if fn in ("fn0", "odd") else "pair"
        return "signed" if tag == "signed" and fn == "odd" else "free"

    def _nonlinear(self, tags: list) -> str:
        """Contents under a function of several values."""
        kinds = set(tags) - {CONST, NIL}
        if not kinds:
            return CONST
        if kinds & {*COPIES}:
            if kinds == {"copy"}:
                return "copy"
            raise Refusal("copies meet something that is not copied alike")
        return "pair" if kinds <= {"pair", "zero"} else "free"

    # -- walking back -------------------------------------------------------------------------------------------------

    def _producers(self, value: Value, dim: int, alone: bool = False) -> set[tuple]:
        """The parameter axes whose new positions arrive here: (name, dim, (told-apart atom, index) or None)."""
        found: set[tuple] = set()
        seen: set[tuple] = set()

        def walk(v: Value, d: int, part) -> None:
            if (v, d, part) in seen:
                return
            seen.add((v, d, part))
            if v.source is not None:
                if alone and self.uses.get(v, 0) > 1:
                    raise Refusal(f"{v.source} is used in several places")
                inside = part is not None and part[0] in atoms(v.axes[d])
                found.add((v.source, d, part if inside else None))
                return
            if alone and self.uses.get(v, 0) > 1:
                raise Refusal("a value is used before and after its layer scale")
            if v.constant:
                return
            if v.op is None:
                raise Refusal("its producers are not known")
            if alone and (v.op.kind not in ("contract", "map") or v.op.kind == "map" and v.op.fn != "linear"):
                raise Refusal(f"{v.op.node} lies between its producers and its layer scale")
            if v.op.pick:
                part = (v.op.pick[0], v.op.pick[1][v.op.outs.index(v)])
            for i, dd in self._sources(v.op, d):
                walk(v.op.ins[i], dd, part)

        walk(value, dim, None)
        return found
