"""What networks have learned, side by side: their filters, what they look at, and what they answer to most.

What lives here: which networks, layers and channels are shown, and how they are made comparable. What does not: filters
as pixels (filters.py), attributions (attributions.py), the ascent (activations.py), layout and files (panels.py).
Networks are copied before anything runs: a model is left as it was.
"""
from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from functools import partial

import torch
from torch import Tensor

from fxgrow.common import nearest
from fxgrow.errors import DrawError, SelectionError
from fxgrow.graph import call_of, tensors_of
from fxgrow.models import dtype_of
from fxgrow.record import new_numbers
from fxgrow.visual import filters
from fxgrow.visual.activations import STEPS, channel_axis, maximise, part, place, strength
from fxgrow.visual.attributions import SIGNED, attribution, overlay, read_image, spread
from fxgrow.visual.networks import (
    FEW,
    MOST_LAYERS,
    Models,
    Network,
    channels_of,
    check_target,
    image_shape,
    logits,
    networks,
)
from fxgrow.visual.panels import Panel, Picture, enlarged, plain


def plot_filters(models: Models, example_inputs=None, *, layer: str | None = None) -> Picture:
    """The filters of convolutions, new ones framed; a row a layer, a column a model.

    A row has one scale: equal numbers have equal colours. Wholly new filters have a solid frame, partly new ones a dashed
    one, by each model's growth record (see fxgrow/visual/filters.py for how a filter is drawn).

    Args:
        models: a model or `Grown`, or several by name, in order. In front of a single grown one stands the small network
            that is in it, with the numbers that it has there now.
        example_inputs: for models that are not captured yet.
        layer: name or glob of convolutions; None: the first one of each model.

    Raises:
        DrawError: a model has no convolution. SelectionError: no layer is named so.
    """
    shown = networks(models, example_inputs)
    return Picture("Filters; new ones are framed in blue, partly new ones dashed",
                   [_filter_row(shown, names) for names in _layers(shown, layer)])


def plot_saliency(models: Models, image: str | os.PathLike | Tensor, example_inputs=None, *, target: int | None = None,
                  attribution: str = "saliency", steps: int = 50, mean: Sequence[float] | None = None,
                  std: Sequence[float] | None = None, size: Sequence[int] | None = None) -> Picture:
    """What of a photograph speaks for a class, over the photograph in grey: a column a model, one scale for all.

    `facts` holds each model's class, logit and probability, and how far its attribution is from the first model's, over
    the largest of the first's.

    Args:
        models: as for `plot_filters`; classifiers of one image.
        image: a file, or a tensor [C, H, W] of numbers from 0 to 1 that is as large as the model takes it.
        target: the class; None: the likeliest by the first model, for all.
        attribution: saliency, input-x-gradient, integrated-gradients or occlusion (what each is: attributions.py).
        steps: of integrated gradients.
        mean, std: one number a channel; None: ImageNet's.
        size: height and width that a file is scaled and cut to; None: that of the model's example input.

    Raises:
        DrawError: the image cannot be read, a model takes no image or gives no classes, the target is none of them, or
            captum or Pillow is not installed.
    """
    shown = networks(models, example_inputs)
    shape = image_shape(shown[0], size)
    photo = image.detach().cpu().double() if isinstance(image, Tensor) else read_image(image, shape[0], shape[1:])
    if photo.ndim != 3 or photo.shape[0] != shape[0] or not (0 <= float(photo.min()) and float(photo.max()) <= 1):
        raise DrawError(f"the image is {list(photo.shape)}: give [{shape[0]}, H, W] with numbers from 0 to 1")
    middle, width = spread(shape[0], mean, std)
    inputs = ((photo - middle) / width).unsqueeze(0)
    answers = [logits(network, inputs) for network in shown]
    chosen = int(answers[0].argmax()) if target is None else target
    maps = []
    for network, answer in zip(shown, answers):
        check_target(network, answer, chosen)
        maps.append(_attributions(network, inputs, chosen, attribution, steps))
    limit = max(float(m.abs().flatten().double().quantile(0.995)) for m in maps)
    largest = float(maps[0].abs().max()) or 1.0
    row = [Panel(_pixels(photo), "photograph", {"model": None})]
    for network, answer, values in zip(shown, answers, maps):
        gap = float((values.double() - maps[0].double()).abs().max()) / largest
        share = float(answer.softmax(0)[chosen])
        facts = {"model": network.name, "class": chosen, "logit": float(answer[chosen]), "probability": share,
                 "largest": float(values.abs().max()), "difference": gap}
        words = f"{network.name}\nclass {chosen}, probability {share:.3f}"
        row.append(Panel(enlarged(overlay(photo, values, limit)), words + (f"\ndiffers by {gap:.1e} of the largest"
                         if network is not shown[0] else ""), facts))
    signs = "; vermilion speaks for the class, blue against it" if attribution in SIGNED else ""
    return Picture(f"{attribution.replace('-', ' ').capitalize()} of class {chosen}{signs}", [row])


def plot_features(models: Models, example_inputs=None, *, target: int | None = None, layer: str | None = None,
                  channels: Sequence[int] | None = None, steps: int = STEPS, seed: int = 0,
                  mean: Sequence[float] | None = None, std: Sequence[float] | None = None,
                  size: Sequence[int] | None = None, tick: Callable[[int], object] = lambda total: None) -> Picture:
    """Images that raise a class's logit, or a channel, by activation maximisation from one start for all models.

    Of a channel the root mean square of its positive part is raised: what a ReLU lets through, patterns more than a shade.

    `facts` holds what is raised, before and after.

    Args:
        models: as for `plot_filters`; they take one image.
        target: the class whose logit is raised. Give this, or a layer.
        layer: a layer, module or node whose channels are raised, a row each; with neither, the first convolution.
        channels: which of them; None: some old and some new ones where the layer is a convolution that grew, else the
            first few.
        steps: of the ascent. seed: of the start and the shifts.
        mean, std, size: as for `plot_saliency`.
        tick: called after each step with the number of all steps.

    Raises:
        DrawError: a model takes no image, gives no classes or has no such class or channel. SelectionError: no such layer.
    """
    if target is not None and (layer is not None or channels is not None):
        raise DrawError("a class or the channels of a layer: give target, or layer and channels")
    shown = networks(models, example_inputs)
    shape = image_shape(shown[0], size)
    middle, width = spread(shape[0], mean, std)
    blank = torch.zeros(1, *shape, dtype=torch.float64)
    rows: list[list[Panel]] = []

    def panel(network: Network, what: str, value: Callable[[Tensor], Tensor], panels: int, fresh: bool = False) -> Panel:
        image, first, last = maximise(value, shape, middle, width, seed=seed, steps=steps, dtype=dtype_of(network.gm),
                                      tick=lambda: tick(steps * panels))
        mark = f" ({'new' if fresh else 'old'})" if network.record.lineage and target is None else ""
        return Panel(_pixels(image), f"{network.name}\n{what}{mark}\n{first:.3g} → {last:.3g}".strip(),
                     {"model": network.name, "what": what, "new": fresh, "before": first, "after": last})

    if target is not None:
        for network in shown:
            check_target(network, logits(network, blank), target)

        def logit(x: Tensor, network: Network) -> Tensor:
            return network.gm(x)[0, target]
        rows.append([panel(n, f"class {target}", partial(logit, network=n), len(shown)) for n in shown])
        return Picture(f"What raises the logit of class {target}: {steps} steps, seed {seed}", rows)
    shown = [network for network in shown if network.inside is None]  # its channels stand elsewhere
    layers = [layer or _first_layer(network) for network in shown]
    nodes = [place(network.gm, name) for network, name in zip(shown, layers)]
    parts = [part(network.gm, node) for network, node in zip(shown, nodes)]
    sizes = [channels_of(network, upto, name, blank) for network, upto, name in zip(shown, parts, layers)]
    fresh = [_new_channels(network, node, n) for network, node, n in zip(shown, nodes, sizes)]
    channels = _choose(fresh, sizes) if channels is None else list(channels)
    for channel in channels:
        if not 0 <= channel < max(sizes):
            raise DrawError(f"{layers[0]} has no channel {channel}: they are 0 to {max(sizes) - 1}")
    panels = sum(channel < count for channel in channels for count in sizes)
    for channel in channels:
        row = []
        for network, upto, count, new, name in zip(shown, parts, sizes, fresh, layers):
            if channel >= count:
                row.append(Panel(None, f"{network.name}\nhas no channel {channel}", {"model": network.name}))
                continue

            def value(x: Tensor, upto=upto, channel=channel) -> Tensor:
                found = upto(x)
                return strength(found.select(channel_axis(found), channel))
            row.append(panel(network, f"{plain(name)}, channel {channel}", value, panels, bool(new[channel])))
        rows.append(row)
    if len(shown) == 1:
        rows = [[panel for row in rows for panel in row]]
    return Picture(f"What raises a channel: {steps} steps, seed {seed}", rows)


def _attributions(network: Network, inputs: Tensor, target: int, method: str, steps: int) -> Tensor:
    return attribution(network.gm, inputs.to(dtype_of(network.gm)), target, method, steps)


def _pixels(image: Tensor):
    """An image [1 or 3, H, W] of numbers from 0 to 1 as uint8 [H, W, 3]."""
    return enlarged((image.expand(3, -1, -1).permute(1, 2, 0) * 255).round().to(torch.uint8).numpy())


def _layers(shown: Sequence[Network], layer: str | None) -> list[list[str | None]]:
    """Rows of weights: the name in each network, or None where it has none. The small network inside another one is asked
    by the names that its numbers have there."""
    known = [filters.convolutions(network.gm) for network in shown]
    for network, names in zip(shown, known):
        if not names:
            raise DrawError(f"{network.name or 'the model'} has no convolution with a weight of its own, so there are no "
                            "filters to show")
    if layer is None:
        return [[next(iter(names)) for names in known]]
    wanted = list(dict.fromkeys(name for network, names in zip(shown, known) if network.inside is None for name in names
                                if layer in (name, owner(name)) or fnmatchcase(owner(name), layer)))
    if not wanted:
        every = list(dict.fromkeys(owner(name) for names in known for name in names))
        raise SelectionError(f"no convolution is named {layer!r}{nearest(layer, every)}; the first are "
                             f"{', '.join(every[:6])}")
    if len(wanted) > MOST_LAYERS:
        raise SelectionError(f"{layer!r} names {len(wanted)} convolutions, and one picture shows {MOST_LAYERS} at most: "
                             "name fewer")
    rows: list[list[str | None]] = []
    for name in wanted:
        row = []
        for network, names in zip(shown, known):
            there = name if network.inside is None else network.inside.record.entry(
                name, tensors_of(network.inside.gm)[name].ndim).source
            row.append(there if there in names else None)
        rows.append(row)
    return rows


def owner(weight: str) -> str:
    """The layer that a weight belongs to."""
    return weight.removesuffix(".weight")


def _filter_row(shown: Sequence[Network], names: Sequence[str | None]) -> list[Panel]:
    weights = {i: _weight(network, name) for i, (network, name) in enumerate(zip(shown, names)) if name is not None}
    views = {filters.view_of(w) for w, _ in weights.values()}
    view = "size" if len(views) > 1 and "rows" not in views else None  # one kind of tile, or they cannot be compared
    limits = {view or filters.view_of(w): filters.filter_limits(
        [v for v, _ in weights.values() if view or filters.view_of(v) == filters.view_of(w)], view=view)
        for w, _ in weights.values()}
    row = []
    for i, (network, name) in enumerate(zip(shown, names)):
        if name is None:
            row.append(Panel(None, f"{network.name}\nhas no such layer", {"model": network.name, "layer": None}))
            continue
        weight, new = weights[i]
        drawn, fresh = filters.shown(len(weight)), new.flatten(1).all(1)
        words = f"{network.name}\n{plain(owner(name))} {'x'.join(map(str, weight.shape))}".strip()
        words += f"\n{int(fresh.sum())} of {len(weight)} filters are new" if network.record.lineage else ""
        words += f"\n{len(drawn)} are shown" if len(drawn) < len(weight) else ""
        row.append(Panel(filters.filter_grid(weight, new, limits=limits[view or filters.view_of(weight)], view=view),
                         words, {"model": network.name, "layer": owner(name), "shape": list(weight.shape),
                                 "new_filters": fresh.nonzero().flatten().tolist(),
                                 "partly_new": (new.flatten(1).any(1) & ~fresh).nonzero().flatten().tolist()}))
    return row


def _weight(network: Network, name: str) -> tuple[Tensor, Tensor]:
    """A weight as [out, in, *kernel], and which of its numbers are new."""
    weight, found = tensors_of(network.gm)[name].detach(), filters.convolutions(network.gm)[name]
    new = new_numbers(network.record.entry(name, weight.ndim), weight)
    return (filters.out_first(weight, found.groups), filters.out_first(new, found.groups)) if found.transposed else \
        (weight, new)


def _first_layer(network: Network) -> str:
    name = filters.first_convolution(network.gm)
    if name is None:
        raise DrawError(f"{network.name or 'the model'} has no convolution to begin with: name a --layer")
    return owner(name)


def _new_channels(network: Network, node, count: int) -> Tensor:
    """Which channels of a convolution are those of wholly new filters; of any other node none is known to be."""
    call = call_of(network.gm, node)
    if call is None or not call.rank:
        return torch.zeros(count, dtype=torch.bool)
    return _weight(network, call.weight)[1].flatten(1).all(1)


def _choose(fresh: Sequence[Tensor], sizes: Sequence[int]) -> list[int]:
    """Some old and some new channels of the network that has most new ones, or the first few."""
    new = max(fresh, key=lambda f: int(f.sum()))
    if not new.any() or new.all():
        return list(range(min(FEW, max(sizes))))
    kinds = [mask.nonzero().flatten().tolist() for mask in (~new, new)]  # first and last: neighbours may be a pair
    return [i for found in kinds for i in dict.fromkeys((found[0], found[-1]))]
