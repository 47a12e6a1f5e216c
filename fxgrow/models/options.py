"""Options behind a model's name: `resnet18?num_classes=10`, `mlp:hidden=(64,64)`. Nothing in such a text is ever run."""
import ast
import operator
import re
from collections.abc import Callable
from typing import Any

from fxgrow.errors import ModelError

_ARITHMETIC: dict[type, Callable] = {ast.Pow: operator.pow, ast.Div: operator.truediv, ast.Mult: operator.mul}


def split_options(text: str) -> tuple[str, dict[str, Any]]:
    """Split `NAME`, `NAME?key=value&key=value` or `NAME:key=value,key=value`; words without quotes are text.

    Raises:
        ModelError: what stands behind the name are no options.
    """
    name, query, options = re.fullmatch(r"([^?:]*)(\??):?(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]
    return name, options_in(options.replace("&", ",") if query else options, words=True)


def options_in(text: str, words: bool = False) -> dict[str, Any]:
    """Read `r=2**-3,num_classes=10,hidden=(64,64)`: literals, and products, quotients and powers of numbers.

    words: take names as text, as in `global_pool=avg`.

    Raises:
        ModelError: it is anything else.
    """
    try:
        call = ast.parse(f"f({text})", mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        call = None
    if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and not call.args:
        named = {str(k.arg): k.value for k in call.keywords if k.arg}
        if len(named) == len(call.keywords):
            return {key: value.id if words and isinstance(value, ast.Name) else _value(value, f"{text[:80]!r}: {key}")
                    for key, value in named.items()}
    raise ModelError(f"{text!r} are no options: write key=value,key=value, each key once, as r=2**-3,num_classes=10")


def _value(node: ast.expr, where: str) -> Any:
    """Return what a literal or a little arithmetic means."""
    try:
        return _evaluated(node)
    except (ValueError, TypeError, SyntaxError, ArithmeticError, MemoryError, RecursionError):
        raise ModelError(f"{where} is no number or literal; write 0.125, 2**-3, True or (64, 64)") from None


def _evaluated(node: ast.expr) -> Any:
    """Compute products, quotients and powers in floats, so that none is large; whole ones of whole numbers are whole."""
    if not isinstance(node, ast.BinOp) or type(node.op) not in _ARITHMETIC:
        return ast.literal_eval(node)
    left, right = _evaluated(node.left), _evaluated(node.right)
    result = _ARITHMETIC[type(node.op)](float(left), float(right))
    if {type(left), type(right)} - {int, float} or isinstance(result, complex):
        raise ValueError(result)
    whole = isinstance(left, int) and isinstance(right, int) and result.is_integer()
    return int(result) if whole else result
