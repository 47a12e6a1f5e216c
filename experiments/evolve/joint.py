"""Joint training of networks that share their numbers: at each step one of them, drawn at random, takes a batch."""
import itertools
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.fx import GraphModule

import fxgrow
from fxgrow.experiments.data import Data, loader
from fxgrow.experiments.evolve.config import SearchConfig
from fxgrow.experiments.settings import TrainError
from fxgrow.experiments.train import autocast, device_of, make_optimizer, rate, runnable, step_flops
from fxgrow.loops import Rates
from fxgrow.record import record_in


@dataclass
class Shared:
    """One network of a family: its parent's number, and itself, tied to its parent."""
    parent: int | None
    model: nn.Module


def family(networks: Mapping[int, tuple[int | None, GraphModule]]) -> dict[int, Shared]:
    """Tie networks to their parents, which come before them, so that each number that several have is the parent's."""
    tied: dict[int, Shared] = {}
    for number, (parent, model) in networks.items():
        whole = model if parent is None else fxgrow.tie(tied[parent].model, model, record_in(model))
        tied[number] = Shared(parent, whole)
    return tied


def train_jointly(members: Mapping[int, Shared], trained: Sequence[int], data: Data, config: SearchConfig, steps: int,
                  seed: int, round: int = 1) -> tuple[dict[int, int], dict[int, int], float]:
    """Train the members numbered in `trained`, in place; return the FLOPs and steps that each took, and the seconds."""
    began = time.monotonic()
    settings = config.trainer(steps, seed, round)
    rng, device = random.Random(f"{seed} joint"), device_of(settings)
    torch.manual_seed(seed)
    everything = nn.ModuleDict({str(n): members[n].model.to(device) for n in trained})
    optimizer = make_optimizer(settings, everything)
    batch = min(settings.batch_size, len(data.train))  # type: ignore[arg-type]
    costs = {n: step_flops(fxgrow.untie(members[n].model), batch, data.input_shape) for n in trained}  # type: ignore[arg-type]
    scaler = torch.amp.GradScaler(device.type, enabled=settings.precision == "fp16")
    runs = {n: runnable(settings, members[n].model) for n in trained}
    spent, taken = dict.fromkeys(trained, 0), dict.fromkeys(trained, 0)
    epochs = itertools.repeat(loader(data.train, batch, shuffle=True, seed=seed, drop_last=True, device=device))
    for step, (x, y) in zip(range(steps), itertools.chain.from_iterable(epochs)):
        number = rng.choice(list(trained))
        model = members[number].model
        model.train()
        for group in optimizer.param_groups:
            group["lr"] = rate(settings, Rates(), step, steps)
        optimizer.zero_grad(set_to_none=True)
        with autocast(settings, device):
            loss = F.cross_entropy(runs[number](x.to(device)), y.to(device), label_smoothing=settings.label_smoothing)
        if not torch.isfinite(loss):
            raise TrainError(f"the loss of network {number} is {float(loss)} at step {step}: lower lr, clip the gradient or "
                             "warm up")
        scaler.scale(loss).backward()
        if settings.clip is not None:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        scaler.step(optimizer)
        scaler.update()
        spent[number] += costs[number]
        taken[number] += 1
    everything.cpu()
    return spent, taken, time.monotonic() - began
