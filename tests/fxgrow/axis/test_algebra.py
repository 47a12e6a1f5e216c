"""The axis algebra against truth: labels laid out in row-major order, before and after random growth.

Every surviving free atom grows by an injection that keeps old positions first; a new position stands for an old one it
copies, and is marked as new. `layout` writes both down for every position of an expression. Whatever the algebra claims
(these two axes are one, these are the pieces of that one) must hold for the layouts under every growth.
"""
from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np
import pytest
from hypothesis import event, given
from hypothesis import strategies as st
from proving import proves

from fxgrow.axis import Atom, Fixed, Prod, Sum, atoms, concat, is_fixed, product, resolve, view
from fxgrow.axis.algebra import cut, refine, same, unify
from fxgrow.axis.expressions import freeze, to_number

NEW = 1 << 20  # added to the label of a new position
LARGEST = 144  # positions of the largest expression drawn

# --- the oracle ------------------------------------------------------------------------------------------------------

Growth = dict[Atom, np.ndarray]


def grow(data, expressions) -> Growth:
    """A random growth of every free atom: for each position of the grown atom the old position it is, or copies."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2 ** 16), label="growth"))
    free = dict.fromkeys(a for e in expressions for a in atoms(e) if a.reason is None)
    return {a: np.concatenate([np.arange(a.size), NEW + rng.integers(a.size, size=rng.integers(4))]) for a in free}


def row_major(factors: list[np.ndarray], sizes: list[int]) -> np.ndarray:
    """Labels of a product, one dimension a factor: the flat old position, and whether any coordinate is new."""
    out = np.zeros((1,) * len(factors), dtype=int)
    new = np.zeros_like(out, dtype=bool)
    for i, labels in enumerate(factors):
        shaped = labels.reshape([-1 if i == j else 1 for j in range(len(factors))])
        out, new = out + shaped % NEW * prod(sizes[i + 1:]), new | (shaped >= NEW)
    return out + NEW * new


def layout(e, growth: Growth) -> np.ndarray:
    """The label of every position of a grown axis: its old flat position, plus NEW where it is a new position."""
    e = resolve(e)
    if isinstance(e, Fixed):
        return np.arange(e.size)
    if isinstance(e, Atom):
        return growth.get(e, np.arange(e.size))
    if isinstance(e, Prod):
        return row_major([layout(p, growth) for p in e.parts], [p.size for p in e.parts]).reshape(-1)
    starts = np.cumsum([0, *(p.size for p in e.parts)])
    return np.concatenate([layout(p, growth) + s for p, s in zip(e.parts, starts)])


def layouts(dims, growth: Growth) -> np.ndarray:
    """The labels of a tensor with these axes: flat old positions of the whole tensor."""
    return row_major([layout(d, growth) for d in dims], [resolve(d).size for d in dims])


# --- claims: what an operation says, to be checked under any later growth --------------------------------------------


def one_axis(a, b) -> Callable[[Growth], bool]:
    return lambda growth: np.array_equal(layout(a, growth), layout(b, growth))


def reshaped(dims, pieces) -> Callable[[Growth], bool]:
    """A row-major reshape of the grown labels gives the labels of the new axes."""
    def holds(growth):
        old, new = layouts(dims, growth), layouts(pieces, growth)
        return old.size == new.size and np.array_equal(old.reshape(new.shape), new)
    return holds


def segmented(e, pieces) -> Callable[[Growth], bool]:
    """Cutting the grown labels at the pieces' grown sizes gives the labels of each piece."""
    def holds(growth):
        whole, at, start = layout(e, growth), 0, 0
        for p in pieces:
            labels = layout(p, growth)
            if not np.array_equal(whole[at:at + len(labels)], labels + start):
                return False
            at, start = at + len(labels), start + resolve(p).size
        return at == len(whole)
    return holds


def stays(e) -> Callable[[Growth], bool]:
    """A frozen axis has the size and the order it had."""
    size = resolve(e).size
    return lambda growth: is_fixed(e) and np.array_equal(layout(e, growth), np.arange(size))


# --- random expressions ----------------------------------------------------------------------------------------------


def build(spec, pool: list):
    kind, value = spec
    if kind == "atom":
        return pool[value % len(pool)]
    if kind == "fixed":
        return Fixed(value)
    return (Prod if kind == "product" else Sum)([build(s, pool) for s in value])


def specs(leaves: int = 6):
    """Nested expressions, not in normal form, over the atoms of a pool."""
    leaf = st.tuples(st.just("atom"), st.integers(0, 5)) | st.tuples(st.just("fixed"), st.integers(1, 3))
    return st.recursive(leaf, lambda s: st.tuples(st.sampled_from(["product", "sum"]), st.lists(s, min_size=1, max_size=3)),
                        max_leaves=leaves)


@st.composite
def pools(draw):
    """Two to five atoms, some of them frozen, or the copies (an atom of one) that every position of an axis may have."""
    sizes = draw(st.lists(st.sampled_from([2, 3, 4, 6, 8, 12]), min_size=2, max_size=5))
    kinds = draw(st.lists(st.sampled_from(["free", "free", "frozen", "copies"]), min_size=5, max_size=5))
    made = [Atom(s, "abcdef"[i], "frozen" if kinds[i] == "frozen" else None) for i, s in enumerate(sizes)]
    return [product((Fixed(a.size), Atom(1, "k"))) if kinds[i] == "copies" else a for i, a in enumerate(made)]


@st.composite
def expressions(draw, count: int, leaves: int = 5):
    """`count` expressions over one pool of atoms."""
    pool = draw(pools())
    found = [build(draw(specs(leaves).filter(lambda s: build(s, pool).size <= LARGEST)), pool) for _ in range(count)]
    return found[0] if count == 1 else found


@st.composite
def factorisations(draw, size: int, most: int = 4):
    """Sizes whose product is `size`, ones included."""
    out = []
    while size > 1 and len(out) < most - 1:
        out.append(draw(st.sampled_from([d for d in range(1, size + 1) if size % d == 0])))
        size //= out[-1]
    return [*out, size]


@st.composite
def compositions(draw, size: int, most: int = 4):
    """Sizes whose sum is `size`; equal ones often."""
    equal = [k for k in range(1, 7) if size % k == 0]
    if draw(st.booleans()):
        k = draw(st.sampled_from(equal))
        return [size // k] * k
    bounds = sorted(draw(st.lists(st.integers(1, max(size - 1, 1)), max_size=most - 1, unique=True)))
    bounds = [0, *(b for b in bounds if b < size), size]
    return [b - a for a, b in zip(bounds, bounds[1:])]


# --- normal forms ----------------------------------------------------------------------------------------------------


def is_normal(e) -> bool:
    """Flat, at least two parts, no neutral or adjacent fixed parts."""
    if isinstance(e, Fixed):
        return True
    if isinstance(e, Atom):
        return e.bound is None
    neutral = 1 if isinstance(e, Prod) else 0
    return len(e.parts) > 1 and all(map(is_normal, e.parts)) and not any(type(p) is type(e) for p in e.parts) \
        and not any(isinstance(p, Fixed) and p.size == neutral for p in e.parts) \
        and not any(isinstance(p, Fixed) and isinstance(q, Fixed) for p, q in zip(e.parts, e.parts[1:]))


@proves(150)
@given(expressions(1, leaves=8), st.data())
def test_resolve_gives_an_equal_normal_form(e, data):
    """`resolve` is idempotent, keeps size, atoms and layout, and leaves nothing to simplify."""
    def raw(e):
        return [e] if isinstance(e, Atom) else [] if isinstance(e, Fixed) else [a for p in e.parts for a in raw(p)]

    def raw_layout(e, growth):
        if isinstance(e, (Fixed, Atom)):
            return layout(e, growth)
        if isinstance(e, Prod):
            return row_major([raw_layout(p, growth) for p in e.parts], [p.size for p in e.parts]).reshape(-1)
        starts = np.cumsum([0, *(p.size for p in e.parts)])
        return np.concatenate([raw_layout(p, growth) + s for p, s in zip(e.parts, starts)])

    normal = resolve(e)
    assert is_normal(normal) and same(resolve(normal), normal)
    assert normal.size == e.size and list(atoms(e)) == raw(e)
    growth = grow(data, [e])
    assert np.array_equal(layout(normal, growth), raw_layout(e, growth))


@proves(100)
@given(expressions(3))
def test_product_and_concat_are_associative_with_units(es):
    x, y, z = es
    assert same(product((product((x, y)), z)), product((x, product((y, z)))))
    assert same(concat((concat((x, y)), z)), concat((x, concat((y, z)))))
    assert same(product((Fixed(1), x, Fixed(1))), x) and same(concat((Fixed(0), x, Fixed(0))), x)
    assert product((x, y)).size == resolve(x).size * resolve(y).size
    assert concat((x, y)).size == resolve(x).size + resolve(y).size


def test_normal_forms_print_as_one_would_write_them():
    a, b = Atom(4, "heads"), Atom(3, "dim")
    s = concat((product((a, b)), Fixed(1), Fixed(2)))
    assert not same(product((a, a)), concat((a,) * 4)) and not same(product((a, a)), concat((a, a)))
    assert repr(s) == f"{a}*{b} + 3" and repr(product((s, a))) == f"({s})*{a}"
    assert product(()).size == 1 and concat(()).size == 0


# --- one operation ---------------------------------------------------------------------------------------------------


@proves(150)
@given(st.sampled_from([4, 6, 8, 12]), st.data())
def test_refine_is_seen_wherever_the_atom_occurs(size, data):
    """Old expressions of a refined atom keep their layouts, and a frozen atom's parts are frozen."""
    a, b = Atom(size), Atom(3)
    reason = data.draw(st.sampled_from([None, "frozen"]))
    a.reason = reason
    around = [a, Prod([a, b]), Sum([b, a, a])]
    kind = data.draw(st.sampled_from([Prod, Sum]))
    parts = data.draw(factorisations(size) if kind is Prod else compositions(size))
    fresh = refine(a, parts, kind)
    assert [p.size for p in fresh.parts] == parts
    assert all(x.reason == reason for x in atoms(a))
    assert list(atoms(around[1])) == [*atoms(fresh), b]
    assert [x for x in atoms(around[2]) if x is not b] == [*atoms(fresh)] * 2
    growth = grow(data, around)
    whole = layout(fresh, growth)
    assert np.array_equal(layout(around[1], growth), row_major([whole, layout(b, growth)], [size, 3]).reshape(-1))
    assert np.array_equal(whole[whole < NEW], np.arange(size))


@proves(200)
@given(expressions(2), st.data())
def test_view_commutes_with_growing(dims, data):
    """Reshaping the grown tensor gives the grown axes that `view` returned, for any factorisation of the size."""
    sizes = data.draw(factorisations(prod(d.size for d in dims)))
    out = view(dims, sizes)
    event("viewed" if out else "refused")
    if out is not None:
        assert [resolve(o).size for o in out] == sizes
        assert reshaped(dims, out)(grow(data, [*dims, *out]))


def test_view_of_no_numbers_follows_the_axes_that_have_positions():
    width = Atom(8, "width")
    none, heads, rest = view([Fixed(0), width], [0, 2, 4])
    assert none.size == 0 and resolve(width) is not width and (heads.size, rest.size) == (2, 4)
    assert [e.size for e in view([Fixed(0)], [0])] == [0] and view([Fixed(0), Fixed(3)], [0, 2]) is None


@proves(200)
@given(expressions(1), st.data())
def test_cut_commutes_with_growing(e, data):
    """Cutting the grown axis at the grown sizes gives the pieces that `cut` returned."""
    sizes = data.draw(compositions(e.size))
    pieces = cut(e, sizes)
    event("cut" if pieces else "refused")
    if pieces is not None:
        assert [resolve(p).size for p in pieces] == sizes
        growth = grow(data, [e, *pieces])
        assert segmented(e, pieces)(growth)
        if len(set(sizes)) == 1:
            tied = {len(layout(p, growth)) for p in pieces}
            assert len(tied) == 1 or isinstance(resolve(e), Sum), "equal pieces of one axis stay equal"


@proves(250)
@given(st.data())
def test_unify_makes_layouts_identical(data):
    """After `unify` both sides have the same layout under every growth, matched or frozen, and it never raises."""
    pool = data.draw(pools())
    drawn = [build(data.draw(specs(4).filter(lambda s: build(s, pool).size <= 48)), pool) for _ in range(2)]
    a, b = [product((e, Fixed(other.size))) for e, other in zip(drawn, drawn[::-1])]
    if data.draw(st.booleans()):
        a, b = Prod([drawn[0], Atom(drawn[1].size)]), Prod([Atom(drawn[0].size), drawn[1]])
    unify(a, b, "a test")
    event("frozen" if is_fixed(a) else "free")
    assert resolve(a).size == resolve(b).size
    assert one_axis(a, b)(grow(data, [a, b]))


@proves(200)
@given(expressions(1), st.data())
def test_unify_of_sums_and_products_ties_what_is_equal(e, data):
    """A copy of an expression with atoms of its own can always be unified with it, and stays as free as it was."""
    twins: dict[Atom, Atom] = {}

    def twin(e):
        if isinstance(e, Fixed):
            return Fixed(e.size)
        if isinstance(e, Atom):
            return twins.setdefault(e, Atom(e.size, "t"))
        return type(e)([twin(p) for p in e.parts])

    rigid, free = is_fixed(e), [a for a in atoms(e) if a.reason is None]
    other = twin(e)
    unify(*((e, other) if data.draw(st.booleans()) else (other, e)), "a test")
    assert one_axis(e, other)(grow(data, [e, other]))
    assert is_fixed(other) if rigid else same(e, other)
    assert all(a.reason is None for x in free for a in atoms(x))


@proves(100)
@given(expressions(1), st.data())
def test_frozen_axes_never_grow(e, data):
    """Freezing holds through later cuts and views, and the first reason stays."""
    first = {a: a.reason for a in atoms(e)}
    freeze(e, "because")
    assert all(a.reason == (first[a] or "because") for a in atoms(e))
    cut(e, data.draw(compositions(e.size)))
    view([e], data.draw(factorisations(e.size)))
    assert stays(e)(grow(data, [e]))


def test_to_number_makes_plain_numbers():
    a = Atom(3)
    e = Prod([a, Atom(2)])
    to_number(e)
    assert isinstance(resolve(e), Fixed) and resolve(a).size == 3


# --- many operations: claims made early must survive what is learnt later --------------------------------------------


def _some(data, known: list):
    return known[data.draw(st.integers(0, len(known) - 1))]


def _view(data, known: list) -> list:
    dims = [_some(data, known) for _ in range(data.draw(st.integers(1, 2)))]
    total = prod(resolve(d).size for d in dims)
    if total > LARGEST:
        return []
    out = view(dims, data.draw(factorisations(total)))
    known += out or []
    return [reshaped(dims, out)] if out else []


def _cut(data, known: list) -> list:
    e = _some(data, known)
    pieces = cut(e, data.draw(compositions(resolve(e).size)))
    known += pieces or []
    return [segmented(e, pieces)] if pieces else []


def _unify(data, known: list) -> list:
    a = _some(data, known)
    equal = [b for b in known if resolve(b).size == resolve(a).size]
    b = _some(data, equal)
    unify(a, b, "a test")
    return [one_axis(a, b)]


def _freeze(data, known: list) -> list:
    e = _some(data, known)
    freeze(e, "a test")
    return [stays(e)]


def _join(data, known: list) -> list:
    a, b = _some(data, known), _some(data, known)
    kind, size = data.draw(st.sampled_from([(product, resolve(a).size * resolve(b).size),
                                            (concat, resolve(a).size + resolve(b).size)]))
    if size <= LARGEST:
        known.append(kind((a, b)))
        return [segmented(known[-1], [a, b]) if kind is concat else reshaped([a, b], [known[-1]])]
    return []


@proves(400)
@given(st.data())
def test_claims_survive_later_operations(data):
    """A random program of views, cuts, joins, unifications and freezes: everything it claimed holds at its end."""
    known: list = data.draw(pools())
    claims: list = [stays(a) for a in known if is_fixed(a)]
    for step in data.draw(st.lists(st.sampled_from([_view, _cut, _unify, _join, _freeze, _view, _cut, _unify, _join]),
                                   min_size=2, max_size=9)):
        claims += step(data, known)
    for _ in range(2):
        growth = grow(data, known)
        assert all(claim(growth) for claim in claims)


# --- examples: what must not be refused ------------------------------------------------------------------------------


def test_channel_shuffle_keeps_groups_and_width_apart():
    """view(2, 29), transpose, flatten: the width grows, the groups stay."""
    c = Atom(58, "c")
    groups, width = view([c], [2, 29])
    shuffled = product((width, groups))
    assert repr(resolve(c)) == f"{groups}*{width}"
    freeze(groups, "told apart")
    growth = {width: np.array([*range(29), NEW + 3])}
    assert list(layout(shuffled, growth)[-2:]) == [NEW + 6, NEW + 7]
    assert view([shuffled], [29, 2])[0] is width


def test_halves_of_an_odd_width_are_refused_and_frozen():
    """The next chunk of a shuffled odd width cuts through a pair: no structure allows it."""
    shuffled = product((Atom(29), Atom(2)))
    assert cut(shuffled, [29, 29]) is None


def test_flattened_space_returns_its_channels():
    c, h, w = Atom(6), Fixed(4), Fixed(4)
    flat = product((c, h, w))
    assert view([flat], [6, 16])[0] is c and view([flat], [6, 4, 4])[0] is c
    assert view([flat], [2, 48]) is not None and repr(resolve(flat)).count("*") == 2


def test_heads_of_stacked_projections():
    """q, k and v of heads*head_dim in one axis: three, heads and head_dim come apart, and three is told apart."""
    qkv = Atom(3 * 4 * 8, "qkv")
    three, heads, dim = view([qkv], [3, 4, 8])
    pieces = cut(qkv, [32] * 3)
    assert heads.reason is dim.reason is None
    assert all(same(p, product((heads, dim))) for p in pieces) and atoms(three)[0].reason


def test_concatenation_is_cut_back_into_its_parts():
    a, b, c = Atom(4), Atom(6), Atom(2)
    assert [p is q for p, q in zip(cut(concat((a, b, c)), [4, 6, 2]), (a, b, c))] == [True] * 3
    left, right = cut(concat((a, b, c)), [10, 2])
    assert same(left, concat((a, b))) and right is c


def test_concatenation_of_products_splits_off_a_common_factor():
    """(a*k + b*k) viewed as (a + b)*k: the widths become one."""
    s = concat((product((Atom(2), Atom(5))), Atom(15)))
    outer, inner = view([s], [5, 5])
    assert isinstance(outer, Sum) and [p.size for p in outer.parts] == [2, 3] and isinstance(inner, Atom)


def test_a_sum_of_products_is_a_product_of_a_sum():
    h, i, k = Atom(2), Atom(3), Atom(4)
    total, factors = concat((product((h, k)), product((i, k)))), product((Atom(5), k))
    unify(total, factors, "a test")
    assert not any(a.reason for a in atoms(total)) and same(factors, product((concat((h, i)), k)))


def test_copies_follow_the_positions_they_copy():
    """A sum of segments with copies is the whole with copies; a view and a cut keep them behind their position."""
    k, c = Atom(1, "k"), Atom(1, "c")
    halves = concat((product((Fixed(29), k)), product((Fixed(29), k))))
    whole = product((Fixed(58), c))
    unify(halves, whole, "a test")
    assert same(k, c) and not is_fixed(whole)
    assert [repr(p) for p in cut(whole, [29, 29])] == [f"29*{k}"] * 2
    assert repr(view([whole], [2, 29])) == f"[2, 29*{k}]" and view([whole], [58, 1])[1].size == 1


def test_copies_outside_are_no_sum():
    """All copies of one kind before another: no concatenation has this structure."""
    copies, a = Atom(1), Atom(5)
    unify(product((copies, a)), concat((Atom(2), Atom(3))), "a test")
    assert is_fixed(a) and is_fixed(copies)


def test_an_axis_cannot_contain_itself():
    """a*b against b*c with c = a's square: what would be infinite is frozen instead."""
    a, b = Atom(4), Atom(4)
    unify(concat((a, b)), concat((product((Atom(2), Atom(2))), Fixed(4))), "a test")
    x, y = Atom(2), Atom(4)
    unify(concat((y, x)), concat((x, y)), "a test")
    assert one_axis(concat((y, x)), concat((x, y)))({p: np.array([*range(p.size), NEW]) for p in {*atoms(x), *atoms(y)}
                                                    if p.reason is None})


def test_a_fixed_side_freezes_the_other_and_says_why():
    a = Atom(6)
    unify(a, Fixed(6), "add in layer1")
    assert is_fixed(a) and "add in layer1" in a.reason and "input" in a.reason


def test_different_sizes_are_an_error_of_the_caller():
    with pytest.raises(AssertionError, match="sizes 2 and 3"):
        unify(Atom(2), Atom(3), "a test")


def test_what_cannot_be_tied_is_refused_not_raised():
    """3*2 beside 2*3, read as two equal halves: the halves have different factors."""
    assert view([concat((product((Atom(3), Atom(2))), product((Atom(2), Atom(3)))))], [2, 6]) is None


def test_a_single_position_is_never_growable():
    """A dimension of one disappears in views and is broadcast: cutting one off keeps it one."""
    one, rest = cut(Atom(3), [1, 2])
    assert isinstance(resolve(one), Fixed) and isinstance(resolve(rest), Atom)


def test_numbers_may_be_mixed():
    """A relative shift reads [heads, 6, 7] as [heads, 7, 6]: numbers have no positions that a reshape could part."""
    heads, frozen = Atom(3), Atom(6, reason="fixed")
    assert repr(view([heads, Fixed(6), Fixed(7)], [3, 7, 6])) == repr([heads, Fixed(7), Fixed(6)])
    assert view([heads, frozen, Fixed(7)], [3, 7, 6])[0] is heads
    assert view([Fixed(6), heads, Fixed(7)], [7, 18]) is None
