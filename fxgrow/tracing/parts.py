"""Parts of models whose outer shell cannot be traced (detectors): the largest submodules that can be.

Each part is traced under its full name, so that globs, reports and records speak of the layers as the user knows them,
and put back under the untouched outer module, so that the state_dict keeps its names.
"""
import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule

from fxgrow.errors import CaptureError
from fxgrow.graph import as_call, assemble, clone_structure
from fxgrow.tracing.capturing import capture


class _Shell(nn.Module):
    """A module alone at its path inside otherwise empty modules: what is traced has its full name."""

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

    def forward(self, *inputs):
        return self.get_submodule(self.path)(*inputs)


def _some(example):
    """Return an example input; where there was nothing to look at (no box was found), two of it."""
    empty = isinstance(example, Tensor) and not example.numel()
    return example.new_zeros([s or 2 for s in example.shape]) if empty else example


def _arguments_of_calls(model: nn.Module, inputs: tuple) -> dict[str, list[tuple]]:
    """Return the tensors with which each submodule is called; one that is called with anything else is left out."""
    calls: dict[str, list[tuple]] = {}
    odd: set[str] = set()

    def watch(name):
        def hook(_, args, kwargs):
            if kwargs or not args or not all(isinstance(a, Tensor) for a in args):
                odd.add(name)
            calls.setdefault(name, []).append(tuple(map(_some, args)))
        return hook

    hooks = [m.register_forward_pre_hook(watch(n), with_kwargs=True) for n, m in model.named_modules() if n]
    modes = {m: m.training for m in model.modules()}
    try:
        args, kwargs = as_call(inputs)
        with torch.no_grad():
            model.eval()(*args, **kwargs)
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes.items():
            module.training = training
    return {n: c for n, c in calls.items() if n not in odd}


def capture_parts(model: nn.Module, inputs: tuple) -> dict[str, GraphModule]:
    """Capture the largest submodules that can be, by path; their graphs use the names of the whole model.

    Raises:
        CaptureError: there is none.
    """
    twin = clone_structure(model)
    calls = _arguments_of_calls(twin, inputs)
    parts: dict[str, GraphModule] = {}

    def visit(path: str, module: nn.Module) -> None:
        seen = calls.get(path, [])
        if not any(True for _ in module.parameters()):
            return
        if seen and len({tuple(a.shape for a in args) for args in seen}) == 1 and any(True for _ in module.children()):
            try:
                parts[path] = capture(_Shell(path, module), seen[0])
                return
            except CaptureError:
                pass
        for name, child in module.named_children():
            visit(f"{path}.{name}" if path else name, child)

    for name, child in twin.named_children():
        visit(name, child)
    if not parts:
        raise CaptureError(f"neither {type(model).__name__} nor any submodule of it can be traced")
    return parts


def put_back(model: nn.Module, parts: dict[str, GraphModule]) -> nn.Module:
    """Return a copy of the outer module with the parts in their places."""
    held = {id(t) for path in parts for t in model.get_submodule(path).state_dict(keep_vars=True).values()}
    new = clone_structure(model, lambda t: t.detach() if id(t) in held else t.detach().clone())
    vars(new).pop("meta", None)  # of a loaded one: its growth before this
    for path, part in parts.items():
        inner = _inner(part, path)
        vars(inner).update(plain_attributes(model.get_submodule(path)))
        new.set_submodule(path, inner)
    return new


def plain_attributes(module: nn.Module) -> dict[str, bool | int | float | str]:
    """Return the numbers and words among the attributes of a part, which its outer module may read."""
    return {name: value for name, value in vars(module).items()
            if type(value) in (bool, int, float, str) and not name.startswith("_") and name != "training"}


def _inner(part: GraphModule, path: str) -> GraphModule:
    """Return a part whose targets do not have its path in front."""
    graph = Graph()
    output = graph.graph_copy(part.graph, {})
    graph.output(output)
    for node in graph.nodes:
        if node.op in ("call_module", "get_attr"):
            node.target = node.target.removeprefix(f"{path}.")
    root = part.get_submodule(path)
    inner = assemble(root, graph, type(root).__name__)
    inner.recompile()
    inner.train(root.training)
    return inner
