"""State: what a forward changes in its modules and in the containers that it reaches, found by comparing before and after."""
from collections import OrderedDict, defaultdict, deque
from typing import Any

from torch import Tensor, nn

from fxgrow.graph import CONSTANT

CONTAINERS = (list, dict, set, deque, OrderedDict, defaultdict)
SKIPPED = {*vars(nn.Module()), "training"}
DEPTH = 3


class State:
    """The attributes of all modules at one moment, but for torch's own layers, which are kept as they are.

    Args:
        root: the module tree. It is compared, and put back as it was, by this object.
    """

    def __init__(self, root: nn.Module):
        self.modules = [(path, m, dict(vars(m)), dict(m._buffers)) for path, m in root.named_modules()
                        if not path or not type(m).__module__.startswith("torch.nn.modules")]
        self.contents: dict[int, tuple[Any, Any]] = {}
        for _, _, attributes, _ in self.modules:
            for name, value in attributes.items():
                if name not in SKIPPED:
                    self._keep(value, DEPTH)

    def _keep(self, value: Any, depth: int) -> None:
        if type(value) not in CONTAINERS or not depth or id(value) in self.contents:
            return
        self.contents[id(value)] = value, _copy(value)
        for inner in value.values() if isinstance(value, dict) else value:
            self._keep(inner, depth - 1)

    def changed(self) -> dict[str, list[str]]:
        """Return the attributes that are others now, by the path of their module (buffers are not among them)."""
        found: dict[str, list[str]] = {}
        for path, module, before, _ in self.modules:
            names = [n for n, v in vars(module).items() if n not in SKIPPED and not n.startswith(CONSTANT)
                     and (n not in before or not self._same(before[n], v, DEPTH))]
            names += [n for n in before if n not in vars(module) and n not in SKIPPED]
            if names:
                found[path] = names
        return found

    def _same(self, before: Any, now: Any, depth: int) -> bool:
        if before is not now:
            return not isinstance(now, Tensor) and type(before) is type(now) and type(now) in (bool, int, float, str, tuple) and before == now
        if id(now) not in self.contents or not depth:
            return True
        contents = self.contents[id(now)][1]
        if len(contents) != len(now):
            return False
        if isinstance(now, dict):
            return all(k in now and self._same(v, now[k], depth - 1) for k, v in contents.items())
        if isinstance(now, set):
            return contents == now
        return all(self._same(a, b, depth - 1) for a, b in zip(contents, now))

    def replaced_buffers(self) -> list[tuple[str, nn.Module, str, Tensor]]:
        """Return the buffers that are other tensors now: path and module, name, and the new tensor."""
        return [(path, module, name, now) for path, module, _, before in self.modules for name, now in module._buffers.items()
                if now is not None and before.get(name) is not now]

    def restore(self) -> None:
        """Put everything back as it was; the constants of the graph stay."""
        for _, module, attributes, buffers in self.modules:
            module.__dict__ = attributes | {n: v for n, v in vars(module).items() if n.startswith(CONSTANT)}
            module._buffers = buffers
        for value, contents in self.contents.values():
            _refill(value, contents)


def _copy(value: Any) -> Any:
    return dict(value) if isinstance(value, dict) else set(value) if isinstance(value, set) else list(value)


def _refill(value: Any, contents: Any) -> None:
    """Give a container its contents back."""
    now = _copy(value)
    if len(now) != len(contents) or now is not contents:
        value.clear()
        value.update(contents) if isinstance(value, (dict, set)) else value.extend(contents)
