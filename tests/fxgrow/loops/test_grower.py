"""Growth in a loop of one's own: what trains goes along, and a run that was broken off goes on to the same numbers."""
from __future__ import annotations

import copy
import gc
import io
import subprocess
import sys
import weakref
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

import fxgrow
from fxgrow.errors import GrowthError, TrainError
from fxgrow.passes import Widen

WIDEN, DEEPEN = "step=4 lr=ratio: widen where=3 factor=2", "step=8: deepen where=3"
X = torch.randn(16, 6, generator=torch.Generator().manual_seed(0))


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))


class Loop:
    """A loop of someone's own: two groups, a scheduler, an average, a scaler, perhaps compiled."""

    def __init__(self, *grow: str, compiled: bool = False, model: nn.Module | None = None, **settings: Any):
        self.model, self.losses = model or network(), []
        parts = [[p for p in self.model.parameters() if (p.ndim < 2) == bias] for bias in (False, True)]
        self.optimizer = torch.optim.AdamW([{"params": parts[0]}, {"params": parts[1], "weight_decay": 0.0}], lr=0.01)
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, 20)
        self.ema = AveragedModel(self.model, avg_fn=lambda average, new, count: 0.9 * average + 0.1 * new)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
        if compiled:
            self.model = torch.compile(self.model, backend="aot_eager")
        self.grower = fxgrow.Grower(self.model, self.optimizer, grow, X, scheduler=self.scheduler, ema=self.ema, **settings)

    @property
    def parts(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("grower", "model", "optimizer", "scheduler", "ema", "scaler")}

    def run(self, start: int, end: int) -> Loop:
        for step in range(start, end):
            x = torch.randn(16, 6, generator=torch.Generator().manual_seed(step))
            loss = (self.model(x) - x[:, :3]).square().mean()
            self.optimizer.zero_grad()
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.scheduler.step()
            self.ema.update_parameters(self.model)
            self.losses.append(loss.item())
            self.model = self.grower.step(step, loss)
        return self

    def saved(self) -> io.BytesIO:
        file = io.BytesIO()
        torch.save({name: part.state_dict() for name, part in self.parts.items()}, file)
        file.seek(0)
        return file

    def load(self, file: io.BytesIO) -> Loop:
        states = torch.load(file, weights_only=True)
        self.model = self.grower.load_state_dict(states["grower"])
        for name, part in self.parts.items():
            if name != "grower":
                part.load_state_dict(states[name])
        return self


def numbers(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


# --- what goes along ----------------------------------------------------------------------------------------------------


def test_model_average_and_groups_grow_and_compute_the_same():
    loop = Loop(WIDEN).run(0, 3)
    before, average = loop.model, copy.deepcopy(loop.ema.module)
    optimizer, rates = loop.optimizer, [g["lr"] for g in loop.optimizer.param_groups]
    after = loop.run(3, 4).model
    assert after is not before and after.get_parameter("3.weight").shape == (16, 8)
    assert fxgrow.verify(before, after, X).ok and loop.optimizer is optimizer
    assert not torch.equal(loop.ema.module.get_parameter("3.weight")[:8], after.get_parameter("3.weight")[:8])
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.01, 0.0]
    assert [{p.ndim for p in g["params"]} for g in optimizer.param_groups] == [{2}, {1}]
    assert {id(p) for g in optimizer.param_groups for p in g["params"]} == {id(p) for p in after.parameters()}
    moment = optimizer.state[after.get_parameter("3.weight")]["exp_avg"]
    assert moment.shape == (16, 8) and moment[:8].any() and not moment[8:].any()
    assert len(rates) == 2 and average.training == loop.ema.module.training


def test_the_average_of_a_layer_norms_stream_computes_what_it_did():
    loop = Loop("step=4: widen where=0 factor=2").run(0, 3)
    x = torch.randn(16, 6, generator=torch.Generator().manual_seed(3))
    optimizer, ema = loop.optimizer, loop.ema
    (loop.model(x) - x[:, :3]).square().mean().backward()
    optimizer.step()
    ema.update_parameters(loop.model)
    expected = ema(X)
    loop.grower.step(3)
    assert ema.module.get_parameter("0.weight").shape == (16, 6) and torch.allclose(ema(X), expected, atol=1e-6)
    ema.update_parameters(loop.grower.model)


def test_no_network_of_before_is_kept():
    loop, kept = Loop(WIDEN, DEEPEN), []
    for start, end in ((0, 4), (4, 8)):
        kept += [weakref.ref(loop.model), weakref.ref(loop.model.get_parameter("3.weight"))]
        loop.run(start, end)
    gc.collect()
    assert [ref() for ref in kept] == [None] * 4
    assert [a.entry for a in loop.grower.growths] == [WIDEN, DEEPEN] and all(a.checked.ok for a in loop.grower.growths)
    assert "8 -> 16" in loop.grower.growths[0].explain()


def test_an_average_may_be_a_dict_and_an_optimizer_may_train_more_than_the_model():
    model, temperature = network(), nn.Parameter(torch.ones(()))
    optimizer = torch.optim.Adam([temperature, *model.parameters()], lr=0.01)
    average = {name: t.clone() for name, t in model.state_dict().items()}
    grower = fxgrow.Grower(model, optimizer, "step=1: widen where=3 by=4", X, ema=average)
    (model(X) * temperature).square().mean().backward()
    optimizer.step()
    grown = grower.step(0)
    assert {name: t.shape for name, t in average.items()} == {name: t.shape for name, t in grown.state_dict().items()}
    assert any(p is temperature for p in optimizer.param_groups[0]["params"]) and optimizer.state[temperature]


class Shadow:
    """An average of someone's own, which keeps its copy under a name of its own."""

    def __init__(self, model: nn.Module):
        self.shadow, self.decay = copy.deepcopy(model).requires_grad_(False), 0.9


def test_averages_may_be_copies_and_objects_around_copies_and_several():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    average, shadow, parameters = copy.deepcopy(model), Shadow(model), {n: p.clone() for n, p in model.named_parameters()}
    grower = fxgrow.Grower(model, optimizer, ["step=1: widen where=0 factor=2", "step=2: deepen where=3"], X,
                           ema=[average, shadow, parameters])
    before = average(X)
    for step in range(2):
        (model(X) - X[:, :3]).square().mean().backward()
        optimizer.step()
        model = grower.step(step)
    assert torch.allclose(average(X), before, atol=1e-6) and torch.allclose(shadow.shadow(X), before, atol=1e-6)
    shapes = {name: p.shape for name, p in model.named_parameters()}
    assert shapes == {n: p.shape for n, p in average.named_parameters()} == {n: p.shape for n, p in parameters.items()}
    assert not any(p.requires_grad for p in shadow.shadow.parameters()) and not torch.equal(model(X), before)


def test_an_average_that_is_a_copy_goes_on():
    def made(model: nn.Module) -> tuple[nn.Module, fxgrow.Grower]:
        average = copy.deepcopy(model)
        return average, fxgrow.Grower(model, torch.optim.SGD(model.parameters(), lr=0.1), WIDEN, X, ema=average)

    (average, grower), (again, other) = made(network()), made(network(1))
    grower.step(3)
    other.load_state_dict(grower.state_dict())
    again.load_state_dict(average.state_dict())
    assert torch.equal(again(X), average(X)) and again.get_parameter("3.weight").shape == (16, 8)


def test_an_average_that_holds_the_model_wants_it_to_stay_the_object():
    model = network()
    optimizer, average = torch.optim.SGD(model.parameters(), lr=0.1), Shadow(model)
    average.online = model
    with pytest.raises(GrowthError, match="in_place=True"):
        fxgrow.Grower(model, optimizer, WIDEN, X, ema=average)
    fxgrow.Grower(model, optimizer, WIDEN, X, ema=average, in_place=True).step(3)
    assert average.shadow.get_parameter("3.weight").shape == average.online.get_parameter("3.weight").shape == (16, 8)


def test_two_models_of_one_optimizer_have_rates_of_their_own():
    first, second = network(), nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1))
    optimizer = torch.optim.SGD([{"params": first.parameters()}, {"params": second.parameters()}], lr=0.5)
    growers = [fxgrow.Grower(first, optimizer, "step=1 lr=ratio: widen where=3 factor=2", X),
               fxgrow.Grower(second, optimizer, "step=2 lr=ratio: widen where=0 factor=2", X[:, :3])]
    seen = []
    optimizer.register_step_pre_hook(lambda *_: seen.append([group["lr"] for group in optimizer.param_groups]))
    for step in range(3):
        second(first(X)).sum().backward()
        optimizer.step()
        assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.5]
        first, second = (grower.step(step) for grower in growers)
    assert seen[0] == [0.5, 0.5] and seen[1][0] < seen[1][1] == 0.5 and seen[2][0] == seen[1][0] and seen[2][1] < 0.5


def test_a_state_that_cannot_follow_is_left_as_it_is_or_begins_anew():
    model = network()
    optimizer = torch.optim.Adafactor(model.parameters())       # one number for each row and column
    model(X).sum().backward()
    optimizer.step()
    average, groups, states = copy.deepcopy(model), [*optimizer.param_groups[0]["params"]], len(optimizer.state)
    grower = fxgrow.Grower(model, optimizer, "step=1: widen where=3 factor=2", X, ema=average)
    with pytest.raises(GrowthError, match="`optimizer=reset` in the entry"):
        grower.step(0)
    assert grower.model is model and average.get_parameter("3.weight").shape == (8, 8) and len(optimizer.state) == states
    assert all(p is q for p, q in zip(optimizer.param_groups[0]["params"], groups, strict=True))
    grown = fxgrow.Grower(model, optimizer, "step=1 optimizer=reset: widen where=3 factor=2", X).step(0)
    assert not optimizer.state and optimizer.param_groups[0]["params"][4] is grown.get_parameter("3.weight")


def test_an_lbfgs_that_begins_anew_trains_the_grown_model():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)).double(), torch.randn(32, 4, dtype=torch.float64)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=4, line_search_fn="strong_wolfe")
    grower, losses = fxgrow.Grower(model, optimizer, "step=3 optimizer=reset: widen factor=2", x), []

    def closure():
        optimizer.zero_grad()
        loss = (model(x) - x.prod(1, keepdim=True)).square().mean()
        loss.backward()
        return loss

    for step in range(6):
        losses.append(float(optimizer.step(closure).detach()))
        model = grower.step(step)
    fresh = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=4, line_search_fn="strong_wolfe")
    assert losses == sorted(losses, reverse=True) and len({*losses}) == 6
    assert sum(p.numel() for p in fresh.param_groups[0]["params"]) == optimizer._numel() == 97


def test_an_optimizer_with_lists_of_its_own_is_refused():
    class Listing(torch.optim.SGD):
        def __init__(self, params, **given):
            super().__init__(params, **given)
            self.blocks = [{"all": tuple(self.param_groups[0]["params"])}]

    model = network()
    with pytest.raises(GrowthError, match="a Listing keeps parameters in .blocks too"):
        fxgrow.Grower(model, Listing(model.parameters(), lr=0.1), WIDEN, X)


def test_without_a_gpu_a_data_parallel_model_is_wrapped_again():
    model = nn.DataParallel(network(), device_ids=[])
    grown = fxgrow.Grower(model, torch.optim.SGD(model.parameters(), lr=0.1), WIDEN, X).step(3)
    assert isinstance(grown, nn.DataParallel) and grown.module.get_parameter("3.weight").shape == (16, 8)


def test_two_optimizers_each_take_what_is_theirs():
    model = network()
    matrices = torch.optim.SGD([p for p in model.parameters() if p.ndim == 2], lr=0.1, momentum=0.9)
    rest = torch.optim.AdamW([p for p in model.parameters() if p.ndim < 2])
    grown = fxgrow.Grower(model, [matrices, rest], "step=1: deepen where=3", X).step(0)
    held = [{id(p) for p in o.param_groups[0]["params"]} for o in (matrices, rest)]
    assert held == [{id(p) for p in grown.parameters() if (p.ndim < 2) == small} for small in (False, True)]


def test_the_rate_of_a_ratio_holds_during_steps_alone_and_the_scheduler_does_not_see_it():
    def moved(grow: str) -> tuple[float, float]:
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        grown = fxgrow.Grower(model, optimizer, grow, X).step(0)
        before = numbers(grown)
        grown(X).sum().backward()
        optimizer.step()
        return (grown.get_parameter("5.bias") - before[-1]).abs().max().item(), optimizer.param_groups[0]["lr"]

    (plain, rate), (scaled, same) = moved("step=1: widen where=3 factor=2"), moved("step=1 lr=ratio: widen where=3 factor=2")
    warm, _ = moved("step=1 lr=rewarm rewarm=4: widen where=3 factor=2")
    sizes = [sum(p.numel() for p in m.parameters()) for m in (
        network(), fxgrow.transform(network(), X, Widen("3", factor=2)).model)]
    assert rate == same == 0.5 and scaled == pytest.approx(plain * sizes[0] / sizes[1]) and warm == pytest.approx(plain / 4)


@pytest.mark.parametrize("compiled", [False, True])
def test_old_numbers_stand_still_while_they_are_frozen(compiled):
    loop = Loop("step=2 freeze=3: widen where=3 factor=2", compiled=compiled).run(0, 2)
    old = numbers(loop.model)
    loop.run(2, 4)
    frozen = dict(zip(dict(loop.model.named_parameters()), numbers(loop.model)))
    assert all(torch.equal(a, b) for a, b in zip(numbers(loop.model)[:4], old[:4]))
    loop.run(4, 7)
    assert not torch.equal(next(loop.model.parameters()), next(iter(frozen.values())))


def test_wrap_makes_what_is_trained():
    model = network()
    model[3] = torch.compile(model[3], backend="eager")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(GrowthError, match="give wrap="):
        fxgrow.Grower(model, optimizer, WIDEN, X)
    grower = fxgrow.Grower(model, optimizer, "step=1: widen where=3 factor=2", X, wrap=nn.Sequential)
    assert isinstance(grower.step(0), nn.Sequential)


def test_in_place_the_model_stays_the_object():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    expected = model(X)
    grower = fxgrow.Grower(model, optimizer, ["step=1: widen where=3 factor=2", "step=2: deepen where=3"], X, in_place=True)
    for step in range(2):
        assert grower.step(step) is model and torch.allclose(model(X), expected, atol=1e-6)
    assert model.get_parameter("3.weight").shape[0] == 16
    assert {id(p) for p in optimizer.param_groups[0]["params"]} == {id(p) for p in model.parameters()}
    assert torch.equal(copy.deepcopy(model)(X), model(X))


def test_inputs_are_those_of_the_first_call():
    model = network()
    grower = fxgrow.Grower(model, torch.optim.SGD(model.parameters(), lr=0.1), "step=1: widen where=3 factor=2")
    model(X)
    assert grower.step(0).get_parameter("3.weight").shape[0] == 16
    assert not model._forward_pre_hooks


def test_a_grower_that_is_given_up_leaves_no_hook():
    model = network()
    grower = fxgrow.Grower(model, torch.optim.SGD(model.parameters(), lr=0.1), "step=1: widen where=3 factor=2")
    assert len(model._forward_pre_hooks) == 1
    del grower
    gc.collect()
    assert not model._forward_pre_hooks


def test_without_inputs_a_run_that_goes_on_grows_again():
    grow = ["step=1: widen where=3 factor=2", "step=2: widen where=3 factor=2"]
    model, again = network(), network()
    grower = fxgrow.Grower(model, torch.optim.SGD(model.parameters(), lr=0.1), grow)
    model(X)
    model = grower.step(0)
    saved = grower.state_dict()
    wide = grower.step(1)
    assert saved["fired"] == [0] and grower.fired == [0, 1]
    grower = fxgrow.Grower(again, torch.optim.SGD(again.parameters(), lr=0.1), grow)
    again = grower.load_state_dict(saved)
    again.load_state_dict(model.state_dict())
    again(X)
    again = grower.step(1)
    assert all(torch.equal(p, q) for p, q in zip(wide.parameters(), again.parameters(), strict=True))


# --- when ---------------------------------------------------------------------------------------------------------------


def test_a_plateau_is_that_of_the_evaluations():
    model = network()
    grower = fxgrow.Grower(model, torch.optim.SGD(model.parameters(), lr=0.1), "plateau=2: widen where=3 factor=2", X)
    grew = []
    for step, loss in enumerate([3.0, 2.0, 2.5, 2.0, 1.0]):
        grower.evaluated(loss)
        grew.append(grower.step(step) is not model)
    assert grew == [False, False, False, True, True]


def test_a_slope_is_that_of_the_losses_of_steps():
    model = network()
    grower = fxgrow.Grower(model, torch.optim.SGD(model.parameters(), lr=0.1),
                           "slope=1e-6 window=1: widen where=3 factor=2", X)
    grower.step(0, torch.tensor(9.0))
    for step, loss in enumerate([8.0, 7.999]):
        grower.evaluated(0.0)
        assert grower.step(step + 1, loss) is model
    grower.evaluated(0.0)
    assert grower.step(3, 7.998) is not model


def test_epochs_and_fractions_are_of_what_the_loop_tells():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    grower = fxgrow.Grower(model, optimizer, ["epoch=2: widen where=3 by=2", "fraction=0.5: widen where=3 by=2"], X,
                           steps_per_epoch=3, total_steps=20)
    widths = [grower.step(step).get_parameter("3.weight").shape[0] for step in range(11)]
    assert widths == [8] * 5 + [10] * 4 + [12] * 2


@pytest.mark.parametrize("grow, message", [
    ("epoch=1: widen by=2", "steps_per_epoch="), ("fraction=0.1: widen by=2", "total_steps="),
    ("step=0: widen by=2", "before the first step"), ("step=1 lr=restart: widen by=2", "scheduler anew"),
    ("step=1: wider by=2", "did you mean")])
def test_what_a_loop_cannot_do_is_said_at_once(grow, message):
    model = network()
    with pytest.raises(TrainError, match=message):
        fxgrow.Grower(model, torch.optim.SGD(model.parameters(), lr=0.1), grow, X)


def test_what_does_not_belong_together_is_refused():
    model, other = network(), torch.optim.SGD(network().parameters(), lr=0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(GrowthError, match="no parameter of the model"):
        fxgrow.Grower(model, other, WIDEN, X)
    with pytest.raises(GrowthError, match="another optimizer"):
        fxgrow.Grower(model, optimizer, WIDEN, X, scheduler=torch.optim.lr_scheduler.StepLR(other, 1))
    with pytest.raises(GrowthError, match="no average"):
        fxgrow.Grower(model, optimizer, WIDEN, X, ema=0.9)


# --- going on -----------------------------------------------------------------------------------------------------------


@pytest.mark.thinned(4)
@pytest.mark.parametrize("at, compiled", [(3, False), (4, False), (9, False), (9, True)])
def test_a_run_goes_on_to_the_same_numbers(at, compiled):
    grow = (WIDEN, "step=8 freeze=2: deepen where=3")
    whole, half = Loop(*grow, compiled=compiled).run(0, 11), Loop(*grow, compiled=compiled).run(0, at)
    again = Loop(*grow, compiled=compiled).load(half.saved()).run(at, 11)
    assert again.losses == whole.losses[at:]
    assert all(map(torch.equal, numbers(again.model), numbers(whole.model)))


def test_a_model_of_code_of_its_own_goes_on(tmp_path):
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8)), nn.Linear(8, 3)

        def forward(self, x):
            return self.head(self.body(x)) if bool(x.sum() < 1e9) else x

    loop = Loop("step=2: widen where=body.0 factor=2", model=Own()).run(0, 3)
    again = Loop("step=2: widen where=body.0 factor=2", model=Own()).load(loop.saved())
    assert isinstance(again.model, Own) and torch.equal(again.model(X), loop.model(X))


def test_another_schedule_is_refused():
    state = Loop(WIDEN).run(0, 5).saved()
    with pytest.raises(TrainError, match="has grown by 'step=4"):
        Loop("step=4: widen where=3 factor=3").load(state)
    Loop(WIDEN, DEEPEN).load(Loop(WIDEN).run(0, 5).saved())      # a longer one is not


# --- processes ----------------------------------------------------------------------------------------------------------


RANKS = '''
import os, signal, sys, torch, torch.distributed as dist, fxgrow
from torch import nn
from torch.nn.parallel import DistributedDataParallel
dist.init_process_group("gloo")
rank, checkpoint = dist.get_rank(), sys.argv[1]
torch.manual_seed(rank)                                         # the weights of rank 0 count
model = DistributedDataParallel(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)))
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
grower = fxgrow.Grower(model, optimizer, ["step=4: widen where=0 factor=2", "plateau=1: deepen where=0"],
                       torch.randn(4, 6))
start, crash = 0, not os.path.exists(checkpoint)
if not crash:
    state = torch.load(checkpoint, weights_only=True)
    model = grower.load_state_dict(state["grower"])
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    start = state["step"]
for step in range(start, 9):
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(2 * step + rank))
    loss = (model(x) - x[:, :3]).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step in (5, 6):
        grower.evaluated(step - 10 * rank)                      # each alone would decide otherwise
    model = grower.step(step, loss)
    if crash and step == 4:
        if rank == 0:
            torch.save({"grower": grower.state_dict(), "model": model.state_dict(), "optimizer": optimizer.state_dict(),
                        "step": 5}, checkpoint)
        dist.barrier()
    if crash and step == 5 and rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
assert isinstance(model, DistributedDataParallel) and len(grower.fired) == 2, grower.fired
flat = torch.cat([p.detach().flatten() for p in model.parameters()])
both = [torch.empty_like(flat) for _ in range(2)]
dist.all_gather(both, flat)
assert torch.equal(*both)
print("same", len(flat), flush=True)
'''


def test_the_settings_of_a_wrapper_stay(tmp_path):
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    try:
        model = DistributedDataParallel(network(), find_unused_parameters=True, gradient_as_bucket_view=True)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        grower = fxgrow.Grower(model, optimizer, ["plateau=1: widen where=3 factor=2", "step=3: deepen where=3"], X)
        grower.evaluated(1.0)
        grower.evaluated(2.0)
        grown = grower.step(0)
        assert isinstance(grown, DistributedDataParallel) and grown.find_unused_parameters and grown.gradient_as_bucket_view
        grown(X).sum().backward()
        optimizer.step()
        held = fxgrow.Grower(grown, optimizer, "step=1: widen where=3 by=2", X, in_place=True)
        assert held.step(0) is grown and grown.module.get_parameter("3.weight").shape[0] == 18
        grown(X).sum().backward()
        assert all(p.grad is not None for p in optimizer.param_groups[0]["params"])
    finally:
        dist.destroy_process_group()


@pytest.mark.sweep
def test_processes_grow_alike_and_go_on_when_one_was_killed(tmp_path):
    (tmp_path / "ranks.py").write_text(RANKS)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    first, second = (subprocess.run([*torchrun, "ranks.py", "last.pt"], cwd=tmp_path, text=True, capture_output=True,
                                    timeout=300) for _ in range(2))
    assert first.returncode and "SIGKILL" in first.stderr
    assert second.returncode == 0 and second.stdout.count("same") == 2, second.stderr[-2000:]
