"""Facts beside the graph of a captured module. They lie in its `meta`, under keys that only this file knows."""
from typing import Any, TypeGuard

from torch import nn
from torch.fx import GraphModule

from fxgrow.layers import keep

INPUTS, LEAVES, GROWTH, BEFORE, RELEASED = "example_inputs", "leaves", "growth", "growth_before", "released"
WHOLE = "growth_of_whole"  # in a part's: its path in the shell, and that shell's growth


def is_captured(module: Any) -> TypeGuard[GraphModule]:
    """Tell whether a module is one that `capture` made, or was grown or loaded from one."""
    return isinstance(module, GraphModule) and INPUTS in getattr(module, "meta", ())


def kept_attributes(model: nn.Module) -> list[tuple[str, str]]:
    """Return the attributes that the captured graphs in a model keep values as, by the path of their module and name."""
    found = [(".".join(filter(None, (path, str(node.args[0])))), str(node.args[1]))
             for path, module in model.named_modules() if is_captured(module)
             for node in module.graph.nodes if node.target is keep]
    return list(dict.fromkeys(found))


def values_kept(model: nn.Module, attributes: list[tuple[str, str]]) -> list[Any]:
    """Return what a model keeps as attributes, of each that it has."""
    return [vars(model.get_submodule(path)).get(name) for path, name in attributes]


class Captured:
    """A typed view of what a captured, grown or loaded module knows of itself; writing changes the module's `meta`."""

    def __init__(self, module: nn.Module):
        self._module = module

    @property
    def _meta(self) -> dict[str, Any]:
        meta = getattr(self._module, "meta", {})
        return meta if isinstance(meta, dict) else {}  # else of the user's own

    def _keep(self, key: str, value: Any) -> None:
        if not hasattr(self._module, "meta"):  # an outer module around captured parts
            self._module.meta = {}  # type: ignore[assignment]
        self._meta[key] = value

    @property
    def inputs(self) -> tuple:
        """The example inputs on meta tensors; none of a module that was never captured."""
        return self._meta.get(INPUTS, ())

    @inputs.setter
    def inputs(self, inputs: tuple) -> None:
        self._keep(INPUTS, inputs)

    @property
    def leaves(self) -> dict[str, str]:
        """The submodules that could not be recorded, each with the reason."""
        return self._meta.get(LEAVES, {})

    @leaves.setter
    def leaves(self, leaves: dict[str, str]) -> None:
        self._keep(LEAVES, leaves)

    @property
    def released(self) -> bool:
        """Whether its tensors may be taken or emptied by who grows it: it is not used any more."""
        return self._meta.get(RELEASED, False)

    @released.setter
    def released(self, released: bool) -> None:
        self._keep(RELEASED, True) if released else self._meta.pop(RELEASED, None)

    @property
    def record(self) -> Any:
        """The growth record; None without a growth."""
        return self._growth.get("record")

    @record.setter
    def record(self, record: Any) -> None:
        self.keep_growth(record, self.outcomes)

    @property
    def before(self) -> Any:
        """The record of all growth before the one that passes are at, which `record` is of meanwhile; None without."""
        return self._meta.get(BEFORE)

    @before.setter
    def before(self, record: Any) -> None:
        self._keep(BEFORE, record)
        if record is None:
            del self._meta[BEFORE]

    @property
    def outcomes(self) -> list[Any]:
        """Return what the passes did to each axis class."""
        return self._growth.get("outcomes", [])

    @property
    def _growth(self) -> dict[str, Any]:
        """What was kept of a growth; a shell, whose attributes are the user's, has it with one of its parts."""
        if GROWTH in self._meta:
            return self._meta[GROWTH]
        return next((growth for path, part in self._parts() if part.meta.get(WHOLE, ("",))[0] == path
                     for growth in part.meta[WHOLE][1:]), {})

    def _parts(self) -> list[tuple[str, GraphModule]]:
        """Return the captured parts of a shell, by path."""
        module = self._module
        return [] if is_captured(module) else [(path, m) for path, m in module.named_modules() if is_captured(m)]

    def keep_growth(self, record: Any, outcomes: list[Any]) -> None:
        """Keep where the numbers come from and what was done, in place of what was kept before."""
        self.drop_growth()
        growth, parts = {"record": record, "outcomes": outcomes}, self._parts()
        if parts and INPUTS not in self._meta:  # of a loaded shell it is our own
            path, part = parts[0]
            part.meta[WHOLE] = path, growth
        else:
            self._keep(GROWTH, growth)

    def drop_growth(self) -> None:
        """Forget the growth: the module is then as one that was captured so."""
        self._meta.pop(GROWTH, None)
        for _, part in self._parts():
            part.meta.pop(WHOLE, None)

    def forget(self) -> None:
        """Forget the growth, and of a shell all that a file has put beside its own attributes."""
        if not isinstance(self._module, GraphModule) and not {GROWTH, INPUTS}.isdisjoint(self._meta):
            del self._module.meta
        self.drop_growth()
