"""What is measured of one network: capture, growth, errors, depth, and the way through a file."""
import collections
import copy
import sys
import tempfile
import time
import traceback
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fxgrow
from fxgrow.passes import Deepen, Widen

EXACT = 1e-9
DROPPED = ("dropout", "attn_dropout", "dropout_p", "p", "drop_prob", "drop_rate", "drop_connect_rate", "attention_dropout",
           "activation_dropout", "hidden_dropout", "layerdrop", "layer_drop", "encoder_layerdrop", "decoder_layerdrop",
           "attention_probs_dropout_prob",
           "resid_pdrop", "attn_pdrop", "embd_pdrop", "hidden_dropout_prob", "classifier_dropout", "dropout_rate")


@dataclass
class Network:
    """A network of a package.

    make: builds it. inputs: the arguments of a call, as a tuple or a dict, given the batch and how much longer than the
    smallest its other free sizes are (0 or 1; a network that takes no other size says so by an error of its own).
    """
    make: Callable[[], nn.Module]
    inputs: Callable[[int, int], tuple | dict]


def image(side: int = 32, channels: int = 3, axes: int = 2, step: int = 32) -> Callable[[int, int], tuple]:
    """Return inputs of one picture of so many axes: a square, or an oblong whose sides are `step` longer and more."""
    def inputs(batch: int, longer: int) -> tuple:
        return torch.randn(batch, channels, *(side + step * longer * (1 + i) for i in range(axes))),
    return inputs


def words(length: int = 8, most: int = 64, names: str = "") -> Callable[[int, int], tuple | dict]:
    """Return inputs of one or several rows of numbers of words, by place or under these names."""
    def inputs(batch: int, longer: int) -> tuple | dict:
        def row() -> Tensor:
            return torch.randint(3, most, (batch, length + 3 * longer))
        return {name: row() for name in names.split()} if names else (row(),)
    return inputs


def varied(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give norms, biases, gates and statistics numbers that no fresh network has, and take all dropout away."""
    generator = torch.Generator().manual_seed(seed)
    for name, t in [*model.named_parameters(), *model.named_buffers()]:
        if not t.is_floating_point() or not (isinstance(t, nn.Parameter) or name.endswith(("_mean", "_var"))):
            continue
        if t.ndim <= 1 or not 0 < float(t.std()) < 1e3:  # more is memory that the package leaves as it was
            about = float(t.mean()) if t.numel() else 0.0
            noise = torch.rand(t.shape, generator=generator, dtype=torch.float64)
            with torch.no_grad():
                t.copy_(about * (0.5 + noise) if 1e-3 < abs(about) < 1e3 else 0.6 * noise - 0.3)
    for module in model.modules():
        for holder in (module, getattr(module, "config", None)):
            for name in DROPPED:
                if isinstance(getattr(holder, name, None), float):
                    setattr(holder, name, 0.0)
    return model


class _Torch(types.ModuleType):
    """torch, in which float32 is float64: what a package computes in float32 on purpose is compared as closely."""

    def __getattr__(self, name: str) -> Any:
        return torch.float64 if name in ("float32", "float") else getattr(torch, name)


def compute_in_float64(model: nn.Module) -> None:
    """Let the code of a model's package take float64 for float32."""
    packages = {type(m).__module__.partition(".")[0] for m in model.modules()} - {"torch", "fxgrow"}
    stand_in = _Torch("torch")
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in packages and vars(module).get("torch") is torch:
            vars(module)["torch"] = stand_in
    torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign]


def numbers(value: Any) -> list[Tensor]:
    """Return the floating tensors in the output of a model."""
    if isinstance(value, Tensor):
        return [value.detach()] if value.is_floating_point() or value.is_complex() else []
    if isinstance(value, dict):
        return [t for v in value.values() for t in numbers(v)]
    if isinstance(value, (tuple, list)):
        return [t for v in value for t in numbers(v)]
    return numbers(vars(value)) if hasattr(value, "__dict__") and not callable(value) else []


def off(one: Any, two: Any) -> float:
    """Return the largest difference of two outputs, relative to the largest number of each tensor."""
    first, second = numbers(one), numbers(two)
    if not first or [t.shape for t in first] != [t.shape for t in second]:
        return float("inf")
    worst = 0.0
    for a, b in zip(first, second):
        same = (a == b) | (a.isnan() & b.isnan())
        if a.numel() and not bool(same.all()):
            finite = a[a.isfinite()].abs()
            gap = float((a - b)[~same].abs().max()) / (float(finite.max()) if finite.numel() and finite.max() > 0 else 1.0)
            worst = max(worst, gap if gap == gap else float("inf"))
    return worst


def call(model: nn.Module, inputs: tuple | dict, train: bool = False, seed: int = 5) -> Any:
    """Call a model under the same random numbers each time."""
    torch.manual_seed(seed)
    with torch.no_grad():
        model.train(train)
        return model(**inputs) if isinstance(inputs, dict) else model(*inputs)


def tried(run: Callable[[], Any]) -> tuple[Any, str, bool]:
    """Run something: its result, what stopped it, and whether that was an error of fxgrow's; too much memory stops all."""
    try:
        return run(), "", True
    except fxgrow.FxgrowError as refusal:
        insist_on_memory(refusal)
        return None, " ".join(str(refusal).split()), True
    except Exception as error:
        insist_on_memory(error)
        place = [f for f in traceback.extract_tb(error.__traceback__) if "fxgrow" in f.filename or "/passes/" in f.filename]
        where = f" at {Path(place[-1].filename).name}:{place[-1].lineno} ({place[-1].name})" if place else ""
        return None, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}{where}", False


def insist_on_memory(error: Exception) -> None:
    """Stop where there was too little memory, which says nothing of the network."""
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        raise MemoryError from error


def errors(model: nn.Module, grown: nn.Module, others: list) -> dict[str, Any]:
    """Compare two models on each of the inputs: in eval mode, in train mode, and in eval mode after that."""
    found: dict[str, Any] = {}
    for inputs in others:
        one, two = copy.deepcopy(model), copy.deepcopy(grown)
        for name, train in (("eval", False), ("train", True), ("after", False)):
            wanted, stopped, _ = tried(lambda: call(one, inputs, train))
            got, fault, known = tried(lambda: call(two, inputs, train)) if not stopped else (None, "", True)
            if stopped or fault:
                found.setdefault("not_run" if stopped else "limits" if known else "stops", f"{name}: {stopped or fault}")
                break
            gap = off(wanted, got)
            if gap > EXACT and (off(wanted, call(nudged(one), inputs, train)) > EXACT or draws(model, inputs, train)):
                gap = 0.0
                found["unclear"] = f"{name}: a choice among nearly equal numbers, or numbers drawn in the forward"
            found[name] = max(found.get(name, 0.0), gap)
            if "unclear" in found:
                break  # statistics that follow are others too
    return found


def draws(model: nn.Module, inputs: tuple | dict, train: bool) -> bool:
    """Tell whether a model draws numbers."""
    return off(*(call(copy.deepcopy(model), inputs, train, seed) for seed in (5, 6))) > EXACT


def nudged(model: nn.Module) -> nn.Module:
    """Return a copy whose numbers are off by rounding."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for p in model.parameters():
            if p.is_floating_point():
                p.mul_(1 + 1e-14 * torch.randn_like(p))
    return model


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def left_alone(outcomes: list) -> list[str]:
    """Return the reasons why classes did not grow, the most frequent first."""
    reasons = collections.Counter(o.reason for o in outcomes if not o.method)
    return [f"{reason} ({times})" for reason, times in reasons.most_common(6)]


def capture(model: nn.Module, example: tuple | dict) -> dict[str, Any]:
    """Capture a model whole, and say what stays opaque in it, or why it cannot be."""
    graph, stopped, known = tried(lambda: fxgrow.capture(model, example))
    if stopped:
        return {"captured": "no", "capture": stopped, **({} if known else {"crash": stopped})}
    leaves = graph.meta["leaves"]
    return {"captured": "whole" if not leaves else f"{len(leaves)} opaque",
            "capture": "; ".join(f"{path}: {why}" for path, why in list(leaves.items())[:3])}


def measure(network: Network, say: Callable[[dict], None]) -> None:
    """Measure one network, and say what is known after each step."""
    row: dict[str, Any] = {"torch": torch.__version__.partition("+")[0]}

    def doing(what: str) -> None:
        row["doing"] = what
        say(row)

    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    model, stopped, _ = tried(lambda: varied(network.make().double()).eval())
    if stopped:
        return say(row | {"missing": f"cannot be built: {stopped}", "done": True})
    compute_in_float64(model)
    example = network.inputs(2, 0)
    row["parameters"] = count(model)
    began = time.process_time()
    result, stopped, _ = tried(lambda: call(copy.deepcopy(model), example))
    row["forward"] = round(time.process_time() - began, 2)
    if stopped or not numbers(result):
        return say(row | {"missing": f"does not run: {stopped or 'it gives no numbers'}", "done": True})
    model.eval()
    doing("captured")
    row |= capture(copy.deepcopy(model), example)
    doing("widened")
    grow(model, network, example, row, doing)
    return say(row | {"done": True})


def grow(model: nn.Module, network: Network, example: tuple | dict, row: dict, doing: Callable[[str], None]) -> None:
    """Widen, compare, save and deepen a model, and write into the row what comes out."""
    # of four: statistics of two rows where a picture has become one position differ by 1e-9 of rounding alone (LeViT)
    others = [network.inputs(4, 0), network.inputs(3, 0), network.inputs(3, 1)]
    began = time.process_time()
    grown, stopped, known = tried(lambda: fxgrow.transform(copy.deepcopy(model), example, [Widen(factor=2, seed=0)]))
    row["seconds"] = round(time.process_time() - began, 1)
    if stopped:
        row |= {"reason": stopped} | ({} if known else {"crash": stopped})
    else:
        row["growth"], row["left"] = round(count(grown.model) / row["parameters"], 2), left_alone(grown.outcomes)
        doing("compared")
        row |= errors(model, grown.model, others)
        doing("saved")
        row |= saved(grown, model, example)
    doing("deepened")
    deep, stopped, known = tried(lambda: fxgrow.transform(copy.deepcopy(model), example, [Deepen(seed=0)]))
    if stopped:
        row |= {"deepen": stopped} | ({} if known else {"crash": row.get("crash") or f"Deepen: {stopped}"})
        return
    found = errors(model, deep.model, others)
    row["deeper"] = max([v for k, v in found.items() if k in ("eval", "train", "after")], default=0.0)
    if "stops" in found:
        row["deepen"] = found["stops"]


def saved(grown: Any, model: nn.Module, example: tuple | dict) -> dict[str, Any]:
    """Save and load a grown model, into a copy of the first one where it has code of its own, and compare the two."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "grown.fxgrow"
        _, stopped, known = tried(lambda: fxgrow.save(grown, file))
        if stopped:
            return {"save": stopped} | ({} if known else {"crash": f"save: {stopped}"})
        loaded, stopped, known = tried(lambda: fxgrow.load(file))
        if stopped and known:  # it has code of its own
            loaded, stopped, known = tried(lambda: fxgrow.load(file, into=copy.deepcopy(model)))
        if stopped:
            return {"save": stopped, "crash": f"load: {stopped}"}
    return {"saved": off(call(grown.model, example), call(loaded, example))}
