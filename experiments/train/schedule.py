"""Growth during training: an entry of the schedule as text, when it is due, and the growth itself.

    epoch=10 lr=ratio freeze=100: widen factor=2 method=r2r + deepen where=layer2

In front of the colon stand when, and how training goes on; behind it the passes with their options, joined by `+` or `;`.
"""
from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import click
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.fx.passes.infra.pass_base import PassBase

import fxgrow
from fxgrow.cli import pass_options
from fxgrow.compare import Verification
from fxgrow.errors import FxgrowError, GrowthError
from fxgrow.experiments.seeds import mixed
from fxgrow.experiments.settings import TrainError, nearest
from fxgrow.record import Grown, GrowthRecord, new_numbers

TIMED, ADAPTIVE = ("epoch", "step", "fraction"), ("plateau", "slope")
FORM = "write it as 'epoch=10: widen factor=2 method=r2r'"
# what may stand beside the trigger: its values, or the type of a number, and the default
OPTIONS: dict[str, tuple[Any, Any]] = {
    "lr": (("constant", "ratio", "parts", "rewarm", "restart"), "constant"),
    "decay": (("constant", "ratio", "parts"), "constant"),
    "optimizer": (("migrate", "reset"), "migrate"),
    "rewarm": (int, 0), "new": (float, None), "old": (float, None), "decay_new": (float, None), "decay_old": (float, None),
    "freeze": (int, 0), "noise": (float, 0.0), "window": (int, 3), "min_delta": (float, 0.0)}


@dataclass(frozen=True)
class Entry:
    """One growth of the schedule: when (`trigger` and its `value`), by which passes, and how training goes on."""
    text: str
    trigger: str
    value: float
    passes: tuple[tuple[type, dict[str, Any]], ...]
    options: dict[str, Any]

    def at(self, per_epoch: int, total: int) -> int | None:
        """The step before which it is due; None: it depends on the losses."""
        if self.trigger in ADAPTIVE:
            return None
        return round(self.value * {"epoch": per_epoch, "step": 1, "fraction": total}[self.trigger])

    def due(self, rows: Sequence[dict[str, Any]]) -> bool:
        """Whether the evaluations since the last growth (rows of the history) say that it is time.

        plateau=P: the validation loss of the last P evaluations is not below the lowest before them, by min_delta.
        slope=S: the mean training loss has fallen by less than S for each FLOP over the last `window` evaluations.
        """
        if self.trigger == "plateau":
            return stalled([row["val_loss"] for row in rows], int(self.value), self.options["min_delta"])
        seen = [row for row in rows if row["train_loss"] is not None][-self.options["window"] - 1:]
        if len(seen) <= self.options["window"]:
            return False
        return (seen[0]["train_loss"] - seen[-1]["train_loss"]) / (seen[-1]["flops"] - seen[0]["flops"]) < self.value

    def instances(self, seed: int) -> list[PassBase]:
        """The passes; those without a seed get one of their own out of `seed`."""
        made = []
        for i, (cls, arguments) in enumerate(self.passes):
            names = {f.name for f in dataclasses.fields(cls)}
            given = {"seed": (seed + i) % 2 ** 31, **arguments} if "seed" in names else arguments
            made.append(cls(**given))
        return made


def seed_for(seed: int, index: int) -> int:
    """The seed of entry `index` of a run's schedule."""
    return mixed(seed, index) % 2 ** 31


def stalled(losses: Sequence[float], patience: int, min_delta: float = 0.0) -> bool:
    """Whether the last `patience` losses are all no better than the lowest before them."""
    return len(losses) > patience and min(losses[-patience:]) >= min(losses[:-patience]) - min_delta


def parse_growth(text: str) -> Entry:
    """An entry out of its text.

    Raises:
        TrainError: a word in it is not understood; it says which, and what could stand there.
    """
    head, colon, tail = text.partition(":")
    words = _pairs(head, text)
    if not colon or not words or not tail.strip():
        raise TrainError(f"growth {text!r}: when and what are separated by a colon; {FORM}")
    trigger, amount = words[0]
    if trigger not in (*TIMED, *ADAPTIVE):
        raise TrainError(f"growth {text!r}: {trigger!r} is no moment{nearest(trigger, (*TIMED, *ADAPTIVE))}; the moments "
                         f"are {', '.join((*TIMED, *ADAPTIVE))}")
    value = _number(text, trigger, amount, float if trigger in ("fraction", "slope") else int)
    if value < 0 or trigger == "plateau" and value < 1 or trigger == "fraction" and value > 1:
        raise TrainError(f"growth {text!r}: {trigger}={amount} is out of range")
    options = {name: default for name, (_, default) in OPTIONS.items()}
    for name, word in words[1:]:
        options[name] = _option(text, name, word)
    for rule, prefix in (("lr", ""), ("decay", "decay_")):
        parts = [options[prefix + part] for part in ("new", "old")]
        if (options[rule] == "parts") != any(p is not None for p in parts):
            raise TrainError(f"growth {text!r}: {rule}=parts and {prefix}new=FACTOR or {prefix}old=FACTOR go together")
    return Entry(text, trigger, value, tuple(_passes(tail, text)), options)


def _pairs(words: str, text: str) -> list[tuple[str, str]]:
    try:
        split = shlex.split(words)
    except ValueError as error:
        raise TrainError(f"growth {text!r}: {error}") from error
    for word in split:
        if "=" not in word:
            raise TrainError(f"growth {text!r}: {word!r} is no NAME=VALUE; {FORM}")
    return [(name.replace("-", "_"), value) for name, _, value in (word.partition("=") for word in split)]


def _number(text: str, name: str, word: str, kind: type) -> float:
    try:
        return kind(word)
    except ValueError:
        raise TrainError(f"growth {text!r}: {name}={word}: {word!r} is no {'whole ' if kind is int else ''}number") from None


def _option(text: str, name: str, word: str) -> Any:
    if name not in OPTIONS:
        raise TrainError(f"growth {text!r}: {name!r} is no option of a growth{nearest(name, list(OPTIONS))}; they are "
                         f"{', '.join(OPTIONS)}, and options of a pass stand behind its name")
    kind, _ = OPTIONS[name]
    if isinstance(kind, tuple):
        if word not in kind:
            raise TrainError(f"growth {text!r}: {name}={word}: choose one of {', '.join(kind)}")
        return word
    value = _number(text, name, word, kind)
    if not 0 <= value < float("inf") or name == "window" and value < 1:
        raise TrainError(f"growth {text!r}: {name}={word} is out of range")
    return value


def _passes(tail: str, text: str) -> list[tuple[type, dict[str, Any]]]:
    """The passes behind the colon, with their options as the command line reads them."""
    lexer = shlex.shlex(tail, posix=True, punctuation_chars=";")
    lexer.whitespace_split, lexer.commenters = True, ""
    try:
        words = list(lexer)
    except ValueError as error:
        raise TrainError(f"growth {text!r}: {error}") from error
    groups: list[list[str]] = [[]]
    for word in words:
        if word in ("+", ";"):
            groups.append([])
        else:
            groups[-1].append(word)
    if not all(groups):
        raise TrainError(f"growth {text!r}: a pass is missing; {FORM}")
    found = []
    for name, *options in groups:
        flags = ["--" + option.partition("=")[0].replace("_", "-") + "".join(option.partition("=")[1:])
                 for option in options]
        try:
            cls, arguments, left = pass_options.parse(name, flags)
        except click.UsageError as error:
            raise TrainError(f"growth {text!r}: {error.format_message()}") from error
        if left:
            known = [o.opts[0].removeprefix("--") for o in pass_options.options(cls)]
            word = left[0].removeprefix("--").partition("=")[0]
            raise TrainError(f"growth {text!r}: pass {name} has no option {word!r}{nearest(word, known)}; it has "
                             f"{', '.join(known)}")
        try:
            cls(**arguments)
        except (FxgrowError, TypeError) as error:
            raise TrainError(f"growth {text!r}: {error}") from error
        found.append((cls, arguments))
    return found


@dataclass
class Step:
    """A growth that was done: the grown model with its whole record, and the record of this growth alone."""
    grown: Grown
    record: GrowthRecord
    checked: Verification
    inexact: list[str]


def grow(model: GraphModule, inputs: Tensor, entry: Entry, seed: int) -> Step:
    """Grows a copy of `model` by the passes of an entry, and compares both on `inputs` (a batch) in eval mode.

    Raises:
        GrowthError: the grown model does not compute the same though nothing random was asked for.
        SelectionError: `where` names nothing that can grow.
    """
    passes = entry.instances(seed)
    before = model.meta.pop("growth", None)  # so that the record is that of this growth alone
    try:
        grown = fxgrow.transform(model, inputs, passes)
    finally:
        if before is not None:
            model.meta["growth"] = before
    extended = [f"more outputs of {o.name}" for o in grown.outcomes if o.method == "extend"]
    inexact = [f"{type(p).__name__.lower()} by random" for p in passes if getattr(p, "method", "") == "random"]
    inexact += [f"{type(p).__name__.lower()} by noise" for p in passes if getattr(p, "noise", 0)] + extended
    record = grown.record
    if before is not None:
        grown.record = grown.model.meta["growth"]["record"] = before["record"].then(record)
    checked = fxgrow.verify(model, grown.model, inputs, extended=bool(extended))
    if not checked.ok and not inexact:
        raise GrowthError(f"growth {entry.text!r}: the grown network does not compute the same ({checked}"
                          f"{''.join(f'; {note}' for note in checked.notes)}): please report it, and try another method")
    if entry.options["noise"]:
        add_noise(grown.model, record, entry.options["noise"], seed)
        inexact.append(f"noise {entry.options['noise']:g} on new numbers")
    return Step(grown, record, checked, inexact)


@torch.no_grad()
def add_noise(model: nn.Module, record: GrowthRecord, noise: float, seed: int) -> None:
    """Normal noise on the new numbers of every parameter, of `noise` times the parameter's standard deviation."""
    generator = torch.Generator().manual_seed(seed)
    for tensor, entry in record.located(dict(model.named_parameters(remove_duplicate=False))).values():
        new = new_numbers(entry, tensor)
        if tensor.numel() > 1 and new.any():
            drawn = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype).to(tensor.device)
            tensor += torch.where(new, drawn * (noise * tensor.std()), 0)
