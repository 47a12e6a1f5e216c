"""Growth during training: an entry of the schedule as text, when it is due, and the growth itself.

    epoch=10 lr=ratio freeze=100: widen factor=2 method=r2r + deepen where=layer2
    auto max_size=8

The moment and how training goes on stand in front of the colon, the passes behind it, joined by `+` or `;`; `auto` without
them takes those that the graph shows (`Usual`).
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
from fxgrow.cli import options_of, parse_pass
from fxgrow.common import did_you_mean, mixed
from fxgrow.compare import Verification
from fxgrow.errors import FxgrowError, GrowthError, TrainError
from fxgrow.growth import INEXACT
from fxgrow.loops.usual import Usual
from fxgrow.record import Grown, GrowthRecord, Outcome, explain, new_numbers

MOMENTS = ("epoch", "step", "fraction", "plateau", "slope", "auto")
FORM = "write it as 'epoch=10: widen factor=2 method=r2r'"
# what may stand beside the trigger: its values, or the type of a number, and the default
OPTIONS: dict[str, tuple[Any, Any]] = {
    "lr": (("constant", "ratio", "parts", "rewarm", "restart"), "constant"),
    "decay": (("constant", "ratio", "parts"), "constant"),
    "optimizer": (("migrate", "reset"), "migrate"),
    "rewarm": (int, 0), "new": (float, None), "old": (float, None), "decay_new": (float, None), "decay_old": (float, None),
    "freeze": (int, 0), "noise": (float, 0.0), "window": (int, 3), "min_delta": (float, 0.0),
    "max_size": (float, 16.0), "max_flops": (float, 0.0), "until": (float, 0.8)}


@dataclass(frozen=True)
class Entry:
    """A growth of the schedule: when (`trigger` and its `value`), by which passes, and how training goes on.

    That of the trigger `auto` is done again and again; `fxgrow.loops.Auto` says when, and `Usual` how, if it has no passes.
    """
    text: str
    trigger: str
    value: float
    passes: tuple[tuple[type, dict[str, Any]], ...]
    options: dict[str, Any]

    def at(self, per_epoch: int, total: int) -> int | None:
        """Return the step before which it is due; None: it depends on the losses."""
        steps = {"epoch": per_epoch, "step": 1, "fraction": total}.get(self.trigger)
        return None if steps is None else round(self.value * steps)

    @property
    def waits(self) -> bool:
        """Tell if its moment depends on evaluations."""
        return self.trigger in ("plateau", "slope")

    def due(self, rows: Sequence[dict[str, Any]]) -> bool:
        """Tell from the evaluations since the last growth (rows of the history) if it is time.

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
        """Return the passes; those without a seed get one of their own out of `seed`, those without a method r2r.

        (Whatever the type of the numbers: equal copies would learn alike.)
        """
        passes = []
        for i, (cls, arguments) in enumerate(self.passes):
            fields = {f.name: f.default for f in dataclasses.fields(cls)}
            given: dict[str, Any] = {"seed": (seed + i) % 2 ** 31} if "seed" in fields else {}
            if fields.get("method", "") is None and cls.__module__.partition(".")[0] == "fxgrow":
                given["method"] = "r2r"
            passes.append(cls(**given | arguments))
        return passes


def seed_for(seed: int, index: int, again: int = 0) -> int:
    """Return the seed of entry `index` of a run's schedule; `again`: how often it was done before."""
    return mixed(seed, index, *([again] if again else [])) % 2 ** 31


def auto_in(entries: Sequence[Entry]) -> int | None:
    """Return the number of the entry of the trigger `auto`, of which there may be one."""
    found = [i for i, entry in enumerate(entries) if entry.trigger == "auto"]
    if len(found) > 1:
        raise TrainError(f"growth {entries[found[1]].text!r}: there is an auto already: join the passes of both by +")
    return found[0] if found else None


def stalled(losses: Sequence[float], patience: int, min_delta: float = 0.0) -> bool:
    """Tell if the last `patience` losses are all no better than the lowest before them."""
    return len(losses) > patience and min(losses[-patience:]) >= min(losses[:-patience]) - min_delta


def parse_growth(text: str) -> Entry:
    """Read an entry from its text; TrainError says which word is not understood, and what could stand there."""
    head, colon, tail = text.partition(":")
    auto = head.split()[:1] == ["auto"]
    if auto:
        head = head.replace("auto", "auto=1", 1)
    words = _pairs(head, text)
    if not words or (not tail.strip() and (colon or not auto)):
        raise TrainError(f"growth {text!r}: when and what are separated by a colon; {FORM}, or 'auto'")
    trigger, amount = words[0]
    if trigger not in MOMENTS:
        raise TrainError(f"growth {text!r}: {trigger!r} is no moment{did_you_mean(trigger, MOMENTS)}; "
                         f"the moments are {', '.join(MOMENTS)}")
    value = _number(text, trigger, amount, float if trigger in ("fraction", "slope") else int)
    lowest, highest = 1 if trigger == "plateau" else 0, 1 if trigger == "fraction" else float("inf")
    if value < lowest or value > highest:
        raise TrainError(f"growth {text!r}: {trigger}={amount} is out of range")
    options = {name: default for name, (_, default) in OPTIONS.items()}
    options |= {name: _option(text, name, word) for name, word in words[1:]}
    for rule, prefix in (("lr", ""), ("decay", "decay_")):
        parts = [options[prefix + part] for part in ("new", "old")]
        if (options[rule] == "parts") != any(p is not None for p in parts):
            raise TrainError(f"growth {text!r}: {rule}=parts and {prefix}new=FACTOR or {prefix}old=FACTOR go together")
    passes = tuple(_pass(text, *words) for words in _passes(tail, text)) if colon else ((Usual, {}),)
    return Entry(text, trigger, value, passes, options)


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
        what = "whole number" if kind is int else "number"
        raise TrainError(f"growth {text!r}: {name}={word}: {word!r} is no {what}") from None


def _option(text: str, name: str, word: str) -> Any:
    if name not in OPTIONS:
        raise TrainError(f"growth {text!r}: {name!r} is no option of a growth{did_you_mean(name, list(OPTIONS))}; they are "
                         f"{', '.join(OPTIONS)}, and options of a pass stand behind its name")
    kind, _ = OPTIONS[name]
    if isinstance(kind, tuple):
        if word not in kind:
            raise TrainError(f"growth {text!r}: {name}={word}: choose one of {', '.join(kind)}")
        return word
    value = _number(text, name, word, kind)
    if not (1 if name == "window" else 0) <= value < float("inf"):
        raise TrainError(f"growth {text!r}: {name}={word} is out of range")
    return value


def _passes(tail: str, text: str) -> list[list[str]]:
    """Return the passes behind the colon, each a name and its options."""
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
    return groups


def _pass(text: str, name: str, *options: str) -> tuple[type, dict[str, Any]]:
    """Return a pass and its arguments as the command line reads them, tried out."""
    flags = [f"--{key.replace('_', '-')}{equals}{value}" for key, equals, value in (o.partition("=") for o in options)]
    try:
        cls, arguments, left = parse_pass(name, flags)
        if not left:
            cls(**arguments)
    except (click.UsageError, FxgrowError, TypeError) as error:
        why = error.format_message() if isinstance(error, click.UsageError) else error
        raise TrainError(f"growth {text!r}: {why}") from error
    if left:
        known = [o.opts[0].removeprefix("--") for o in options_of(cls)]
        word = left[0].removeprefix("--").partition("=")[0]
        raise TrainError(f"growth {text!r}: pass {name} has no option {word!r}{did_you_mean(word, known)}; it has "
                         f"{', '.join(known)}")
    return cls, arguments


@dataclass
class CheckedGrowth:
    """A growth that was done."""
    grown: Grown
    checked: Verification
    inexact: list[str]

    @property
    def record(self) -> GrowthRecord:
        """Return the record of this growth alone."""
        return self.grown.step

    def account(self, entry: Entry) -> GrowthAccount:
        """Return what is to be said of it, without networks and records."""
        return GrowthAccount(entry.text, self.grown.outcomes, self.checked, self.inexact)


@dataclass
class GrowthAccount:
    """What a growth did: its entry, what was done to each axis class, how both networks compare, what of it is not exact."""
    entry: str
    outcomes: list[Outcome]
    checked: Verification
    inexact: list[str]

    def explain(self) -> str:
        """Return the table of the axis classes as text."""
        return explain(self.outcomes)


def grow_by_entry(model: GraphModule, inputs: Tensor, entry: Entry, seed: int) -> CheckedGrowth:
    """Grow a copy of `model` by the passes of an entry, and compare both on `inputs` (a batch) in eval mode.

    Raises GrowthError if they do not compute the same though nothing random was asked for, SelectionError if `where` names
    nothing that can grow.
    """
    passes = entry.instances(seed)
    grown = fxgrow.transform(model, inputs, passes)
    extended = [f"more outputs of {o.name}" for o in grown.outcomes if o.method == "extend"]
    inexact = [f"{type(p).__name__.lower()} by {p.method}" for p in passes if getattr(p, "method", "") in INEXACT]
    inexact += [f"{type(p).__name__.lower()} by noise" for p in passes if getattr(p, "noise", 0)] + extended
    checked = fxgrow.verify(model, grown.model, inputs, extended=bool(extended))
    if not checked.ok and not inexact:
        raise GrowthError(f"growth {entry.text!r}: the grown network does not compute the same ({checked}"
                          f"{''.join(f'; {note}' for note in checked.notes)}): please report it, and try another method")
    if entry.options["noise"]:
        add_noise(grown.model, grown.step, entry.options["noise"], seed)
        inexact.append(f"noise {entry.options['noise']:g} on new numbers")
    return CheckedGrowth(grown, checked, inexact)


@torch.no_grad()
def add_noise(model: nn.Module, record: GrowthRecord, noise: float, seed: int) -> None:
    """Add normal noise to the new numbers of every parameter, `noise` times the parameter's standard deviation."""
    generator = torch.Generator().manual_seed(seed)
    for tensor, entry in record.located(model).values():
        new = new_numbers(entry, tensor)
        if isinstance(tensor, nn.Parameter) and tensor.numel() > 1 and new.any():
            drawn = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype).to(tensor.device)
            tensor += torch.where(new, drawn * (noise * tensor.std()), 0)
