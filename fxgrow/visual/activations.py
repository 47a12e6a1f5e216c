"""Activation maximisation: images that a logit or a channel of one network answers to most. Pictures are in features.py."""
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from fxgrow.common import nearest
from fxgrow.errors import SelectionError
from fxgrow.graph import call_of, owner_of, prefixes

STEPS, RATE = 128, 0.08
DECAY, VARIATION = 2e-3, 0.1  # of the image towards the mean; of the total variation, against the gradient
SIGMA = (3.0, 0.7)  # of the blur at the start and at the end: pixels of an image of 224


def maximise(value: Callable[[Tensor], Tensor], shape: tuple[int, ...], mean: Tensor, std: Tensor, *, seed: int,
             steps: int = STEPS, dtype: torch.dtype = torch.float32, tick: Callable[[], object] = lambda: None
             ) -> tuple[Tensor, float, float]:
    """Raise a value from a nearly grey image by gradient ascent; return the image, and the value before and after.

    Each step goes by the gradient over its root mean square, seen through a random shift of at most 1/16 of the image
    (Mordvintsev et al. 2015, Olah et al. 2017, doi:10.23915/distill.00007), minus that of the total variation. The step is
    blurred, less and less, so that large shapes come first: Yosinski et al. (arXiv:1506.06579) blur the image instead, which
    wears off what is there already. The image decays to the mean (the L2 penalty of Simonyan et al., arXiv:1312.6034), and
    stays among images that exist: 0 to 1, float64 [C, H, W].

    Args:
        value: normalised images [1, C, H, W] to a number.
        mean, std: of the pixels, [C, 1, 1].
        seed: of the start and the shifts: the same for two networks makes their images comparable.
    """
    generator = torch.Generator().manual_seed(seed)
    image = (0.1 * torch.randn((1, *shape), generator=generator, dtype=torch.float64)).to(dtype)
    low, high = (((bound - mean) / std).to(dtype) for bound in (0.0, 1.0))
    with torch.no_grad():
        first = float(value(image))
    for i in range(steps):
        shift = [int(torch.randint(-max(1, n // 16), max(1, n // 16) + 1, (), generator=generator)) for n in shape[1:]]
        with torch.enable_grad():
            seen = image.detach().roll(shift, (2, 3)).requires_grad_()
            gradient, = torch.autograd.grad(value(seen), seen)
            variation = seen.diff(dim=2).square().sum() + seen.diff(dim=3).square().sum()
            smooth, = torch.autograd.grad(variation, seen)
        sigma = (SIGMA[0] + (SIGMA[1] - SIGMA[0]) * i / steps) * min(shape[1:]) / 224
        gradient = _blur(gradient, max(sigma, SIGMA[1]))
        gradient, smooth = (g.roll([-s for s in shift], (2, 3)) / (g.square().mean().sqrt() + 1e-12)
                            for g in (gradient, smooth))
        image = (image + RATE * (gradient - VARIATION * smooth)) * (1 - DECAY)
        image = torch.minimum(torch.maximum(image, low), high)
        tick()
    with torch.no_grad():
        last = float(value(image))
    return (image[0].double() * std + mean).clamp(0, 1), first, last


def _blur(x: Tensor, sigma: float) -> Tensor:
    """Blur by a Gaussian, as two one-dimensional convolutions, edges repeated."""
    reach = math.ceil(2.5 * sigma)
    at = torch.arange(-reach, reach + 1, dtype=x.dtype)
    kernel = torch.exp(-at.square() / (2 * sigma ** 2))
    kernel = (kernel / kernel.sum()).repeat(x.shape[1], 1)
    x = F.conv2d(F.pad(x, (reach, reach, 0, 0), "replicate"), kernel[:, None, None], groups=x.shape[1])
    return F.conv2d(F.pad(x, (0, 0, reach, reach), "replicate"), kernel[:, None, :, None], groups=x.shape[1])


def part(gm: GraphModule, node: Node) -> GraphModule:
    """Return the graph up to one node, whose value it gives: of a layer, a function or an operator alike."""
    graph = Graph()
    copies: dict[Node, Node] = {}
    for n in gm.graph.nodes:
        copies[n] = graph.node_copy(n, copies.__getitem__)
        if n is node:
            break
    graph.output(copies[node])
    return GraphModule(gm, graph)


def place(gm: GraphModule, layer: str) -> Node:
    """Return the node that a name means: of a layer, a module (its last node), a functional convolution, or its own."""
    nodes = [node for node in gm.graph.nodes if node.op in ("call_module", "call_function", "call_method")]
    by_path: dict[str, Node] = {}
    for node in nodes:
        path = str(node.target)
        if node.op != "call_module":
            call = call_of(gm, node)
            path = call.name if call else owner_of(node)
        by_path |= dict.fromkeys(prefixes(path), node)
    named = {node.name: node for node in nodes} | by_path
    if layer not in named:
        raise SelectionError(f"there is no layer {layer!r}{nearest(layer, list(named))}; `fxgrow info MODEL` lists them")
    return named[layer]


def channel_axis(value: Tensor) -> int:
    """Return the axis of channels: the second, of tokens [N, T, C] the last."""
    return 2 if value.ndim == 3 else 1
