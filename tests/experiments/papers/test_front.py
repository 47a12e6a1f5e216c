"""Growing against the front: legs share what they have in common, and are what one uncut training would have been."""
from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from fxgrow.cli.main import main
from fxgrow.experiments.papers import ExperimentError, Network, Scale, declaration, front, front_results
from fxgrow.experiments.papers.front import Front, FrontSetup, Size, Step, Way, legs, register_front, step_cost
from fxgrow.experiments.papers.front_results import Compared
from fxgrow.experiments.train import Trainer, Watcher
from fxgrow.loops import Auto

WIDEN = "widen factor=2 method=net2net"
SETTINGS = {"batch_size": 8, "lr": 0.1, "momentum": 0.9, "eval_every": 5, "warmup": 2}


def sizes():
    return {"narrow": Size(Network(image="mlp:hidden=(4,)"), 0.1), "wide": Size(Network(image="mlp:hidden=(8,)"), 0.05)}


@pytest.fixture
def setup(tmp_path, monkeypatch):
    draw, labels = np.random.default_rng(0), np.arange(80) % 2
    images = draw.integers(0, 99, (80, 4, 4)) + 99 * labels[:, None, None]
    np.savez(tmp_path / "halves.npz", labels=labels, images=images.astype(np.uint8))
    monkeypatch.setattr(declaration, "_EXPERIMENTS", dict(declaration._EXPERIMENTS))
    monkeypatch.setattr(front, "_FRONTS", dict(front._FRONTS))
    ways = (Way("wider", "narrow", (Step(0.5, WIDEN, "wide"),), 1, ((1, "updates"), (1, "FLOPs"))),)
    declared = Front(sizes(), (6e4, 1.2e5), ways, rates=(0.1, 0.2), held_out=8)
    register_front("tiny", "Perceptrons", "no paper", {"small": declared},
                   {"small": Scale({}, SETTINGS, data=str(tmp_path / "halves.npz"), validation=0.25)})
    return FrontSetup("tiny", "small", tmp_path / "out", device="cpu")


def goal(setup, group, name, budget=1, equal="updates"):
    return next(g for g in setup.goals() if (g.group, g.name, g.budget, g.equal) == (group, name, budget, equal))


def run_to(setup, found, seed=0):
    """Run all that a goal needs, and it."""
    arm = setup.declared.arm(f"front/{found.leg.key}")
    chain = [arm]
    while chain[0].teacher:
        chain.insert(0, setup.declared.arm(chain[0].teacher_key))
    return [setup.run(arm, seed) for arm in chain][-1]


def test_a_way_starts_from_the_stable_leg_of_the_small_one_and_pays_for_all_that_it_needs(setup):
    grown = goal(setup, "grown", "wider")
    start = grown.leg.stretches[1].start
    assert start == round(0.5 * setup.updates("wide", 1.2e5)) and grown.leg.until == setup.updates("wide", 1.2e5)
    assert any(key == f"front/{leg.key}" and leg.until == start and leg.size == "narrow" for key, leg in legs(setup).items())
    found = run_to(setup, grown)
    small, big = step_cost(setup, "narrow"), step_cost(setup, "wide")
    assert found["flops"] == start * small + (grown.leg.until - start) * big
    assert found["growths"][0]["step"] == start and found["growths"][0]["preserving"]
    same = goal(setup, "grown", "wider", equal="FLOPs")
    assert same.leg.until > grown.leg.until and abs(run_to(setup, same)["flops"] - 1.2e5) < big
    assert legs(setup)[f"front/{same.leg.key}"].stretches == grown.leg.stretches


@pytest.mark.parametrize("group, name", [("front", "wide"), ("grown", "wider")])
def test_legs_are_one_uncut_training(setup, group, name):
    found = goal(setup, group, name)
    cut = run_to(setup, found, seed=1)
    stretches = found.leg.stretches
    config = setup.config_of(found.leg, 1)
    config.lr = stretches[0].lr
    trainer = Trainer(setup.network(stretches[0].size, 1), setup.load(1), config, watchers=[Rates(stretches)])
    trainer.fit()
    assert trainer.evaluate(setup.load(1).test)[0] == cut["test"]["loss"] and trainer.flops == cut["flops"]


class Rates(Watcher):
    """Takes the rate of each stretch from its growth on."""

    def __init__(self, stretches):
        self.left = list(stretches[1:])

    def grown(self, trainer, growth):
        trainer.config.lr = self.left.pop(0).lr


def test_a_leg_that_was_interrupted_goes_on_where_it_was(setup, tmp_path, monkeypatch):
    class Stop(Watcher):
        steps = 0

        def stepped(self, trainer, loss):
            self.steps += 1
            if self.steps == 8:
                raise KeyboardInterrupt

    found = goal(setup, "front", "narrow", 1)
    arm = setup.declared.arm(f"front/{found.leg.key}")
    arm = setup.declared.arm(arm.teacher_key)
    assert legs(setup)[arm.key].until > legs(setup)[f"front/{arm.teacher}"].until + 8
    with pytest.raises(KeyboardInterrupt):
        setup.run(arm, 0, [Stop()])
    again = setup.run(arm, 0)
    other = FrontSetup("tiny", "small", tmp_path / "other", device="cpu")
    whole = other.run(arm, 0)
    assert again["rows"][-1]["val_loss"] == whole["rows"][-1]["val_loss"] and not setup.running(arm, 0).exists()


def test_a_kept_leg_does_not_depend_on_where_the_others_are_cut(setup, monkeypatch):
    found = goal(setup, "front", "wide")
    kept = run_to(setup, found)
    declared = front._FRONTS["tiny"]["small"]
    fewer = Front(declared.sizes, declared.budgets[1:], (), declared.rates, held_out=8)
    monkeypatch.setitem(front._FRONTS, "tiny", {"small": fewer})
    for cached in (front._goals, front._legs, front._declared):
        cached.cache_clear()
    assert setup.run(setup.declared.arm(f"front/{found.leg.key}"), 0) == kept


def test_a_growth_behind_the_stable_part_is_refused(setup, monkeypatch):
    late = (Way("late", "narrow", (Step(0.9, WIDEN, "wide"),), 1, ((1, "updates"),)),)
    monkeypatch.setitem(front._FRONTS, "tiny", {"small": Front(sizes(), (6e4, 1.2e5), late)})
    with pytest.raises(ExperimentError, match="grow earlier, or end later"):
        FrontSetup("tiny", "small", setup.out / "late").goals()


def by_auto(setup, monkeypatch, *ends):
    way = Way("auto", "narrow", (Step(None, WIDEN, "wide", "max_size=3"),), 1, ends)
    monkeypatch.setitem(front._FRONTS, "tiny", {"small": Front(sizes(), (6e4, 1.2e5), (way,), held_out=8)})
    return FrontSetup("tiny", "small", setup.out / "auto", device="cpu")


def test_a_way_by_auto_is_one_run_that_is_not_cut(setup, monkeypatch):
    setup = by_auto(setup, monkeypatch, (1, "updates"))
    monkeypatch.setattr(Auto, "due", lambda auto, entry, step, spent, try_out: step == 21)
    leg = goal(setup, "grown", "auto").leg
    arm = setup.declared.arm(f"front/{leg.key}")
    assert not arm.teacher and leg.until == setup.updates("wide", 1.2e5)
    found = setup.run(arm, 0)
    config = setup.config_of(leg, 0)
    assert config.grow == [f"auto max_size=3: {WIDEN}"] and config.schedule == "wsd"
    small, big = step_cost(setup, "narrow"), step_cost(setup, "wide")
    assert [g["step"] for g in found["growths"]] == [21] and found["test"]
    assert found["flops"] == 21 * small + (leg.until - 21) * big


def test_where_auto_grows_is_not_known_before(setup, monkeypatch):
    with pytest.raises(ExperimentError, match="auto is the only step of a way"):
        by_auto(setup, monkeypatch, (1, "FLOPs")).goals()


def test_the_command_runs_reports_and_draws_again(setup, tmp_path):
    words = ["experiment", "tiny", "--seeds", "2", "--device", "cpu", "--out", str(tmp_path / "r"), "--json"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    report, table = json.loads(done.stdout), (tmp_path / "r" / "table.md").read_text()
    assert report["figures"] == ["tiny-front.png", "tiny.png"] and "| wider | equal updates |" in table
    kept = json.loads((tmp_path / "r" / "results.json").read_text())
    assert {run["seed"] for g in kept["goals"] for run in g["runs"] if g["group"] == "rates"} == {100}
    results = str(tmp_path / "r" / "results.json")
    again = CliRunner().invoke(main, ["experiment", "tiny", "--results", results, "-o", str(tmp_path / "s")])
    assert again.exit_code == 0, again.output
    assert (tmp_path / "s" / "table.md").read_text() == table and (tmp_path / "s" / "tiny-front.png").stat().st_size > 5000
    (tmp_path / "none.json").write_text("{}")
    assert "no comparison with the front" in CliRunner().invoke(
        main, ["experiment", "tiny", "--results", str(tmp_path / "none.json")]).output


@pytest.mark.parametrize("name, file", [("pays-depth", "does-it-pay"), ("pays-width-text", "does-it-pay"),
                                        ("pays-width", "experiments"), ("pays-depth-images", "experiments"),
                                        ("pays-depth-residual", "experiments")])
def test_the_page_shows_the_results_that_are_kept(name, file):
    docs = Path(__file__).parents[3] / "docs"
    kept = Compared(json.loads((docs / "data" / f"{name}.json").read_text()))
    page = (docs / f"{file}.md").read_text()
    for table in (front_results.front_table, front_results.ways_table, front_results.reach_table, front_results.rates_table):
        assert table(kept) in page


def made(higher):
    """Results by hand: from 1 FLOP to 4, and to 16, the small one is better, then the big one; a way in between."""
    sign = 1 if higher else -1

    def entry(group, name, budget, flops, results, equal="updates"):
        runs = [{"seed": s, "flops": flops, "updates": 1, "parameters": 1, "result": sign * r}
                for s, r in enumerate(results)]
        return {"group": group, "name": name, "budget": budget, "equal": equal, "lr": 0.1, "updates": 1, "runs": runs}

    metric = {"name": "m", "label": "m", "unit": "", "kind": "", "higher": higher}
    return {"experiment": "by hand", "title": "", "metric": metric, "budgets": [1.0, 4.0, 16.0],
            "sizes": {"small": {"lr": 0.1}, "big": {"lr": 0.1}},
            "ways": {"w": {"start": "small", "last": "big", "budget": 2, "steps": []}},
            "goals": [entry("front", "small", 0, 1.0, (1, 3)), entry("front", "small", 1, 4.0, (2, 4)),
                      entry("front", "small", 2, 16.0, (2, 4)), entry("front", "big", 1, 4.0, (0, 2)),
                      entry("front", "big", 2, 16.0, (4, 6)), entry("grown", "w", 2, 8.0, (4, 5)),
                      entry("grown", "w", 2, 16.0, (6, 6, 99), "FLOPs")]}


@pytest.mark.parametrize("higher", [True, False])
def test_distances_to_the_front(higher):
    found, sign = Compared(made(higher)), 1 if higher else -1
    assert found.at("small", 2.0) == {0: pytest.approx(sign * 1.5), 1: pytest.approx(sign * 3.5)}
    assert found.at("big", 1.0) == {}
    by_auto = {"runs": [{"seed": 0, "flops": 2.0, "result": 1.0}, {"seed": 1, "flops": 4.0, "result": 1.0}]}
    assert found.beside(by_auto, "small") == {0: pytest.approx(sign * 1.5), 1: pytest.approx(sign * 4.0)}
    assert found.best(4.0)[0] == "small" and found.best(16.0) == ("big", {0: sign * 4, 1: sign * 6})
    rows = front_results.ways_table(found).splitlines()[2:]
    assert "0.50 | -0.500 ± 0.707 | +1.500 ± 0.707 | +1.500 ± 0.707 | small" in rows[0].replace("big", "small")
    assert "+1.000 ± 1.414 | +1.000 ± 1.414 | big" in rows[1]
    assert found.reached("w", sign * 5.25) == pytest.approx(8 * 2 ** 0.5) and found.reached("w", sign * 7) is None
    assert "(0.71 x)" not in front_results.reach_table(found) and "8 FLOP (0.50 x)" not in front_results.reach_table(found)
