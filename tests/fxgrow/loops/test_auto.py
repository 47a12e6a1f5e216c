"""Growth without a moment of its own: the law that is fitted, when a bigger network promises more, and runs that go on."""
from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
from torch import nn
from training import assert_same, clusters, trainer

import fxgrow
from fxgrow.errors import TrainError
from fxgrow.experiments.train import Trainer, Watcher
from fxgrow.loops import Ahead, Auto, auto_in, parse_growth, seed_for
from fxgrow.loops.auto import PowerLaw, fit
from fxgrow.loops.usual import Usual

# --- the law ----------------------------------------


@pytest.mark.parametrize("law", [PowerLaw(0.3, 3.0, 0.5), PowerLaw(0.0, 2.0, 0.3), PowerLaw(1.2, 40.0, 1.1)])
def test_a_law_is_found_again(law):
    steps = np.arange(10, 2000, 20)
    found, loss = fit(steps, law.floor + law.scale * steps ** -law.exponent)
    assert found.floor == pytest.approx(law.floor, abs=0.02) and found.exponent == pytest.approx(law.exponent, rel=0.05)
    assert loss == pytest.approx(law.floor + law.scale * steps[-1] ** -law.exponent, rel=1e-2)


def test_a_law_behind_a_growth_begins_with_what_was_learnt_before():
    law, steps = PowerLaw(0.2, 3.0, 0.5), np.arange(10, 1000, 20)
    found, _ = fit(steps, law.floor + law.scale * (steps + 100) ** -law.exponent, before=400)  # worth a quarter of them
    assert found.floor == pytest.approx(0.2, abs=0.02) and found.exponent == pytest.approx(0.5, rel=0.05)


def test_losses_that_do_not_fall_are_all_floor():
    law, _ = fit(range(10, 100, 10), [1.0] * 9)
    assert law.floor == pytest.approx(1.0) and law.promise(1.0, 2.0, 2.0) == float("inf") and law.slope(1.0) == 0
    rising, _ = fit(range(10, 100, 10), np.linspace(1, 2, 9))
    assert rising.promise(1.5, 2.0, 2.0) == float("inf")


def test_the_promise_is_the_ratio_of_slopes_for_a_flop():
    law, flops, parameters = PowerLaw(0.4, 3.0, 0.5), 2.5, 3.0
    bigger = PowerLaw(0.4 * 3.0 ** -0.5, 3.0, 0.5)

    def slope(law, loss):  # by differences, where the law is at this loss
        s = ((loss - law.floor) / law.scale) ** (-1 / law.exponent)
        return law.scale * ((s - 1e-3) ** -law.exponent - (s + 1e-3) ** -law.exponent) / 2e-3

    for loss in (0.45, 0.6, 1.0, 3.0):
        assert law.slope(loss) == pytest.approx(slope(law, loss), rel=1e-4)
        wanted = slope(bigger, loss) / flops / slope(law, loss)
        assert law.promise(loss, flops, parameters) == pytest.approx(wanted, rel=1e-4)
    assert law.promise(0.45, flops, parameters) > 1 > law.promise(3.0, flops, parameters)
    assert PowerLaw(0.0, 3.0, 0.5).promise(0.1, flops, parameters) == pytest.approx(1 / flops)


# --- when ----------------------------------------


def judged(losses, text="auto", ahead=None, spent=0, parameters=100) -> tuple[list[int], Auto]:
    """Steps at which a run with these losses of each step would grow (it does not), and what was decided last."""
    entry, auto = parse_growth(text), Auto(len(losses), parameters)
    ahead = ahead or Ahead([1000, 2000], [100, 220])
    due = [s for s, loss in enumerate(losses, 1) if auto.stepped(s, loss) and auto.due(entry, s, spent, lambda: ahead)]
    return due, auto


def curve(floor: float, scale: float = 3.0, exponent: float = 0.5, noise: float = 0.0, steps: int = 1000) -> np.ndarray:
    s = np.arange(1, steps + 1)
    return (floor + scale * s ** -exponent) * (1 + noise * np.random.default_rng(0).standard_normal(steps))


def test_it_is_time_once_the_floor_is_near_and_never_without_one():
    for noise in (0.0, 0.05):
        early, late, never = (judged(curve(floor, noise=noise))[0] for floor in (0.3, 0.1, 0.0))
        assert early and late and min(early) < min(late) < 800
        assert len(never) <= 3  # of 73 times: one mean may be off, two in a row seldom are


def test_a_plateau_on_the_way_down_is_no_floor():
    fall = curve(2.0, exponent=1.0)
    fall[150:] = 1.2 + 0.8 * (1 + np.arange(850) / 100) ** -0.5
    law, _ = fit(range(5, 155, 10), fall[:150].reshape(-1, 10).mean(1))
    assert law.floor > 1.95 > fall[250]
    entry, auto = parse_growth("auto"), Auto(1000, 100)
    ahead, said = Ahead([1000, 2000], [100, 220]), []
    for step, loss in enumerate(fall, 1):
        if auto.stepped(step, loss):
            said.append((step, auto.due(entry, step, 0, lambda: ahead), auto.why))
    assert not any(due for step, due, _ in said if step < 300) and "it was a plateau" in said[0][2]
    assert any(due for step, due, _ in said)


def test_the_dearer_the_growth_the_later():
    at = [min(judged(curve(0.2), ahead=Ahead([1000, int(1000 * g)], [100, 220]))[0], default=10 ** 9) for g in (2, 2.5, 3)]
    assert at == sorted(at) and len(set(at)) == 3


@pytest.mark.parametrize("text, spent, ahead, why", [
    ("auto max_size=2", 0, None, "220 parameters would be more than 200 (max_size)"),
    ("auto max_flops=1e6", 999_000, None, "more than 1 MFLOP (max_flops)"),
    ("auto until=0.05", 0, None, "no growth in the last 95% of the run (until)"),
    ("auto", 0, Ahead(refused="nothing can grow"), "no growth: nothing can grow")])
def test_caps(text, spent, ahead, why):
    due, _ = judged(curve(0.3, steps=300), text, ahead, spent)
    entry, auto = parse_growth(text), Auto(300, 100)
    for step, loss in enumerate(curve(0.3, steps=300)[:90], 1):
        auto.stepped(step, loss)
    assert not due and not auto.due(entry, 90, spent, lambda: ahead or Ahead([1000, 20000], [100, 220]))
    assert why in auto.why


def test_words():
    usual = parse_growth("auto")
    assert usual.trigger == "auto" and usual.passes == ((Usual, {}),)
    own = parse_growth("auto lr=rewarm rewarm=20 max_size=8: deepen times=2 + widen by=4")
    assert len(own.passes) == 2 and own.options["max_size"] == 8 and own.options["rewarm"] == 20
    assert own.at(10, 100) is None and not own.waits
    assert auto_in([parse_growth("step=1: widen by=2"), usual]) == 1 and auto_in([]) is None
    with pytest.raises(TrainError, match="there is an auto already"):
        auto_in([usual, own])
    with pytest.raises(TrainError, match="when and what are separated by a colon"):
        parse_growth("auto max_size=8:")
    with pytest.raises(TrainError, match="'until' is no option|out of range|no number"):
        parse_growth("auto max_flops=many")
    assert len({seed_for(1, 0), seed_for(1, 0, 1), seed_for(1, 0, 2), seed_for(1, 1)}) == 4


# --- in loops ----------------------------------------


def narrow() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 2), nn.ReLU(), nn.Linear(2, 3))


SETTINGS = {"model": narrow(), "data": clusters(train=400, spread=1.5), "steps": 150, "batch_size": 40, "eval_every": 100,
            "schedule": "constant", "checkpoint_every": 50}
AUTO = "auto max_size=6: widen factor=2"


class Stop(Watcher):
    def __init__(self, step):
        self.step = step

    def stepped(self, trainer, loss):
        if trainer.step == self.step:
            raise RuntimeError("pulled the plug")


def test_a_run_grows_says_why_and_goes_on_to_the_same_numbers_after_a_crash(tmp_path):
    whole = trainer(AUTO, **SETTINGS)
    assert whole.plan().unknown == [AUTO]
    rows = whole.fit().rows
    first, second = whole.history.growths
    for growth in (first, second):
        before, after = [r for r in rows if r["step"] == growth["step"]]
        assert abs(before["val_loss"] - after["val_loss"]) < 1e-5 and "for a FLOP" in growth["why"]
    stop = SETTINGS["checkpoint_every"] + 5
    assert first["step"] < stop < second["step"]
    with pytest.raises(RuntimeError, match="pulled"):
        trainer(AUTO, out=tmp_path / "run", watchers=[Stop(stop)], **SETTINGS).fit()
    again = Trainer.resume(tmp_path / "run", SETTINGS["data"])
    assert again.step == stop - 5
    again.fit()
    assert_same(whole, again)
    said = (tmp_path / "run" / "log.txt").read_text()
    assert f"auto at step {first['step']}: grows: the loss" in said and "(max_size)" in said
    assert json.loads((tmp_path / "run" / "growths.json").read_text())[1]["why"] == second["why"]


class Loop:
    """A loop of someone's own that never evaluates."""

    def __init__(self, grow: str = AUTO, **settings):
        self.model = narrow()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.01)
        self.grower = fxgrow.Grower(self.model, self.optimizer, grow, torch.zeros(20, 6), **settings)

    def run(self, start: int, end: int) -> Loop:
        data = clusters(train=400, spread=1.5).train.tensors
        for step in range(start, end):
            chosen = torch.randint(0, 400, (20,), generator=torch.Generator().manual_seed(step))
            loss = nn.functional.cross_entropy(self.model(data[0][chosen]), data[1][chosen])
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.model = self.grower.step(step, loss)
        return self


def test_a_grower_too():
    whole = Loop(total_steps=150).run(0, 150)
    assert len(whole.grower.growths) == 2 and "no growth" in whole.grower.auto.why
    for middle in (40,):
        half, file = Loop(total_steps=150).run(0, middle), io.BytesIO()
        torch.save([half.grower.state_dict(), half.model.state_dict(), half.optimizer.state_dict()], file)
        file.seek(0)
        states = torch.load(file, weights_only=True)
        again = Loop(total_steps=150)
        again.model = again.grower.load_state_dict(states[0])
        again.model.load_state_dict(states[1])
        again.optimizer.load_state_dict(states[2])
        again.run(middle, 150)
        assert again.grower.auto == whole.grower.auto
        for one, other in zip(again.model.state_dict().values(), whole.model.state_dict().values()):
            assert torch.equal(one, other)


def test_what_a_grower_must_be_told():
    with pytest.raises(TrainError, match="auto needs total_steps="):
        Loop()
    with pytest.raises(TrainError, match="auto looks at the training loss"):
        Loop(total_steps=150).grower.step(0)
