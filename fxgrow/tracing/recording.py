"""One recording: a model on meta tensors, its inputs and output become a graph, submodules that stop it become leaves."""
import contextlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, Node

from fxgrow.aten import noted_counts, other_counts, storage_of, tree_any, tree_leaves, tree_map
from fxgrow.errors import CaptureError
from fxgrow.graph import CONSTANT, arguments_of, memory_of, to_meta, writes_in_place
from fxgrow.layers import has_form, ordered
from fxgrow.tracing.leaves import CacheFound, LeafNeeded, keep_opaque, kept_part, outwards
from fxgrow.tracing.recorder import LITERALS, Recorder, contents_of, describe, form_of, map_inside
from fxgrow.tracing.sizes import Element, Number
from fxgrow.tracing.state import CONTAINERS, Change, State, draws, put_back_draws
from fxgrow.tracing.telling import RANDOM, Telling
from fxgrow.tracing.watching import watched

Repeats = Callable[[Recorder, tuple, dict], bool]  # tells whether a second call does what a recording says
MAX_LEAF_RETRIES = 200
# functions that look at type, place or shape alone of one of their arguments: the first, the second
LIKE_FIRST = {"new_full", "new_zeros", "new_ones", "new_empty", "full_like", "zeros_like", "ones_like", "empty_like"}
LIKE_SECOND = {"type_as", "expand_as", "view_as", "reshape_as"}
ADVICE = ("Pass the submodule that does the work instead (its backbone), or rewrite that line so that it needs no values "
          "of tensors")


@dataclass
class Start:
    """What recordings of one module have found: functions to call without their caches, and, by mode, what was there.

    stand_ins: whether its code may be given others for `int`, `float` and `range` (state.py).
    counts_told: whether the data of the example are asked how many positions there are, since it did not go without.
    """
    uncached: list[Any] = field(default_factory=list)
    stand_ins: bool = True
    counts_told: bool = False
    states: dict[bool, State | None] = field(default_factory=dict)


def record(module: nn.Module, args: tuple, kwargs: dict, leaves: dict[str, str], device: torch.device,
           repeats: Repeats | None = None, start: Start | None = None, of_any_batch: bool = False) -> Recorder:
    """Record a forward in the mode that the module is in; each submodule that stops it is added to `leaves`.

    Args:
        module: on meta tensors; what its forward changes is put back.
        args, kwargs: the example inputs.
        device: where the user's own tensors are.
        start: what earlier recordings of this module have found, and this one finds.
        of_any_batch: the batch is of one, and the recording is to hold for larger ones.

    Raises:
        CaptureError: the module cannot be recorded.
        Differs: it asks for a size of one, and so may do something else for a larger batch.
    """
    compiling: set[str] = set()
    start = start or Start()
    for _ in range(MAX_LEAF_RETRIES):
        recorder = Recorder(module, leaves, device)
        recorder.compiling, recorder.uncached, recorder.start = compiling, start.uncached, start.states.get(module.training)
        recorder.of_any_batch, recorder.stand_ins = of_any_batch, start.stand_ins
        recorder.telling, recorder.counts_told = Telling(module, args, kwargs), start.counts_told
        try:
            return record_once(recorder, args, kwargs, repeats)
        except CacheFound as cache:
            start.uncached = start.uncached + cache.found
        except (Exception, LeafNeeded) as stop:
            compiling = _after(stop, recorder, start, leaves)
        finally:
            start.states[module.training] = recorder.before
            if start.uncached is not recorder.uncached:
                start.states.clear()
    raise CaptureError(f"gave up after keeping {MAX_LEAF_RETRIES} submodules opaque")


def _after(stop: Exception | LeafNeeded, recorder: Recorder, start: Start, leaves: dict[str, str]) -> set[str]:
    """Change what the next recording goes by, as one was stopped; return the modules that it tells that they are compiled.

    Raises:
        CaptureError: there is nothing to change.
    """
    compiling = recorder.compiling
    if _may_ask_for_counts(recorder, start):
        return compiling
    if start.stand_ins and isinstance(stop, (LeafNeeded, TypeError)) and isinstance(stop.__cause__ or stop, TypeError):
        start.stand_ins = False  # perhaps of `dtype=int`
        return compiling
    if isinstance(stop, CaptureError):
        raise stop
    if not isinstance(stop, LeafNeeded):
        raise _failed(recorder.root, stop) from stop
    asked = recorder.asked_compiling - compiling
    if asked:  # another way for compilers asks for no values: the innermost that has one is to take it
        return compiling | next(({path} for path in outwards(stop.path) if path in asked), asked)
    keep_opaque(recorder.root, leaves, stop)
    return compiling


def _may_ask_for_counts(recorder: Recorder, start: Start) -> bool:
    """Tell whether the data of the example may say how many positions there are, and have not been asked yet."""
    asked, start.counts_told = start.counts_told, start.counts_told or bool(recorder.counts)
    return start.counts_told and not asked


def _failed(module: nn.Module, error: Exception) -> CaptureError:
    return CaptureError(f"the forward of {type(module).__name__} itself cannot be captured: {describe(error)}. {ADVICE}")


def record_once(recorder: Recorder, args: tuple, kwargs: dict, repeats: Repeats | None = None) -> Recorder:
    """Run one recording to its end.

    What a first call sets up for good (hooks, a flag) is no part of the graph, where a second call does the same again.

    Raises:
        LeafNeeded: a submodule stops it.
    """
    for names, name, function in recorder.uncached:
        names[name] = function.__wrapped__
    state, seeds = recorder.start or State(recorder.root, recorder.reached), draws()
    recorder.reached = state.outside
    try:
        with watched(recorder):
            given, named = _placeholders(recorder, args, kwargs)
            recorder.own_types = state.own_types if recorder.stand_ins else contextlib.nullcontext
            with state.sizes_of_plain_type() if recorder.stand_ins else contextlib.nullcontext():
                out = _run(recorder, given, named)
            set_up = _check_state(recorder, state, out)
            if recorder.switched or recorder.autocast:
                what = "gradients" if recorder.switched else "autocast"
                raise LeafNeeded("", f"its forward switches {what} off or on and not back again")
            if draws() != seeds:
                raise LeafNeeded("", "its forward draws random numbers of Python or NumPy, which no graph does: "
                                     "draw them with torch")
            for change in recorder.keeps:
                recorder.keep(change.path, change.name)
            recorder.stack = [""]
            recorder.emit("output", "output", (_output(recorder, out),), {})
        if list(set_up) != list(recorder.set_up):
            if repeats is None or not repeats(recorder, args, kwargs):
                raise next(iter((set_up or recorder.set_up).values()))
            recorder.set_up = set_up
        if repeats is not None:
            _insist_on_repeats(recorder, lambda: repeats(recorder, args, kwargs))
    finally:
        put_back_draws(seeds)
        _undo(recorder)
        state.restore()
        for names, name, function in recorder.uncached:
            names[name] = function
        recorder.before = state
    return recorder


def _undo(recorder: Recorder) -> None:
    """Switch back what a forward has switched outside of its model, and what was switched for its recording."""
    for context, _ in reversed(recorder.autocast):
        context.__exit__(None, None, None)
    for _, handle in recorder.hooks:
        handle.remove()


def _insist_on_repeats(recorder: Recorder, repeats: Callable[[], bool]) -> None:
    """Let nothing depend on sizes or leaves that the call before has left, nor on how many positions the data say there are.

    Raises:
        LeafNeeded: it does.
    """
    if recorder.of_caches and not repeats():
        raise recorder.of_caches[0][1]
    if recorder.keeps and not repeats():
        raise _words_of(recorder.root, recorder.keeps[0])
    if recorder.remembering and not repeats():
        raise LeafNeeded("", f"its forward does something else at the second call, since {recorder.remembering[0]} "
                             "remembers the first")
    if recorder.counted:
        with other_counts():
            if not repeats():
                raise recorder.counted


def _run(recorder: Recorder, args: tuple, kwargs: dict) -> Any:
    """Return what the forward gives.

    Raises:
        LeafNeeded: it goes on after an error of torch, or changes what it is given.
    """
    before = contents_of((args, kwargs))
    with noted_counts(recorder.counts):
        out = recorder.run(args, kwargs)
    if recorder.caught:
        raise recorder.caught
    if contents_of((args, kwargs)) != before:
        raise LeafNeeded("", "its forward changes a list or dict that it is given, and a graph would not: copy it first")
    return out


def _placeholders(recorder: Recorder, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """Return the inputs on meta tensors, of which each argument of the forward is a placeholder."""
    arguments = [a._replace(value=_stand(a.name, a.value)) for a in arguments_of(recorder.root, args, kwargs)]
    given, recorder.listening = {}, True
    for argument in arguments:
        node = recorder.emit("placeholder", argument.name, argument.default, {})
        recorder.note(node, argument.value)
        form = tree_map(form_of, argument.value) if argument.given else argument.value
        if argument.default or form is not ...:
            recorder.guard(has_form, (node, form), True)
            recorder.guards[-1].decides = True
        if argument.given:
            given[argument.name] = recorder.named(argument.value, node)
    values = tuple(given.values())[:len(args)], {name: given[name] for name in kwargs}
    recorder.stands = tree_leaves(values)
    return values


def _stand(name: str, value: Any) -> Any:
    """Return an input on fresh meta tensors.

    Raises:
        CaptureError: it is an object of which nothing is known.
    """
    for leaf in tree_leaves(value):
        if not isinstance(leaf, (Tensor, *LITERALS)):
            raise CaptureError(f"the input {name!r} holds a {type(leaf).__name__}, and fxgrow cannot see what is in it: "
                               "pass tensors, numbers, words, and tuples, lists or dicts of them")
    return to_meta(value)


def _check_state(recorder: Recorder, state: State, output: Any) -> dict[str, LeafNeeded]:
    """Refuse what the forward changed and a graph would not; return what it may have set up for good, with the refusal.

    Raises:
        LeafNeeded: an attribute or a buffer is another one than before.
    """
    set_up = {}
    _check_buffers(recorder, state, output)
    for change in state.changes():
        if _is_kept(recorder, change.path):
            recorder.remembering.append(change.path)
        elif all(_is_cache(recorder, v) or _is_size(recorder, v) for v in change.news):
            sizes = [v for v in tree_leaves(change.news) if isinstance(v, Number)]
            recorder.of_caches += [(size, _words_of(recorder.root, change)) for size in sizes]
        elif _can_be_kept(recorder, change):
            recorder.keeps.append(change)
        else:
            news = [v if type(v) in LITERALS else type(v) for v in change.news]
            set_up[f"{change.path} {change.what} {news}"] = _refusal(recorder.root, change)
    for i, (place, handle) in enumerate(recorder.hooks):
        if place is not None and handle.id in (handle.hooks_dict_ref() or ()):
            set_up[f"{place} hook {i}"] = LeafNeeded(place, "its forward registers a hook that stays")
    return set_up


def _can_be_kept(recorder: Recorder, change: Change) -> bool:
    """Tell whether the value of a changed attribute is made of tensors of the graph, which keeps it as the forward does."""
    value = vars(recorder.root.get_submodule(change.path)).get(change.name)

    def holds(held: Any) -> bool:
        if type(held) in (tuple, list):
            return all(map(holds, held))
        if type(held) is dict:
            return all(type(key) is str for key in held) and all(map(holds, held.values()))
        return id(held) in recorder.known if type(held) is Tensor else isinstance(held, (Number, *LITERALS))

    return tree_any(lambda v: isinstance(v, Tensor), value) and holds(value)


def _is_kept(recorder: Recorder, path: str) -> bool:
    return kept_part(recorder.root, path, recorder.leaves) is not None


def _check_buffers(recorder: Recorder, state: State, output: Any) -> None:
    """Write to a buffer, at the end, what it is replaced by.

    Raises:
        LeafNeeded: that is not the same.
    """
    for path, module, name, before, now in state.replaced_buffers():
        origin = recorder.known.get(id(now))
        full = f"{path}.{name}" if path else name
        if _is_kept(recorder, path) or (isinstance(origin, Node) and _updates(origin, full)):
            continue
        if name in module._non_persistent_buffers_set and _is_cache(recorder, now):
            continue
        alone = sum(t is before for *_, held in state.modules for t in held.values()) == 1
        if not alone or not _written_back(recorder, path, before, now, output):
            raise LeafNeeded(path, f"its forward replaces the buffer {name!r}")


def _written_back(recorder: Recorder, path: str, before: Any, now: Tensor, output: Any) -> bool:
    """Write what a buffer is replaced by into it, and tell whether that is the same: it has its form, no output is it."""
    if not isinstance(before, Tensor) or before.dtype != now.dtype or not recorder.known.get(id(now)):
        return False
    if any(isinstance(v, Tensor) and storage_of(v) == storage_of(before) for v in tree_leaves(output)):
        return False

    def write() -> bool:
        same = now.shape == before.shape
        if same:
            before.copy_(now)
        return same

    recorder.stack = [path]
    return recorder.watch(write)


def _words_of(root: nn.Module, change: Change) -> LeafNeeded:
    """Return what is said of a change that a graph would not make."""
    kind = type(root.get_submodule(change.path)).__name__
    advice = "give it out with the output, or take it with a forward hook; what the next call reads goes into a buffer" \
        if tree_any(lambda v: isinstance(v, Tensor), change.news) else "use a buffer that is written in place"
    return LeafNeeded(change.path, f"the forward of {kind} changes {change.what}, and a graph would not: {advice}")


def _refusal(root: nn.Module, change: Change) -> LeafNeeded:
    """Return what is said of a change if a second call does not do the same.

    Raises:
        LeafNeeded: it holds what a call computed.
    """
    stop = _words_of(root, change)
    if any(map(_holds_values, change.news)):
        raise stop
    return stop


def _holds_values(value: Any) -> bool:
    """Tell whether something new may hold what a call computed."""
    def is_one(held: Any) -> bool:
        return isinstance(held, (Tensor, Number, tuple, *CONTAINERS))
    return is_one(value) or any(map(is_one, getattr(value, "__dict__", {}).values()))


def _updates(node: Node, buffer: str) -> bool:
    """Tell whether a value is the buffer itself, written in place."""
    while writes_in_place(node):
        node = node.args[0]  # type: ignore[assignment]
    return node.op == "get_attr" and node.target == buffer


def _is_cache(recorder: Recorder, value: Any) -> bool:
    """Tell whether a value is computed from sizes, constants and parameters alone, and can as well be computed anew."""
    origin = recorder.known.get(id(value)) if isinstance(value, Tensor) else None
    while isinstance(origin, Element):
        origin = origin.base
    return origin is not None and without_data(recorder, origin)


def _is_size(recorder: Recorder, value: Any) -> bool:
    """Tell whether a value is a size that the forward has asked for, or a tuple of such."""
    if isinstance(value, tuple):
        return bool(value) and all(_is_size(recorder, v) for v in value)
    origin = getattr(value, "origin", None)
    while isinstance(origin, Element):
        origin = origin.base
    return isinstance(value, Number) and without_data(recorder, origin)


def without_data(recorder: Recorder, node: Node) -> bool:
    """Tell whether a node gives what is computed from sizes, constants and parameters alone."""
    if node not in recorder.free_of_data:
        recorder.free_of_data[node] = _computed_without_data(recorder, node)
    return recorder.free_of_data[node]


def _computed_without_data(recorder: Recorder, node: Node) -> bool:
    if node.op == "get_attr":
        owner, _, name = str(node.target).rpartition(".")
        module = recorder.root.get_submodule(owner)
        return name.startswith(CONSTANT) or name in module._parameters or not node.meta["val"].is_floating_point() or (
            _stays(recorder, node, getattr(module, name)))
    if node.target is getattr or node.target == "size":
        return True
    name = getattr(node.target, "__name__", str(node.target))
    if node.op in ("placeholder", "call_module") or name in RANDOM:
        return False
    looked_at = node.args[0] if name in LIKE_FIRST else node.args[1] if name in LIKE_SECOND else None
    inputs = [n for n in node.all_input_nodes if tree_any(lambda v: isinstance(v, Tensor), n.meta.get("val"))]
    return all(n is looked_at or without_data(recorder, n) for n in inputs)


def _stays(recorder: Recorder, node: Node, now: Any) -> bool:
    """Tell whether a buffer or an attribute, which a node reads, is after the forward what it was before."""
    written = {memory_of(n.args[0]) for n in recorder.events if writes_in_place(n)}
    owner = str(node.target).rpartition(".")[0]
    return recorder.known.get(id(now)) is node and memory_of(node) not in written and (
        kept_part(recorder.root, owner, recorder.leaves) is None)


def _output(recorder: Recorder, value: Any) -> Any:
    """Return what stands for the output of the model: of its class, whatever it is.

    Raises:
        LeafNeeded: it is of a class that a graph cannot make.
    """
    def output(held: Any) -> Any:
        return _output(recorder, held)

    kind = type(value)
    made: tuple[Any, tuple, dict] | None = None
    if isinstance(value, (Tensor, Number)) or kind in LITERALS:
        return recorder.argument(value)
    if kind in (tuple, list, dict):
        return map_inside(output, value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        made = kind, tuple(map(output, value)), {}
    elif is_dataclass(value):
        held = value if isinstance(value, dict) else {f.name: getattr(value, f.name) for f in fields(value) if f.init}
        if _rebuilds(kind, value, held):
            made = kind, (), map_inside(output, dict(held))
    elif kind is OrderedDict:
        made = ordered, ([(k, output(v)) for k, v in value.items()],), {}
    elif isinstance(value, tuple) and kind.__module__ in ("torch.return_types", "torch"):
        made = kind, (tuple(map(output, value)),), {}
    if made is None:
        raise LeafNeeded("", f"its output holds a {kind.__name__}, which no graph can make: give out tensors, tuples, "
                             "lists, dicts or dataclasses")
    return recorder.emit("call_function", *made)


def _rebuilds(kind: type, value: Any, arguments: Mapping[str, Any]) -> bool:
    """Tell whether a class makes the same object out of the same contents."""
    try:
        made = kind(**arguments)
    except Exception:
        return False
    return all(getattr(made, f.name) is getattr(value, f.name) for f in fields(value))


def trace(module: nn.Module, args: tuple, kwargs: dict, leaves: dict[str, str]) -> Graph:
    """Return the graph that `record` gives, for a module whose tensors are on no device in particular.

    Raises:
        CaptureError: the module cannot be recorded.
    """
    return record(module, args, kwargs, leaves, torch.device("cpu")).graph
