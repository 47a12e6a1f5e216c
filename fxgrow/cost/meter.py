"""The meter: counts each ATen op of a network that runs on meta tensors, and the memory that it keeps."""
from collections import Counter, defaultdict
from collections.abc import Mapping
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from fxgrow.aten import Watching, compute, effects, noted_counts, tensors_in, tree_leaves
from fxgrow.common import load_installed
from fxgrow.cost.costs import ASSUMED, Cost
from fxgrow.cost.rules import GROUPS, NOTHING, RULES, Flops, stored


class MemoryUse:
    """One piece of memory: when it is made, last read, and first kept for the backward pass, in numbers of ops.

    hidden: made where autograd does not look (a custom `autograd.Function`, `no_grad`) out of what needs a gradient.
    """
    __slots__ = ("born", "bytes", "hidden", "identity", "kept", "param", "used")

    def __init__(self, storage: torch.UntypedStorage, now: int, param: bool):
        self.bytes, self.born, self.used, self.param = storage.nbytes(), now, now, param
        self.kept: int | None = None
        self.hidden = False
        self.identity = StorageWeakRef(storage)  # while it stands, no other memory gets the same identity


class Part:
    """A part of the forward pass that is run once more in the backward pass: its ops, and how many of them run again."""

    def __init__(self, outer: "Part | None"):
        self.outer, self.again = outer, 0
        self.ops: list[tuple[tuple[str, str], int]] = []  # where, FLOPs


class MeteredOp(NamedTuple):
    """One op that ran: the graph node and module it is in, and what its backward pass costs, reads and writes."""
    where: tuple[str, str]
    part: Part | None
    backward: int  # FLOPs
    differentiated: list[MemoryUse]  # the operands that need a gradient
    results: list[MemoryUse]


def tensors_held(result: Any) -> list[Tensor]:
    """Return the tensors of what a forward gives, in objects that hold them as attributes as well."""
    found, seen, waiting = [], set(), [result]
    while waiting:
        for leaf in tree_leaves(waiting.pop()):
            if isinstance(leaf, Tensor):
                found.append(leaf)
            elif id(leaf) not in seen and not isinstance(leaf, (type, nn.Module)):
                seen.add(id(leaf))
                waiting.append([*(leaf if isinstance(leaf, Mapping) else getattr(leaf, "__dict__", {})).values()])
    return found


class Meter(Watching):
    """Watches ATen ops: sums up what the forward pass costs, and keeps what is needed to know the backward pass.

    part: the innermost checkpointed part that runs. factors: how often the next products count (once where there is none).
    """
    supports_higher_order_operators = True

    def __init__(self, ops: str):
        super().__init__()
        self.wanted = GROUPS[:GROUPS.index(ops) + 1]
        self.where = ("", "")  # graph node, module
        self.part: Part | None = None
        self.factors: list[int] = []
        self.memory: dict[int, MemoryUse] = {}
        self.ops: list[MeteredOp] = []
        self.costs: defaultdict[tuple[str, str], Cost] = defaultdict(Cost)
        self.uncounted: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.facts: dict[Any, tuple] = {}  # by op
        self.counts: list[int] = []  # of an op that takes as many positions as its data say: how many were assumed
        self.assumed = False

    def of(self, tensor: Tensor, param: bool = False) -> MemoryUse:
        """Return the memory that a tensor lies in."""
        storage = stored(tensor).untyped_storage()
        if storage._cdata not in self.memory:
            self.memory[storage._cdata] = MemoryUse(storage, len(self.ops), param)
        return self.memory[storage._cdata]

    def enter_part(self) -> Part:
        """Return a part of the forward pass that begins here, and is run once more in the backward pass."""
        self.part = Part(self.part)
        return self.part

    def keep(self, tensor: Tensor) -> Tensor:
        """Note that autograd keeps a tensor for the backward pass."""
        memory = self.of(tensor)
        if memory.kept is None:
            memory.kept = len(self.ops)
            if not memory.param:
                self.costs[self.where].activation_bytes += memory.bytes
        return tensor

    def _facts(self, func) -> tuple:
        """Return an op's rule, if it counts; whether it is a view; its name if not counted; whether it is made of others."""
        if not isinstance(func, torch._ops.OpOverload):  # takes functions
            return None, False, str(func), False
        name, view, written = effects(func)
        name = name.rstrip("_") if written else name
        if name not in RULES:
            load_installed("fxgrow.rules")
        group, rule = RULES.get(name, ("", None))
        return (rule, view, "", False) if group in self.wanted else (None, view, name, not group and func._can_decompose())

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        facts = self.facts.get(func)
        if facts is None:
            facts = self.facts[func] = self._facts(func)
        rule, view, uncounted, composite = facts
        if composite:  # seen in inference mode alone
            with self:
                return func.decompose(*args, **kwargs)
        with noted_counts(self.counts):
            out = compute(func, args, kwargs)
        if view:
            return out
        if self.counts:
            self.uncounted[effects(func)[0] + ASSUMED][self.where[1]] += 1
            self.counts.clear()
            self.assumed = True
        if uncounted:
            self.uncounted[uncounted][self.where[1]] += 1
        self._record(NOTHING if rule is None else rule(args, kwargs, out),
                     tensors_in((*args, *kwargs.values())), tensors_in((out,)))
        return out

    def _record(self, flops: Flops, ins: list[Tensor], outs: list[Tensor]) -> None:
        if flops.macs and self.factors:
            flops = flops.times(self.factors.pop(0))
        now, cost = len(self.ops), self.costs[self.where]
        read, results = list(map(self.of, ins)), list(map(self.of, outs))
        for memory in read:
            memory.used = now
        differentiated = [memory for t, memory in zip(ins, read) if self._needs_gradient(t)]
        if differentiated and not torch.is_grad_enabled():
            for memory in results:
                memory.hidden = True
        cost.forward += flops.forward
        cost.macs += flops.macs
        cost.moved_bytes += sum(t.numel() * t.element_size() for t in (*ins, *outs))
        backward = 0 if not differentiated else sum(
            amount for due_to, amount in flops.backward if any(map(self._needs_gradient, tensors_in((due_to,)))))
        part = self.part
        while part is not None:
            part.ops.append((self.where, flops.forward))
            part = part.outer
        self.ops.append(MeteredOp(self.where, self.part, backward, differentiated, results))

    def _needs_gradient(self, tensor: Tensor) -> bool:
        return tensor.requires_grad or (not torch.is_grad_enabled() and self.of(tensor).hidden)

    def finish(self, result) -> tuple[int, set[MemoryUse]]:
        """Add the backward pass from the differentiable results; return the peak of memory, and what gets a gradient."""
        results = tensors_held(result)
        reached = {self.of(t) for t in results if t.requires_grad}
        steps = len(self.ops)
        for t in results:
            self.of(t).used = 2 * steps  # the caller holds it
        first_grad = dict.fromkeys(reached, steps)  # the op whose backward makes the gradient first (the last that reads it)
        last_grad: dict[MemoryUse, int] = {}
        parts: set[Part] = set()
        twice: list[tuple[int, int]] = []  # ops whose backward holds the gradient of some memory twice, and its bytes
        for at in range(steps - 1, -1, -1):
            op = self.ops[at]
            arrived = [memory for memory in op.results if memory in reached]
            if not op.differentiated or not arrived:
                continue
            last_grad.update(dict.fromkeys(arrived, at))
            for memory in op.differentiated:
                if first_grad.setdefault(memory, at) != at:  # added to that of later readers, or of what is written here
                    twice.append((at, memory.bytes))
                reached.add(memory)
            self.costs[op.where].backward += op.backward
            if op.part is not None:
                parts.add(op.part)
        for part in parts:
            for where, flops in part.ops[:part.again]:
                self.costs[where].recomputed += flops
        return self._peak(first_grad, last_grad, twice), reached

    def _peak(self, first_grad: dict[MemoryUse, int], last_grad: dict[MemoryUse, int], twice: list[tuple[int, int]]) -> int:
        """Return the most bytes alive at once. Time runs over the ops, forward, then backward in reverse."""
        steps = len(self.ops)
        change: Counter[int] = Counter()

        def alive(start: int, end: int, size: int) -> None:
            change[start] += size
            change[end + 1] -= size

        for memory in self.memory.values():
            if memory.param or not memory.bytes:
                continue
            end = memory.used if memory.kept is None else max(memory.used, 2 * steps - min(memory.kept, steps - 1))
            alive(memory.born, end, memory.bytes)
            if memory in first_grad and memory in last_grad:
                alive(2 * steps - first_grad[memory], 2 * steps - last_grad[memory], memory.bytes)
        for at, size in twice:
            alive(2 * steps - at, 2 * steps - at, size)
        return max(accumulate(change[time] for time in sorted(change)), default=0)
