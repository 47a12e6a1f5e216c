"""Both modes, longer inputs and batches of one: how often a model is run for them, and that no way goes unseen."""
import pytest
import torch
from torch import nn

import fxgrow
from fxgrow.errors import OtherInputs
from fxgrow.tracing import recording, replay


@pytest.fixture
def runs(monkeypatch):
    """Count the runs of a model for its graph."""
    found = []

    def counted(recorder, *args):
        found.append(type(recorder).__name__)
        return recording_once(recorder, *args)

    recording_once = recording.record_once
    monkeypatch.setattr(recording, "record_once", counted)
    monkeypatch.setattr(replay, "record_once", counted)
    return found


class Reading(nn.Module):
    """A layer that reads sizes of its input, and what a mode or size decides further."""

    def __init__(self, further=lambda x, y, training: y):
        super().__init__()
        self.layer, self.further = nn.Linear(4, 4), further

    def forward(self, x):
        y = self.layer(x).reshape(x.shape[0], x.shape[1] * 4).unflatten(1, (x.shape[1], 4))
        return self.further(x, y, self.training)


def as_the_model(model, captured, x) -> bool:
    return all(torch.equal(model.train(mode)(x), captured.train(mode)(x)) for mode in (False, True))


def test_a_batch_of_one_is_recorded_as_any_batch(runs):
    model = nn.Sequential(Reading(lambda x, y, training: y), nn.Tanh()).double()
    captured = fxgrow.capture(model, torch.randn(1, 5, 4, dtype=torch.float64), check=False)
    assert "ReplayAtOne" not in runs[:2]  # what was recorded of one does for others
    for shape in ((1, 5, 4), (1, 9, 4), (6, 5, 4), (3, 2, 4)):
        assert as_the_model(model, captured, torch.randn(shape, dtype=torch.float64)), shape


class Words(nn.Module):
    """A network of words, whose axes may all be longer, and which asks for its mode."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(10, 4)

    def forward(self, x):
        y = self.words(x).reshape(x.shape[0], x.shape[1] * 4)
        return nn.functional.dropout(y, 0.0 if self.training else 0.5, self.training)


def test_both_modes_are_replayed_at_both_sizes(runs):
    model = Words().double()
    captured = fxgrow.capture(model, torch.randint(10, (2, 5)), check=False)
    assert runs == ["Recorder", *["Replay"] * 3, "ReplayAtOne"]  # longer, in train mode, longer there, and shorter
    for shape in ((2, 5), (1, 9), (6, 1)):
        assert as_the_model(model, captured, torch.randint(10, shape)), shape


class AtOne(nn.Module):
    """A network that goes a way of its own where the batch is of one, and another where the length is."""

    def forward(self, x):
        y = x if x.shape[0] == 1 else x + 0
        return y * (3 if x.shape[1] > 1 else 2)


def test_what_a_replay_at_one_shows_is_looked_up_the_second_time(runs):
    model = AtOne()
    captured = fxgrow.capture(model, torch.randn(2, 5), check=False)
    assert runs.count("ReplayAtOne") == 2  # of a short length, and of the length of the example
    assert as_the_model(model, captured, torch.randn(4, 3))
    for shape in ((1, 5), (2, 1)):
        with pytest.raises(OtherInputs):
            captured(torch.randn(shape))


def asks_for_one(x, y, training):
    return y if x.shape[0] == 1 else y * 2


def asks_in_eval_mode(x, y, training):
    return y if training or x.shape[1] < 8 else y * 2


def counts_parts_in_eval_mode(x, y, training):
    for part in () if training else x.unbind(1)[5:]:
        y = y + part[:, None]
    return y


def counts_plainly_in_eval_mode(x, y, training):
    for _ in range(0 if training else int(x.shape[1]) - 5):
        y = y + 1
    return y


def halves_in_eval_mode(x, y, training):
    half = 0.5 * x.shape[1]  # a plain number: Python asks the 0.5 first
    return y if training or half < 3 else y * 2


def halves_in_train_mode(x, y, training):
    half = 0.5 * x.shape[1]
    return y if not training or half < 3 else y * 2


def multiplies_by_the_half_in_train_mode(x, y, training):
    half = 0.5 * x.shape[1]
    return y * (half if training else 1.0)


def halves_the_batch(x, y, training):
    half = 0.5 * x.shape[0]
    return y if half < 0.9 else y * 2


def counts_in_train_mode(x, y, training):
    for _ in range(int(x.shape[1]) - 5 if training else 0):
        y = y + 1
    return y


@pytest.mark.parametrize("further", [asks_for_one, asks_in_eval_mode, counts_parts_in_eval_mode, counts_plainly_in_eval_mode,
                                     counts_in_train_mode, halves_in_eval_mode, halves_in_train_mode,
                                     multiplies_by_the_half_in_train_mode, halves_the_batch])
@pytest.mark.parametrize("batch", [1, 2])
def test_ways_of_one_mode_and_size_are_followed_or_refused(further, batch):
    model = Reading(further).double()
    captured = fxgrow.capture(model, torch.randn(batch, 5, 4, dtype=torch.float64), check=False)
    assert as_the_model(model, captured, torch.randn(batch, 5, 4, dtype=torch.float64))
    for shape in ((1, 5, 4), (3, 5, 4), (2, 9, 4), (2, 30, 4)):
        x = torch.randn(shape, dtype=torch.float64)
        for mode in (False, True):
            try:
                found = captured.train(mode)(x)
            except OtherInputs:
                continue
            assert torch.equal(found, model.train(mode)(x)), (shape, mode)


class Leaf(nn.Module):
    """Counts its calls, and so stays a leaf."""
    calls = 0

    def forward(self, x):
        self.calls += 1
        return x + 1


class Power(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.leaf = nn.Linear(4, 4), Leaf()

    def forward(self, x, power):
        return self.leaf(self.layer(x * 1.1 ** power))


def test_a_constant_of_a_number_is_not_taken_for_one_of_the_mode():
    model, x = Power().double(), torch.randn(2, 4, dtype=torch.float64)
    captured = fxgrow.capture(model, (x, 3), check=False)
    assert torch.equal(captured(x, 3), model(x, 3))
    with pytest.raises(OtherInputs, match="power"):
        captured(x, 5)
