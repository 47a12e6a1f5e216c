"""The settings of a training run: a dataclass, read from TOML and from options, checked in one place."""
import math
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fxgrow.experiments.settings import Settings, TrainError, checked

RANGES = [("epochs", 1, math.inf), ("steps", 1, math.inf), ("batch_size", 1, math.inf), ("lr", 0, math.inf),
          ("momentum", 0, 1), ("beta2", 0, 1), ("weight_decay", 0, math.inf), ("label_smoothing", 0, 1),
          ("warmup", 0, math.inf), ("decay", 0, 1), ("milestones", 0, 1), ("gamma", 0, 1), ("final_lr", 0, 1),
          ("clip", 0, math.inf), ("workers", 0, math.inf), ("patience", 0, math.inf), ("eval_every", 0, math.inf),
          ("eval_batch_size", 1, math.inf), ("checkpoint_every", 0, math.inf)]


@dataclass
class TrainConfig(Settings):
    """How a network is trained, and when it grows.

    Args:
        epochs: how many times the training data are seen (10 if steps is not given either).
        steps: how many batches, instead of epochs.
        batch_size: samples a step; an incomplete last batch of an epoch is left out.
        task: what the network is trained for: classification, language (the next token), regression, segmentation, or
            one of your own (without it, what the data are made for).
        optimizer: sgd or adamw.
        lr: the peak learning rate.
        momentum: of sgd.
        nesterov: Nesterov's momentum for sgd.
        beta2: decay of adamw's second moment.
        weight_decay: of the optimizer, on all parameters.
        label_smoothing: share of the target that is spread over all classes, in the training loss.
        schedule: constant, cosine, linear, step (x gamma at each milestone) or wsd (warm-up, stable, linear decay).
        warmup: linear warm-up, in steps; below 1: a share of all steps.
        decay: wsd: the last part that decays, as a share of all steps.
        milestones: step: shares of all steps; repeatable.
        gamma: step: the factor at each milestone.
        final_lr: cosine, linear, wsd: where the rate ends, as a share of lr.
        clip: largest norm of the gradient of all parameters together (none: no clipping).
        precision: fp32, bf16 (autocast), or fp16 (autocast and loss scaling; CUDA only).
        channels_last: keep images and convolutions with the channels last in memory.
        compile: a backend of torch.compile (inductor, say), or reduce-overhead: inductor and CUDA graphs; compiled again
            after each growth; empty: not compiled.
        fused: the optimizer's step as one kernel for all parameters.
        device: auto (CUDA, else MPS, else CPU) or one of them.
        workers: processes that load data; the numbers do not depend on how many there are.
        patience: stop after so many evaluations without a lower validation loss, counted anew after a growth (0: never).
        seed: of the initial weights, the order of the data, dropout, augmentation and every growth.
        grow: a growth, `epoch=10: widen factor=2 method=r2r`, or auto; repeatable.
        eval_every: steps between evaluations (0: each epoch).
        eval_batch_size: samples a batch when evaluating.
        checkpoint_every: steps between checkpoints (0: at each evaluation).
        norm_statistics: when running statistics are measured anew on some training batches before an evaluation: grown (once
            the network has grown, but for the moment of growth, which changes no output), always or never.
        tensorboard: write scalars, histograms of weights and what each growth did for TensorBoard.
    """
    epochs: int | None = None
    steps: int | None = None
    batch_size: int = 64
    task: str | None = None
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.05
    momentum: float = 0.9
    nesterov: bool = False
    beta2: float = 0.999
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    schedule: Literal["constant", "cosine", "linear", "step", "wsd"] = "cosine"
    warmup: float = 0.0
    decay: float = 0.2
    milestones: Sequence[float] = (0.5, 0.75)
    gamma: float = 0.1
    final_lr: float = 0.0
    clip: float | None = None
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    channels_last: bool = False
    compile: str = ""
    fused: bool = False
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    workers: int = 0
    patience: int = 0
    seed: int = 0
    grow: Sequence[str] = ()
    eval_every: int = 0
    eval_batch_size: int = 512
    checkpoint_every: int = 0
    norm_statistics: Literal["grown", "always", "never"] = "grown"
    tensorboard: bool = False

    def __post_init__(self) -> None:
        for name, hint in typing.get_type_hints(type(self)).items():
            setattr(self, name, checked(name, getattr(self, name), hint))
        if self.epochs is not None and self.steps is not None:
            raise TrainError("epochs and steps are both given; give one of them")
        if self.epochs is None and self.steps is None:
            self.epochs = 10
        for name, low, high in RANGES:
            value = getattr(self, name)
            if value is not None and not all(low <= v <= high for v in (value if isinstance(value, list) else [value])):
                limits = f"at least {low:g}" if high == math.inf else f"between {low:g} and {high:g}"
                raise TrainError(f"{name} is {value}; it must be {limits}")
        if self.nesterov and not (self.momentum and self.optimizer == "sgd"):
            raise TrainError("nesterov needs optimizer sgd and a momentum above zero")
