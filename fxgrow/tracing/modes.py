"""Both modes: one recording, or one in each that are merged into a graph that follows `train()` and `eval()`."""
from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, Node
from torch.fx.node import map_aggregate

from fxgrow.aten import other_counts, tree_map
from fxgrow.errors import CaptureError
from fxgrow.graph import add_join, memory_of, mode_flag, modules_by_path, owner_of, set_mode, writes_in_place
from fxgrow.layers import ask_grad, keep, set_autocast, set_grad, set_rng_state, set_seed
from fxgrow.tracing.guards import (
    LONGER,
    SHORTER,
    Inputs,
    answers_at_one,
    asks_for_none,
    guard_sizes,
    is_single,
    let_through,
    replay_in_train_mode,
    set_constant,
)
from fxgrow.tracing.leaves import Differs, LeafNeeded, keep_opaque, kept_part
from fxgrow.tracing.recorder import Recorder
from fxgrow.tracing.recording import Start, record
from fxgrow.tracing.replay import CallAtOtherSizes, Replay, SecondCall, WithoutGradients, replay


def record_modes(twin: nn.Module, args: tuple, kwargs: dict, leaves: dict[str, str], device: torch.device,
                 guard: bool, train: bool = True) -> Graph:
    """Return the graph of one recording, or of one in each mode where the mode is asked for.

    guard: put checks into it for what it takes for granted of sizes. train: look at train mode too.

    Raises:
        CaptureError: the module cannot be recorded.
    """
    keep_own_modes(twin, leaves)
    inputs = Inputs(args, kwargs)
    single = [group for group in inputs.groups if is_single(inputs, group)]
    # a batch of one is often taken along a way of its own: if what it does is not that of any batch, record two, if that
    # holds for one as well
    start = Start()
    ways: list[tuple] = [(args, kwargs, None, True)] if single and guard else []
    ways += [(*inputs.longer(single, lambda size, dim: 2), (args, kwargs))] if single else []
    for way in ways:
        found = dict(leaves)
        try:
            graph = _record_modes(twin, found, start, device, guard, train, *way)
            leaves.update(found)
            return graph
        except (CaptureError, Differs):
            pass
    return _record_modes(twin, leaves, start, device, guard, train, args, kwargs)


def _record_modes(twin: nn.Module, leaves: dict[str, str], start: Start, device: torch.device, guard: bool, train: bool,
                  args: tuple, kwargs: dict, must_take: tuple[tuple, dict] | None = None, free: bool = False) -> Graph:
    """Return the graph of both modes.

    Raises:
        CaptureError: the module cannot be recorded.
        Differs: it does something else for the inputs that its graph `must_take`, or perhaps (`free`) for larger batches.
    """
    while True:
        try:
            evaluation = _record_in(twin, False, args, kwargs, leaves, start, device, free)
            answers = answers_at_one(evaluation, must_take)
            one = not evaluation.reads_training and not _with_own_train(twin)  # graph for both modes, if leaves allow it
            alone = not train or (one and not evaluation.calls_leaves)
            if guard:
                again = guard_sizes(evaluation, args, kwargs, not alone, free)
                let_through(evaluation, answers, must_take)
            else:
                again = None if alone else replay_in_train_mode(evaluation, args, kwargs)
            if alone or (one and not isinstance(again, Differs)):
                return evaluation.graph
            if isinstance(again, Replay):
                return _with_flags(again)
            found = len(leaves)
            training = _record_in(twin, True, args, kwargs, leaves, start, device, free)
            for change in training.set_up.keys() ^ evaluation.set_up.keys():
                raise (training.set_up | evaluation.set_up)[change]
            _insist_on_forms(training, evaluation)
            if len(leaves) == found:  # else a leaf found in the second recording holds for the first
                if guard:
                    guard_sizes(training, args, kwargs, free=free)
                return _Merger(training.graph, evaluation.graph).merge()
        except LeafNeeded as stop:
            keep_opaque(twin, leaves, stop)


def _with_flags(train: Replay) -> Graph:
    """Return a graph recorded in eval mode, with the constants that are others in train mode depending on the mode."""
    graph = train.recording.graph
    for node, where, in_eval, in_train, _ in train.differences:
        with graph.inserting_before(node):
            if in_train is True and in_eval is False:
                value = mode_flag(graph, owner_of(node))
            else:
                value = add_join(graph, owner_of(node), in_train, in_eval)
        set_constant(node, where, value)
    return graph


def _record_in(twin: nn.Module, training: bool, args: tuple, kwargs: dict, leaves: dict[str, str],
               start: Start, device: torch.device, of_any_batch: bool) -> Recorder:
    recording = record(set_mode(twin, training), args, kwargs, leaves, device, _repeats, start, of_any_batch)
    if recording.asks_gradients is not None:
        again = replay(recording, args, kwargs, WithoutGradients)
        if not isinstance(again, Replay) or again.differences or again.decided:
            raise recording.asks_gradients
    return recording


def _insist_on_forms(train: Recorder, evaluation: Recorder) -> None:
    """Insist that what is kept as it is gives values of one form in both modes, since a graph reads both modes' in each.

    Raises:
        LeafNeeded: the module that calls it has to be kept too.
    """
    def forms(recording: Recorder) -> dict[tuple, list[Any]]:
        calls: dict[tuple, list[Any]] = {}
        for node in recording.events:
            if node.target in recording.leaves:
                form = tree_map(lambda v: (v.shape, v.dtype) if isinstance(v, Tensor) else v, node.meta["val"])
                calls.setdefault((owner_of(node), node.target), []).append(form)
        return calls

    one, other = forms(train), forms(evaluation)
    for owner, path in one.keys() & other.keys():
        if one[owner, path] != other[owner, path]:
            raise LeafNeeded(owner, f"it calls {path}, which is kept as it is ({train.leaves[path]}) and gives something of "
                             "another form in train mode than in eval mode")


def _repeats(recording: Recorder, args: tuple, kwargs: dict) -> bool:
    """Tell whether a second call does what was recorded, one for inputs of other sizes too where sizes are remembered."""
    again = replay(recording, args, kwargs, SecondCall if recording.of_caches else Replay)
    if not isinstance(again, Replay) or again.differences or again.decided:
        return False
    if recording.counted and not _asks_for_none_alone(recording, again, args, kwargs):
        return False
    inputs = Inputs(args, kwargs)
    others = [inputs.longer([group], size) for group in inputs.groups for size in (*LONGER, SHORTER[-1])]
    calls = (replay(recording, *other, CallAtOtherSizes) for other in (others if recording.of_caches else ()))
    return not any(isinstance(call, Differs) or (isinstance(call, LeafNeeded) and call.__cause__ is None) for call in calls)


def _asks_for_none_alone(recording: Recorder, again: Replay, args: tuple, kwargs: dict) -> bool:
    """Tell whether what is asked of numbers of positions is whether there are any, and there are some without data's."""
    if again.varied:
        with other_counts(none=True):
            empty = replay(recording, args, kwargs)
        if not isinstance(empty, Replay) or empty.decided or not all(map(asks_for_none, again.varied)):
            return False
        for guard in again.varied:
            guard.decides = True
    return True


def _with_own_train(twin: nn.Module) -> list[str]:
    """Return the paths of the modules whose `train()` is their own."""
    return [path for path, module in modules_by_path(twin) if type(module).train is not nn.Module.train]


def keep_own_modes(twin: nn.Module, leaves: dict[str, str]) -> None:
    """Keep the modules whose own `train()` leaves a part of them in the other mode (frozen norms), which a graph does not.

    Raises:
        CaptureError: the model itself is one.
    """
    for owner in reversed(_with_own_train(twin)):  # the inner ones first
        module = twin.get_submodule(owner)
        for training in (True, False):
            set_mode(module, training)
            other = next((path for path, part in module.named_modules() if part.training != training), None)
            if other is not None and kept_part(twin, owner, leaves) is None:
                keep_opaque(twin, leaves, LeafNeeded(owner, f"its own train() keeps {other or 'it'} in "
                                                     f"{'eval' if training else 'train'} mode, which a graph does not"))


BY_MODE = (set_grad, ask_grad, set_autocast, set_seed, set_rng_state, keep)  # do nothing where their last argument is None


class _Merger:
    """Merge a recording in train mode and one in eval mode: flags that differ read `training`, other values are joined."""

    def __init__(self, train: Graph, evaluation: Graph):
        self.train, self.evaluation = train, evaluation
        self.graph = Graph()
        self.of_train: dict[Node, Node] = {}  # nodes of the recordings: those of the merged graph
        self.of_eval: dict[Node, Node] = {}

    def merge(self) -> Graph:
        """Return the merged graph.

        Raises:
            LeafNeeded: a module writes, in one mode only, to what both modes have.
        """
        pairs = list(_align(list(self.train.nodes), list(self.evaluation.nodes)))
        makers = {memory_of(n): n for graph in (self.train, self.evaluation) for n in reversed(graph.nodes)}
        common = {memory_of(n) for a, b in pairs for n in (a, b)
                  if n and ((a and b) or n.op == "get_attr") and makers[memory_of(n)] is n}
        for a, b in pairs:
            if a is not None and b is not None:
                node = self.graph.create_node(a.op, a.target, self._argument(a, a.args, b.args),  # type: ignore[arg-type]
                                              self._argument(a, a.kwargs, b.kwargs), a.name)  # type: ignore[arg-type]
                self.of_train[a] = self.of_eval[b] = node
                node.meta = dict(a.meta)
            elif a is not None:
                self._copy(a, self.of_train, common)
            elif b is not None:
                self._copy(b, self.of_eval, common)
        return self.graph

    def _argument(self, node: Node, a: Any, b: Any) -> Any:
        """Return the argument of a node of both recordings: `a` as the one in train mode gives it, `b` the other."""
        if isinstance(a, Node) or type(a) is not type(b):
            return self._choice(node, a, b)
        if isinstance(a, slice):
            return slice(*(self._argument(node, getattr(a, f), getattr(b, f)) for f in ("start", "stop", "step")))
        if isinstance(a, (tuple, list)) and len(a) == len(b):
            values = [self._argument(node, x, y) for x, y in zip(a, b)]
            return type(a)(*values) if hasattr(a, "_fields") else type(a)(values)
        if isinstance(a, dict) and a.keys() == b.keys():
            return {k: self._argument(node, a[k], b[k]) for k in a}
        if a == b:
            return a
        return mode_flag(self.graph, owner_of(node)) if a is True else self._choice(node, a, b)

    def _choice(self, node: Node, a: Any, b: Any) -> Any:
        """Return the merged node of two that are one, or else a join."""
        train_value, eval_value = _mapped(a, self.of_train), _mapped(b, self.of_eval)
        if isinstance(a, Node) and train_value is eval_value:
            return train_value
        return add_join(self.graph, owner_of(node), train_value, eval_value)

    def _copy(self, only: Node, copies: dict[Node, Node], common: set[int | None]) -> None:
        """Copy a node that one recording has, and the other has not."""
        node = copies[only] = self.graph.node_copy(only, lambda n: copies[n])
        node.meta = dict(only.meta)
        if node.target in BY_MODE:
            *given, value = node.args
            with self.graph.inserting_before(node):
                values = (value, None) if copies is self.of_train else (None, value)
                node.args = (*given, add_join(self.graph, owner_of(node), *values))
        if writes_in_place(only) and memory_of(only.args[0]) in common:
            self._spare_other_mode(only, node)

    def _spare_other_mode(self, only: Node, node: Node) -> None:
        """Let a node that writes in place in one mode write to a copy in the other, for both branches run in both modes."""
        owner, written = owner_of(only), node.args[0]
        if writes_in_place(only.args[0]) and (only.args[0] in self.of_train) != (only.args[0] in self.of_eval):
            return  # what was written in this mode only already is that copy
        if only.args[0].op != "get_attr":  # type: ignore[union-attr]
            raise LeafNeeded(owner, f"{only.name} writes in place in one mode only")
        with self.graph.inserting_before(node):
            spare = self.graph.call_method("clone", (written,))
            spare.meta["owner"] = owner
            values = (written, spare) if only in self.of_train else (spare, written)
            node.update_arg(0, add_join(self.graph, owner, *values))


def _mapped(argument: Any, nodes: dict[Node, Node]) -> Any:
    return map_aggregate(argument, lambda a: nodes[a] if isinstance(a, Node) else a)


def _align(left: list[Node], right: list[Node]) -> Iterator[tuple[Node | None, Node | None]]:
    """Pair equal operations in equal order; the others stand alone."""
    matcher = difflib.SequenceMatcher(None, [_key(n) for n in left], [_key(n) for n in right], autojunk=False)
    for tag, i1, i2, j1, j2 in matcher.get_opcodes():
        if tag == "equal":
            yield from zip(left[i1:i2], right[j1:j2])
        else:
            yield from ((n, None) for n in left[i1:i2])
            yield from ((None, n) for n in right[j1:j2])


def _key(node: Node) -> tuple:
    """Return what two operations must have in common to be one: what is computed from it runs in both modes."""
    value = node.meta.get("val")
    kind = (value.shape, value.dtype) if isinstance(value, Tensor) else type(value)
    return (node.op, str(node.target), owner_of(node), kind, *node.kwargs) if node.op != "output" else ("output",)
