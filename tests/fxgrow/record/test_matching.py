"""What is given beside a record must be its model, whatever is wrapped around it; it is found, or refused by name."""
from __future__ import annotations

import copy

import pytest
import torch
from small_nets import made, train
from torch import nn
from torch.optim.swa_utils import AveragedModel

import fxgrow
from fxgrow import GrowthError
from fxgrow.passes import Deepen, Widen


class Task(nn.Module):
    """A user's own wrapper, with a parameter of its own and, perhaps, an average beside the network."""

    def __init__(self, net, average=None):
        super().__init__()
        self.net, self.average, self.gain = net, average, nn.Parameter(torch.ones(1, dtype=torch.float64))

    def forward(self, x):
        return self.net(x) * self.gain


WRAPPERS = {"compiled": (lambda m: torch.compile(m, backend="eager"), "_orig_mod."),
            "parallel": (nn.DataParallel, "module."),
            "averaged": (AveragedModel, "module."), "own": (Task, "net."),
            "compiled inside": (lambda m: Task(torch.compile(m, backend="eager")), "net._orig_mod."),
            "twice": (lambda m: nn.Sequential(nn.DataParallel(m), nn.Tanh()), "0.module.")}


def grown_net():
    model, x = made("residual")
    return model, fxgrow.transform(model, x, Widen("block1.conv1", by=2, seed=1)), x


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


@pytest.mark.thinned(2)
@pytest.mark.parametrize("how", WRAPPERS)
def test_a_wrapped_model_is_as_good_as_what_is_inside(how):
    model, grown, x = grown_net()
    wrap, prefix = WRAPPERS[how]
    outer = wrap(grown.model)
    scales, inner = grown.record.lr_scales(outer, new=3.0, old=0.5), grown.record.lr_scales(grown.model, new=3.0, old=0.5)
    assert all(torch.equal(torch.as_tensor(scales[prefix + n]), torch.as_tensor(s)) for n, s in inner.items())
    assert scales.get("gain", 3.0) == 3.0 and len(scales) - len(inner) == ("gain" in scales)
    old, new = grown.record.parameter_groups(outer, 0.1)
    assert len(old["params"]) == len(inner) and len(new["params"]) == ("gain" in scales)
    assert same(grown.record.shrink(outer), model)
    optimizer = torch.optim.SGD(outer.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    before = copy.deepcopy(grown.model)
    with grown.record.freeze_old(outer):
        train(outer, optimizer, x, 2)
        outer(x)
    assert same(grown.record.shrink(outer), model) and not same(outer.get_submodule(prefix[:-1]), before)
    for scaled, of in ((outer, outer), (outer, grown.model)):
        fxgrow.scale_updates(optimizer, scaled, grown.record.lr_scales(of)).remove()
    child = fxgrow.tie(wrap(copy.deepcopy(model)), outer, grown.record)
    assert fxgrow.verify(grown.record.shrink(fxgrow.untie(child)), model, x).max_abs_error == 0


@pytest.mark.parametrize("how", [w for w in WRAPPERS if w != "averaged"])
def test_an_optimizer_of_a_wrapped_model_follows(how):
    model, grown, x = grown_net()
    wrap, _ = WRAPPERS[how]
    small, big = wrap(model), wrap(grown.model)
    optimizer = torch.optim.SGD(small.named_parameters(), lr=0.01, momentum=0.9)
    train(small, optimizer, x, 2)
    grown.model.load_state_dict(grown.record.migrate_tensors(model.state_dict(), like=big))
    if isinstance(small, Task):
        big.gain = copy.deepcopy(small.gain)
    for old in (small, None):
        follower = grown.record.migrate_optimizer(optimizer, big, old)
        assert len(follower.state) == len(list(big.parameters()))
    train(small, optimizer, x, 1, 2)
    train(big, follower, x, 1, 2)
    for name, p in grown.record.shrink(big).named_parameters():
        assert torch.allclose(p, model.get_parameter(name), rtol=1e-10, atol=1e-12), name
    assert not isinstance(small, Task) or torch.allclose(small.gain, big.gain, rtol=1e-12)


def another_head(model):
    model.fc = nn.Linear(6, 7).double()
    return model


def without_head(model):
    del model.fc
    return model


STRANGERS = {
    "fc.weight is .7, 6.": another_head, "there is no fc.weight": without_head,
    "in module, fc.weight is .7, 6.": lambda m: nn.DataParallel(another_head(m)),
    "fc.weight is computed from other parameters": lambda m: (nn.utils.parametrizations.weight_norm(m.fc), m)[1],
    "there 2 times, as net and average.module": lambda m: Task(m, AveragedModel(m)),
    "there is no conv.weight": lambda m: nn.Linear(2, 2)}


@pytest.mark.parametrize("why", STRANGERS)
def test_another_model_is_refused(why):
    model, grown, x = grown_net()
    other = STRANGERS[why](copy.deepcopy(grown.model))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    train(model, optimizer, x, 1)
    for use in (grown.record.freeze_old, grown.record.lr_scales, grown.record.shrink,
                lambda m: grown.record.parameter_groups(m, 0.1),
                lambda m: grown.record.migrate_optimizer(optimizer, m, model),
                lambda m: grown.record.migrate_tensors(model.state_dict(), like=m)):
        with pytest.raises(GrowthError, match=why):
            use(other)
    assert all(p.requires_grad for p in other.parameters())


def test_names_of_a_wrapped_model_are_refused_where_tensors_go_by_name():
    model, grown, _ = grown_net()
    with pytest.raises(GrowthError, match="the small model has no n_averaged"):
        grown.record.migrate_tensors(AveragedModel(model).state_dict())
    with pytest.raises(GrowthError, match="the small model has no module.conv.weight, but conv.weight"):
        grown.record.migrate_tensors(nn.DataParallel(model).state_dict())
    with pytest.raises(GrowthError, match="no module.conv.weight, but conv.weight"):
        grown.record.new_mask("module.conv.weight", grown.model.conv.weight)
    with pytest.raises(GrowthError, match="does not fit"):
        grown.record.new_mask("block1.conv1.weight", model.block1.conv1.weight)
    assert grown.record.new_mask("head.weight", torch.ones(2, 2)).all()


# --- several growths --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("second", [Widen("block1.conv1", by=2, method="netmorph", seed=2), Deepen("block2", seed=2)])
def test_each_growth_has_a_record_of_its_own(second):
    model, x = made("residual")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    train(model, optimizer, x, 2)
    one = fxgrow.transform(model, x, [Widen("block1.conv1", by=2, seed=1), Deepen("block1", seed=1)])
    middle = one.record.migrate_optimizer(optimizer, one.model, model)
    train(one.model, middle, x, 2, 2)
    two = fxgrow.transform(one.model, x, second)
    assert len(one.step.lineage) == len(one.record.lineage) == 2
    assert len(two.step.lineage) == 1 and len(two.record.lineage) == 3
    assert same(two.step.shrink(two.model), one.model)
    assert two.record.shrink(two.model).state_dict().keys() == model.state_dict().keys()
    assert two.model.meta["growth"]["record"] is two.record and "growth_before" not in two.model.meta
    for record, held, old in ((two.record, middle, one.model), (two.step, optimizer, model), (two.record, optimizer, None),
                              (two.step, middle, None)):
        if old is not None:
            with pytest.raises(GrowthError, match="growth record"):
                record.migrate_optimizer(held, two.model, old)
        else:
            record.migrate_optimizer(held, two.model)
    for use in (two.record.freeze_old, two.step.freeze_old):
        with pytest.raises(GrowthError, match=r"grown.step|growth record"):
            use(one.model)
    after = two.step.migrate_optimizer(middle, two.model, one.model)
    train(one.model, middle, x, 1, 5)
    train(two.model, after, x, 1, 5)
    for name, p in two.step.shrink(two.model).named_parameters():
        assert torch.allclose(p, one.model.get_parameter(name), rtol=1e-10, atol=1e-12), name


def test_what_an_earlier_growth_added_is_not_left_without_its_state():
    """Its middle model has all that the first one has, and more."""
    model, x = made("residual")
    one = fxgrow.transform(model, x, Deepen("block1", seed=1))
    middle = torch.optim.SGD(one.model.parameters(), lr=0.01, momentum=0.9)
    train(one.model, middle, x, 1)
    two = fxgrow.transform(one.model, x, Widen("block2.conv1", by=2, seed=1))
    with pytest.raises(GrowthError, match=r"which the small model of the growth record has not.*grown.step"):
        two.record.migrate_optimizer(middle, two.model, one.model)
    two.step.migrate_optimizer(middle, two.model, one.model)


# --- models grown in parts --------------------------------------------------------------------------------------------


class Shell(nn.Module):
    """It cannot be captured; its two parts can."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(4))
        self.first = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 6))
        self.second = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))

    def forward(self, x):
        x = self.first(x * self.gain)
        return x if x.sum() > 1e9 else self.second(x)


def test_shells():
    torch.manual_seed(0)
    model, x = Shell().double(), torch.randn(5, 4, dtype=torch.float64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, fused=True)
    train(model, optimizer, x, 2)
    one = fxgrow.transform(model, x, Widen("first.0", by=4, seed=0))
    middle = one.step.migrate_optimizer(optimizer, one.model)  # in the order of the shell
    assert len(middle.state) == len(list(one.model.parameters()))
    train(one.model, middle, x, 1, 2)
    two = fxgrow.transform(one.model, x, Deepen("second.0", method="netmorph", seed=0))
    assert list(two.record.lineage) == [*one.record.lineage, *two.step.lineage]
    assert [p.shape for p in two.record.shrink(two.model).parameters()] == [p.shape for p in model.parameters()]
    assert same(two.step.shrink(nn.DataParallel(two.model)), one.model)
    with pytest.raises(GrowthError, match="growth record"):
        two.record.migrate_optimizer(middle, two.model, one.model)
    with pytest.raises(GrowthError, match="growth record"):
        two.step.migrate_optimizer(optimizer, two.model, model)
    with pytest.raises(GrowthError, match="pass old_params"):
        two.step.migrate_optimizer(middle, two.model)
    after = two.step.migrate_optimizer(middle, two.model, one.model)
    train(one.model, middle, x, 1, 3)
    train(two.model, after, x, 1, 3)
    for p, q in zip(two.step.shrink(two.model).parameters(), one.model.parameters()):
        assert torch.allclose(p, q, rtol=1e-10, atol=1e-12)
    two.model.later = nn.Linear(2, 2).double()
    with two.record.freeze_old(two.model):
        assert two.model.later.weight.requires_grad and not two.model.gain.requires_grad
    again = fxgrow.GrowthRecord.rebuild(two.record.to_json(), two.record.to_tensors())
    assert again.outside == two.record.outside and "gain" in again.outside
