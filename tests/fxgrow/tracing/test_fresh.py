"""Inputs beside the example: their values stay in its range, and their axes change together."""
import pytest
import torch

from fxgrow.tracing.fresh import axes_of, redraw, same_numbers

IMAGE = torch.rand(2, 3, 8, 8)


def test_floating_numbers_keep_spread_and_range():
    (new,), _ = redraw(((IMAGE,), {}), 0)
    assert not torch.equal(new, IMAGE) and new.shape == IMAGE.shape and new.dtype is IMAGE.dtype
    assert new.min() >= IMAGE.min() and new.max() <= IMAGE.max() and abs(float(new.std() / IMAGE.std()) - 1) < 0.2


@pytest.mark.parametrize("number", [0.0, 1.0, -2.0])
def test_inputs_that_stand_for_real_ones(number):
    (new,), _ = redraw(((torch.full((4, 5), number),), {}), 0)
    assert new.std() > 0.1 and (number == 0 or bool((new * number > 0).all()))


def test_what_is_not_finite_stays_where_it_is():
    bias = torch.zeros(4, 4).masked_fill(torch.ones(4, 4).triu(1).bool(), -torch.inf)
    (new,), _ = redraw(((bias,), {}), 0)
    assert torch.equal(new.isinf(), bias.isinf()) and new[~new.isinf()].std() > 0


def test_whole_numbers_come_out_of_the_example():
    words = torch.tensor([[5, 9, 1, 7, 30, 2]])
    (new, kept), named = redraw(((words, "text"), {"more": [words, None, 3]}), 0)
    assert not torch.equal(new, words) and set(new.flatten().tolist()) <= set(words.flatten().tolist())
    assert kept == "text" and named["more"][1:] == [None, 3] and not torch.equal(named["more"][0], words)
    (kept,), _ = redraw(((words,), {}), 0, whole=False)
    assert torch.equal(kept, words)


def test_masks_stay_masks():
    for kind in (torch.bool, torch.int64, torch.float32):
        mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]]).to(kind)
        (new,), _ = redraw(((mask,), {}), 0)
        assert new.dtype is kind and not torch.equal(new, mask) and sorted(new.sum(1).tolist()) == [2, 3]


def test_a_seed_gives_one_drawing():
    inputs = (IMAGE,), {"words": torch.arange(7)}
    assert same_numbers(redraw(inputs, 3), redraw(inputs, 3)) and not same_numbers(redraw(inputs, 3), redraw(inputs, 4))
    assert same_numbers(inputs, inputs) and not same_numbers(inputs, redraw(inputs, 3))


def shapes(axes, inputs):
    (args, kwargs) = axes.of(inputs)
    return [tuple(t.shape) for t in (*args, *kwargs.values()) if isinstance(t, torch.Tensor)]


def test_axes_of_one_size_change_together():
    ids = torch.zeros(4, 6, dtype=torch.long)
    inputs = (ids,), {"mask": torch.ones(4, 1, 6, 6), "flag": True}
    batch, length, *rest = (ways[0] for ways in axes_of(inputs))
    assert shapes(batch, inputs) == [(5, 6), (5, 1, 6, 6)] and shapes(length, inputs) == [(4, 7), (4, 1, 7, 7)]
    assert str(batch) == "axis 0 of 5 in place of 4" and [a.size for a in rest] == [1]
    square = (torch.zeros(4, 4), torch.zeros(4, 4)), {}
    first = next(axes_of(square))
    assert [shapes(way, square)[0] for way in first] == [(5, 4), (5, 5), (3, 4), (3, 3)]


def test_no_axis_without_a_tensor():
    assert not list(axes_of((("text", None, torch.tensor(3.0)), {})))
