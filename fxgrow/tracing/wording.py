"""Words for values of a recording, in terms of the inputs of the model: `x.shape[1] // 2`.

What lives here: how one value is written. What does not: the sentence around it (guards.py).
"""
import operator
from collections.abc import Callable
from typing import Any

from torch.fx import Node

from fxgrow.tracing.sizes import Element, Number, plain

SYMBOLS = {operator.eq: "==", operator.ne: "!=", operator.lt: "<", operator.le: "<=", operator.gt: ">", operator.ge: ">=",
           operator.add: "+", operator.sub: "-", operator.mul: "*", operator.floordiv: "//", operator.mod: "%",
           operator.truediv: "/", operator.pow: "**"}
LONGEST = 60


def spoken(value: Any) -> str:
    """Write a value of a recording as code; a size that takes many words is written as the number that it is."""
    if isinstance(value, Number):
        words = spoken(value.origin)
        return words if len(words) <= LONGEST else str(plain(value))
    if isinstance(value, Element):
        base = spoken(value.base)
        return f"{base}.{value.key}" if value.get is getattr else f"{base}[{value.key!r}]"
    return _node(value) if isinstance(value, Node) else repr(value).replace("Ellipsis", "...")


def spoken_call(operation: Callable, operands: tuple) -> str:
    """Write an operation on values as code."""
    words = [spoken(o) for o in operands]
    if operation is getattr:
        return f"{words[0]}.{operands[1]}"
    if operation is operator.getitem:
        return f"{words[0]}[{words[1] if isinstance(operands[1], (int, str)) else '...'}]"
    if operation in SYMBOLS and len(words) == 2:
        return f" {SYMBOLS[operation]} ".join(f"({w})" if " " in w else w for w in words)
    return f"{getattr(operation, '__name__', operation)}({', '.join(words)})"


def _node(node: Node) -> str:
    args = node.args
    if node.op == "placeholder":
        return str(node.target).lstrip("*")
    if node.op == "get_attr":
        return str(node.target)
    if node.op == "call_module":
        return f"{node.target}(...)"
    if node.op != "call_method":
        short = node.target in (getattr, operator.getitem) or isinstance(node.meta.get("val"), (int, float))
        return spoken_call(node.target, args) if short else f"{getattr(node.target, '__name__', node.target)}(...)"
    if node.target == "size":
        return f"{spoken(args[0])}.shape" + (f"[{spoken(args[1])}]" if len(args) > 1 else "")
    return f"{spoken(args[0])}.{node.target}({'...' if len(args) > 1 else ''})"
