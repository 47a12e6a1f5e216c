"""Guards: what a recording takes for granted of the sizes of its inputs becomes checks in the graph.

A recording that asked for sizes is replayed on longer inputs. Where it does the same, its sizes are free. A question that
then had another answer becomes a check where it was asked, and an axis along which it did something else one at the input.
"""
from __future__ import annotations

import contextlib
import operator
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, Node

from fxgrow.aten import tree_flatten, tree_unflatten
from fxgrow.graph import named_tensors, owner_of, set_mode
from fxgrow.layers import has_form, insist, limit_of
from fxgrow.tracing.leaves import Differs
from fxgrow.tracing.recorder import Guard, Recorder
from fxgrow.tracing.replay import Replay, ReplayAtOne, question, replay, rerun
from fxgrow.tracing.sizes import Element, Number, plain
from fxgrow.tracing.wording import spoken, spoken_call

Axis = tuple[int, int]  # which leaf of the inputs, which dimension of it (-1: the number itself)
Change = Callable[[int, int], int]  # gives another size for the one of a dimension
Checks = dict[int, tuple[int | None, str]]  # by group of axes: the least size that is known to do, and why
ADVICE = "capture it again with an example of this size"
OTHER_TYPE = {torch.float32: torch.float64, torch.float64: torch.float32, torch.bfloat16: torch.float32,
              torch.float16: torch.float32}
# Longer sizes: more than twice as long and odd for even, so that steps and halves (`range(0, n, 2)`, `n // 2`) differ in
# number; twice as long; one longer. Not each fits everywhere: a picture may be halved and doubled again. The last two leave
# a remainder what it was: odd sizes odd, and n % 2, 3 and 4 the same.
LONGER: tuple[Change, ...] = (lambda n, dim: 2 * n + 1 + n % 2, lambda n, dim: 2 * n, lambda n, dim: n + 1,
                              lambda n, dim: 3 * n, lambda n, dim: n + 12)
# Shorter ones: of one or two, where nothing is cut off any more and what fills up to a least length does so; of half.
# A batch of one is apart.
SHORTER: tuple[Change, ...] = (lambda n, dim: min(n, 2 if dim == 0 else 1), lambda n, dim: min(n, 2),
                               lambda n, dim: (n + 1) // 2)
LIKELY = 2  # choices of axes: all, and all but the channels
MISLEADING = 1_000_003  # by so much: further than tables and limits go
UNHEARD = ("its code takes a size for a plain number where nothing tells of it (as a place in a list, behind a float: "
           "`0.5 * n` is heard as `n * 0.5`)")
LIMITS = ("min", "max", "eps", "tiny")


class _Raised(Exception):
    """The model raises for longer inputs; what it says is why that does not leave the axis alone, or nothing."""


class Inputs:
    """The inputs of a model as a flat list, and made longer along some axes."""

    def __init__(self, args: tuple, kwargs: dict):
        self.leaves, self.form = tree_flatten((args, kwargs))
        self.groups = self._groups()
        self.typed: list[tuple] = []  # arguments that follow the type of a tensor
        self.at_one: dict[tuple, ReplayAtOne | BaseException] = {}  # replays at one, by the groups that are short and of one

    def _groups(self) -> list[list[Axis]]:
        """Return the axes, those together that have one size in several inputs (the batch of each)."""
        groups: dict[tuple, list[Axis]] = defaultdict(list)
        for i, leaf in enumerate(self.leaves):
            seen: Counter[int] = Counter()
            is_number = type(leaf) is int
            sizes: Any = [leaf] if is_number else leaf.shape if isinstance(leaf, Tensor) else ()
            for dim, size in enumerate(sizes):
                groups[is_number, size, seen[size]].append((i, -1 if is_number else dim))
                seen[size] += 1
        return list(groups.values())

    def changed(self, group: int, size: Change = lambda n, dim: n) -> int:
        """Return the size that the axes of a group have, or another one in its place."""
        leaf, dim = self.groups[group][0]
        return size(self.leaves[leaf] if dim < 0 else self.leaves[leaf].shape[dim], dim)

    def longer(self, groups: list[list[Axis]], size: Change, other_type: bool = False) -> tuple[tuple, dict]:
        """Return inputs on meta tensors with the axes of `groups` of another size, and if asked to of another type."""
        leaves: list[Any] = list(self.leaves)
        if other_type:
            leaves = [t.to(OTHER_TYPE.get(t.dtype, t.dtype)) if isinstance(t, Tensor) else t for t in leaves]
        for i, dim in (axis for group in groups for axis in group):
            leaf = leaves[i]
            if dim < 0:
                leaves[i] = size(leaf, dim)
            else:
                shape = [size(s, d) if d == dim else s for d, s in enumerate(leaf.shape)]
                leaves[i] = torch.empty(shape, dtype=leaf.dtype, device="meta")
        return tree_unflatten(leaves, self.form)


def guard_sizes(recording: Recorder, args: tuple, kwargs: dict, both: bool = False,
                free: bool = False) -> Replay | BaseException | None:
    """Put checks into the graph of a recording for what it takes for granted of its inputs, and let types follow theirs.

    Args:
        recording: of a model in eval mode (or in train mode, and not `both`).
        both: replay it in train mode as well, on the example and on longer inputs.
        free: the batch, of one in the example, may be of any size.

    Returns:
        the replay in train mode, or what stopped it; None if none was asked for.

    Raises:
        Differs: the batch is not known to be free.
    """
    inputs, checks = Inputs(args, kwargs), Checks()
    asked = bool(recording.reads_sizes or recording.guards or recording.dtype_reads)
    if asked:
        batches = [group for group in inputs.groups if is_single(inputs, group)] if free else []
        _leave_out_asked(recording, inputs)
        checks = _fixed(recording, inputs)
        if free and not _are_free(recording, inputs, batches, checks):
            raise Differs("a batch of one")
    in_train_mode = replay_in_train_mode(recording, args, kwargs) if both else None
    if isinstance(in_train_mode, Replay):
        in_train_mode = _at_all_sizes(in_train_mode, recording, inputs, [g for g, (_, why) in checks.items() if not why])
    if asked:
        _check_inputs(recording, inputs, checks)
    for guard in reversed(recording.guards):  # the first question stands in front of those about the same value
        if _is_checked(guard):
            _check_guard(recording.graph, guard)
    return in_train_mode


def _check_inputs(recording: Recorder, inputs: Inputs, checks: Checks) -> None:
    """Put checks of the inputs' sizes and types into the graph of a recording, and let types follow theirs."""
    short = [g for g, (_, why) in checks.items() if not why and inputs.changed(g, SHORTER[0]) < inputs.changed(g)]
    batches = [g for g, (_, why) in checks.items() if not why and any(dim == 0 for _, dim in inputs.groups[g])]
    if not _allow_one(recording, inputs, short) and not _is_same_at_one(recording, inputs, short, batches):
        checks |= _bounded_by_two(recording, inputs, batches) | _bounded(recording, inputs, short)
    for group, (least, why) in checks.items():
        for axis in inputs.groups[group] if why else ():
            _check_axis(recording, inputs, axis, least, why)
    types = list(_types_to_check(recording, inputs))
    for found in inputs.typed:  # after all replays, which compare with what was recorded
        _follow_type(recording, *found)
    for stand in types:
        _check_type(recording, stand)


def replay_in_train_mode(evaluation: Recorder, args: tuple, kwargs: dict) -> Replay | BaseException:
    """Return a finished replay in train mode of a recording in eval mode, or what stopped it."""
    set_mode(evaluation.root, True)
    try:
        return replay(evaluation, args, kwargs)
    finally:
        set_mode(evaluation.root, False)


def _at_all_sizes(found: Replay, recording: Recorder, inputs: Inputs, free: list[int]) -> Replay | Differs:
    """Return a replay in train mode if longer inputs are treated as in it; what is told but by sizes no question tells."""
    own = [(node, where, now) for node, where, _, now, _ in found.differences]
    for groups in (free, *([g] for g in free)) if free else ():
        again = replay_in_train_mode(recording, *inputs.longer([inputs.groups[g] for g in groups], LONGER[0]))
        if isinstance(again, Differs):
            return again
        if isinstance(again, Replay):
            if [(node, where, now) for node, where, _, now, _ in again.differences] != own:
                return Differs("constants of train mode")
            if groups == free:
                break
    return found


def is_single(inputs: Inputs, group: list[Axis]) -> bool:
    """Tell whether the axes of a group are batches of one."""
    return any(dim == 0 and inputs.leaves[i].shape[0] == 1 for i, dim in group)


def _are_free(recording: Recorder, inputs: Inputs, groups: list[list[Axis]], checks: Checks) -> bool:
    """Tell whether replays on longer inputs have shown that a recording holds for any size of these axes."""
    free = [inputs.groups[g] for g, (_, why) in checks.items() if not why]
    return all(group in free for group in groups) and not recording.told and \
        not any(guard.decides and guard.moving for guard in recording.guards)


def answers_at_one(recording: Recorder, inputs: tuple[tuple, dict] | None) -> dict[tuple, Any]:
    """Return what is asked for inputs of which an axis is one long, with the answers; nothing without such inputs.

    Raises:
        Differs: the graph is not right there.
    """
    if inputs is None or not recording.reads_sizes:
        return {}
    again = replay(recording, *inputs, ReplayAtOne)
    if not isinstance(again, ReplayAtOne):
        raise Differs("a batch of one")
    return again.answers


def let_through(recording: Recorder, answers: dict[tuple, Any], inputs: tuple[tuple, dict] | None) -> None:
    """Insist that the checks which stand in a graph let inputs through, for which the answers are these.

    Raises:
        Differs: one does not.
    """
    if inputs is None:
        return
    leaves, checked = Inputs(*inputs).leaves, filter(_is_checked, recording.guards)
    others = any(answers.get(question(g.operation, g.operands), g.answer) != g.answer for g in checked)
    fixed = ((leaves[i] if dim < 0 else leaves[i].shape[dim], size, least) for i, dim, size, least in recording.checked)
    if others or any(now != size if least is None else now < least for now, size, least in fixed):
        raise Differs("a batch of one")


def _is_checked(guard: Guard) -> bool:
    return (guard.decides or (guard.varies and not guard.loose)) and not guard.idle


def _allow_one(recording: Recorder, inputs: Inputs, short: list[int]) -> bool:
    """Drop questions whose answer is another one for a batch of one alone, if the graph does the same there as the model.

    Returns:
        whether it does so where the axes of `short` are short as well.
    """
    only_one = [g for g in recording.guards if (g.decides or g.varies) and _asks_for_one(g)]
    batches = [g for g, group in enumerate(inputs.groups) if any(dim == 0 for _, dim in group)]
    for groups in ((short, []) if short else ([],)) if only_one and batches else ():
        again = _at_one(recording, inputs, groups, batches)
        if isinstance(again, ReplayAtOne):
            for guard in only_one:
                guard.idle = again.answers.get(question(guard.operation, guard.operands), guard.answer) != guard.answer
            return bool(groups)
    return False


def _at_one(recording: Recorder, inputs: Inputs, short: list[int], batches: list[int]) -> ReplayAtOne | BaseException:
    """Return a replay for batches of one, where the axes of `short` are short as well, or what stopped it."""
    key = tuple(short), tuple(batches)
    if key not in inputs.at_one:
        few = Inputs(*inputs.longer([inputs.groups[g] for g in short], SHORTER[0]))
        one = few.longer([inputs.groups[g] for g in batches], lambda size, dim: 1)
        inputs.at_one[key] = replay(recording, *one, ReplayAtOne)  # type: ignore[assignment]
    return inputs.at_one[key]


def _is_same_at_one(recording: Recorder, inputs: Inputs, short: list[int], batches: list[int]) -> bool:
    """Tell whether the graph does the same as the model for batches of one where the axes of `short` are short as well."""
    return bool(batches) and isinstance(_at_one(recording, inputs, short, batches), ReplayAtOne)


def _bounded_by_two(recording: Recorder, inputs: Inputs, batches: list[int]) -> Checks:
    """Return which batches must not be of one, for which no question says that the model does something else, and why."""
    bounds = Checks()
    for g in batches if not any((q.decides or q.varies) and _asks_for_one(q) for q in recording.guards) else ():
        again = _at_one(recording, inputs, [], [g])
        if isinstance(again, Differs):
            bounds[g] = 2, str(again)
    return bounds


def _asks_for_one(guard: Guard) -> bool:
    """Tell whether sizes from two on all give the recorded answer, and one alone does not."""
    answers = _answers(guard)
    return len(answers) > 1 and not answers[1] and all(answers[2:])


def _asks_for_the_size(guard: Guard) -> bool:
    """Tell whether no size but the recorded one gives the recorded answer."""
    return sum(_answers(guard)) == 1 and any(isinstance(o, Number) and isinstance(o.origin, Element) for o in guard.operands)


def asks_for_none(guard: Guard) -> bool:
    """Tell whether sizes from one on all give the recorded answer."""
    answers = _answers(guard)
    return len(answers) > 1 and all(answers[1:])


def _answers(guard: Guard) -> list[bool]:
    """Return, for each size from none on, whether it gives the recorded answer; nothing where two sizes move."""
    if guard.kind or len(guard.moving) != 1:
        return []
    still = list(map(plain, guard.operands))
    at = next(iter(guard.moving))
    return [guard.operation(*still[:at], n, *still[at + 1:]) == guard.answer for n in range(66)]


def _leave_out_asked(recording: Recorder, inputs: Inputs) -> None:
    """Leave out the axes whose size the forward itself insists on: `x.shape[2] == 224` becomes a check, whatever it does."""
    stands = {recording.known[id(s)]: i for i, s in enumerate(recording.stands) if isinstance(s, Tensor)}
    for guard in recording.guards:
        origins = [number.origin for number in guard.operands if isinstance(number, Number)]
        if guard.operation is not operator.eq or guard.answer is not True or guard.kind or len(origins) != 1:
            continue
        read = origins[0].base if isinstance(origins[0], Element) and isinstance(origins[0].key, int) else None
        if isinstance(read, Node) and (read.target is getattr or read.target == "size") and read.args[0] in stands:
            leaf = stands[read.args[0]]
            axis = leaf, origins[0].key % inputs.leaves[leaf].ndim
            inputs.groups = [group for group in inputs.groups if group != [axis]]
            guard.decides = True


def _fixed(recording: Recorder, inputs: Inputs) -> Checks:
    """Return, by group of axes, `(None, why)` where the recording holds for one size only, and why "" where for longer ones.

    What is known of no longer size, since the model raises, is left out.
    """
    everything = list(range(len(inputs.groups))) if recording.reads_sizes or recording.guards else []
    by_dimension = sorted(everything, key=lambda g: all(dim != 1 for _, dim in inputs.groups[g]))  # channels, mostly
    types = bool(recording.dtype_reads)
    orders = [[g for g in everything if g != left_out] for left_out in (None, *by_dimension)]
    longest = next((groups for i, groups in enumerate(orders) if (groups or types)
                    and _same(recording, inputs, groups, other_type=types, likely=i < LIKELY) == ""), None)
    free = set(longest or ())
    types = types and longest is None
    found = dict.fromkeys(free, "")
    for g in everything:
        if g not in free:
            why = _tried(recording, inputs, [g])
            if why == "" and free:  # alone it may change nothing: a number beside the length that it cuts off
                together = _same(recording, inputs, [*free, g])
                why = together if isinstance(together, str) else why
            if why == "" or str(why):
                found[g] = str(why)
            if why == "":
                free.add(g)
    if types and everything:
        _same(recording, inputs, [], other_type=True)
    return {g: (None, why) for g, why in found.items()}


def _tried(recording: Recorder, inputs: Inputs, groups: list[int], sizes: tuple = LONGER) -> str | Exception:
    """Return what `_same` says for the first of other sizes for which the model does not raise."""
    for size in sizes:
        why = _same(recording, inputs, groups, size)
        if isinstance(why, str):
            break
    return why


def _bounded(recording: Recorder, inputs: Inputs, groups: list[int]) -> dict[int, tuple[int | None, str]]:
    """Return which axes must not be as short as one likes: the least size that is known to do, and why."""
    bounds: dict[int, tuple[int | None, str]] = {}
    if groups and _tried(recording, inputs, groups, SHORTER) != "":
        for g in groups:
            whys = {inputs.changed(g, size): _same(recording, inputs, [g], size) for size in SHORTER}
            why = str(next((why for why in whys.values() if isinstance(why, str)), ""))
            if why:
                bounds[g] = next((n for n, same in whys.items() if same == ""), inputs.changed(g)), why
    return bounds


def _same(recording: Recorder, inputs: Inputs, groups: list[int], size: Change = LONGER[0],
          other_type: bool = False, likely: bool = False) -> str | Exception:
    """Return "" where longer inputs are treated as the recording says, else why not, or what says that the model raised.

    They are, too, if sizes mislead code that takes them for plain numbers, unheard: it decides nothing (`table[n // 64]`).

    With `other_type` the floating-point type is another one as well, and arguments that follow it do so in the graph.
    likely: mislead first, so that one replay shows both.
    """
    def once(misleads: int) -> str | Exception:
        return _once(recording, inputs, groups, size, other_type, misleads)

    if likely and once(MISLEADING) == "":
        return ""
    why = once(0)
    heard = why != "" or size in SHORTER or (not likely and once(MISLEADING) == "")
    return why if heard else UNHEARD


def _once(recording: Recorder, inputs: Inputs, groups: list[int], size: Change, other_type: bool,
          misleads: int) -> str | Exception:
    """Return what `_same` does, for sizes that mislead by so much."""
    longer = inputs.longer([inputs.groups[g] for g in groups], size, other_type)
    with _in_other_type(recording.root) if other_type else contextlib.nullcontext():
        again = Replay(recording, misleads)
        ended = rerun(again, *longer)
    if isinstance(ended, Differs):
        return str(ended)
    if not isinstance(ended, Replay):
        return _Raised(_why_unknown(recording, again))
    left = [d for d in again.differences if not (other_type and _of_types(*d[2:4]))]
    if left and groups:
        node, _, before, now, line = left[0]
        kind = "shorter" if size in SHORTER else "longer"
        return f"`{node.name}` is given {before}, and {now} along a {kind} one, at {line}"
    for node, where, before, now, _ in again.differences:
        if other_type and _of_types(before, now):
            inputs.typed.append((again, node, where, before, now))
    return ""


def _why_unknown(recording: Recorder, again: Replay) -> str:
    """Say why a replay that raised does not tell that the model does: a plain number, or an answer that was not true."""
    if recording.escaped:
        return f"a size becomes a plain number at {recording.escaped}"
    if any(_asks_for_the_size(guard) for guard in again.decided):  # its check lets no other size through
        return ""
    guard = next((g for g in again.decided if g.operation is not has_form), None)
    where = f" (at {guard.line})" if guard and guard.line else ""
    return f"no other one is known for which `{_asked(guard)}` is {guard.answer}{where}" if guard else ""


def _of_types(before: Any, now: Any) -> tuple[torch.dtype, torch.dtype, str] | None:
    """Return the two types that two constants are, or are a limit of (its name is then the third)."""
    if isinstance(before, torch.dtype):
        return before, now, ""
    if isinstance(before, float):
        return next(((one, other, limit) for one, other in OTHER_TYPE.items() for limit in LIMITS
                     if (before, now) == (limit_of(one, limit), limit_of(other, limit))), None)
    return None


@contextlib.contextmanager
def _in_other_type(root: nn.Module) -> Iterator[None]:
    """Give the floating-point tensors of a model on meta tensors another type inside."""
    numbers = [(t, t.data) for _, t in named_tensors(root) if t.dtype in OTHER_TYPE]
    try:
        for tensor, data in numbers:
            tensor.data = data.to(OTHER_TYPE[data.dtype])
        yield
    finally:
        for tensor, data in numbers:
            tensor.data = data


def _follow_type(recording: Recorder, again: Replay, node: Node, where: tuple, before: Any, now: Any) -> None:
    """Let an argument that is a type, or a limit of one, be that of the tensor last asked for it with these answers."""
    graph, at = recording.graph, recording.events.index(node)
    *types, limit = _of_types(before, now)  # type: ignore[misc]
    for (asked, origin, one, owner), (_, _, other, _) in zip(reversed(recording.dtype_reads), reversed(again.dtype_reads)):
        if asked <= at and [one, other] == types:
            read = _node_of(graph, origin)
            for function, argument in ((getattr, "dtype"), *([(limit_of, limit)] if limit else [])):
                with graph.inserting_after(_behind(read)):
                    read = graph.call_function(function, (read, argument))
                read.meta["owner"] = owner
            return set_constant(node, where, read)
    return None


def _types_to_check(recording: Recorder, inputs: Inputs) -> Iterator[Tensor]:
    """Yield the inputs that were asked for their type, unless whole numbers in place of floating ones are no others."""
    asked = {id(origin) for _, origin, *_ in recording.dtype_reads}
    for i, stand in enumerate(recording.stands):
        if isinstance(stand, Tensor) and id(recording.known[id(stand)]) in asked:
            others = (torch.int64, torch.uint8) if stand.is_floating_point() else ()
            if not others or any(_takes_another_way(recording, inputs, i, dtype) for dtype in others):
                yield stand


def _takes_another_way(recording: Recorder, inputs: Inputs, leaf: int, dtype: torch.dtype) -> bool:
    """Tell whether the model runs with an input of another type, and does something else."""
    leaves = [*inputs.leaves]
    leaves[leaf] = torch.empty(leaves[leaf].shape, dtype=dtype, device="meta")
    again = replay(recording, *tree_unflatten(leaves, inputs.form))
    return isinstance(again, Differs) or (isinstance(again, Replay) and bool(again.differences))


def _check_type(recording: Recorder, stand: Tensor) -> None:
    """Insist at the inputs that a tensor has the type of the example, or some floating one if that has."""
    node = _node_of(recording.graph, recording.known[id(stand)])
    steps: list[tuple] = [(getattr, "dtype"), *([(getattr, "is_floating_point")] if stand.is_floating_point() else ())]
    wanted = True if stand.is_floating_point() else stand.dtype
    kind = "a floating-point type" if stand.is_floating_point() else f"the type {str(stand.dtype).removeprefix('torch.')}"
    text = f"this network was captured with {node.name!r} of {kind}: capture it again with the type that you use"
    _insist(recording, node, [*steps, (insist, wanted, text)])


def _insist(recording: Recorder, node: Node, steps: list[tuple]) -> None:
    """Write calls behind the inputs, each of what the one before gives, with further arguments."""
    graph, found = recording.graph, node
    last = max(n for n in graph.nodes if n.op == "placeholder" or n is node)
    for function, *arguments in steps:
        with graph.inserting_after(last):
            last = found = graph.call_function(function, (found, *arguments))
        found.meta["owner"] = owner_of(node)


def _check_axis(recording: Recorder, inputs: Inputs, axis: Axis, least: int | None, why: str) -> None:
    """Insist at the inputs that an axis has the size of the example, or that it has `least` or more."""
    leaf, dim = axis
    stand, size = recording.stands[leaf], inputs.leaves[leaf] if dim < 0 else inputs.leaves[leaf].shape[dim]
    recording.checked.append((leaf, dim, size, least))
    node = _node_of(recording.graph, stand.origin if dim < 0 else recording.known[id(stand)])
    name = spoken(node)
    what = f"the value {size} of {name!r}" if dim < 0 else f"size {size} along axis {dim} of {name!r}"
    below = "" if least is None else f"below {least}, "
    text = f"this network was captured with {what}: {below}{why}; {ADVICE}"
    steps: list[tuple] = [] if dim < 0 else [(getattr, "shape"), (operator.getitem, dim)]
    steps += [(insist, size, text)] if least is None else [(operator.ge, least), (insist, True, text)]
    _insist(recording, node, steps)


def set_constant(node: Node, where: tuple, value: Node) -> None:
    """Put a value of the graph in the place of a constant among the arguments of a node."""
    def put(argument: Any, path: tuple) -> Any:
        if not path:
            return value
        if isinstance(argument, slice):
            parts = {part: getattr(argument, part) for part in ("start", "stop", "step")}
            return slice(*{**parts, path[0]: put(parts[path[0]], path[1:])}.values())
        if isinstance(argument, dict):
            return {**argument, path[0]: put(argument[path[0]], path[1:])}
        return type(argument)(put(a, path[1:]) if i == path[0] else a for i, a in enumerate(argument))

    if isinstance(where[0], int):
        node.args = put(tuple(node.args), where)
    else:
        node.kwargs = put(dict(node.kwargs), where)


def _node_of(graph: Graph, origin: Any) -> Node:
    """Return the node of an origin; that of an element stands right behind its base, before whatever may ask about it."""
    if isinstance(origin, Node):
        return origin
    base = _node_of(graph, origin.base)
    if origin.node is None:
        origin.node = graph.create_node("call_function", origin.get, (base, origin.key))
        origin.node.meta["owner"] = owner_of(base)
    _behind(base).append(origin.node)
    return origin.node


def _behind(node: Node) -> Node:
    """Return behind what a call of a node may stand: all inputs come first."""
    while node.op == "placeholder" and node.next.op == "placeholder":
        node = node.next
    return node


def _check_guard(graph: Graph, guard: Guard) -> None:
    """Insist, behind what a question asked about, that its answer is the recorded one."""
    operands = [_node_of(graph, o.origin) if isinstance(o, Number) else o for o in guard.operands]
    last = _behind(max(o for o in operands if isinstance(o, Node)))
    with graph.inserting_after(last):
        asked = graph.call_function(guard.operation, tuple(operands))
    with graph.inserting_after(asked):
        check = graph.call_function(insist, (asked, guard.answer, _sentence(guard)))
    asked.meta["owner"] = check.meta["owner"] = owner_of(last)


def _sentence(guard: Guard) -> str:
    if guard.operation is has_form:
        value, form = guard.operands
        words = "a tensor or a number" if form is ... else spoken(form)
        if value.op == "call_module":
            return (f"this network was captured where {value.target} gave {words}, and here it gives something else, since "
                    "it remembers earlier calls: the rest of the network may not depend on that")
        return f"this network was captured with {spoken(value)} = {words}: capture it again with the value that you use"
    sizes = [o for o in guard.operands if isinstance(o, Number)]
    known = [f"{spoken(o)} was {plain(o)}" for o in sizes] if guard.operation not in (operator.eq, operator.truth) else []
    where = ", ".join([*known, *([guard.line] if guard.line else [])])
    if guard.kind == "times":
        return (f"this network was captured where a loop goes round, or a list is repeated, `{spoken(guard.operands[0])}` = "
                f"{guard.operands[1]} times, and here it is another number ({guard.line}): {ADVICE}")
    answer = f"{guard.answer} ({where})" if where else f"{guard.answer}"
    return f"this network was captured where `{_asked(guard)}` was {answer}, and here it is not: {ADVICE}"


def _asked(guard: Guard) -> str:
    return spoken(guard.operands[0]) if guard.operation is operator.truth else spoken_call(guard.operation, guard.operands)
