"""Stages: numbered lists of blocks, each of which can be the identity, and what keeps others from it."""
import re
from collections.abc import Callable, Iterator

import torch
from torch.fx import GraphModule

from fxgrow.blocks import ends, find_block, find_spread
from fxgrow.common import Refusal
from fxgrow.graph import below, owner_of, tensors_of
from fxgrow.growth import Part
from fxgrow.identity import Demand, Trace, layer_norm
from fxgrow.tracing import tolerance_of


class Stages:
    """Finds blocks that can be the identity in a captured module whose values are known.

    norms: weight and bias of the last norm of each block that is the identity only behind a norm without them, by block.
    passed_over: what keeps the last of a numbered list of blocks from being one, by its name.
    """

    def __init__(self, gm: GraphModule, trace: Trace):
        self.gm, self.trace = gm, trace
        self.norms: dict[str, tuple[str, str]] = {}
        self.passed_over: dict[str, str] = {}
        self._blocks: dict[str, Part | None] = {}
        self._why: dict[str, str] = {}

    def block(self, path: str) -> Part | None:
        """Return the block below a path, if one is there that can be the identity as it is."""
        if path not in self._blocks:
            self._blocks[path] = None
            for find, alone in self._finders(path):
                try:
                    self.norms.update(self._identity(find()))
                    self._blocks[path] = find()
                    break
                except Refusal as why:
                    if alone:
                        self._why[path] = str(why)
        return self._blocks[path]

    def _finders(self, path: str) -> Iterator[tuple[Callable[[], Part], bool]]:
        """Yield what finds a block, and whether it is the module's own; only if no other is one, a loop around it is."""
        spread = self.spread(path)
        yield from ((lambda block=block: block, True) for block in spread)
        yield lambda: find_block(path, self.trace, last=True), True
        yield from ((lambda block=block: block, False) for block in (() if spread else self._around(path)))

    def spread(self, path: str) -> list[Part]:
        """Return what may be the block of a module whose own code is never run, since a loop around it calls its layers."""
        nodes = self.trace.below.get(path, ())
        if any(path in (owner_of(node), str(node.target)) or owner_of(node) == str(node.target) for node in nodes):
            return []  # (files of fxgrow 0.1.0 do not say whose code calls a layer)
        return self._around(path)

    def _around(self, path: str) -> list[Part]:
        """Return what may be the block of a module and of a loop that calls it or its layers: `x = x + module(x)`."""
        numbered = re.fullmatch(r"(.*?)(\d+)", path)
        if numbered is None or not any(self.gm.get_submodule(path).children()):
            return []
        following = set(self.trace.below.get(f"{numbered[1]}{int(numbered[2]) + 1}", ()))
        found = find_spread(path, self.trace, self.gm.graph)
        return sorted(found, key=lambda part: following.isdisjoint(part.gives.users))  # first what the next one takes

    def _identity(self, block: Part) -> dict[str, tuple[str, str]]:
        """Insist that a block can be the identity; return its last norm, by its name, if it can behind a norm only."""
        x, out = ends(block, self.trace)
        if x.tensor.shape != out.tensor.shape:
            raise Refusal(f"it turns {list(x.tensor.shape)} into {list(out.tensor.shape)}")

        def own(name: str) -> bool:
            return below(name, block.name)

        try:
            Demand(x, own).identity(out)
        except Refusal:
            last = layer_norm(out)
            if last is None or not all(map(own, last)):
                raise
            Demand(x, own, normal=True).identity(out)
            self._insist_alone(last, float(out.arg(4)), out.tensor.dtype)
            return {block.name: last}
        return {}

    def _insist_alone(self, norm: tuple[str, str], eps: float, dtype: torch.dtype) -> None:
        """Insist that a norm can hand on its weight and bias, and that its eps, then counted twice, is no difference."""
        home = norm[0].rpartition(".")[0]
        named = [n for name in norm for n, t in tensors_of(self.gm).items() if t is self.gm.get_parameter(name)]
        if len(named) > len(norm) or sum(str(n.target) in (home, norm[0]) for n in self.gm.graph.nodes) > 1:
            raise Refusal(f"{home} is used elsewhere too, so it cannot hand on its weight and bias")
        if eps > tolerance_of(dtype) / 10:
            raise Refusal(f"it ends in the norm {home}; behind another one its eps of {eps:g} counts twice, which is a "
                          f"difference in {str(dtype).removeprefix('torch.')}")

    def below(self, path: str) -> list[list[str]]:
        """Return runs of neighbouring blocks in numbered lists that keep the shape of one value, the deepest there are.

        A list of parts that are all unlike (attention, then a perceptron) is the inside of a block, where it is one.
        """
        names = [n for n, _ in self.gm.get_submodule(path).named_children()]
        children = [f"{path}.{n}" if path else n for n in names]
        deeper = [run for child in children for run in self.below(child)]
        numbered = len({re.sub(r"\d+$", "", n) for n in names}) == 1 and names[0][-1].isdigit()
        if not numbered or not all(map(self._are_unlike, deeper)):
            return deeper
        runs: list[list[str]] = []
        end = None
        for child in children:
            block = self.block(child) if any(self.gm.get_submodule(child).children()) else None
            if block is not None:
                if block.takes is not end:
                    runs.append([])
                runs[-1].append(child)
            end = None if block is None else block.gives
        if not runs and children[-1] in self._why:
            self.passed_over[children[-1]] = self._why[children[-1]]
        return runs or deeper

    def _are_unlike(self, run: list[str]) -> bool:
        """Tell whether no two parts of the list that a run is in have the same tensors."""
        parts = [[n for n, _ in m.named_parameters()] for m in self.gm.get_submodule(run[0].rpartition(".")[0]).children()]
        return len(parts) > 1 and all(names not in parts[:i] for i, names in enumerate(parts))
