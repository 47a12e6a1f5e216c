"""The registry of rules: which function says how an ATen op relates the axes of its operands."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

Rule = Callable[[Any, Any, tuple, dict, Any], None]  # (tape, name, args, kwargs, out)
RULES: dict[str, Rule] = {}
FORMS = (AssertionError, AttributeError, IndexError, KeyError, TypeError, ValueError)


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a function as the rule of the named ATen ops (`"add"` for every overload of `aten.add`)."""
    def register(fn: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, fn))
        return fn
    return register
