"""Rewriting: growths of atoms become new tensors, module attributes and node arguments.

The analysis says which axis expression every tensor has; so the new size of everything is known, and the rewritten
graph is run once on meta tensors and compared with it. A node that disagrees gets its size arguments written out; one
that still disagrees refuses the growth (`Refused`), and the caller leaves those classes alone.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.fx import GraphModule, Node

from fxgrow._analysis import Op, Tape, Value
from fxgrow._axis import Atom, Sizes, atoms, resolve, size_of, view
from fxgrow._capture import clone_structure
from fxgrow._content import Content
from fxgrow._fit import Refused, fit
from fxgrow._fold import drop_idle
from fxgrow._record import GrowthRecord, ParameterRecord
from fxgrow._tensors import Growth, grow_tensors, index_map, rescaled
from fxgrow.layers import MultiheadAttention, fold_copies, fold_pairs, unfold_copies


def rewrite(gm: GraphModule, tape: Tape, growths: Sequence[Growth]) -> GraphModule:
    """A new module with the growths applied; the old one is untouched.

    Raises:
        Refused: a node cannot take its new sizes.
    """
    sizes = {g.atom: g.size for g in growths}
    tensors = {**dict(gm.named_parameters()), **dict(gm.named_buffers())}
    grown = grow_tensors(tape, tensors, growths)
    new_of = {id(t): grown[n] if n in grown else t.detach().clone() for n, t in tensors.items()}
    new = clone_structure(gm, lambda t: new_of[id(t)])
    modules = dict(new.named_modules(remove_duplicate=False))
    ratios: dict[Op, float] = {}
    for g in growths:
        for op in {norm.op for norm in g.certificate.norms}:
            ratios[op] = ratios.get(op, 1.0) * g.atom.size / g.size
    rescaled_eps: set[int] = set()
    for node in new.graph.nodes:
        _resize(new, modules, node, tape, sizes, ratios, rescaled_eps)
    _fold(new, tape, sizes)
    fit(new, tape, sizes)
    drop_idle(new, lambda x, dim: size_of(tape.node_values[x.name].axes[dim], sizes))
    new.recompile()
    return new


# --- sizes held by modules and arguments ---------------------------------------------------------------------------


def _resize(gm: GraphModule, modules: dict[str, nn.Module], node: Node, tape: Tape, sizes: Sizes, ratios: dict[Op, float],
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
            raise Refused(f"{op.node} is a norm that is written out, and its eps is not a plain number in the graph",
                          list(op.reduced_atoms()))
        owner.args = tuple(a * ratio if isinstance(a, (int, float)) else a for a in owner.args)
        owner.meta["rescaled"] = True
        return
    if isinstance(owner, nn.Module):
        if not isinstance(owner, (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)):
            raise Refused(f"{op.node} is a norm inside a layer that is not traced: its eps cannot be rescaled",
                          list(op.reduced_atoms()))
        eps = getattr(owner, "eps", None)
        if eps is None and "rms" in op.name:
            eps = torch.finfo(next(owner.parameters()).dtype).eps
        if eps is None:
            raise Refused(f"{op.node} has no eps to rescale", op.reduced_atoms())
        owner.eps = eps * ratio
    else:
        position = 3 if op.how == "rms" else 4
        by_name = "eps" in owner.kwargs or len(owner.args) <= position
        eps = owner.kwargs.get("eps") if by_name else owner.args[position]
        if isinstance(eps, Node):
            raise Refused(f"the eps of {op.node} is computed, and cannot be rescaled", list(op.reduced_atoms()))
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
        raise Refused(f"{node.target}: nn.MultiheadAttention with separate key and value widths, bias_k or zero attention "
                      "cannot be widened", [a for p in ("out_proj.weight",) for axis in
                                            tape.params[f"{node.target}.{p}"].axes for a in atoms(axis)])
    module.out_proj.out_features, module.out_proj.in_features = embedding, inner
    stock = MultiheadAttention.from_stock(module)
    stock.num_heads = heads
    return stock


# --- copies that a permutation would part ---------------------------------------------------------------------------


def _fold(gm: GraphModule, tape: Tape, sizes: Sizes) -> None:
    """Where k adjacent copies would be parted (a channel shuffle), they go through the permutation in the batch."""
    for node in list(gm.graph.nodes):
        dim, copies = tape.apart.get(node.name, (0, None))
        if copies is None or resolve(copies) not in sizes:
            continue
        source, at = _before_permutation(tape, node, resolve(copies))
        if at == 0 or dim == 0:
            raise Refused(f"{node.name} permutes the copies of positions with the batch", [resolve(copies)])
        region = _between(source, node)
        with gm.graph.inserting_after(source):
            folded = gm.graph.call_function(fold_copies, (source, at, resolve(tape.node_values[source.name].axes[at]).size))
        with gm.graph.inserting_after(node):
            result = gm.graph.call_function(unfold_copies, (node, dim, source))
        node.replace_all_uses_with(result, lambda user, own=result: user is not own)
        moved: dict[Node, Node] = {source: folded}
        for old in region:
            with gm.graph.inserting_before(node):
                moved[old] = gm.graph.node_copy(old, lambda n: moved.get(n, n))
        result.update_arg(0, moved[node])
        for new in (result, *moved.values()):
            new.meta["folded"] = True
        for old in reversed(region):
            if not old.users:
                gm.graph.erase_node(old)


def _before_permutation(tape: Tape, node: Node, copies: Atom) -> tuple[Node, int]:
    """The value whose whole axis, copies adjacent, the nodes up to `node` permute; and that axis."""
    total = next(resolve(a).size for a in tape.node_values[node.name].axes if copies in atoms(a))
    while True:
        values = {n: v for n in node.all_input_nodes if isinstance(v := tape.node_values.get(n.name), Value)}
        if len(values) != 1:
            raise Refused(f"{node.name} permutes the copies of several values", [copies])
        (node, value), = values.items()
        for at, axis in enumerate(value.axes):
            if copies in atoms(axis) and resolve(axis).size == total:
                return node, at


def _between(source: Node, end: Node) -> list[Node]:
    """The nodes that lead from `source` to `end`, which is the last of them."""
    after, node, order = {source}, source.next, []
    while True:
        if after.intersection(node.all_input_nodes):
            after.add(node)
            order.append(node)
        if node is end:
            break
        node = node.next
    needed = {end}
    for node in reversed(order):
        if node in needed:
            needed.update(node.all_input_nodes)
    return [n for n in order if n in needed]


# --- the record ------------------------------------------------------------------------------------------------------


def record_of(tape: Tape, growths: Sequence[Growth], step: dict) -> GrowthRecord:
    """Index maps, new positions and scales of every parameter that the growths change."""
    record = GrowthRecord(lineage=[step])
    of = {g.atom: g for g in growths}
    scales = rescaled(growths)
    places: dict[str, dict[int, dict[Atom, Content]]] = {}
    for g in growths:
        for (name, dim), content in g.certificate.contents.items():
            places.setdefault(name, {}).setdefault(dim, {})[g.atom] = content
    known: dict[tuple, tuple] = {}  # most axes are those of several parameters
    for name, dims in places.items():
        maps: list[tuple] = [(None, None, None)] * len(tape.params[name].axes)
        for dim, contents in dims.items():
            axis = resolve(tape.params[name].axes[dim])
            key = (axis, *contents.items())
            if key not in known:
                known[key] = index_map(axis, contents, of)
            maps[dim] = known[key]
        record.parameters[name] = ParameterRecord(name, *map(list, zip(*maps)), scales.get(name, 1.0))  # type: ignore[arg-type, call-arg]
    return record
