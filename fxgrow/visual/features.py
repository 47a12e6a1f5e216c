"""Images that raise a class's logit, or the channels of a layer, of networks side by side; activations.py raises them."""
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from fxgrow.errors import DrawError
from fxgrow.graph import call_of
from fxgrow.models import dtype_of
from fxgrow.visual import filters
from fxgrow.visual.activations import STEPS, channel_axis, maximise, part, place
from fxgrow.visual.attributions import spread
from fxgrow.visual.networks import Models, Network, channels_of, check_target, image_shape, logits, networks, weight_of
from fxgrow.visual.panels import Panel, Picture, as_pixels, plain

FEW = 4  # channels that are shown unless they are named


@dataclass
class Aim:
    """A number that one panel raises in one network; `new` says of a channel whether growth brought it."""
    network: Network
    words: str
    value: Callable[[Tensor], Tensor]
    new: bool | None = None


class Layer:
    """The layer of a network whose channels are raised: the graph up to it, their number, and which are new."""

    def __init__(self, network: Network, name: str, image: Tensor):
        self.network, self.name = network, name
        node = place(network.gm, name)
        self.upto = part(network.gm, node)
        self.channels = channels_of(network, self.upto, name, image)
        call = call_of(network.gm, node)
        if call is None or not call.rank:  # of a node that is no convolution, no channel is known to be new
            self.new = torch.zeros(self.channels, dtype=torch.bool)
        else:
            self.new = weight_of(network, call.weight)[1].flatten(1).all(1)

    def strength(self, channel: int, x: Tensor) -> Tensor:
        """Return how much a channel answers to an image: the root mean square of its positive part, else its mean."""
        value = self.upto(x)
        of_channel = value.select(channel_axis(value), channel)
        positive = of_channel.clamp_min(0)
        return positive.square().mean().sqrt() if positive.any() else of_channel.mean()

    def aim(self, channel: int) -> Aim | Panel:
        """Return what raises a channel, or a panel that says that there is none."""
        if channel >= self.channels:
            return Panel(None, f"{self.network.name}\nhas no channel {channel}", {"model": self.network.name})
        return Aim(self.network, f"{plain(self.name)}, channel {channel}", partial(self.strength, channel),
                   bool(self.new[channel]))


def plot_features(models: Models, example_inputs=None, *, target: int | None = None, layer: str | None = None,
                  channels: Sequence[int] | None = None, steps: int = STEPS, seed: int = 0,
                  mean: Sequence[float] | None = None, std: Sequence[float] | None = None,
                  size: Sequence[int] | None = None, tick: Callable[[int], object] = lambda total: None) -> Picture:
    """Show images that raise a class's logit, or a channel, by activation maximisation from one start for all models.

    Of a channel the root mean square of its positive part is raised: what a ReLU lets through, patterns more than a shade.
    `facts` holds what is raised, before and after.

    Args:
        models: as for `plot_filters`; they take one image.
        target: the class whose logit is raised. Give this, or a layer.
        layer: a layer, module or node whose channels are raised, a row each; with neither, the first convolution.
        channels: which of them; None: some old and some new ones where the layer is a convolution that grew, else the
            first few.
        steps: of the ascent. seed: of the start and the shifts. mean, std, size: as for `plot_saliency`.
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
    rows: list[list[Aim | Panel]] = _channel_aims(shown, layer, channels, blank) if target is None else \
        [_class_aims(shown, target, blank)]
    title = "a channel" if target is None else f"the logit of class {target}"
    total = steps * len([aim for row in rows for aim in row if isinstance(aim, Aim)])

    def panel(aim: Aim | Panel) -> Panel:
        if isinstance(aim, Panel):
            return aim
        image, before, after = maximise(aim.value, shape, middle, width, seed=seed, steps=steps,
                                        dtype=dtype_of(aim.network.gm), tick=lambda: tick(total))
        mark = ""
        if aim.network.record.lineage and aim.new is not None:
            mark = " (new)" if aim.new else " (old)"
        return Panel(as_pixels(image), f"{aim.network.name}\n{aim.words}{mark}\n{before:.3g} → {after:.3g}".strip(),
                     {"model": aim.network.name, "what": aim.words, "new": bool(aim.new), "before": before, "after": after})

    return Picture(f"What raises {title}: {steps} steps, seed {seed}", [[panel(aim) for aim in row] for row in rows])


def _class_aims(shown: Sequence[Network], target: int, blank: Tensor) -> list[Aim | Panel]:
    for network in shown:
        check_target(network, logits(network, blank), target)
    return [Aim(network, f"class {target}", partial(lambda model, x: model(x)[0, target], network.gm)) for network in shown]


def _channel_aims(shown: Sequence[Network], name: str | None, channels: Sequence[int] | None, blank: Tensor
                  ) -> list[list[Aim | Panel]]:
    layers = [Layer(network, name or _first_layer(network), blank) for network in shown
              if network.inside is None]  # the channels of a small network in another one stand elsewhere
    most = max(layer.channels for layer in layers)
    for channel in channels or ():
        if not 0 <= channel < most:
            raise DrawError(f"{layers[0].name} has no channel {channel}: they are 0 to {most - 1}")
    rows = [[layer.aim(channel) for layer in layers] for channel in (_choice(layers) if channels is None else channels)]
    return rows if len(layers) > 1 else [[row[0] for row in rows]]


def _first_layer(network: Network) -> str:
    name = filters.first_convolution(network.gm)
    if name is None:
        raise DrawError(f"{network.name or 'the model'} has no convolution to begin with: name a --layer")
    return filters.owner(name)


def _choice(layers: Sequence[Layer]) -> list[int]:
    """Choose some old and some new channels of the network that has most new ones, or the first few."""
    new = max((layer.new for layer in layers), key=lambda mask: int(mask.sum()))
    if not new.any() or new.all():
        return list(range(min(FEW, max(layer.channels for layer in layers))))
    kinds = [mask.nonzero().flatten().tolist() for mask in (~new, new)]
    return [i for kind in kinds for i in dict.fromkeys((kind[0], kind[-1]))]  # first and last: neighbours may be a pair
