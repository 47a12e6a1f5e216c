"""The comparison at equal FLOPs: all arms spend the same, nothing depends on an interruption or on test labels."""
from __future__ import annotations

import json
import sys
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner
from torch.utils.data import Subset

from fxgrow.cli.main import main
from fxgrow.experiments.evolve import evaluate, joint, search
from fxgrow.experiments.evolve.searching import base_network
from fxgrow.experiments.papers import ExperimentError, finished, get_experiment, search_pays, search_runs
from fxgrow.experiments.papers.running import untrained
from fxgrow.experiments.papers.search_runs import NETWORK, SCRATCH, SELECTIONS, SIZES, Comparison, curve, together
from fxgrow.experiments.papers.search_tables import APART, BASE, WAYS, table, verdicts
from fxgrow.experiments.train import Trainer


def setup(folder, **changes) -> Comparison:
    return Comparison(**{"experiment": "evolution", "scale": "smoke", "out": folder, "data": "digits", **changes})


def run(made, name):
    return made.run(made.declared.arm(name), 0)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """All arms with one seed, by the command."""
    folder = tmp_path_factory.mktemp("evolution")
    words = [*"experiment evolution --scale smoke --data digits --seeds 1 --json --out".split(), str(folder)]
    ended = CliRunner().invoke(main, words)
    assert ended.exit_code == 0, ended.output
    made = setup(folder)
    return made, {arm.name: finished(made, arm, 0) for arm in made.declared.arms}, json.loads(ended.stdout), words


@pytest.mark.sweep
def test_every_arm_spends_the_budget_to_within_a_step_of_each_last_network(done):
    made, runs, *_ = done
    step, sizes = made.cost(untrained(made, BASE, 0), 0), made.sizes
    assert runs[BASE]["flops"] == made.budget(0) == made.preset.settings["steps"] * step
    for name, found in runs.items():
        ends = [found["flops"], *([found["ensemble"]["flops"]] if "ensemble" in found else [])]
        for spent in ends:
            assert made.budget(0) - 1.5 * sizes.members * sizes.largest * step < spent <= made.budget(0), name
        if name in SELECTIONS:
            assert sizes.share * made.budget(0) <= found["searched"] < found["flops"]
            assert found["networks"] > 1 and len(found["ensemble"]["members"]) == sizes.members


@pytest.mark.parametrize("experiment, every", [("evolution", SIZES), *search_pays.SIZES.items()])
def test_a_round_that_begins_ends_in_the_budget(experiment, every):
    for name, sizes in every.items():
        steps = get_experiment(experiment).scale(name).settings["steps"]
        assert sizes.steps * sizes.largest <= (1 - sizes.share) * steps and sizes.first_steps < sizes.share * steps


def test_searches_that_are_to_pay_differ_in_what_is_said_alone(tmp_path):
    made = search_pays.Paying("evolution-pays", "smoke", tmp_path, "digits")
    plain, tuned, inherited = (made.searching(made.declared.arm(name), 0) for name in ("best", "tuned", "tuned, inherited"))
    assert replace(plain, adapt=True, rungs=2, statistics=8) == tuned
    assert replace(tuned, weights="inherit", momentum="inherit") == inherited
    ways = [json.dumps(made.identity(arm, 0), sort_keys=True) for arm in made.declared.arms]
    assert len(set(ways)) == len(ways)


def test_wider_networks_are_trained_for_the_budget_and_searches_differ_in_their_choice(tmp_path):
    made = search_pays.Paying("evolution-cifar10", "smoke", tmp_path, "digits")
    budget, step = made.budget(0), made.cost(untrained(made, BASE, 0), 0)
    costs = [made.cost(untrained(made, name, 0), 0) for name in search_pays.WIDER]
    assert step < costs[0] < costs[1] < costs[2]
    for name, cost in zip(search_pays.WIDER, costs):
        arm = made.declared.arm(name)
        assert budget - cost < made.config(arm, made.load(0), 0).steps * cost <= budget
        assert "how" not in made.identity(arm, 0)
    found = run(made, "1.4 times as wide")
    assert budget - costs[0] < found["flops"] <= budget and "ensemble" not in found
    tuned, chance = (made.searching(made.declared.arm(name), 0) for name in ("tuned", "random"))
    assert replace(tuned, selection="random", adapt=False) == chance


def test_what_a_search_has_found_goes_on_at_the_rate_that_it_had_and_is_kept_each_time_that_falls(tmp_path, monkeypatch):
    made, trained = search_pays.Paying("evolution-cifar10", "smoke", tmp_path, "digits"), []

    class Kept(Trainer):
        def fit(self):
            super().fit()
            trained.append(self)

    monkeypatch.setattr(search_runs, "Trainer", Kept)
    found = run(made, "tuned")
    assert [(t.config.schedule, t.config.warmup) for t in trained] == [("wsd", 0.0)] * 3
    left, falls = made.budget(0) - found["searched"], [t.config.decay * t.total for t in trained]
    assert all(fall == pytest.approx(0.2 * left / made.cost(trained[-1].model, 0), abs=1) for fall in falls)
    spent = sum(t.flops for t in trained)
    assert left - 3.5 * made.cost(trained[-1].model, 0) < spent <= left
    assert found["flops"] == found["ensemble"]["flops"] == found["searched"] + spent
    assert found["ensemble"]["members"][-1] == found["test"]["accuracy"]
    assert len(found["ensemble"]["members"]) == 3 and found["ensemble"]["parameters"] == 3 * found["parameters"]


def test_the_search_starts_as_the_base_arm_does_on_the_same_data(tmp_path):
    made = setup(tmp_path)
    config, data = made.searching(made.declared.arm("best"), 3), made.load(3)
    inputs = torch.stack([data.train[i][0] for i in range(2)])
    ours, theirs = untrained(made, BASE, 3).state_dict(), base_network(config, data, inputs).state_dict()
    assert all(torch.equal(a, b) for a, b in zip(ours.values(), theirs.values(), strict=True))
    from fxgrow.experiments.evolve import data_of
    other = data_of(config.data, config.root, config.limit, config.seed)
    for part in ("train", "validation", "test"):
        assert torch.equal(getattr(data, part).rows, getattr(other, part).rows)


@pytest.mark.sweep
def test_results_do_not_depend_on_an_interruption(done, tmp_path, monkeypatch):
    _, runs, *_ = done
    made, together, left = setup(tmp_path), joint.train_jointly, iter(range(1))

    def cut_off(*args):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return together(*args)

    monkeypatch.setattr(sys.modules[search.__module__], "train_jointly", cut_off)
    with pytest.raises(KeyboardInterrupt):
        run(made, "diverse")
    assert (made.running(made.declared.arm("diverse"), 0) / "search.sqlite").exists()
    monkeypatch.undo()
    again = run(made, "diverse")
    assert {**again, "seconds": 0} == {**runs["diverse"], "seconds": 0}
    assert not made.running(made.declared.arm("diverse"), 0).exists()


@pytest.mark.sweep
def test_finished_runs_are_not_made_again_and_the_report_is_the_same(done, monkeypatch):
    made, runs, report, words = done
    monkeypatch.setattr(search_runs.evolve, "search", lambda *_: pytest.fail("a finished search was made again"))
    again = json.loads(CliRunner().invoke(main, words).stdout)
    assert again["summary"] == report["summary"] and again["conclusions"] == report["conclusions"]
    assert [c["todo"] for c in again["costs"]] == [[]] * len(runs)
    text = (made.out / "table.md").read_text()
    assert all(f"\n| {name} | " in text for name in runs) and all(c in text for c in report["conclusions"])
    assert (made.out / "evolution.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ExperimentError, match="other settings"):
        run(replace(made, count=3), "best")


@pytest.mark.sweep
def test_another_architecture_is_drawn_anew_and_both_costs_are_told(done):
    made, runs, *_ = done
    anew, searched = runs[SCRATCH], runs["best"]
    assert anew["parameters"] == searched["parameters"] and anew["teacher_flops"] == searched["flops"]
    assert anew["rows"][0]["val_accuracy"] != searched["rows"][-1]["val_accuracy"]
    assert len(runs[BASE]["rows"]) == made.points + 1 and anew["rows"][-1]["flops"] == anew["flops"]


def test_what_test_samples_are_decides_nothing(tmp_path, monkeypatch):
    """With other test samples the same networks come out: the validation accuracies are equal."""
    plain = run(setup(tmp_path / "a"), "hill")
    load = Comparison.load

    def fewer(self, seed):
        data = load(self, seed)
        return replace(data, test=Subset(data.test, range(5)))

    monkeypatch.setattr(Comparison, "load", fewer)
    other = run(setup(tmp_path / "b"), "hill")
    assert plain["test"] != other["test"]
    assert [r["val_accuracy"] for r in plain["rows"]] == [r["val_accuracy"] for r in other["rows"]]
    assert plain["ensemble"]["val_accuracy"] == other["ensemble"]["val_accuracy"]


def test_a_curve_tells_what_a_search_had_found_by_then(tmp_path):
    made = setup(tmp_path)
    data, budget = made.load(0), made.budget(0)
    found = search(made.searching(made.declared.arm("random"), 0), tmp_path / "s")
    rows = curve(found, data, budget, made.points)
    assert rows[0]["flops"] >= found.evaluations[0].spent and rows[-1]["flops"] < budget
    assert all(a["step"] <= b["step"] and a["val_accuracy"] <= 1 for a, b in zip(rows, rows[1:]))
    ended = [s for s in found.evaluations if s.round <= max(x.round for x in found.evaluations)]
    last = {s.number: s.accuracy for s in ended}
    assert rows[-1]["val_accuracy"] == max(last.values())


def test_ensembles_of_one_network_are_that_network(tmp_path):
    made = setup(tmp_path)
    data, net = made.load(0), untrained(made, BASE, 0)
    found = together([net], data, 0)
    assert found["average"]["accuracy"] == found["weighted"]["accuracy"] == evaluate(net, data.test)[0]
    assert found["members"] == [found["average"]["accuracy"]]
    assert set(WAYS) < set(found) and found["parameters"] == sum(p.numel() for p in net.parameters())


def test_tables_and_verdicts():
    def made(seed, accuracy, ensemble=None):
        more = {} if ensemble is None else {"ensemble": {"parameters": 30, "flops": 100, **{
            way: {"accuracy": ensemble} for way in WAYS}}}
        return {"seed": seed, "test": {"accuracy": accuracy}, "parameters": 10, "flops": 100, **more}
    runs = {BASE: [made(0, 0.5), made(1, 0.6)], APART: [made(0, 0.7, 0.7), made(1, 0.6, 0.6)],
            "hill": [made(0, 0.6, 0.4), made(1, 0.7, 0.4)]}
    text = table(runs)
    assert "| base | 55.0 ± 7.1 | 10 |  |  |  |  | 100 FLOP |" in text
    assert "| hill | 65.0 ± 7.1 | 10 | 40.0 ± 0.0 |" in text and f"| {APART} |  |  | 65.0 ± 7.1 |" in text
    assert verdicts(runs) == [
        f"{APART}, average: +10.0 ± 14.1 points from base, above it with 1 of 2 seeds",
        "hill, one network: +10.0 ± 0.0 points from base, above it with 2 of 2 seeds",
        "hill, average: -15.0 ± 7.1 points from base, above it with 0 of 2 seeds"]
    others = {BASE: [*reversed(runs[BASE]), made(2, 0.9)], "hill": [*runs["hill"], made(3, 0.1, 0.1)]}
    assert verdicts(others) == verdicts(runs)[1:]       # seed by seed, where both have run


def test_what_cannot_be_done_is_told(tmp_path):
    with pytest.raises(ExperimentError, match="zoo:NAME"):
        assert setup(tmp_path, model="torchvision:resnet18").preset
    with pytest.raises(ExperimentError, match="has not been run"):
        run(setup(tmp_path), SCRATCH)
    short = setup(tmp_path, model="zoo:mlp:hidden=(4,)")
    assert short.preset.networks[NETWORK].image == "mlp:hidden=(4,)" and setup(tmp_path, count=5).sizes.children == 5
