"""What a graph with effects needs around it: the modes as they were where a call raises, and to be known while it runs."""
import functools
import traceback
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.fx import Graph
from torch.fx.graph import CodeGen

from fxgrow.layers import RUNNING, keep, set_autocast, set_grad

_is_on, _switch = torch.is_grad_enabled, torch.set_grad_enabled  # as they are before anybody watches them


def keeps_grad_mode(forward: Callable) -> Callable:
    """Let a forward that raises leave the grad mode and autocast as it found them, and be known while it runs."""
    @functools.wraps(forward)
    def keeping(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        before, outer = _is_on(), RUNNING.set(self)
        try:
            return forward(self, *args, **kwargs)
        except BaseException as error:
            for context in _entered(error, forward):
                context.__exit__(None, None, None)
            _switch(before)
            raise
        finally:
            RUNNING.reset(outer)
    return keeping


def _entered(error: BaseException, forward: Callable) -> list[torch.autocast]:
    """Return the contexts that a forward was in when it raised, the innermost first: torch.fx drops what is used no more."""
    held = next((f.f_locals for f, _ in traceback.walk_tb(error.__traceback__) if f.f_code is forward.__code__), {})
    return [value for value in reversed(held.values()) if isinstance(value, torch.autocast)]


class KeepsGradMode(CodeGen):
    """Write the code of a graph as a forward that keeps the modes."""

    def gen_fn_def(self, *args: Any, **kwargs: Any) -> str:
        """Return the head of the function."""
        return f"@keeps_grad_mode\n{super().gen_fn_def(*args, **kwargs)}"

    def additional_globals(self) -> list[tuple[str, Any]]:
        """Return what the head names."""
        return [("keeps_grad_mode", keeps_grad_mode)]


def keep_grad_mode(graph: Graph) -> None:
    """Let the code of a graph that switches modes keep them where it raises, and one that keeps attributes be known."""
    if any(node.target in (set_grad, set_autocast, keep) for node in graph.nodes):
        graph.set_codegen(KeepsGradMode())
