"""Layers with grown tensors: their size attributes, and the arguments of calls that depend on a size."""
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.fx import GraphModule, Node

from fxgrow.aten import ConvNd
from fxgrow.axis import Atom, Contract, Fold, Normalise, Op, atoms, resolve, view
from fxgrow.common import Refusal
from fxgrow.graph import modules_by_path
from fxgrow.layers import MultiheadAttention, SeparateAttention, fold_pairs
from fxgrow.rewrite.growth import GROUPS, GrownSizes


def resize(gm: GraphModule, grown: GrownSizes, eps_ratios: dict[Op | str, float], classes: dict[str, list[Atom]]) -> None:
    """Bring nodes, and the layers that they call, up to date with grown tensors.

    eps_ratios: factors on the eps of norms, and on the numbers that nodes add where norms are written out.
    classes: which classes' growth these nodes' numbers are scaled for.
    """
    layers = dict(modules_by_path(gm, every_name=True))
    rescaled: set[int] = set()  # a layer that is called twice has one eps
    resized: set[int] = set()  # and one count of heads, which is not that of the old tensors any more
    for node in gm.graph.nodes:
        owner: nn.Module | Node = node
        if node.op == "call_module":
            owner = layers[node.target]
            if id(owner) not in resized:
                owner = _resized(owner, node, grown)
                resized.add(id(owner))
            if owner is not layers[node.target]:
                gm.set_submodule(node.target, owner)
                layers[node.target] = owner
        for op in grown.ops(node):
            _write_sizes(owner, op, grown)
            if isinstance(op, Normalise) and op in eps_ratios and id(owner) not in rescaled:
                rescaled.add(id(owner))
                _scale_eps(owner, op, eps_ratios[op])
        if node.name in eps_ratios:
            _scale_number(node, eps_ratios[node.name], classes[node.name])
        if node.target in CALLS:
            CALLS[node.target](node, grown)


STATED = ("native_layer_norm", "layer_norm", "_fused_rms_norm", "rms_norm")  # norms that are told their shape


def _write_sizes(owner: nn.Module | Node, op: Op, grown: GrownSizes) -> None:
    def fit(stated: Any, axis: Any) -> Any:
        return stated if grown.of(axis) == resolve(axis).size else grown.of(axis)

    groups = getattr(op, "groups", None)
    if groups is not None:  # where they are computed, numbers.py sees to it
        name, position = GROUPS[type(op)]
        if isinstance(owner, nn.Module) and not hasattr(owner, name) and grown.of(groups) != resolve(groups).size:
            raise Refusal("it is kept as it is, with a number of groups in its code; class left unchanged", op.node,
                          list(atoms(groups)))
        _put(owner, name, position, lambda stated: stated if isinstance(stated, Node) else fit(stated, groups))
    elif isinstance(op, Normalise) and op.name in STATED:
        axes = [axis for _, _, axis in op.reduced]
        _put(owner, "normalized_shape", 1, lambda stated: tuple(
            map(grown.of, axes) if isinstance(stated, Node) else map(fit, stated, axes)))


def _put(owner: nn.Module | Node, name: str, position: int, fit: Callable[[Any], Any]) -> None:
    """Fit an attribute that a module has, or an argument that a call states."""
    if isinstance(owner, nn.Module):
        if hasattr(owner, name):
            setattr(owner, name, fit(getattr(owner, name)))
    elif name in owner.kwargs:
        owner.update_kwarg(name, fit(owner.kwargs[name]))
    elif owner.op in ("call_function", "call_method") and len(owner.args) > position:
        owner.update_arg(position, fit(owner.args[position]))


def _scale_eps(owner: nn.Module | Node, op: Normalise, ratio: float) -> None:
    if isinstance(owner, Node):
        _scale_argument_eps(owner, op, ratio)
    elif isinstance(owner, (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)):
        if owner.eps is None and "rms" not in op.name:
            raise _refusal(op, "the norm has no eps to rescale")
        owner.eps = ratio * (torch.finfo(next(owner.parameters()).dtype).eps if owner.eps is None else owner.eps)
    else:
        raise _refusal(op, "the eps of a norm inside a layer that is kept whole cannot be rescaled")


def _scale_number(node: Node, ratio: float, classes: list[Atom]) -> None:
    """Scale the number that a node adds to what was taken over classes: its eps, or the only number that it is given."""
    args, keys = list(node.args), {k: a for k, a in node.kwargs.items() if k != "alpha"}
    held = [*enumerate(args), *keys.items()] if node.op in ("call_function", "call_method") else []
    places = [place for place, a in held if isinstance(a, (int, float)) and not isinstance(a, bool)]
    places = ["eps"] if "eps" in places else places
    if len(places) != 1:
        raise Refusal("a norm is written out, and its eps is not a plain number in the graph; class left unchanged",
                      node.name, classes)
    if isinstance(places[0], str):
        node.update_kwarg(places[0], keys[places[0]] * ratio)
    else:
        node.update_arg(places[0], args[places[0]] * ratio)
    node.meta["rescaled"] = True


def _refusal(op: Op, reason: str) -> Refusal:
    return Refusal(f"{reason}; class left unchanged", op.node, list(op.reduced_atoms()))


def _scale_argument_eps(node: Node, op: Normalise, ratio: float) -> None:
    position = 3 if op.how == "rms" else 4
    by_name = "eps" in node.kwargs or len(node.args) <= position
    eps: Any = node.kwargs.get("eps") if by_name else node.args[position]
    if isinstance(eps, Node):
        raise _refusal(op, "the eps of the norm is computed, and cannot be rescaled")
    if eps is None and op.how == "rms":
        eps = torch.finfo(node.graph.owning_module.get_parameter(op.ins[1].source).dtype).eps
    eps = (1e-5 if eps is None else eps) * ratio
    if by_name:
        node.update_kwarg("eps", eps)
    else:
        node.update_arg(position, eps)


def _resize_fold(node: Node, grown: GrownSizes) -> None:
    """State the old positions of a fold, which are those in front of the pairs; an idle fold keeps what it has."""
    x, dim, old, _ = node.args
    ops = grown.ops(node)
    if not any(isinstance(op, Fold) for op in ops):
        front = next((op.outs[0] for op in ops if "split" in op.name), grown.tape.node_values[x.name])
        old = grown.of(front.axes[dim])
    node.args = (x, dim, old, grown.of(grown.tape.node_values[node.name].axes[dim]))


def _keep_scale(node: Node, grown: GrownSizes) -> None:
    """State the scale that `scaled_dot_product_attention` takes from the old head size, where that grows."""
    query = grown.value(node.args[0] if node.args else node.kwargs["query"])
    if query is None or node.kwargs.get("scale") is not None:
        return
    old = resolve(query.axes[-1]).size
    if grown.of(query.axes[-1]) != old:
        node.update_kwarg("scale", old ** -0.5)


CALLS: dict[Any, Callable] = {fold_pairs: _resize_fold, F.scaled_dot_product_attention: _keep_scale}  # (node, grown)

# the attributes that state the shape of the weight, axis by axis; those that state the channels of the result
BY_WEIGHT = {nn.Linear: ("out_features", "in_features"), nn.Bilinear: ("out_features", "in1_features", "in2_features"),
             nn.Embedding: ("num_embeddings", "embedding_dim"), nn.PReLU: ("num_parameters",)}
BY_CHANNELS = {nn.modules.batchnorm._NormBase: "num_features", nn.GroupNorm: "num_channels"}


def _resized(layer: nn.Module, node: Node, grown: GrownSizes) -> nn.Module:
    """Return a layer whose size attributes are those of its new tensors: the same one, or another in its place."""
    for kind, names in BY_WEIGHT.items():
        if isinstance(layer, kind):
            for name, size in zip(names, _weight(layer).shape):
                setattr(layer, name, size)
    value = grown.value(node)
    for kind, name in BY_CHANNELS.items():
        if isinstance(layer, kind) and value is not None:
            setattr(layer, name, grown.of(value.axes[1]))
    for kind, resized in SPECIAL.items():
        if isinstance(layer, kind):
            return resized(layer, node, grown) or layer
    return layer


def _resize_convolution(layer: nn.Conv2d, node: Node, grown: GrownSizes) -> None:
    groups = [grown.of(op.groups) for op in grown.ops(node) if isinstance(op, Contract) and op.groups is not None]
    layer.groups = groups[0] if groups else layer.groups
    first, second = _weight(layer).shape[:2]
    second *= layer.groups
    layer.out_channels, layer.in_channels = (second, first) if layer.transposed else (first, second)


def _resize_recurrent(layer: nn.RNNBase, node: Node, grown: GrownSizes) -> None:
    layer.hidden_size, layer.input_size = layer.weight_hh_l0.shape[1], layer.weight_ih_l0.shape[1]
    if layer.proj_size:
        layer.proj_size, layer.hidden_size = layer.weight_hr_l0.shape


def _resize_cell(layer: nn.RNNCellBase, node: Node, grown: GrownSizes) -> None:
    layer.hidden_size, layer.input_size = layer.weight_hh.shape[1], layer.weight_ih.shape[1]


def _resize_unflatten(layer: nn.Unflatten, node: Node, grown: GrownSizes) -> None:
    value = grown.value(node)
    if value is not None:
        rank = len(layer.unflattened_size)
        dim = layer.dim % (len(value.axes) - rank + 1)
        layer.unflattened_size = grown.shape(value)[dim:dim + rank]


def _resize_heads(layer: MultiheadAttention, node: Node, grown: GrownSizes) -> None:
    layer.num_heads = _heads(layer, node, grown)


def _resize_attention(layer: nn.MultiheadAttention, node: Node, grown: GrownSizes) -> nn.Module:
    """Keep the stock layer where its constraints hold: inner width = embedding width = heads * head size."""
    heads, (embedding, inner) = _heads(layer, node, grown), layer.out_proj.weight.shape
    whole = layer.in_proj_weight is not None
    shapes = [layer.in_proj_weight.shape] if whole else [w.shape for w in (
        layer.q_proj_weight, layer.k_proj_weight, layer.v_proj_weight)]
    wanted = [(3 * embedding, embedding)] if whole else [(embedding, n) for n in (embedding, shapes[1][1], shapes[2][1])]
    fits = shapes == wanted and embedding == inner == heads * layer.head_dim
    if not fits and (layer.bias_k is not None or layer.add_zero_attn):
        axes = grown.tape.params[f"{node.target}.out_proj.weight"].axes
        raise Refusal("nn.MultiheadAttention with bias_k or zero attention cannot be widened; class left unchanged",
                      str(node.target), [a for axis in axes for a in atoms(axis)])
    layer.out_proj.out_features, layer.out_proj.in_features = embedding, inner
    if fits:
        layer.embed_dim = embedding
        layer.kdim, layer.vdim = (embedding, embedding) if whole else (shapes[1][1], shapes[2][1])
    new = layer if fits else (MultiheadAttention if whole else SeparateAttention).from_stock(layer)
    new.num_heads = heads
    return new


def _heads(layer: nn.MultiheadAttention | MultiheadAttention, node: Node, grown: GrownSizes) -> int:
    axis = grown.tape.params[f"{node.target}.out_proj.weight"].axes[1]
    factors = view([axis], [layer.num_heads, resolve(axis).size // layer.num_heads])
    return layer.num_heads if factors is None else grown.of(factors[0])


def _weight(layer: nn.Module) -> Any:
    """Return the weight of a layer; of a parametrized one the original, as computing it may change its state."""
    if nn.utils.parametrize.is_parametrized(layer, "weight"):
        originals: Any = layer.parametrizations["weight"]  # type: ignore[index]
        if hasattr(originals, "original"):
            return originals.original
    return layer.weight


SPECIAL: dict[type[nn.Module], Callable[..., nn.Module | None]] = {
    ConvNd: _resize_convolution, nn.RNNBase: _resize_recurrent, nn.RNNCellBase: _resize_cell,
    nn.Unflatten: _resize_unflatten, nn.MultiheadAttention: _resize_attention, MultiheadAttention: _resize_heads}
