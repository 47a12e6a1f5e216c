"""Replays: a recording is run again in the other mode or on longer inputs, and compared with what was written down."""
from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.fx import Node

from fxgrow.aten import tree_leaves
from fxgrow.tracing.leaves import Differs, LeafNeeded
from fxgrow.tracing.recorder import NESTED, Guard, Recorder, line_of_user
from fxgrow.tracing.recording import record_once, without_data
from fxgrow.tracing.sizes import Number, plain
from fxgrow.tracing.telling import Place


class Replay(Recorder):
    """Run a model again, and compare it with a recording node by node; nothing is written down.

    Args:
        recording: what it is compared with.
        misleading: by how much sizes that are others now are other numbers again to code that takes them unheard (sizes.py).

    Attributes:
        differences: the constants that are others now: node, where in its arguments, the recorded one, this one, the line.
        varied: the questions of the recording whose operands are others now. decided: those whose answer would be another.
    """

    def __init__(self, recording: Recorder, misleading: int = 0):
        super().__init__(recording.root, recording.leaves, recording.device)
        self.misleading, self.moving = misleading, False
        self.recording, self.compiling, self.reached = recording, recording.compiling, recording.reached
        self.uncached, self.set_up, self.start = recording.uncached, recording.set_up, recording.before
        self.stand_ins, self.counts_told = recording.stand_ins, recording.counts_told
        self.differences: list[tuple[Node, tuple, Any, Any, str]] = []
        self.at = self.asked = 0
        self.varied: list[Guard] = []
        self.decided: list[Guard] = []
        self.loosened: list[Guard] = []
        self.moved: set[Node] = set()  # arithmetic of sizes that are others now, whatever came out

    def emit(self, kind: str, target: Any, args: tuple, kwargs: dict) -> Node:
        """Return the recorded node that this one is.

        Raises:
            Differs: it is another one.
        """
        if self.at >= len(self.recording.events):
            raise Differs(f"it does more at {line_of_user()}")
        node = self.recording.events[self.at]
        self.at += 1
        if node.op != kind or not (node.target == target or _alike(node.target, target)):
            raise Differs(f"it does another thing at {line_of_user()}")
        self._compare(node, (), node.args, args)
        self._compare(node, (), node.kwargs, kwargs)
        self.events.append(node)
        return node

    def _compare(self, node: Node, where: tuple, before: Any, now: Any) -> None:
        """Compare one argument.

        Raises:
            Differs: it is another value of the graph, or of another form.
        """
        if before is now:
            return
        if isinstance(before, NESTED) and isinstance(now, NESTED):
            one, two = _by_key(before), _by_key(now)
            if list(one) != list(two):
                raise Differs(f"it gives {node.name} other arguments at {line_of_user()}")
            for key in one:
                self._compare(node, (*where, key), one[key], two[key])
        elif isinstance(before, Node) or isinstance(now, Node):
            if before is not now:
                raise Differs(f"it gives {node.name} another value at {line_of_user()}")
        elif type(before) is not type(now) or (before != now and not _both_nan(before, now)):
            self.differences.append((node, where, before, now, line_of_user()))

    def note(self, node: Node, value: Any) -> None:
        """Leave the recorded value alone."""

    def arithmetic(self, operation: Callable, operands: tuple) -> Any:
        """Return what an operation on numbers gives, remembering whether it is of sizes that are others now."""
        self.moving = any(map(self._moves, operands))
        result = super().arithmetic(operation, operands)
        if isinstance(result, Number) and self.moving:
            self.moved.add(result.origin)
        self.moving = False
        return result

    def misleads(self, value: int | float, origin: Any) -> int:
        """Return by how much a number misleads: if it is another one now, or computed from one."""
        return self.misleading if self.misleading and (self.moving or value != _recorded(origin)) else 0

    def _moves(self, number: Any) -> bool:
        """Tell whether a number is another one than in the recording, or computed from one."""
        if not isinstance(number, Number):
            return False
        return number.origin in self.moved or plain(number) != plain(_recorded(number.origin))

    def guard(self, operation: Callable, operands: tuple, answer: Any, kind: str = "") -> Any:
        """Compare a question about sizes with the recorded one, and give the recorded answer.

        Raises:
            Differs: it is another question.
        """
        if not self.listening:
            return answer
        if self.asked >= len(self.recording.guards) or self.recording.guards[self.asked].operation is not operation:
            raise Differs(f"it asks for other sizes at {line_of_user()}")
        guard = self.recording.guards[self.asked]
        self.asked += 1
        self.guards.append(guard)
        pairs = list(zip(guard.operands, operands))
        changed = {i for i, (a, b) in enumerate(pairs) if isinstance(a, Number) and (plain(a) != plain(b) or self._moves(b))}
        if any(plain(a) != plain(b) for a, b in pairs if not isinstance(a, (Number, Node))):
            self.loosened.append(guard)
        if changed:
            self.varied.append(guard)
            guard.moving |= changed
        if answer != guard.answer or (guard.kind and changed):
            self.decided.append(guard)
        return guard.answer

    def finish(self) -> None:
        """Insist that the recording has come to its end.

        Raises:
            Differs: it goes on.
        """
        if self.at != len(self.recording.events):
            raise Differs("it does less")
        self.take_down()

    def sizes_made_up(self, node: Node, out: Tensor, run: Callable[[], Any]) -> list[int]:
        """Return the dimensions that the recording found to be so long as a size."""
        return self.recording.sized.get(node, [])

    def place_of(self, node: Node, dim: int | None = None) -> Place | None:
        """Return where the size is that the recording took for the number that this node gives."""
        return self.recording.told[len(self.told)] if len(self.told) < len(self.recording.told) else None

    def take_down(self) -> None:
        """Write down at the questions of the recording what became of them."""
        for guard in self.varied:
            guard.varies = True
        for guard in self.decided:
            guard.decides = True
        for guard in self.loosened:
            guard.loose = True


class WithoutGradients(Replay):
    """A replay that is told that no gradients are wanted."""

    def __init__(self, recording: Recorder):
        super().__init__(recording)
        self.denies_gradients = True


class _Shorter(Replay):
    """A replay that answers as things are, and from which some nodes may be missing."""

    def __init__(self, recording: Recorder):
        super().__init__(recording)
        self.answers: dict[tuple, Any] = {}
        self.missed: list[Node] = []
        self.values: dict[Node, Any] = {}

    def note(self, node: Node, value: Any) -> None:
        """Keep the value that a node has now."""
        self.values[node] = value

    def guard(self, operation: Callable, operands: tuple, answer: Any, kind: str = "") -> Any:
        """Give the answer as it is, and keep it, or that a size is another one where what follows is seen for one alone."""
        same = not kind or all(plain(o) == _recorded(o.origin) for o in operands if isinstance(o, Number))
        self.answers[question(operation, operands)] = answer if same else None
        return answer

    def may_miss(self, node: Node) -> bool:
        """Tell whether a node may be missing."""
        raise NotImplementedError

    def emit(self, kind: str, target: Any, args: tuple, kwargs: dict) -> Node:
        """Return the recorded node that this one is, behind some that do nothing."""
        while True:
            at, known = self.at, len(self.differences)
            try:
                node = super().emit(kind, target, args, kwargs)
                if len(self.differences) == known:
                    return node
                raise Differs(f"it gives {node.name} other numbers at {line_of_user()}")
            except Differs:
                if at >= len(self.recording.events) or not self.may_miss(self.recording.events[at]):
                    raise
                self.missed.append(self.recording.events[at])
                self.at = at + 1


class _Over:
    """What hears, in place of its recorder, of a size that a call has left behind: it may be compared, and no more."""

    def ask(self, operation: Callable, operands: tuple, answer: Any, kind: str = "") -> Any:
        """Let the size be compared."""
        return answer if not kind else self.escape(None)

    def arithmetic(self, operation: Callable, operands: tuple) -> Any:
        """Let nothing be computed with it."""
        return self.escape(None)

    def escape(self, number: Any) -> None:
        """Let it be used for nothing.

        Raises:
            Differs: always.
        """
        raise Differs(f"it uses a size of the call before at {line_of_user()}")


class SecondCall(_Shorter):
    """A replay in the state that the first call has left: what that call keeps need not be computed again.

    It may use what was kept if the inputs have the sizes of the first call, and has to compute it anew if they have others.
    """

    def __init__(self, recording: Recorder):
        super().__init__(recording)
        of_data = {id(t) for change in recording.keeps for t in tree_leaves(change.news)}
        self.known = {key: origin for key, origin in recording.known.items() if key not in of_data}
        self.kept = {n for n in recording.events if n.op != "output" and without_data(recording, n)}
        for size, _ in recording.of_caches:
            size.recorder = _Over()

    def argument(self, a: Any) -> Any:
        """Return what stands for a value among the arguments of a node: for no size of the first call."""
        return a.recorder.escape(a) if isinstance(a, Number) and isinstance(a.recorder, _Over) else super().argument(a)

    def may_miss(self, node: Node) -> bool:
        """Tell whether a node is computed from sizes and constants alone."""
        return node in self.kept


class CallAtOtherSizes(SecondCall):
    """A second call for which nothing that the first one has kept is known, unless it would be computed the same again."""

    def finish(self) -> None:
        """Insist that what was not computed again is made of the same sizes as before.

        Raises:
            Differs: it is not.
        """
        super().finish()
        made_of = [*self.missed]
        for node in made_of:
            for given in node.all_input_nodes:
                before = _recorded(given)
                if given not in self.missed and _size_of(before) != _size_of(self._now(given)):
                    raise Differs(f"it uses {node.name} of the call before")
                if isinstance(before, Tensor) and given in self.kept and given not in made_of:
                    made_of.append(given)

    def _now(self, node: Node) -> Any:
        """Return the value that a node has now, or that it reads of one."""
        return self.values[node] if node in self.values else node.target(self._now(node.args[0]), node.args[1])


class ReplayAtOne(_Shorter):
    """A replay at a size of one; what does nothing at that size may be missing from it.

    (A batch of one is often taken along a way of its own: nothing is expanded.)
    """

    def __init__(self, recording: Recorder):
        super().__init__(recording)
        self.idle: dict[Node, Node] = {}  # nodes that give what they are given, and the nodes that they are given

    def _compare(self, node: Node, where: tuple, before: Any, now: Any) -> None:
        super()._compare(node, where, self._source(before), self._source(now))

    def _source(self, value: Any) -> Any:
        while isinstance(value, Node) and value in self.idle:
            value = self.idle[value]
        return value

    def may_miss(self, node: Node) -> bool:
        """Tell whether a node that is missing gives a size alone, or what it is given."""
        if not isinstance(node.meta.get("val"), Tensor):
            return node.target is getattr or node.target in ("size", "dim", operator.getitem) or "val" not in node.meta
        source = self._source(node.args[0]) if node.args else None
        given = self.values.get(source) if isinstance(source, Node) else None
        if node.target not in ("expand", "reshape", "view") or not isinstance(given, Tensor):
            return False
        sizes = node.args[1] if isinstance(node.args[1], (tuple, list)) else node.args[1:]
        wanted = [self._number(s) for s in sizes]
        if len(wanted) != given.ndim or any(w not in (-1, s) for w, s in zip(wanted, given.shape)):
            return False
        self.idle[node] = source
        return True

    def _number(self, size: Any) -> Any:
        """Return the value that a size has now."""
        if not isinstance(size, Node):
            return size
        if size.target is operator.getitem:
            return self._number(size.args[0])[size.args[1]]
        read = self.values.get(self._source(size.args[0]))
        return read.shape if isinstance(read, Tensor) and (size.target is getattr or size.target == "size") else None


def question(operation: Callable, operands: tuple) -> tuple:
    """Return what identifies a question about sizes in a recording and its replays."""
    def source(origin: Any) -> Any:
        return origin if isinstance(origin, Node) else (source(origin.base), origin.key)
    return operation, *(source(o.origin) if isinstance(o, Number) else None for o in operands)


def _alike(a: Any, b: Any) -> bool:
    """Tell whether two targets are the same method of a class, bound anew at each read."""
    return all(getattr(a, part, None) is getattr(b, part, a) for part in ("__self__", "__func__"))


def _recorded(origin: Any) -> Any:
    """Return the value that an origin had in the recording."""
    if isinstance(origin, Node):
        return origin.meta["val"] if "val" in origin.meta else origin.target(_recorded(origin.args[0]), origin.args[1])
    return origin.get(_recorded(origin.base), origin.key)


def _size_of(value: Any) -> Any:
    return value.shape if isinstance(value, Tensor) else value


def _by_key(nested: Any) -> dict[Any, Any]:
    """Return what a container holds, by where it is."""
    if isinstance(nested, slice):
        return {part: getattr(nested, part) for part in ("start", "stop", "step")}
    return nested if isinstance(nested, dict) else dict(enumerate(nested))


def _both_nan(a: Any, b: Any) -> bool:
    return isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b)


def replay(recording: Recorder, args: tuple, kwargs: dict, make: type[Replay] = Replay) -> Replay | BaseException:
    """Return a finished replay, or what stopped it: `Differs` where the model does something else, else what it raised."""
    return rerun(make(recording), args, kwargs)


def rerun(again: Replay, args: tuple, kwargs: dict) -> Replay | BaseException:
    """Run a replay, and return it, or what stopped it."""
    try:
        record_once(again, args, kwargs)
        again.finish()
    except Differs as difference:
        return difference
    except (LeafNeeded, Exception) as stop:  # perhaps since an answer was taken that would be another one now
        again.take_down()
        return stop
    return again
