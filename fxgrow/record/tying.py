"""Tying: the old numbers of a grown network are computed from those of its parent."""
import contextlib
from typing import TypeAlias

from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn.utils import parametrize

from fxgrow.errors import GrowthError
from fxgrow.graph import Captured, clone_structure, shards_in, tensors_of, trains
from fxgrow.record.entries import ParameterRecord
from fxgrow.record.grown import Grown, record_in
from fxgrow.record.matching import Side
from fxgrow.record.record import GrowthRecord
from fxgrow.record.tied import Computed, Tied, recompiled, tensor_of, untie, with_class_of_its_own

Tie: TypeAlias = tuple[nn.Parameter | nn.Module, ParameterRecord]  # a parent's parameter or what computes it; how it grew


def tie(parent: nn.Module, child: nn.Module | Grown, record: GrowthRecord | None = None) -> nn.Module:
    """Return a copy of a grown network whose old numbers *are* the parameters of `parent`.

    One step of an optimizer on either moves both. Of its own the child has its new numbers and its buffers (running
    statistics are of what a network has seen itself). `dict.fromkeys([*parent.parameters(), *child.parameters()])`
    are the parameters of both, each once. Where the child's old numbers are no longer the parent's, the parent's are used.

    Args:
        parent: the small model that `child` grew from, captured or not; it may be tied to its own parent.
        child: what `fxgrow.transform` returned, or a grown model that `fxgrow.load` read.
        record: how `child` grew from `parent`, where the record that it holds is not that (of a model that does not hold
            it, or of one that `parent` is only the last step to).

    Raises:
        GrowthError: a parameter is not the parent's (net2net shares its columns out), does not fit it, or belongs to a layer
            that cannot compute its weights (nn.LSTM).
    """
    record = record_in(child) if record is None else record
    if record is None:
        raise GrowthError("tie needs a growth record: give what fxgrow.transform returned, or the record as well")
    parent, model = _inside(record.small_side(), parent), untie(child.model if isinstance(child, Grown) else child)
    model = _inside(record.grown_side(), model)
    new = _copy(model, _ties(parent, model, record))
    for gm in list(new.modules()):
        if isinstance(gm, GraphModule):
            _replace_reads(gm)
    _tie_layers(new)
    Captured(new).keep_growth(record, [])
    return recompiled(new)


def _inside(side: Side, model: nn.Module) -> nn.Module:
    """Return a model without what is wrapped around it."""
    if sharded := shards_in(model):
        raise GrowthError(sharded)
    with contextlib.suppress(GrowthError):  # it is tied itself, or not the record's, which is told of its tensors
        return model.get_submodule(side.prefix_in(model).removesuffix("."))
    return model


def _ties(parent: nn.Module, model: nn.Module, record: GrowthRecord) -> dict[int, Tie]:
    """Return what each parameter of the model, by its id, is to be tied to."""
    theirs, ours = _sources(parent), tensors_of(model)
    ties: dict[int, Tie] = {}
    for name, (tensor, entry) in record.located(ours).items():
        if entry.source is not None and isinstance(tensor, nn.Parameter):
            source = theirs.get(entry.source)
            _check(name, tensor, entry, source)
            ties[id(tensor)] = source, entry  # type: ignore[assignment]
    return ties


def _tie_layers(model: nn.Module) -> None:
    """Make the marked parameters of layers the parent's own, or computed from them."""
    shared: dict[int, nn.Parameter] = {}  # new numbers of a parameter that several layers have
    for path, module in list(model.named_modules()):
        order = tuple(module._parameters)
        for attribute, held in list(module._parameters.items()):
            if held is None or not hasattr(held, "tied_to"):
                continue
            source, entry = held.tied_to
            if _is_parents(held.tied_to):
                setattr(module, attribute, source)  # of an LSTM, its list of weights as well
                continue
            if isinstance(module, (nn.RNNBase, GraphModule, parametrize.ParametrizationList)):
                raise GrowthError(f"{path}.{attribute}".lstrip(".") + f" cannot be tied: a {type(module).__name__} cannot "
                                  "compute its weights from the parent's; leave its axes as they are with where=")
            if parametrize.is_parametrized(module):
                with_class_of_its_own(module, dict(module.parametrizations.items()))  # type: ignore[union-attr, operator]
            module._parameters[attribute] = nn.Parameter(held.detach(), held.requires_grad)  # set to the new ones
            parametrize.register_parametrization(module, attribute, Tied(source, entry, order), unsafe=True)
            chain = module.parametrizations[attribute]  # type: ignore[index]
            chain.original = shared.setdefault(id(held), chain.original)


def _is_parents(tie: Tie) -> bool:
    """Tell whether a parameter is a parent's as it was."""
    source, entry = tie
    return entry.unchanged and isinstance(source, nn.Parameter)


def _sources(parent: nn.Module) -> dict[str, nn.Parameter | nn.Module]:
    """Return the parent's parameters, or what computes them, by the names that they have in a network that is not tied."""
    found: dict[str, nn.Parameter | nn.Module] = dict(parent.named_parameters(remove_duplicate=False))
    for path, module in parent.named_modules(remove_duplicate=False):
        if isinstance(module, Computed):
            found[path.removesuffix("_tied")] = module
        elif parametrize.is_parametrized(module):
            chains = module.parametrizations.items()  # type: ignore[union-attr, operator]
            found |= {f"{path}.{n}".lstrip("."): chain for n, chain in chains if isinstance(chain[0], Tied)}
    return found


def _replace_reads(gm: GraphModule) -> None:
    """Make grown parameters that a graph reads by name the results of layers."""
    called = {str(n.target) for n in gm.graph.nodes if n.op == "call_module"}
    for node in list(gm.graph.nodes):
        owner, _, attribute = str(node.target).rpartition(".")
        if node.op != "get_attr" or owner in called:
            continue
        place, path = gm.get_submodule(owner), f"{node.target}_tied"
        held = place._parameters.get(attribute)
        tie = getattr(held, "tied_to", None)
        if held is not None and tie is not None and not _is_parents(tie):
            tied = Tied(tie[0], tie[1], tuple(place._parameters))
            del place._parameters[attribute]
            gm.add_submodule(path, Computed(tied, held, attribute))
        if isinstance(place._modules.get(f"{attribute}_tied"), Computed):
            with gm.graph.inserting_before(node):
                node.replace_all_uses_with(gm.graph.call_module(path))
            gm.graph.erase_node(node)


def _copy(model: nn.Module, ties: dict[int, Tie]) -> nn.Module:
    """Return the model with parameters that say what they will be tied to; all others are copies."""
    def tensor(old: Tensor) -> Tensor:
        if id(old) not in ties:
            return old.detach().clone()
        new = nn.Parameter(old.detach(), trains(old))
        new.tied_to = ties[id(old)]  # type: ignore[attr-defined]
        return new

    return clone_structure(model, tensor)


def _check(name: str, tensor: Tensor, entry: ParameterRecord, parents: nn.Parameter | nn.Module | None) -> None:
    source = None if parents is None else tensor_of(parents)
    if source is None or not entry.fits(tensor.shape, source.shape):
        raise GrowthError(f"{name} grew from {entry.source}, which the parent has not, or of another shape: give the model "
                          "that was grown")
    if (source.dtype, source.device) != (tensor.dtype, tensor.device):
        raise GrowthError(f"{name} is {tensor.dtype} on {tensor.device}, the parent's {entry.source} is {source.dtype} on "
                          f"{source.device}: bring both to one type and device")
    if any(s is not None for s in entry.shares):
        raise GrowthError(f"{name} cannot be tied: net2net shares its columns out among copies, so they are not the "
                          "parent's; grow by r2r or netmorph")
