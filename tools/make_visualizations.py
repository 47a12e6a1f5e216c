"""Draws docs/img/visualize-*.png: what a pretrained EfficientNet-Lite0 sees, before and after it grows.

    python tools/make_visualizations.py [--out docs/img] [--steps 128] [NAME ...]

Prints what was measured; about five minutes on one core. NAME is one of the pictures: filters, first-layer, saliency, class,
channels.
"""
import argparse
import copy
from pathlib import Path

import torch
import torch.nn.functional as F
from demo import PHOTOS, photographs, trained_network
from torch import nn

import fxgrow
from fxgrow.passes import Deepen, Widen

STEM = "_conv_stem"
METHODS = ("r2r", "net2net")
TRAINED, RATE = 20, 0.05  # steps of SGD, enough to see that new filters learn, and their learning rate


def grown(method: str) -> fxgrow.Grown:
    """Return the network with a first layer twice as wide."""
    return fxgrow.transform(trained_network(), photographs()[1], Widen(STEM, factor=2, method=method, seed=0))


def trained(model: nn.Module) -> nn.Module:
    """Return a copy that has learnt, with norms in eval mode, its own answers on the photographs, smoothed by 0.1."""
    model = copy.deepcopy(model).eval()
    _, inputs = photographs()
    with torch.no_grad():
        labels = model(inputs).argmax(1)
    optimizer = torch.optim.SGD(model.parameters(), RATE, momentum=0.9)
    for _ in range(TRAINED):
        loss = F.cross_entropy(model(inputs), labels, label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def filters(out: Path, steps: int) -> None:
    students = {method: grown(method) for method in METHODS}
    later = trained(students["r2r"].model)
    shown = {"before": trained_network(), **students, f"r2r, {TRAINED} steps later": later}
    fxgrow.plot_filters(shown, photographs()[1]).save(out / "visualize-filters.png")
    old, new = (model.get_parameter(f"{STEM}.weight") for model in (students["r2r"].model, later))
    mask = students["r2r"].record.new_mask(f"{STEM}.weight", old)
    moved = (new - old).abs()
    print(f"filters: {TRAINED} steps move old numbers by {moved[~mask].mean():.1e} and new ones by {moved[mask].mean():.1e} "
          f"on average; their mean size is {old.abs().mean():.1e}")


def first_layer(out: Path, steps: int) -> None:
    model, (_, inputs) = trained_network(), photographs()
    shown = {}
    for method in METHODS:
        deeper = fxgrow.transform(model, inputs, Deepen("input", method=method, block="basic", seed=0))
        done = deeper.outcomes[0].method
        shown[method if done == method else f"{method}, where {done} is done instead"] = deeper
        print(f"first layer by {method} ({done}): {fxgrow.verify(model, deeper.model, inputs)}")
    fxgrow.plot_filters(shown, layer="input_2.*").save(out / "visualize-first-layer.png")
    identity = fxgrow.transform(model, inputs, Deepen(STEM, method="net2net", seed=0))
    print(f"behind the first layer by net2net: {fxgrow.verify(model, identity.model, inputs)}")
    fxgrow.plot_filters({"net2net": identity, f"net2net, {TRAINED} steps later": trained(identity.model)},
                        layer=f"{STEM}_2.*").save(out / "visualize-identity.png")


def saliency(out: Path, steps: int) -> None:
    seen, inputs = photographs()
    models = {"teacher": trained_network(), "student by r2r": grown("r2r")}
    for name, photo in zip(PHOTOS, seen):
        for method in ("saliency", "occlusion"):
            image = torch.from_numpy(photo.copy()).permute(2, 0, 1) / 255
            picture = fxgrow.plot_saliency(models, image, inputs, attribution=method)
            picture.save(out / f"visualize-{method}-{Path(name).stem}.png")
            print(f"{method} of {name}: {picture.facts[1:]}")


def classes(out: Path, steps: int) -> None:
    _, inputs = photographs()
    models = {"teacher": trained_network().double(), "student by r2r": grown("r2r").model.double()}
    with torch.no_grad():
        target = int(models["teacher"](inputs.double())[1].argmax())
    picture = fxgrow.plot_features(models, inputs.double(), target=target, steps=steps)
    picture.save(out / "visualize-class.png")
    teacher, student = (panel.image.astype(int) for panel in picture.panels[0])
    print(f"class: {picture.facts}; the images differ by {abs(teacher - student).max()} of 255 at most")


def channels(out: Path, steps: int) -> None:
    picture = fxgrow.plot_features(grown("r2r"), steps=steps, size=(64, 64))
    picture.save(out / "visualize-channels.png")
    print(f"channels: {picture.facts}")


PICTURES = {"filters": filters, "first-layer": first_layer, "saliency": saliency, "class": classes, "channels": channels}


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the pictures of docs/visualize.md.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(PICTURES)} (default: all)")
    parser.add_argument("--out", type=Path, default=Path("docs/img"))
    parser.add_argument("--steps", type=int, default=128, help="of the ascent")
    arguments = parser.parse_args()
    for name in arguments.names or PICTURES:
        PICTURES[name](arguments.out, arguments.steps)


if __name__ == "__main__":
    main()
