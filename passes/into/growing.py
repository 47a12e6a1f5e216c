"""grow_into: the numbers of a small model as a start for a bigger one of a stock class. No rule here knows a model."""
import copy
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from fxgrow.aten import HALF, tree_leaves, wide_values
from fxgrow.common import without_collector
from fxgrow.compare import TOLERANCE, Verification, copy_of, names_half, verify
from fxgrow.errors import CaptureError, GrowthError
from fxgrow.graph import Captured, as_call, is_captured, skeleton, tensors_of, uncached
from fxgrow.models import dtype_of, results_alone
from fxgrow.passes.into.constants import absorb_constants
from fxgrow.passes.into.copied_experts import tell_apart, with_copied_experts
from fxgrow.passes.into.heads import with_copied_heads
from fxgrow.passes.into.mixtures import experts_of, mixtures_of, run_everywhere, with_dense
from fxgrow.passes.into.new_parts import numbers_of
from fxgrow.passes.into.omitted import Omitted
from fxgrow.passes.into.open_experts import with_open_experts
from fxgrow.passes.into.outside import insist_on_constants, longer_tables, outside_state
from fxgrow.passes.into.pairing import Pairing
from fxgrow.passes.into.plan import Options, Plan, Step
from fxgrow.passes.into.result import GrownInto
from fxgrow.passes.into.sources import folder_of, loaded
from fxgrow.passes.into.widening import Widening, with_larger_kernels
from fxgrow.passes.support import default_method, seed_of
from fxgrow.record import GrowthRecord, ParameterRecord, record_in
from fxgrow.tracing import capture_graph

LOADING = ("state_dict", "load_state_dict", "_save_to_state_dict", "_load_from_state_dict", "get_extra_state",
           "set_extra_state")
LOADING_HOOKS = [name for name in vars(nn.Module()) if "state_dict" in name]


def grow_into(small: nn.Module | str, big: nn.Module | str | Mapping[str, Any], example_inputs: Any = None, *,
              method: Literal["r2r", "net2net", "netmorph"] | None = None,
              place: Literal["end", "spread", "interleave"] = "end", approximate: bool = False, extend: bool = False,
              noise: float = 0.0, check: bool = True, seed: int | None = None) -> GrownInto:
    """Return numbers for `big`, an untouched model of any class, by which it computes in eval mode what `small` does.

    Args:
        small: the trained model, or the folder of one.
        big: the model to fill; its own numbers are where new ones start from. It is left as it is. Or its folder, or its
            config.json; or how the configuration of `small` changes: `{"hidden_size": 4096}`.
        example_inputs: as for `capture`; both models take them. Left out: token ids, pixels or the like, drawn where the
            configuration of `small` says what it takes.
        method: r2r (pairs that cancel, where there can be some), net2net (copies) or netmorph (zeros at the end). New layers
            without a skip path are identity layers whatever the method. None: r2r; of 16-bit numbers net2net, which rounds
            least.
        place: where in a stage new blocks stand: at its end, spread among the old ones, or one behind each old one.
        approximate: where no way is exact, take the closest one; the verification says how far off it is.
        extend: the big model may give more numbers than the small one; the first along each axis are as before.
        noise: what is added to experts that are equal to another one, as a part of their numbers' deviation; not exact.
        check: compare both models on the example inputs.
        seed: of every random choice; None takes one from torch's global generator.

    Returns:
        A dictionary that `big.load_state_dict(..., strict=True)` takes, with `.model`, `.plan`, `.record`, `.verification`;
        `.save(FOLDER)` writes what `from_pretrained` loads, where `big` is a class of transformers.

    Raises:
        GrowthError: there is no exact way; names the layer that forbids it, and why.
        CaptureError: a model cannot be captured.
        ModelError: a folder cannot be loaded, or a configuration cannot change so.
    """
    seed = seed_of(seed)
    first, second, inputs = loaded(small, big, example_inputs, seed)
    options = Options(method or default_method(dtype_of(first)), place, approximate, extend, seed, noise)
    with without_collector():
        return Into(first, second, inputs, options).grow(check)


class Into:
    """The steps from a small model to a big one, each with the numbers that it found.

    given: both models in their type. small, big: both in that which is computed in, float32 for 16 bits: what is written is
    rounded once.
    """

    def __init__(self, small: nn.Module, big: nn.Module, example_inputs, options: Options, streamed: bool = False):
        args, kwargs = as_call(example_inputs)
        self.options, self.inputs = options, args or kwargs
        self.given = small, big if streamed else _like(big, small)
        self.small, self.big = self.given if streamed or names_half(small) else map(_wide, self.given)
        taken = self.inputs if self.small is self.given[0] else wide_values(self.inputs)
        self.plan = Plan()
        steps = self.plan.steps
        self.mixtures = mixtures_of(self.big, self.small)
        if self.mixtures:
            self.big = with_dense(self.big, self.mixtures)
            steps += [mixture.step() for mixture in self.mixtures]
        same, self.prior = with_copied_heads(self.small, self.big, taken, steps)
        same, first = with_copied_experts(same, self.big, taken, steps)
        self.open = bool(list(experts_of(same)) and list(experts_of(self.big)))
        if self.open:
            same, self.big = with_open_experts(same), with_open_experts(self.big)
        self.prior = self.prior.then(first) if self.prior and first else self.prior or first
        self.alone = not is_captured(same) or _gives_results_alone(same)
        with self._compared(same, self.big):
            small_gm, big_gm = _graphs((same, self.big), taken, streamed)
        self.pairing = pairing = Pairing(small_gm, big_gm, options.place)
        if doubt := next((mixture.doubt for mixture in self.mixtures if mixture.doubt), ""):
            raise GrowthError(doubt)
        self.constants = outside_state(self.big, pairing)
        for name in longer_tables(pairing, self.constants):
            del pairing.names[name]
        gm = with_larger_kernels(pairing, steps)
        self.omitted = Omitted(big_gm, pairing.match.extras)
        self.widening = Widening(pairing, self.omitted, options, steps)
        grown, self.record = self.widening.widened(gm)
        self.rescaling = absorb_constants(pairing, None if grown is gm else grown, self.constants, steps)
        tensors = tensors_of(grown)
        self.old = self.rescaling.rescaled({theirs: tensors[ours].detach() for theirs, ours in pairing.names.items()})
        self.new: dict[str, Tensor] = {}
        for extra in pairing.extras:
            self.new |= numbers_of(extra, pairing, self.old, options, steps)
        self.unread = _unread(self.small, self.big, big_gm)
        self.wrong = insist_on_constants(pairing, self.constants, self._constants_wanted())
        for step in self.wrong:
            step.note += self._rounded_by_to(step.name)
        steps += self.wrong

    def _rounded_by_to(self, name: str) -> str:
        """Return what to do where one model's constant has 16 bits and the other's more ("": that is not so)."""
        small, big = (dict(model.named_buffers()) for model in self.given)
        pair = small.get(self.pairing.names.get(name, name)), big.get(name)
        kinds = {t.dtype for t in pair if t is not None}
        half = next((kind for kind in kinds if kind in HALF), None)
        return f"; in one they are rounded: build both with dtype={half}, as from_pretrained does, not by .to({half})" \
            if half and len(kinds) > 1 else ""

    def _compared(self, *models: nn.Module) -> AbstractContextManager:
        """Let models give their results alone, where both can."""
        return results_alone(*models) if self.alone else nullcontext()

    def _constants_wanted(self) -> dict[str, Tensor]:
        """Return what the tensors that no state_dict holds would have to be in the big model."""
        neutral = {name: torch.full_like(self.constants[name], number)
                   for name, number in self.pairing.neutral().items() if name in self.constants}
        return neutral | {name: self.omitted.placed(name, self.constants[name], value)
                          for name, value in (self.old | self.new).items() if name in self.constants}

    def grow(self, check: bool = True) -> GrownInto:
        """Return the numbers of the big model, compared with the small one if asked to.

        What is compared is a copy of the big model that has loaded them, as the user's will.

        Raises:
            GrowthError: they do not fit, or the models differ.
        """
        filled = model = copy.deepcopy(self.big)
        tensors, record = tensors_of(filled), self._records()
        with torch.no_grad():
            self._fill(tensors)
            self._hand_on_norms(tensors, record)
        if self.given[1] is not self.big or not all(map(_loads_plainly, self.big.modules())):
            model = copy.deepcopy(self.given[1])
            model.load_state_dict(self._state(filled), strict=True)
        found = GrownInto.of(run_everywhere(model))
        found.plan, found.source = self.plan, folder_of(self.given[0])
        found.record = self._chained(record)
        found.verification = self._verified(model) if check or self.wrong else None
        if self.options.noise:  # on what is exact without it
            tell_apart(model, self.options.noise, self.options.seed)
            self.plan.steps.append(Step("experts", "noise", method="approximate", note="tells equal experts apart"))
            found.verification = self._verified(model, insist=False) if check else None
        return found

    def _state(self, filled: nn.Module) -> dict[str, Tensor]:
        """Return the numbers of the big model from those of the one that was filled, whose experts are dense."""
        state = filled.state_dict()
        for mixture in self.mixtures:
            own = self.given[1].get_submodule(mixture.path).state_dict()
            state |= mixture.filled(state, {f"{mixture.path}.{n}": t.detach().clone() for n, t in own.items()})
        return state

    def _chained(self, record: GrowthRecord) -> GrowthRecord:
        """Return a record with experts, behind that of copies and, of a folder that has grown before, of that growth."""
        for mixture in self.mixtures:
            mixture.note(record, self.given[1].named_parameters())
        if self.prior is not None:
            record = self.prior.then(record)
        earlier = None if is_captured(self.given[0]) else record_in(self.given[0])
        return record if earlier is None else earlier.then(record)

    def record_of(self) -> GrowthRecord:
        """Return where the big model's numbers come from."""
        return self._chained(self._records())

    def copied(self, name: str, tensor: Tensor) -> Tensor:
        """Return a tensor of the small model with the copies of heads and experts that the match takes for granted."""
        entry = None if self.prior is None else self.prior.parameters.get(name)
        for dim, index in enumerate(entry.index if entry is not None else ()):
            tensor = tensor if index is None else tensor.index_select(dim, index)
        return tensor

    def graphs(self) -> tuple[GraphModule, GraphModule]:
        """Return the graphs of both models as they are given, without numbers where they are without."""
        graphs = self.pairing.small.gm, self.pairing.big.gm
        with self._compared(*self.given):
            plain = self.prior is None and not self.open, not self.mixtures and not self.open
            return tuple(gm if as_they_are else capture_graph(model, self.inputs, check=False, guard=False, train=False)  # type: ignore[return-value]
                         for gm, as_they_are, model in zip(graphs, plain, self.given))

    def _records(self) -> GrowthRecord:
        """Return where the numbers of the models that were matched come from."""
        tensors = tensors_of(self.big)
        record = GrowthRecord(lineage=[{"pass": "grow_into", "method": self.options.method, "seed": self.options.seed}],
                              certificate=self.plan.to_json(), origin={"": skeleton(self.pairing.small.gm)})
        record.parameters = self._entries(tensors)
        record.removed = tensors_of(self.pairing.small.gm).keys() - tensors.keys() - self.constants.keys()
        return record

    def _fill(self, tensors: dict[str, Tensor]) -> None:
        """Put all numbers into the big model that its state_dict holds."""
        for name, number in self.pairing.neutral().items():
            if name not in self.constants:
                tensors[name].fill_(number)
        self.omitted.blank(tensors, [name for name in self.pairing.names if name not in self.constants])
        for name, value in [*self.unread.items(), *self.old.items(), *self.new.items()]:
            if name in self.constants:
                continue
            value = self.omitted.placed(name, tensors[name], value)
            if tensors[name].shape != value.shape:
                raise GrowthError(f"{name} is {list(tensors[name].shape)} in the big model, and would be "
                                  f"{list(value.shape)} by what its class grows to")
            tensors[name].copy_(value)

    def _entries(self, tensors: dict[str, Tensor]) -> dict[str, ParameterRecord]:
        """Return where the numbers of each tensor of the big model come from."""
        known, held = tensors_of(self.small), self.big.state_dict()
        entries = {n: ParameterRecord.new(t.ndim) for n, t in tensors.items() if n in held or n not in known}
        entries |= {name: ParameterRecord.same(name, t.ndim) for name, t in self.unread.items()}
        for theirs, ours in self.pairing.names.items():
            if theirs not in tensors:  # a plain tensor
                continue
            entry = self.omitted.entry(theirs, self.record.entry(ours, tensors[theirs].ndim))
            scale, shift = self.rescaling.of(theirs)
            entry.scale, entry.shift = entry.scale * scale, entry.shift * scale + shift
            entries[theirs] = entry
        return entries

    def _hand_on_norms(self, tensors: dict[str, Tensor], record: GrowthRecord) -> None:
        """Give the last norm of a new block weight and bias of the norm in front of it, which then has neither."""
        for extra in self.pairing.extras:
            for front, end, plain in zip(*(extra.norms or ((), ())), (1.0, 0.0)):
                tensors[end].copy_(tensors[front])
                tensors[front].fill_(plain)
                record.parameters[end], record.parameters[front] = record.parameters[front], ParameterRecord.new(1)

    def _verified(self, model: nn.Module, insist: bool = True) -> Verification:
        if any(isinstance(v, Tensor) and v.is_meta for v in tree_leaves(self.inputs)):
            raise GrowthError("; ".join(f"{s.name}: {s.note}" for s in self.wrong) or "the example inputs have no numbers")
        small = copy_of(self.given[0])
        for p in small.parameters():
            p.requires_grad_(p.is_floating_point() or p.is_complex())  # what is frozen is no matter of the class
        with uncached(small, model), self._compared(small, model):
            checked = self.allowing(verify(small, model, self.inputs, extended=self.options.extend))
            if self.given[0] is not self.small:
                checked = replace(checked, notes=(*checked.notes, rounded_once(dtype_of(small))))
        if insist:
            self.insist_equal(checked)
        return checked

    def insist_equal(self, checked: Verification) -> None:
        """Raise GrowthError where both models differ, with the doubts of the plan, unless the closest way will do.

        Other constants (angles of rotary embeddings) may show on longer inputs alone, or be less than 16 bits tell.
        """
        if (self.wrong or not checked.ok) and not self.options.approximate:
            doubts = "".join(f"; {s.name}: {s.note}" for s in self.plan.steps if s.method == "not possible")
            raise GrowthError(f"the two models differ by {checked.max_rel_error:.2g} of the largest output{doubts}; "
                              "`approximate` gives these numbers all the same")

    def allowing(self, checked: Verification) -> Verification:
        """Return a comparison, if need be by the tolerance of the least exact type that the big model computes in."""
        made = self.pairing.big.trace.made.values()
        kinds = {v.tensor.dtype for ops in made for v in ops if v.tensor.is_floating_point()}
        tolerance = max((TOLERANCE[k] for k in kinds if k in TOLERANCE), default=0.0)
        if checked.ok or tolerance <= checked.tolerance:
            return checked
        exact = tuple(mode for mode, error in checked.errors.items() if error <= tolerance)
        note = "its class computes partly in a type of less precision"
        return replace(checked, tolerance=tolerance, exact_in=exact, notes=(*checked.notes, note))


def _graphs(models: tuple[nn.Module, nn.Module], inputs: Any, streamed: bool) -> list[GraphModule]:
    """Return the graphs of both models, for eval mode alone where that of train mode is none (it draws by NumPy)."""
    try:
        return [capture_graph(model, inputs, check=not streamed, guard=False, train=not streamed) for model in models]
    except CaptureError:
        if streamed:
            raise
        return [capture_graph(model, inputs, check=False, guard=False, train=False) for model in models]


def _unread(small: nn.Module, big: nn.Module, gm: GraphModule) -> dict[str, Tensor]:
    """Return parameters of the same name and shape that no forward reads in eval mode (what stands for masked sound)."""
    layers = {str(n.target): gm.get_submodule(str(n.target)) for n in gm.graph.find_nodes(op="call_module")}
    read = {str(n.target) for n in gm.graph.find_nodes(op="get_attr")}
    read |= {f"{path}.{name}" for path, layer in layers.items() for name in tensors_of(layer)}
    theirs = dict(big.named_parameters())
    return {name: p.detach() for name, p in small.named_parameters()
            if name in theirs and name not in read and p.shape == theirs[name].shape}


def _loads_plainly(module: nn.Module) -> bool:
    """Tell whether what a module loads of a state_dict is what it then has: torch takes quadratic time to load."""
    cls: Any = type(module)
    is_plain = cls.__module__.startswith("torch.nn.modules.") or \
        all(getattr(cls, name) is getattr(nn.Module, name) for name in LOADING)
    return is_plain and not any(getattr(module, hooks) for hooks in LOADING_HOOKS)


def _gives_results_alone(small: nn.Module) -> bool:
    """Tell whether a captured model gives logits and nothing else."""
    given = next(iter(small.graph.find_nodes(op="output"))).args[0]  # type: ignore[union-attr,operator]
    return isinstance(given, Node) and bool(given.kwargs) and all("logits" in name for name in given.kwargs)


def _wide(model: nn.Module) -> nn.Module:
    """Return a model in float32 where its numbers have 16 bits."""
    if dtype_of(model) not in HALF:
        return model
    wide = copy.deepcopy(model).float()
    if is_captured(wide):
        Captured(wide).inputs = wide_values(Captured(wide).inputs)
    return wide


def rounded_once(dtype: torch.dtype) -> str:
    """Say how numbers of 16 bits were made."""
    return f"computed in float32 and rounded once to {str(dtype).removeprefix('torch.')}"


def _like(big: nn.Module, small: nn.Module) -> nn.Module:
    """Return the big model with numbers of the small one's type, on its device."""
    if any(t.is_meta for model in (small, big) for t in tensors_of(model).values()):
        raise GrowthError("a model on the meta device has no numbers: build both with numbers")
    like = next((p for p in small.parameters() if p.is_floating_point()), None)
    first = next((p for p in big.parameters() if p.is_floating_point()), None)
    if like is None or first is None or (like.dtype, like.device) == (first.dtype, first.device):
        return big
    return copy.deepcopy(big).to(dtype=like.dtype, device=like.device)
