"""Parts of models whose outer shell cannot be recorded (detectors): the largest submodules that can be.

Each part is recorded under its full name, so that globs, reports and records speak of the layers as the user knows them,
and put back into the untouched outer module, which is run once before anybody else gets it.
"""
import functools
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule

from fxgrow.aten import tree_flatten, tree_map
from fxgrow.errors import CaptureError
from fxgrow.graph import (
    Captured,
    as_call,
    clone_graph,
    clone_module,
    clone_structure,
    cloned_tensors,
    faults_told,
    find_module,
    is_captured,
    owner_of,
    set_mode,
    tensors_of,
)
from fxgrow.layers import CapturedModule
from fxgrow.tracing.capturing import capture_call, insist_callable
from fxgrow.tracing.checking import equal
from fxgrow.tracing.leaves import outwards
from fxgrow.tracing.recorder import describe
from fxgrow.tracing.state import seeded

Arguments = tuple[tuple, dict]


class _Shell(nn.Module):
    """A module alone at its path inside otherwise empty modules: what is recorded has its full name."""

    def __init__(self, path: str, module: nn.Module):
        super().__init__()
        self.path = path
        place: nn.Module = self
        *outer, last = path.split(".")
        for name in outer:
            place.add_module(name, nn.Module())
            place = place.get_submodule(name)
        place.add_module(last, module)
        self.training = module.training

    @property
    def forward(self) -> Callable:  # type: ignore[override]
        """Call the module, with the signature of its own forward."""
        part = self.get_submodule(self.path)

        @functools.wraps(part.forward)
        def call(*args, **kwargs):
            return part(*args, **kwargs)
        return call


# --- A run of the model ---------------------------------------------------------------------------------------------------

@dataclass
class Calls:
    """What a run of a model showed.

    Attributes:
        output: of the model. arguments: of each call of each submodule.
        opened: the modules of which something inside was called by others than themselves.
    """
    output: Any = None
    arguments: dict[str, list[Arguments]] = field(default_factory=dict)
    opened: set[str] = field(default_factory=set)


def run_watched(model: nn.Module, inputs: tuple | dict, wide: bool = False) -> Calls:
    """Run a copy of a model in eval mode, in float64 if `wide`, and return what was called."""
    def number(value: Any) -> Any:
        value = value.detach().clone() if isinstance(value, Tensor) else value
        return value.double() if wide and isinstance(value, Tensor) and value.is_floating_point() else value

    copy, calls, running = clone_structure(model, number), Calls(), []

    def enter(path: str, _, args: tuple, kwargs: dict) -> None:
        calls.arguments.setdefault(path, []).append((args, kwargs))
        calls.opened.update(p for p in outwards(path)[1:] if p not in running)
        running.append(path)

    def leave(*_) -> None:
        running.pop()

    modules = {path: m for path, m in copy.named_modules() if not isinstance(m, torch.jit.ScriptModule)}
    for path, module in modules.items():
        if path:
            module.register_forward_pre_hook(functools.partial(enter, path), with_kwargs=True)
            module.register_forward_hook(leave, always_call=True)
    with torch.no_grad(), seeded(0):
        args, kwargs = tree_map(number, as_call(inputs))
        try:
            calls.output = set_mode(copy, False)(*args, **kwargs)
        finally:
            _let_go(modules.values())
    return calls


def _let_go(copies: Iterable[nn.Module]) -> None:
    """Take copies that have run apart; graphs go round in circles, and would keep their numbers and all they were given."""
    for module in copies:
        for held in (module._forward_pre_hooks, module._forward_hooks, module._parameters, module._buffers, module._modules):
            held.clear()


def _form(arguments: Arguments) -> tuple:
    """Return what two calls must have in common to be calls of one graph."""
    leaves, form = tree_flatten(arguments)
    return form, [(v.dtype, v.ndim) if isinstance(v, Tensor) else v for v in leaves]


def _some(example: Any) -> Any:
    """Return an example input; where there was nothing to look at (no box was found), two of it."""
    empty = isinstance(example, Tensor) and not example.numel()
    return example.new_zeros([s or 2 for s in example.shape]) if empty else example


def capture_parts(model: nn.Module, calls: Calls, alone: dict[str, str]) -> dict[str, GraphModule]:
    """Capture the largest submodules that can be, by path; their graphs use the names of the whole model.

    Args:
        calls: of a run of the model.
        alone: the submodules that no part may be, though what is inside them may, each with the reason; it is added to.
    """
    parts: dict[str, GraphModule] = {}

    def visit(path: str, module: nn.Module) -> None:
        if not any(True for _ in module.parameters()) or isinstance(module, torch.jit.ScriptModule):
            return
        seen = calls.arguments.get(path, [])
        if seen and path not in alone and path not in calls.opened and any(True for _ in module.children()) \
                and all(_form(arguments) == _form(seen[0]) for arguments in seen):
            try:
                part = capture_call(_Shell(path, module), *tree_map(_some, seen[0]))
                insist_callable(part)
                if all(node.target != path for node in part.graph.nodes):
                    bring_inside(part, path)
                    parts[path] = part
                    return
                alone[path] = Captured(part).leaves.get(path, "it is one layer, and no graph of others")
            except Exception as error:
                alone[path] = str(error) if isinstance(error, CaptureError) else describe(error)
        for name, child in module.named_children():
            visit(f"{path}.{name}" if path else name, child)

    for name, child in model.named_children():
        visit(name, child)
    return parts


def with_parts(model: nn.Module, inputs: tuple | dict, change: Callable[[str, GraphModule], GraphModule | None],
               whole: CaptureError, leaves: dict[str, str]) -> tuple[nn.Module, list[str], dict[str, str]]:
    """Return a copy of a model with its parts captured and changed, run once; what does not work inside it is left alone.

    Args:
        change: gives what is put in the place of a part; None: nothing is.
        whole: why the model itself cannot be captured. leaves: submodules that no part may be or hold, each with the reason.

    Returns:
        the copy (the model, where nothing is changed), the paths of its changed parts, and the parts left alone because of
        the rest of the model, with the reason.

    Raises:
        CaptureError: there is no part that can be captured and works in its place.
    """
    try:
        calls = run_watched(model, inputs)
    except Exception:
        raise whole from None
    alone = {outer: why for path, why in leaves.items() for outer in outwards(path)}
    faults: dict[str, str] = {}
    while parts := capture_parts(model, calls, alone):
        tried = {path: change(path, part) for path, part in parts.items()}
        changed = {path: part for path, part in tried.items() if part is not None}
        if not changed:
            return model, [], faults
        with faults_told(CaptureError, f"{type(model).__name__} with its parts grown stops"):
            new, fault = _try_out(model, calls, inputs, changed)
            if not fault:
                return new, list(changed), faults
            by_itself = {path: _try_out(model, calls, inputs, {path: part})[1] for path, part in changed.items()}
        bad = {path: why for path, why in by_itself.items() if why} or dict.fromkeys(changed, fault)
        alone |= bad
        faults |= bad
    left = [f"{path} was left alone: {why}" for path, why in faults.items()]
    raise CaptureError("; ".join([str(whole), *left])) from whole


def bring_inside(part: GraphModule, path: str) -> Callable[[str], str]:
    """Move what lies beside a part (constants, new layers) into it, as nothing around knows of it; return how it is called.

    Args:
        part: of which all is to be below `path`; it is changed.

    Returns:
        a function from a name in the graph to the name that it has now.
    """
    place, owner, moved = part.get_submodule(path), part, {}
    for around, name in zip(reversed(outwards(path)), path.split(".")):
        prefix = f"{around}." if around else ""
        for kind in ("_parameters", "_buffers", "_modules"):
            held = getattr(owner, kind)
            for child in [c for c in held if c != name]:
                numbered = (f"{child}_{count}" for count in itertools.count(2))
                new = next(n for n in itertools.chain([child], numbered) if not hasattr(place, n))
                getattr(place, kind)[new] = held.pop(child)
                moved[prefix + child] = f"{path}.{new}"
                if child in owner._non_persistent_buffers_set:
                    place._non_persistent_buffers_set.add(new)
        owner = owner.get_submodule(name)

    def renamed(old: str) -> str:
        return next((moved[outer] + old[len(outer):] for outer in outwards(old) if outer in moved), old)

    for node in part.graph.nodes if moved else ():
        if node.op in ("call_module", "get_attr"):
            node.target = renamed(str(node.target))
        node.meta["owner"] = renamed(owner_of(node))
    Captured(part).leaves = {renamed(leaf): why for leaf, why in Captured(part).leaves.items()}
    return renamed


# --- Parts in their places -----------------------------------------------------------------------------------------------

class GraphPart(CapturedModule):
    """A captured part in its place: a graph, with the methods and attributes of the class that the part was of."""
    part_of: type[nn.Module]

    def __deepcopy__(self, memo: dict) -> GraphModule:
        return clone_graph(self, memo)

    def __reduce__(self) -> tuple:
        return _restored, (self.part_of, *super().__reduce__())


def _restored(part_of: type[nn.Module], make: Callable, arguments: tuple) -> GraphModule:
    return of_class(make(*arguments), part_of)


def of_class(gm: Any, part_of: type[nn.Module]) -> GraphModule:
    """Give a graph with all that a GraphModule has the methods of another class; its own forward is compiled."""
    own: Any = getattr(part_of, "part_of", part_of)
    mixed = _mixed(GraphModule if issubclass(own, GraphModule) else own)
    gm.__class__ = type("GraphModuleImpl", (mixed,), {})  # torch.fx looks for that name, and compiles into the class
    gm.__class__.__name__ = mixed.__name__
    gm.recompile()
    return gm


@functools.cache
def _mixed(part_of: type[nn.Module]) -> type:
    return type(part_of.__name__, (GraphPart, part_of), {"part_of": part_of})


def put_back(model: nn.Module, parts: dict[str, GraphModule]) -> nn.Module:
    """Return a copy of the outer module with the parts in their places, where they keep class, methods and attributes."""
    held = {id(t) for path in parts for t in tensors_of(model.get_submodule(path)).values()}
    memo = cloned_tensors(model, lambda t: t.detach() if id(t) in held else t.detach().clone())
    for path, part in parts.items():
        own, captured = model.get_submodule(path), part.get_submodule(path)
        ours, layers = tensors_of(captured), dict(captured.named_modules(remove_duplicate=False))
        memo |= {id(t): ours[name] for name, t in tensors_of(own).items() if name in ours}
        for name, module in own.named_modules(remove_duplicate=False):
            if type(layers.get(name, captured)) is not nn.Module:
                layers[name].training = module.training
                memo[id(module)] = layers[name]
    new = clone_module(model, memo)
    Captured(new).forget()  # of what is before this
    for path, part in parts.items():
        _to_graph(new.get_submodule(path), part, path)
    return new


def _to_graph(place: nn.Module, part: GraphModule, path: str) -> None:
    """Make the copy of a user's module a part, with the tensors, the layers and the graph of a captured one."""
    old = [n.target for n in place.graph.nodes if n.op == "call_module"] if is_captured(place) else []
    _refill(place, part.get_submodule(path), {id(find_module(place, str(target))) for target in old})  # some have moved
    blank = CapturedModule(nn.Module(), Graph())
    vars(place).update({name: value for name, value in vars(blank).items()  # without hooks, which are recorded
                        if name not in vars(nn.Module()) or name.startswith(("_forward", "_backward"))})
    graph = Graph()
    graph.output(graph.graph_copy(part.graph, {}))
    for node in graph.nodes:
        if node.op in ("call_module", "get_attr"):
            node.target = node.target.removeprefix(f"{path}.")
    place._graph, graph.owning_module = graph, place  # type: ignore[assignment]
    of_class(place, type(place))
    Captured(place).inputs = Captured(part).inputs


def _refill(place: nn.Module, captured: nn.Module, called: set[int]) -> None:
    """Give a user's module what a captured one holds; what is in neither graph stays (an activation that nobody calls)."""
    for kind in ("_parameters", "_buffers", "_non_persistent_buffers_set"):
        setattr(place, kind, getattr(captured, kind))
    for name in captured._buffers:
        vars(place).pop(name, None)  # it was a plain attribute
    modules: dict[str, nn.Module | None] = {}
    for name, child in place._modules.items():
        layer = captured._modules.get(name)
        if child is not None and type(layer) is nn.Module and id(child) not in called:
            _refill(child, layer, called)
        elif layer is not None or child is None or not (tensors_of(child) or id(child) in called):
            child = layer or child
        else:
            continue  # the growth took it away
        modules[name] = child
    place._modules = modules | {n: m for n, m in captured._modules.items() if n not in modules}


def plain_attributes(module: nn.Module) -> dict[str, bool | int | float | str]:
    """Return the numbers and words among the attributes of a part, which its outer module may read."""
    return {name: value for name, value in vars(module).items()
            if type(value) in (bool, int, float, str) and not name.startswith("_") and name != "training"}


# --- The result, run once -------------------------------------------------------------------------------------------------

def _try_out(model: nn.Module, calls: Calls, inputs: tuple | dict, parts: dict[str, GraphModule]) -> tuple[nn.Module, str]:
    """Return a copy of the model with the parts in it, and what is wrong with it on the example inputs (or `""`)."""
    try:
        new = put_back(model, parts)
        outputs = run_watched(new, inputs).output
    except Exception as error:
        return model, f"with it grown, what is around it stops: {describe(error)}"
    if equal(calls.output, outputs) or _changed_on_purpose(model, new, calls, parts):
        return new, ""
    try:  # a choice between nearly equal numbers (of boxes) is the same one in float64
        if equal(run_watched(model, inputs, wide=True).output, run_watched(new, inputs, wide=True).output):
            return new, ""
    except Exception:
        pass
    return new, "with it grown, the model gives something else, for what is around it looks at more than its output"


def _changed_on_purpose(model: nn.Module, new: nn.Module, calls: Calls, parts: dict[str, GraphModule]) -> bool:
    """Tell whether a part computes something else by itself: the passes are not exact, or add outputs."""
    for path in parts:
        args, kwargs = calls.arguments[path][0]
        outputs = []
        for whole in (model, new):
            part = whole.get_submodule(path)
            copy = clone_module(part, cloned_tensors(part, lambda t: t.detach().clone()))
            with torch.no_grad(), seeded(0):
                outputs.append(set_mode(copy, False)(*args, **kwargs))
        if not equal(*outputs):
            return True
    return False
