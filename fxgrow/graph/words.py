"""Words for single nodes in pictures: the family of an operation, its type and its key settings.

What does not live here: which nodes are drawn (fxgrow/diagram/build.py), colours and layout (fxgrow/diagram/drawing.py).
"""
from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.fx import GraphModule, Node

from fxgrow.aten import ConvNd, tree_leaves
from fxgrow.graph.joins import is_join
from fxgrow.graph.layer_calls import Call, call_of

# The family of an operation, by the first pattern that its lower-case name matches. Names are those of layers and functions.
FAMILIES = {name: re.compile(pattern) for name, pattern in {
    "join": r"^by_mode$",
    "normalisation": r"norm",
    "attention": r"attention|attn",
    "random": r"drop|stochastic_?depth",
    "pooling": r"pool|interpolate|upsampl|pixel_?(un)?shuffle|grid_sample",
    "convolution": r"conv(?!ert)",
    "recurrent": r"^(lstm|gru|rnn)",
    "embedding": r"embedding",
    "matrix product": r"linear|matmul|^(bmm|mm|addmm|baddbmm|einsum|bilinear)$",
    "activation": r"relu|gelu|elu$|silu|swish|mish|sigmoid|tanh|softmax|softplus|softsign|hardtanh|shrink|^glu$|threshold",
    "arithmetic": r"^(add|sub|mul|div|truediv|floordiv|pow|neg|exp|log|sqrt|rsqrt|abs|square|mean|sum|max|"
                  r"min|where|maximum|minimum|clamp|lerp|eq|ne|lt|gt|le|ge|masked_fill|setitem|cumsum|fold_pairs)$",
    "shape": r"^(cat|concat|concatenate|stack|chunk|split|tensor_split|unbind|view|reshape|flatten|unflatten|permute|"
             r"transpose|swapaxes|movedim|squeeze|unsqueeze|expand|expand_as|repeat|repeat_interleave|tile|pad|roll|flip|"
             r"slice|index|getitem|select|narrow|index_select|gather|t|type|to|float|half|double|"
             r"\w*shuffle|zeropad\dd|fold|unfold|fold_copies|unfold_copies|identity|contiguous|clone|detach)$"}.items()}
NAMES = {"getitem": "slice", "truediv": "div", "by_mode": "train | eval", "_fold_pairs": "fold_pairs"}
DOES_NOTHING = {"contiguous", "clone", "detach", "alias"}
MAKES = re.compile(r"^new_(zeros|ones|empty|full|tensor)$|^(zeros|ones|empty|full|rand|randn)_like$")  # takes a size only


def title(gm: GraphModule, node: Node) -> str:
    """Return the type of a layer, or the name of a function without its in-place mark."""
    if node.op in ("placeholder", "output"):
        return "input" if node.op == "placeholder" else "output"
    if node.op == "call_module":
        return type(gm.get_submodule(str(node.target))).__name__
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    if name.startswith("i") and name[1:] in ("add", "sub", "mul", "truediv", "matmul"):
        name = name[1:]
    name = name.rstrip("_") if not name.endswith("__") else name
    return NAMES.get(name, name) or "_"


def family(gm: GraphModule, node: Node) -> str:
    """Return one of the keys of FAMILIES, "in and out", or "other"."""
    if node.op in ("placeholder", "output"):
        return "in and out"
    if is_join(node):
        return "join"
    name = title(gm, node).lower()
    return next((f for f, pattern in FAMILIES.items() if pattern.search(name)), "other")


def settings(gm: GraphModule, node: Node) -> str:
    """Write the key settings in few letters: `3→64 k=7 s=2` (k kernel, s stride, d dilation, g groups)."""
    call = call_of(gm, node)
    if call is not None:
        return _of_call(gm, call)
    if node.op != "call_module":
        return node.args[0] if title(gm, node) == "einsum" and node.args and isinstance(node.args[0], str) else ""
    layer = gm.get_submodule(str(node.target))
    if isinstance(layer, ConvNd):
        return " ".join([f"{layer.in_channels}→{layer.out_channels}", *_numbers(layer)])
    for first, last in (("in_features", "out_features"), ("num_embeddings", "embedding_dim"), ("input_size", "hidden_size")):
        if isinstance(getattr(layer, first, None), int) and isinstance(getattr(layer, last, None), int):
            return " ".join([f"{getattr(layer, first)}→{getattr(layer, last)}", *_recurrence(layer)])
    heads = getattr(layer, "num_heads", None)
    words = [f"heads={heads}"] if isinstance(heads, int) else []
    rate = getattr(layer, "p", None)
    return " ".join(words + _numbers(layer) + ([f"p={rate:.2g}"] if isinstance(rate, float) else []))


def _recurrence(layer: nn.Module) -> list[str]:
    """Write layers, directions and projection of a recurrent layer where they are not the usual ones."""
    layers, size = getattr(layer, "num_layers", 1), getattr(layer, "proj_size", 0)
    return ([f"layers={layers}"] if layers != 1 else []) + ([f"proj={size}"] if size else []) + (
        ["bidirectional"] if getattr(layer, "bidirectional", False) else [])


def _of_call(gm: GraphModule, call: Call) -> str:
    owner, _, attribute = call.weight.rpartition(".")
    rows, columns = getattr(gm.get_submodule(owner), attribute).shape[:2]
    if not call.rank:
        return f"{columns}→{rows}"
    groups = call.argument("groups")
    inner, outer = (rows, columns * groups) if call.transposed else (columns * groups, rows)
    kernel = getattr(gm.get_submodule(owner), attribute).shape[2:]
    words = [f"k={_size(kernel)}"]
    words += [f"{letter}={_size(call.setting(name))}" for letter, name in (("s", "stride"), ("d", "dilation"))
              if set(call.setting(name)) != {1}]
    return " ".join([f"{inner}→{outer}", *words] + ([f"g={groups}"] if groups != 1 else []))


def _numbers(layer: nn.Module) -> list[str]:
    """Write kernel, stride, dilation and groups of a layer that has them."""
    words = []
    for letter, name, default in (("k", "kernel_size", None), ("s", "stride", 1), ("d", "dilation", 1), ("g", "groups", 1)):
        value = getattr(layer, name, default)
        if isinstance(value, (int, tuple)) and value != default and set(value if isinstance(value, tuple) else ()) != {1}:
            words.append(f"{letter}={_size(value)}")
    return words


def _size(value: Any) -> str:
    """Write one number, or several where they differ."""
    values = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    return str(values[0]) if len(set(values)) == 1 else "×".join(map(str, values))


def shape_of(value: Any) -> str:
    """Write shapes as `1×64×56×56`, of up to three tensors."""
    shapes = ["×".join(map(str, t.shape)) or "scalar" for t in tree_leaves(value) if isinstance(t, Tensor)]
    return ", ".join(shapes[:3]) + (f", … ({len(shapes)})" if len(shapes) > 3 else "")


def passes_on(gm: GraphModule, node: Node, values: Mapping[Node, Any]) -> bool:
    """Tell whether a node hands its input on: a copy, Identity, dropout of rate zero, a member taken out of a tuple."""
    if node.op == "call_module":
        layer = gm.get_submodule(str(node.target))
        return isinstance(layer, nn.Identity) or (isinstance(layer, nn.modules.dropout._DropoutNd) and layer.p == 0)
    name = title(gm, node)
    if name == "slice" and node.args:
        return isinstance(node.args[0], Node) and not isinstance(values[node.args[0]], Tensor)
    return name in DOES_NOTHING
