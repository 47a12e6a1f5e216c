"""Splits: disjoint, covering, stratified, repeatable; and nothing of one part in another."""
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from proving import proves

from fxgrow.experiments.data import load_data, stratified_split
from fxgrow.experiments.data.registry import stratified_subset

LABELS = st.lists(st.integers(0, 6), max_size=120).map(lambda y: torch.tensor(y, dtype=torch.int64))


@given(LABELS, st.floats(0, 0.999), st.integers(0, 2 ** 40))
@proves(200)
def test_a_split_is_disjoint_covering_stratified_and_repeatable(labels, fraction, seed):
    rest, held = stratified_split(labels, fraction, seed)
    assert sorted(rest.tolist() + held.tolist()) == list(range(len(labels)))
    assert rest.tolist() == sorted(rest.tolist()) and held.tolist() == sorted(held.tolist())
    for c in labels.unique():
        members, out = int((labels == c).sum()), int((labels[held] == c).sum())
        assert abs(out - members * fraction) < 1 and out < members
    again = stratified_split(labels, fraction, seed)
    assert torch.equal(again[0], rest) and torch.equal(again[1], held)


@given(st.lists(st.integers(20, 60), min_size=1, max_size=6), st.sampled_from([0.1, 0.25, 0.5]), st.integers(0, 99))
@proves(60)
def test_the_part_held_out_has_the_size_that_was_asked_for(counts, fraction, seed):
    labels = torch.cat([torch.full((n,), c) for c, n in enumerate(counts)])
    assert len(stratified_split(labels, fraction, seed)[1]) == round(len(labels) * fraction)


@given(LABELS, st.integers(1, 130), st.integers(0, 99))
@proves(100)
def test_a_subset_has_as_many_as_asked_for(labels, limit, seed):
    chosen = stratified_subset(labels, limit, seed)
    assert len(chosen) == len(set(chosen.tolist())) == min(limit, len(labels))
    assert torch.equal(chosen, stratified_subset(labels, limit, seed))
    if limit < len(labels):
        for c in labels.unique():
            assert int((labels[chosen] == c).sum()) <= int((labels == c).sum()) * limit / len(labels) + len(labels.unique())


def test_seeds_make_other_splits():
    labels = torch.arange(10).repeat(20)
    assert not torch.equal(stratified_split(labels, 0.2, 0)[1], stratified_split(labels, 0.2, 1)[1])


def rows(data) -> tuple[set, set, set]:
    return tuple(set(part.rows.tolist()) for part in (data.train, data.validation, data.test))


def test_parts_share_no_example_and_the_test_part_is_the_same_whatever_the_seed():
    first, second = load_data("digits", seed=0), load_data("digits", seed=1)
    for data in (first, second):
        train, validation, test = rows(data)
        assert not train & validation and not train & test and not validation & test
        assert len(train | validation | test) == 1797
    assert rows(first)[2] == rows(second)[2] and rows(first)[1] != rows(second)[1]
    assert rows(load_data("digits", seed=0)) == rows(first)


def test_every_part_has_each_class_with_its_share():
    data = load_data("digits", validation=0.2)
    shares = [torch.bincount(part.labels, minlength=10) / len(part) for part in (data.train, data.validation, data.test)]
    assert all(float((share - 0.1).abs().max()) < 0.01 for share in shares)


def test_limits():
    data = load_data("digits", limit=50)
    assert [len(p) for p in (data.train, data.validation, data.test)] == [50, 50, 50]
    assert torch.bincount(data.train.labels).tolist() == [5] * 10
    whole = rows(load_data("digits"))
    assert all(a <= b for a, b in zip(rows(data), whole))
    assert len(load_data("digits", limit=10_000).train) == len(whole[0])
    assert len(load_data("digits", validation=0).validation) == 0


@pytest.mark.parametrize("validation", [0, 0.1, 0.5])
def test_the_validation_part_is_cut_from_the_train_part(validation):
    whole, data = load_data("mnist1d", validation=0), load_data("mnist1d", validation=validation)
    assert len(data.test) == len(whole.test) == 1000
    assert len(data.train) + len(data.validation) == len(whole.train) == 4000
    assert len(data.validation) == 4000 * validation
