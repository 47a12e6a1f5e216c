"""The grad mode around a graph that switches it: as it was, also where a call raises between switching off and back."""
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.fx import Graph
from torch.fx.graph import CodeGen

from fxgrow.layers import set_grad

_is_on, _switch = torch.is_grad_enabled, torch.set_grad_enabled  # as they are before anybody watches them


def keeps_grad_mode(forward: Callable) -> Callable:
    """Let a forward that raises leave the grad mode as it found it."""
    @functools.wraps(forward)
    def keeping(*args: Any, **kwargs: Any) -> Any:
        before = _is_on()
        try:
            return forward(*args, **kwargs)
        except BaseException:
            _switch(before)
            raise
    return keeping


class KeepsGradMode(CodeGen):
    """Write the code of a graph as a forward that keeps the grad mode."""

    def gen_fn_def(self, *args: Any, **kwargs: Any) -> str:
        """Return the head of the function."""
        return f"@keeps_grad_mode\n{super().gen_fn_def(*args, **kwargs)}"

    def additional_globals(self) -> list[tuple[str, Any]]:
        """Return what the head names."""
        return [("keeps_grad_mode", keeps_grad_mode)]


def keep_grad_mode(graph: Graph) -> None:
    """Let the code of a graph that switches gradients off or on keep the grad mode where it raises."""
    if any(node.target is set_grad for node in graph.nodes):
        graph.set_codegen(KeepsGradMode())
