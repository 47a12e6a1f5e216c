"""What networks have learned, side by side and comparable: their filters, and what of a photograph they look at.

What does not live here: filters as pixels (filters.py), attributions (attributions.py), layout and files (panels.py).
"""
import os
from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import Tensor

from fxgrow.common import nearest, times
from fxgrow.errors import DrawError, SelectionError
from fxgrow.graph import tensors_of
from fxgrow.models import dtype_of
from fxgrow.visual import filters
from fxgrow.visual.attributions import SIGNED, attribute, overlay, read_image, spread
from fxgrow.visual.networks import Models, Network, check_target, image_shape, logits, networks, weight_of
from fxgrow.visual.panels import Panel, Picture, as_pixels, enlarged, plain

MOST_LAYERS = 24  # rows that one picture takes


def plot_filters(models: Models, example_inputs=None, *, layer: str | None = None) -> Picture:
    """Show the filters of convolutions, new ones framed; a row a layer, a column a model.

    A row has one scale: equal numbers have equal colours. Wholly new filters have a solid frame, partly new ones dashes.

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
    """Show what of a photograph speaks for a class, over the photograph in grey: a column a model, one scale for all.

    `facts` holds each model's class, logit and probability, and the distance of its attribution to the first model's.

    Args:
        models: as for `plot_filters`; classifiers of one image.
        image: a file, or a tensor [C, H, W] of numbers from 0 to 1 that is as large as the model takes it.
        target: the class; None: the likeliest by the first model, for all.
        attribution: saliency, input-x-gradient, integrated-gradients, guided-backprop or occlusion (see attributions.py).
        steps: of integrated gradients. mean, std: one number a channel; None: ImageNet's.
        size: height and width that a file is scaled and cut to; None: that of the model's example input.

    Raises:
        DrawError: the image cannot be read, a model takes no image or gives no classes, the target is none of them, or
            captum or Pillow is not installed.
    """
    shown = networks(models, example_inputs)
    shape = image_shape(shown[0], size)
    photo = _photograph(image, shape)
    middle, width = spread(shape[0], mean, std)
    inputs = ((photo - middle) / width).unsqueeze(0)
    answers = [logits(network, inputs) for network in shown]
    chosen = int(answers[0].argmax()) if target is None else target
    maps = []
    for network, answer in zip(shown, answers):
        check_target(network, answer, chosen)
        maps.append(attribute(network.gm, inputs.to(dtype_of(network.gm)), chosen, attribution, steps))
    limit = max(float(m.abs().flatten().double().quantile(0.995)) for m in maps)
    row = [Panel(as_pixels(photo), "photograph", {"model": None})]
    row += [Panel(enlarged(overlay(photo, values, limit)), *_answer(network, answer, chosen, values, maps[0]))
            for network, answer, values in zip(shown, answers, maps)]
    signs = "; vermilion speaks for the class, blue against it" if attribution in SIGNED else ""
    return Picture(f"{attribution.replace('-', ' ').capitalize()} of class {chosen}{signs}", [row])


def _photograph(image: str | os.PathLike | Tensor, shape: tuple[int, int, int]) -> Tensor:
    photo = image.detach().cpu().double() if isinstance(image, Tensor) else read_image(image, shape[0], shape[1:])
    if photo.ndim != 3 or photo.shape[0] != shape[0] or not (float(photo.min()) >= 0 and float(photo.max()) <= 1):
        raise DrawError(f"the image is {list(photo.shape)}: give [{shape[0]}, H, W] with numbers from 0 to 1")
    return photo


def _answer(network: Network, answer: Tensor, target: int, values: Tensor, first: Tensor) -> tuple[str, dict]:
    """Return the words above a network's attribution, and the figures; `first` is that of the first network."""
    gap = float((values.double() - first.double()).abs().max()) / (float(first.abs().max()) or 1.0)
    probability = float(answer.softmax(0)[target])
    words = f"{network.name}\nclass {target}, probability {probability:.3f}"
    if values is not first:
        words += f"\ndiffers by {gap:.1e} of the largest"
    return words, {"model": network.name, "class": target, "logit": float(answer[target]), "probability": probability,
                   "largest": float(values.abs().max()), "difference": gap}


def _layers(shown: Sequence[Network], layer: str | None) -> list[list[str | None]]:
    """Return rows of weights: the name in each network, or None where it has none."""
    weights = [filters.convolutions(network.gm) for network in shown]
    for network, names in zip(shown, weights):
        if not names:
            raise DrawError(f"{network.name or 'the model'} has no convolution with a weight of its own, so there are no "
                            "filters to show")
    if layer is None:
        return [[next(iter(names)) for names in weights]]
    wanted = list(dict.fromkeys(name for network, names in zip(shown, weights) if network.inside is None for name in names
                                if layer in (name, filters.owner(name)) or fnmatchcase(filters.owner(name), layer)))
    if not wanted:
        every = list(dict.fromkeys(filters.owner(name) for names in weights for name in names))
        raise SelectionError(f"no convolution is named {layer!r}{nearest(layer, every)}; the first are "
                             f"{', '.join(every[:6])}")
    if len(wanted) > MOST_LAYERS:
        raise SelectionError(f"{layer!r} names {len(wanted)} convolutions, and one picture shows {MOST_LAYERS} at most: "
                             "name fewer")
    return [[_name_in(network, name, names) for network, names in zip(shown, weights)] for name in wanted]


def _name_in(network: Network, name: str, names: dict[str, filters.Convolution]) -> str | None:
    """Return a weight's name in a network, None if it has no such weight; a small network is asked by the grown one's."""
    if network.inside is None:
        return name if name in names else None
    source = network.inside.record.entry(name, tensors_of(network.inside.gm)[name].ndim).source
    return source if source in names else None


def _filter_row(shown: Sequence[Network], names: Sequence[str | None]) -> list[Panel]:
    weights = [None if name is None else weight_of(network, name) for network, name in zip(shown, names)]
    drawn = [found[0] for found in weights if found is not None]
    views = {filters.view_of(w) for w in drawn}
    view = "size" if len(views) > 1 and "rows" not in views else None  # one kind of tile, or they cannot be compared
    limits = {v: filters.filter_limits([w for w in drawn if view or filters.view_of(w) == v], view=view) for v in views}
    layouts = {v: filters.grid_layout([w for w in drawn if view or filters.view_of(w) == v], view=view) for v in views}
    row = []
    for network, name, found in zip(shown, names, weights):
        if name is None or found is None:
            row.append(Panel(None, f"{network.name}\nhas no such layer", {"model": network.name, "layer": None}))
        else:
            kind = filters.view_of(found[0])
            columns, scale = layouts[kind]
            grid = filters.filter_grid(*found, limits=limits[kind], view=view, columns=columns, scale=scale)
            row.append(_filter_panel(network, filters.owner(name), grid, *found))
    return row


def _filter_panel(network: Network, layer: str, grid, weight: Tensor, new: Tensor) -> Panel:
    positions, fresh = filters.shown(len(weight)), new.flatten(1).all(1)
    words = f"{network.name}\n{plain(layer)} {times(weight.shape)}".strip()
    words += f"\n{int(fresh.sum())} of {len(weight)} filters are new" if network.record.lineage else ""
    words += f"\n{len(positions)} are shown" if len(positions) < len(weight) else ""
    partly = new.flatten(1).any(1) & ~fresh
    return Panel(grid, words, {"model": network.name, "layer": layer, "shape": list(weight.shape),
                               "new_filters": fresh.nonzero().flatten().tolist(),
                               "partly_new": partly.nonzero().flatten().tolist()})
