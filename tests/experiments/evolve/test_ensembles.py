"""Ensembles: weights with known optima, the stack, that nothing leaks, and the table of a search."""
from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner

from fxgrow.experiments.cli.ensemble import ensemble as command
from fxgrow.experiments.evolve import (
    SearchConfig,
    Store,
    average,
    data_of,
    ensemble,
    fit_stack,
    fitted_weights,
    last_states,
    search,
    weighted,
)
from fxgrow.experiments.evolve import ensembles as module
from fxgrow.experiments.evolve.ensembles import Stack, greedy_weights, halves
from fxgrow.experiments.settings import TrainError

CLASSES = 3


def logits(right: list[str], labels: torch.Tensor, sure: float = 4.0) -> torch.Tensor:
    """Members that say the label where their string has a 1, else the class behind it. [members, samples, classes]"""
    known = torch.tensor([[b == "1" for b in bits] for bits in right])
    says = torch.where(known, labels, (labels + 1) % CLASSES)
    return sure * F.one_hot(says, CLASSES).float()


def accuracy(p: torch.Tensor, labels: torch.Tensor) -> float:
    return float((p.argmax(1) == labels).float().mean())


# --- weights ---------------------------------------------------------------------------------------------------------------


def test_averages_are_of_probabilities():
    x = torch.randn(4, 7, CLASSES)
    assert torch.allclose(average(x), torch.stack([row.softmax(-1) for row in x]).mean(0))
    assert torch.allclose(weighted(x, torch.tensor([0.0, 0.0, 1.0, 0.0])), x[2].softmax(-1))
    assert torch.allclose(weighted(x, torch.full((4,), 0.25)), average(x), atol=1e-6)


def test_fitted_weights_are_the_likeliest():
    """Two members with p and q on alternating samples: w log-likelihood has its maximum where its derivative is zero."""
    labels = torch.zeros(8, dtype=torch.long)
    p, q = torch.tensor([0.8] * 6 + [0.1] * 2), torch.tensor([0.2] * 6 + [0.9] * 2)
    both = torch.stack([torch.stack([x, 1 - x], 1).log() for x in (p, q)])
    w = fitted_weights(both, labels)
    grid = torch.linspace(0, 1, 10001)
    exact = grid[(grid[:, None] * p + (1 - grid[:, None]) * q).log().mean(1).argmax()]
    assert 0.1 < exact < 0.9 and float(w[0]) == pytest.approx(float(exact), abs=1e-3) and float(w.sum()) == pytest.approx(1)
    assert fitted_weights(torch.stack([both[0], both[0] - 50 * F.one_hot(labels, 2)]), labels).tolist() == [1, 0]


def test_greedy_selection_takes_the_members_that_complete_each_other():
    labels = torch.arange(9) % CLASSES
    x = logits(["111111000", "111000111", "000111111", "100000000"], labels)
    w = greedy_weights(x, labels, picks=3)
    assert torch.allclose(w, torch.tensor([1 / 3, 1 / 3, 1 / 3, 0])) and accuracy(weighted(x, w), labels) == 1
    assert accuracy(average(x[:1]), labels) == pytest.approx(6 / 9)
    assert greedy_weights(x[[0, 3]], labels, picks=5).tolist() == [1, 0]  # with replacement


# --- the stack -------------------------------------------------------------------------------------------------------------


def test_a_stack_starts_as_the_average():
    x = torch.randn(3, 10, CLASSES)
    assert torch.allclose(Stack(3, CLASSES)(x).exp(), average(x), atol=1e-6)


def swapped(labels: torch.Tensor, seed: int) -> torch.Tensor:
    """Two members, both of whom confuse classes 1 and 2 always: an average cannot be right there, a network can."""
    seen = torch.tensor([0, 2, 1])[labels]
    noise = torch.randn(2, len(labels), CLASSES, generator=torch.Generator().manual_seed(seed))
    return 3 * F.one_hot(seen, CLASSES).float() + noise


def test_a_stack_learns_what_no_weights_can():
    labels, fresh = torch.arange(90) % CLASSES, torch.arange(300) % CLASSES
    known, new = swapped(labels, 0), swapped(fresh, 1)
    stack, steps = fit_stack(known, labels, seed=0)
    best = max(accuracy(weighted(new, w), fresh) for w in (fitted_weights(known, labels), greedy_weights(known, labels)))
    assert steps > 20 and best < 0.5 and accuracy(stack(new), fresh) > 0.85
    again = fit_stack(known, labels, seed=0)[0]
    assert all(torch.equal(a, b) for a, b in zip(stack.parameters(), again.parameters()))


def test_a_stack_stays_the_average_where_there_is_nothing_to_learn():
    labels = torch.randint(CLASSES, (40,), generator=torch.Generator().manual_seed(0))
    x = torch.randn(2, 40, CLASSES, generator=torch.Generator().manual_seed(1)) * 0.01
    stack, steps = fit_stack(x, labels, seed=0)
    assert steps < 20
    one, none = fit_stack(x[:, :1], labels[:1], seed=0)
    assert none == 0 and torch.allclose(one(x).exp(), average(x), atol=1e-6)


# --- of a search -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("search")
    config = SearchConfig.of({
        "model": "zoo:mlp:hidden=(8,8)", "data": "digits", "limit": 100, "first_steps": 12, "rounds": 2, "keep": 2,
        "children": 2, "steps": 24, "final_steps": 4, "mutations": [{"pass": "widen", "factor": [1.5, 2.0]}],
        "train": {"batch_size": 20, "lr": 0.1}})
    search(config, folder)
    return folder


@pytest.fixture(scope="module")
def up_to_two(run):
    """The table of ensembles of one member and of two."""
    return ensemble(run, members=2)


def test_the_table_of_a_search(run, up_to_two):
    table = up_to_two
    assert json.loads((run / "ensembles.json").read_text())["rows"] == table["rows"]
    assert len(table["rows"]) == 2 * 2 * 4 and table["samples"]["reported on"] == 100
    store = Store(run)
    members, data = store.members(), data_of("digits", None, 100, 0)
    for row in table["rows"]:
        everyone = sum(members[n].flops for n in row["members"])
        assert len(set(row["members"])) == row["count"] and 0 <= row["accuracy"] <= 1
        if row["by"] in ("average", "stacked"):
            stack = 2 * (10 * row["count"] * 32 + 32 * 10) if row.get("steps") else 0
            assert row["flops"] == everyone + stack
        else:
            used = [members[n].flops for n, w in zip(row["members"], row["weights"]) if w > 0]
            assert row["flops"] == sum(used) and sum(row["weights"]) == pytest.approx(1, abs=1e-4)
    last = {s.number: s for s in last_states(store.evaluations())}
    one = next(row for row in table["rows"] if (row["count"], row["by"]) == (1, "average"))
    x, y = next(iter(torch.utils.data.DataLoader(data.test, len(data.test))))
    with torch.no_grad():
        alone = accuracy(store.model(last[one["members"][0]].archive).eval()(x), y)
    assert one["accuracy"] == pytest.approx(alone) and alone > 0.15  # chance is 0.1


def test_halves_share_nothing_and_labels_of_the_test_part_decide_nothing(run, up_to_two, monkeypatch):
    """With test labels that are all wrong, whatever is chosen and fitted is the same, and only what is reported changes."""
    data = data_of("digits", None, 100, 0)
    choosing, fitting = halves(data, 0)
    assert not set(choosing.tolist()) & set(fitting.tolist()) and len(choosing) + len(fitting) == len(data.validation)
    before = dict(up_to_two)
    real = module.logits_of

    def wrong(model, dataset):
        x, y = real(model, dataset)
        return x, (y + 1) % 10 if dataset is data.test else y

    monkeypatch.setattr(module, "logits_of", wrong)
    after = ensemble(run, members=2)
    for table in (before, after):
        table["fitted"] = [{k: v for k, v in row.items() if k not in ("accuracy", "loss")} for row in table["rows"]]
    assert before["fitted"] == after["fitted"]
    assert all(a["accuracy"] != b["accuracy"] for a, b in zip(before["rows"], after["rows"]))


def test_the_fitting_half_does_not_choose(run, up_to_two, monkeypatch):
    """Members are judged on the first half alone: answers on the other one, all turned round, change nobody's choice."""
    _, fitting = halves(data_of("digits", None, 100, 0), 0)
    real = module.last_states

    def turned(scored):
        import dataclasses
        made = []
        for s in real(scored):
            bits = ["10"[int(b)] if i in set(fitting.tolist()) else b for i, b in enumerate(s.correct)]
            made.append(dataclasses.replace(s, correct="".join(bits), accuracy=0.0, loss=9.0))
        return made

    monkeypatch.setattr(module, "last_states", turned)
    after = ensemble(run, members=2)
    assert [r["members"] for r in up_to_two["rows"]] == [r["members"] for r in after["rows"]]


def test_a_damaged_network_is_left_out_and_told(run, up_to_two):
    number = up_to_two["rows"][0]["members"][0]
    store = Store(run)
    path = store.path({s.number: s for s in last_states(store.evaluations())}[number].archive)
    content = path.read_bytes()
    try:
        path.write_bytes(content[:40])
        after = ensemble(run, members=2)
    finally:
        path.write_bytes(content)
    assert list(after["lost"]) == [number] and not any(number in row["members"] for row in after["rows"])


@pytest.mark.sweep
def test_on_the_command_line(run, tmp_path):
    shown = CliRunner().invoke(command, [str(run), "--members", "2"])
    assert shown.exit_code == 0 and all(word in shown.stdout for word in ("diverse", "stacked", "ensembles.json"))
    told = json.loads(CliRunner().invoke(command, [str(run), "--members", "2", "--data", "validation", "--json"]).stdout)
    assert told["part"] == "validation" and told["samples"]["reported on"] == told["samples"]["chosen on"]
    with pytest.raises(TrainError, match="holds no search"):
        ensemble(tmp_path)
    assert not list(tmp_path.iterdir())
