"""Replays: a recording is run again in the other mode or on longer inputs, and compared with what was written down."""
from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch.fx import Node

from fxgrow.tracing.leaves import LeafNeeded
from fxgrow.tracing.recorder import Guard, Recorder, line_of_user
from fxgrow.tracing.recording import record_once
from fxgrow.tracing.sizes import Number, plain


class Differs(BaseException):
    """A replay that does something else than the recording. No `Exception`: a model's own `except` must not swallow it."""


class Replay(Recorder):
    """Run a model again, and compare it with a recording node by node; nothing is written down.

    Args:
        recording: what it is compared with.

    Attributes:
        differences: the constants that are others now: node, where among its arguments, the recorded one, this one, the line.
        varied: the questions of the recording whose operands are others now. decided: those whose answer would be another.
    """

    def __init__(self, recording: Recorder):
        super().__init__(recording.root, recording.leaves, recording.device)
        self.recording, self.compiling, self.uncached = recording, recording.compiling, recording.uncached
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
        if node.op != kind or node.target != target and not _alike(node.target, target):
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
        if isinstance(before, (tuple, list)) and isinstance(now, (tuple, list)):
            if len(before) != len(now):
                raise Differs(f"it gives {node.name} other arguments at {line_of_user()}")
            for i, (a, b) in enumerate(zip(before, now)):
                self._compare(node, (*where, i), a, b)
        elif isinstance(before, dict) and isinstance(now, dict):
            if list(before) != list(now):
                raise Differs(f"it gives {node.name} other arguments at {line_of_user()}")
            for key in before:
                self._compare(node, (*where, key), before[key], now[key])
        elif isinstance(before, slice) and isinstance(now, slice):
            for part in ("start", "stop", "step"):
                self._compare(node, (*where, part), getattr(before, part), getattr(now, part))
        elif isinstance(before, Node) or isinstance(now, Node):
            if before is not now:
                raise Differs(f"it gives {node.name} another value at {line_of_user()}")
        elif type(before) is not type(now) or (before != now and not _both_nan(before, now)):
            self.differences.append((node, where, before, now, line_of_user()))

    def note(self, node: Node, value: Any) -> None:
        """Leave the recorded value alone."""

    def arithmetic(self, operation: Callable, operands: tuple) -> Any:
        """Return what an operation on numbers gives, remembering whether it is of sizes that are others now."""
        result = super().arithmetic(operation, operands)
        if isinstance(result, Number) and any(map(self._moves, operands)):
            self.moved.add(result.origin)
        return result

    def _moves(self, number: Any) -> bool:
        """Tell whether a number is another one than in the recording, or computed from one."""
        return isinstance(number, Number) and (number.origin in self.moved or plain(number) != plain(_recorded(number.origin)))

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
        changed = [plain(a) != plain(b) or self._moves(b) for a, b in zip(guard.operands, operands) if isinstance(a, Number)]
        if any(plain(a) != plain(b) for a, b in zip(guard.operands, operands) if not isinstance(a, (Number, Node))):
            self.loosened.append(guard)
        if any(changed):
            self.varied.append(guard)
        if answer != guard.answer or (guard.kind and any(changed)):
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

    def take_down(self) -> None:
        """Write down at the questions of the recording what became of them."""
        for guard in self.varied:
            guard.varies = True
        for guard in self.decided:
            guard.decides = True
        for guard in self.loosened:
            guard.loose = True


def _alike(a: Any, b: Any) -> bool:
    """Tell whether two targets are the same method of a class, bound anew at each read."""
    return getattr(a, "__self__", None) is getattr(b, "__self__", a) and getattr(a, "__func__", None) is getattr(b, "__func__", a)


def _recorded(origin: Any) -> Any:
    """Return the value that an origin had in the recording."""
    return origin.meta["val"] if isinstance(origin, Node) else origin.get(_recorded(origin.base), origin.key)


def _both_nan(a: Any, b: Any) -> bool:
    return isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b)


def replay(recording: Recorder, args: tuple, kwargs: dict) -> Replay | BaseException:
    """Return a finished replay, or what stopped it: `Differs` where the model does something else, else what it raised."""
    again = Replay(recording)
    try:
        record_once(again, args, kwargs)
        again.finish()
    except Differs as difference:
        return difference
    except (LeafNeeded, Exception) as stop:  # perhaps since an answer was taken that would be another one now
        again.take_down()
        return stop
    return again
