"""Layers with grown tensors: their attributes, and what depends on a size."""
from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.fx import GraphModule, Node

from fxgrow.axis import Op, Sizes, Tape, Value, atoms, resolve, size_of, view
from fxgrow.common import Refusal
from fxgrow.layers import MultiheadAttention, fold_pairs


def resize(gm: GraphModule, modules: dict[str, nn.Module], node: Node, tape: Tape, sizes: Sizes, ratios: dict[Op, float],
           done: set[int]) -> None:
    """Brings the size attributes of a leaf module, or the size arguments of a functional call, up to date."""
    if node.op == "call_module":
        module = modules[str(node.target)]
        replaced = _resize_module(module, node, tape, sizes)
        if replaced is not module:
            gm.set_submodule(str(node.target), replaced)
            modules[str(node.target)] = replaced
        owner: Any = replaced
    else:
        owner = node
    for op in tape.by_node.get(node.name, ()):
        if "groups" in op.extra:
            _put(owner, "groups", 6, size_of(op.extra["groups"], sizes))
        if "num_groups" in op.extra:
            _put(owner, "num_groups", 1, size_of(op.extra["num_groups"], sizes))
        if op.kind == "norm" and not op.extra.keys() & {"num_groups", "eps"}:
            shape = tuple(size_of(e, sizes) for _, _, e in op.reduced)
            if isinstance(owner, Node) or hasattr(owner, "normalized_shape"):
                _put(owner, "normalized_shape", 1, shape)
        if op in ratios and id(owner) not in done:  # a module called twice has one eps
            done.add(id(owner))
            _scale_eps(owner, op, ratios[op])
    if node.target is fold_pairs:
        _resize_fold(node, tape, sizes)
    if node.op == "call_function" and node.target is F.scaled_dot_product_attention:
        _pin_scale(node, tape, sizes)


def _put(owner, name: str, position: int, value) -> None:
    """Sets an attribute of a module, or an argument of a call (only where it changes)."""
    if isinstance(owner, nn.Module):
        if hasattr(owner, name) and getattr(owner, name) != value:
            setattr(owner, name, value)
    elif owner.op in ("call_function", "call_method"):
        if name in owner.kwargs:
            if owner.kwargs[name] != value:
                owner.update_kwarg(name, value)
        elif len(owner.args) > position and owner.args[position] != value:
            owner.update_arg(position, value)


def _scale_eps(owner, op, ratio: float) -> None:
    if "eps" in op.extra:  # a norm that is written out: here it is added
        numbers = [a for a in owner.args if isinstance(a, (int, float))] if isinstance(owner, Node) else []
        if len(numbers) != 1:
            raise Refusal(f"{op.node} is a norm that is written out, and its eps is not a plain number in the graph",
                          classes=list(op.reduced_atoms()))
        owner.args = tuple(a * ratio if isinstance(a, (int, float)) else a for a in owner.args)
        owner.meta["rescaled"] = True
        return
    if isinstance(owner, nn.Module):
        if not isinstance(owner, (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)):
            raise Refusal(f"{op.node} is a norm inside a layer that is not traced: its eps cannot be rescaled",
                          classes=list(op.reduced_atoms()))
        eps = getattr(owner, "eps", None)
        if eps is None and "rms" in op.name:
            eps = torch.finfo(next(owner.parameters()).dtype).eps
        if eps is None:
            raise Refusal(f"{op.node} has no eps to rescale", classes=op.reduced_atoms())
        owner.eps = eps * ratio
    else:
        position = 3 if op.how == "rms" else 4
        by_name = "eps" in owner.kwargs or len(owner.args) <= position
        eps = owner.kwargs.get("eps") if by_name else owner.args[position]
        if isinstance(eps, Node):
            raise Refusal(f"the eps of {op.node} is computed, and cannot be rescaled", classes=list(op.reduced_atoms()))
        if eps is None and op.how == "rms":
            eps = torch.finfo(owner.graph.owning_module.get_parameter(op.ins[1].source).dtype).eps
        eps = (1e-5 if eps is None else eps) * ratio
        if by_name:
            owner.update_kwarg("eps", eps)
        else:
            owner.update_arg(position, eps)


def _resize_fold(node: Node, tape: Tape, sizes: Sizes) -> None:
    """The old positions of a fold are those in front of the pairs; of an idle one they stay what they are."""
    x, dim, old, _ = node.args
    ops = tape.by_node.get(node.name, ())
    if not any(op.kind == "fold" for op in ops):
        front = next((op.outs[0] for op in ops if "split" in op.name), tape.node_values[x.name])
        old = size_of(front.axes[dim], sizes)
    node.args = (x, dim, old, size_of(tape.node_values[node.name].axes[dim], sizes))


def _pin_scale(node: Node, tape: Tape, sizes: Sizes) -> None:
    """`scaled_dot_product_attention` takes its scale from the head size: keep the old one."""
    query = tape.node_values.get(node.args[0].name if node.args else node.kwargs["query"].name)
    if not isinstance(query, Value) or node.kwargs.get("scale") is not None:
        return
    old = resolve(query.axes[-1]).size
    if size_of(query.axes[-1], sizes) != old:
        node.update_kwarg("scale", old ** -0.5)


def _resize_module(module: nn.Module, node: Node, tape: Tape, sizes: Sizes) -> nn.Module:
    """Size attributes of torch's layers, read off their new parameters."""
    weight = _weight(module)
    if isinstance(module, nn.MultiheadAttention):
        return _resize_attention(module, node, tape, sizes)
    if isinstance(module, MultiheadAttention):
        module.num_heads = _heads(module, node, tape, sizes)
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = weight.shape
    elif isinstance(module, nn.Bilinear):
        module.out_features, module.in1_features, module.in2_features = weight.shape
    elif isinstance(module, nn.modules.conv._ConvNd):
        groups = next((size_of(op.extra["groups"], sizes) for op in tape.by_node.get(node.name, ()) if "groups" in op.extra),
                      module.groups)
        module.groups = groups
        first, second = weight.shape[:2]
        outs, ins = (second * groups, first) if module.transposed else (first, second * groups)
        module.out_channels, module.in_channels = outs, ins
    elif isinstance(module, (nn.modules.batchnorm._NormBase, nn.GroupNorm)):
        value = tape.node_values.get(node.name)
        if isinstance(value, Value):
            channels = size_of(value.axes[1], sizes)
            setattr(module, "num_channels" if isinstance(module, nn.GroupNorm) else "num_features", channels)
    elif isinstance(module, nn.Embedding):
        module.num_embeddings, module.embedding_dim = weight.shape
    elif isinstance(module, nn.PReLU):
        module.num_parameters = weight.shape[0]
    elif isinstance(module, nn.RNNBase):
        module.hidden_size = module.weight_hh_l0.shape[1]
        module.input_size = module.weight_ih_l0.shape[1]
        if module.proj_size:
            module.proj_size = module.weight_hr_l0.shape[0]
            module.hidden_size = module.weight_hr_l0.shape[1]
    elif isinstance(module, nn.RNNCellBase):
        module.hidden_size, module.input_size = module.weight_hh.shape[1], module.weight_ih.shape[1]
    elif isinstance(module, nn.Unflatten):
        value = tape.node_values.get(node.name)
        if isinstance(value, Value):
            width = len(module.unflattened_size)
            dim = module.dim % (len(value.axes) - width + 1)
            module.unflattened_size = tuple(size_of(a, sizes) for a in value.axes[dim:dim + width])
    return module


def _weight(module: nn.Module) -> Any:
    """The weight of a layer; of a parametrised one the original, as computing it may change its state (spectral norm)."""
    if nn.utils.parametrize.is_parametrized(module, "weight"):
        originals: Any = module.parametrizations["weight"]
        if hasattr(originals, "original"):
            return originals.original
    return getattr(module, "weight", None)


def _heads(module, node: Node, tape: Tape, sizes: Sizes) -> int:
    axis = tape.params[f"{node.target}.out_proj.weight"].axes[1]
    factors = view([axis], [module.num_heads, resolve(axis).size // module.num_heads])
    return module.num_heads if factors is None else size_of(factors[0], sizes)


def _resize_attention(module: nn.MultiheadAttention, node: Node, tape: Tape, sizes: Sizes) -> nn.Module:
    """The stock attention where its constraints still hold (inner width = embedding width, scale from the head size)."""
    heads = _heads(module, node, tape, sizes)
    embedding, inner = module.out_proj.weight.shape
    if module.in_proj_weight is not None and module.in_proj_weight.shape == (3 * embedding, embedding) \
            and embedding == inner and inner == heads * module.head_dim:
        module.embed_dim = module.kdim = module.vdim = embedding
        module.num_heads = heads
        module.out_proj.out_features, module.out_proj.in_features = embedding, inner
        return module
    if module.in_proj_weight is None or module.bias_k is not None or module.add_zero_attn:
        raise Refusal(f"{node.target}: nn.MultiheadAttention with separate key and value widths, bias_k or zero attention "
                      "cannot be widened", classes=[a for p in ("out_proj.weight",) for axis in
                                                    tape.params[f"{node.target}.{p}"].axes for a in atoms(axis)])
    module.out_proj.out_features, module.out_proj.in_features = embedding, inner
    stock = MultiheadAttention.from_stock(module)
    stock.num_heads = heads
    return stock
