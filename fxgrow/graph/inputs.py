"""Example inputs: as a call, by the arguments of a forward, and on the meta device."""
import inspect
from collections.abc import Mapping
from keyword import iskeyword
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.fx import GraphModule

from fxgrow.aten import tree_map
from fxgrow.common import brief
from fxgrow.errors import CaptureError
from fxgrow.graph.captured import is_captured

PLAIN = (type(None), bool, int, float, str)  # defaults that can stand in the code of a graph


def as_call(example_inputs) -> tuple[tuple, dict[str, Any]]:
    """Return the positional and the keyword arguments by which example inputs call a model.

    Raises:
        CaptureError: they are neither a tensor, nor a list or tuple, nor a dictionary of keyword arguments.
    """
    if isinstance(example_inputs, Tensor):
        return (example_inputs,), {}
    if isinstance(example_inputs, Mapping):
        odd = [name for name in example_inputs if not str(name).isidentifier() or iskeyword(name)]
        if odd:
            raise CaptureError(f"example_inputs has the key {odd[0]!r}, which is no name of an argument: a dict holds "
                               "arguments by name, and an argument that is a dict goes into a tuple")
        return tree_map(_plain, ((), dict(example_inputs)))
    if isinstance(example_inputs, (tuple, list)) and example_inputs:
        return tree_map(_plain, (tuple(example_inputs), {}))
    raise CaptureError(f"example_inputs is {brief(example_inputs, 40)}: pass a tensor, a tuple of arguments or a dict "
                       "of them by name, as you would call the model")


def _plain(value: Any) -> Any:
    """Return a number of numpy's as one of Python's."""
    return value.item() if type(value).__module__ == "numpy" and getattr(value, "ndim", 1) == 0 else value


class Argument(NamedTuple):
    """One argument of a forward.

    default: empty, or the value for calls that leave the argument out. given: whether the example inputs hold it.
    """
    name: str
    value: Any
    default: tuple = ()
    given: bool = True


def arguments_of(model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> list[Argument]:
    """Return the arguments of a call in the order in which the forward of the model names them.

    One that is left out in front of others is among them with its default, so that places mean what they mean to the model.

    Raises:
        CaptureError: the forward takes no such arguments.
    """
    signature, given = _bound(model, args, kwargs)
    found: list[Argument] = []
    left_out: list[Argument] = []
    for name, parameter in signature.parameters.items():
        plain = isinstance(parameter.default, PLAIN)
        if name not in given:
            if plain and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
                left_out.append(Argument(name, parameter.default, (parameter.default,), given=False))
            continue
        found += left_out
        left_out = []
        needless = plain and not isinstance(given[name], Tensor)
        default = (parameter.default if plain else None,) if needless or any(a.default for a in found) else ()
        if parameter.kind is parameter.VAR_POSITIONAL:
            found += [Argument(f"input_{i}", value, default) for i, value in enumerate(given[name], len(found))]
        elif parameter.kind is parameter.VAR_KEYWORD:
            found += [Argument(key, value, default) for key, value in given[name].items()]
        else:
            found.append(Argument(name, given[name], default))
    return found


def _bound(model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[inspect.Signature, dict[str, Any]]:
    """Return the signature of a forward, and the values of a call by the names in it."""
    captured = is_captured(model)
    signatures = [_of_placeholders(model)] if captured else [
        inspect.signature(model.forward, follow_wrapped=follow) for follow in (True, False)]
    for signature in signatures:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            why = error
            continue
        if captured:
            bound.apply_defaults()
        return signature, bound.arguments
    hint = " (a dict holds arguments by name; an argument that is a dict goes into a tuple)" if kwargs else ""
    raise CaptureError(f"the example inputs do not fit {type(model).__name__}, whose forward takes {signatures[0]}: "
                       f"{why}{hint}")


def _of_placeholders(gm: GraphModule) -> inspect.Signature:
    """Return the signature of a graph, whose code may not be compiled yet."""
    kind, required = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.empty
    return inspect.Signature([inspect.Parameter(str(node.target), kind, default=node.args[0] if node.args else required)
                              for node in gm.graph.nodes if node.op == "placeholder"])


def to_meta(value):
    """Return a nested value with every tensor in it on the meta device."""
    return tree_map(lambda v: v.detach().to("meta") if isinstance(v, Tensor) and not v.is_meta else v, value)
