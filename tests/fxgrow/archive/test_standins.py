"""The growth record in an archive: the small model's structure comes back with it, and every lie about it is refused."""
from __future__ import annotations

import copy

import pytest
import torch
from archives import refused, resealed
from small_nets import made, train
from torch import nn
from torch.fx import GraphModule

import fxgrow
from fxgrow import ParameterRecord
from fxgrow.passes import Widen


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.fxgrow"


def grown_net(net="residual"):
    model, x = made(net)
    return model, fxgrow.transform(model, x, [Widen(factor=1.5, seed=1), Widen(by=2, method="net2net", seed=2)]), x


def test_everything_of_a_record_comes_back(path):
    model, grown, x = grown_net()
    fxgrow.save(grown, path)
    record = fxgrow.load(path).meta["growth"]["record"]
    assert record.to_json() == grown.record.to_json() and any(n.startswith("shares/") for n in record.to_tensors())
    tensors = grown.record.to_tensors()
    assert all(torch.equal(t, tensors[n]) and t.dtype == tensors[n].dtype for n, t in record.to_tensors().items())
    origin, known = record.origin[""], grown.record.origin[""]
    assert isinstance(origin, GraphModule) and list(origin.state_dict()) == list(model.state_dict())
    assert all(t.is_meta for t in origin.state_dict().values()) and [str(n) for n in origin.graph.nodes] == [
        str(n) for n in known.graph.nodes]
    assert not hasattr(origin, "growth") and "growth" not in origin.meta


@pytest.mark.parametrize("net", ["residual", "grouped", "concat"])
def test_what_a_loaded_model_shrinks_to(net, path):
    model, x = made(net)
    grown = fxgrow.transform(model, x, Widen(factor=1.5, seed=1))
    for _ in range(2):  # saved, loaded, grown, trained with frozen old numbers, saved again
        fxgrow.save(grown, path)
        loaded = fxgrow.load(path)
        again = path.with_name("again")
        fxgrow.save(loaded, again)
        assert again.read_bytes() == path.read_bytes()
        small = loaded.meta["growth"]["record"].shrink(loaded)
        assert all(torch.equal(t, model.state_dict()[n]) for n, t in small.state_dict().items())
        assert fxgrow.verify(model, small, x).max_abs_error == 0 and small.meta["example_inputs"][0].shape == x.shape
        fxgrow.save(small, again)
        assert fxgrow.verify(fxgrow.load(again), model, x).max_abs_error == 0
        grown = fxgrow.transform(loaded, x, Widen(by=2, method="netmorph", seed=2))
        with grown.record.freeze_old(grown.model):
            train(grown.model, torch.optim.SGD(grown.model.parameters(), lr=0.01), x, 2)


def test_records_without_a_structure_stay_without(path):
    model, grown, _ = grown_net()
    grown.record.origin.clear()
    fxgrow.save(grown, path)
    record = fxgrow.load(path).meta["growth"]["record"]
    assert record.origin == {} and len(record.lineage) == 2
    with pytest.raises(fxgrow.GrowthError, match="structure"):
        record.shrink(grown.model)


def test_constants_of_layers_are_kept(path):
    """A tensor that a layer holds as a plain attribute has its numbers in the structure."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
    model[1].note = torch.arange(3.0)
    x = torch.randn(2, 3, 4, 4)
    grown = fxgrow.transform(model, x, Widen("0", by=2, seed=0))
    fxgrow.save(grown, path)
    loaded = fxgrow.load(path)
    small = loaded.meta["growth"]["record"].shrink(loaded)
    assert torch.equal(small.get_submodule("1").note, model[1].note)


def test_a_record_that_does_not_fit_is_not_written(path):
    none = [None, None]
    for entry in (ParameterRecord("nothing", none, none), ParameterRecord("fc.weight", none, none), ParameterRecord.new(1),
                  ParameterRecord("fc.weight", [None, torch.arange(11)], none)):
        _, grown, _ = grown_net()
        grown.record.parameters["fc.weight"] = entry
        with pytest.raises(fxgrow.ArchiveError, match="growth record"):
            fxgrow.save(grown, path)
    assert not path.exists()


LIES = {
    "no name": lambda o: o.update({"class": "A:\n import os"}),
    "no graph": lambda o: o.update(nodes=None),
    "half a graph": lambda o: o["nodes"].pop(),
    "a function that is none": lambda o: next(n for n in o["nodes"] if n["op"] == "call_function").update(
        target="os.system"),
    "a layer that is none": lambda o: next(m for m in o["modules"] if m["class"]).update({"class": "os.Popen"}),
    "a layer that is missing": lambda o: next(n for n in o["nodes"] if n["op"] == "call_module").update(target="nowhere"),
    "a method of its own": lambda o: next(m for m in o["modules"] if m["class"])["attributes"].update(
        forward={"function": "torch.relu"}),
    "other sizes": lambda o: o["meta"]["origin/0/fc.weight"].update(size=[5, 3], strides=[3, 1]),
    "other axes": lambda o: o["meta"]["origin/0/fc.weight"].update(size=[30], strides=[1]),
    "impossible sizes": lambda o: o["meta"]["origin/0/fc.weight"].update(size=[-1, 7]),
    "numbers of the grown one": lambda o: o["tensors"][0].update(data="model/fc.weight"),
    "a tensor that nobody has": lambda o: o["meta"].update(more=o["meta"]["origin/0/fc.weight"]),
    "no inputs": lambda o: o.update(inputs={"dict": []}),
    "leaves that are none": lambda o: o.update(leaves={"a": 1}),
    "a field too few": lambda o: o.pop("leaves"),
    "a field too many": lambda o: o.update(code="print(1)"),
}


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    path = tmp_path_factory.mktemp("good") / "model.fxgrow"
    fxgrow.save(grown_net()[1], path)
    return path.read_bytes()


@pytest.mark.parametrize("name", LIES)
def test_lies_about_the_small_model(name, good, path, capsys):
    path.write_bytes(resealed(good, lambda g: LIES[name](g["origin"][""])))
    refused(path)
    assert not capsys.readouterr().out


ABOUT = {
    "a source that is nowhere": lambda g: g["record"]["parameters"]["fc.weight"].update(source="nothing"),
    "a part and the whole": lambda g: g["origin"].update(fc=copy.deepcopy(g["origin"][""])),
    "a part that is nowhere": lambda g: g.update(origin={"nowhere": g["origin"][""]}),
    "no structure of a kind": lambda g: g.update(origin=[]),
    "no such thing": lambda g: g.pop("origin"),
}


@pytest.mark.parametrize("name", ABOUT)
def test_lies_about_where_numbers_came_from(name, good, path):
    path.write_bytes(resealed(good, ABOUT[name]))
    refused(path)


def test_positions_beyond_the_small_model(path):
    _, grown, _ = grown_net()
    entry = grown.record.parameters["fc.weight"]
    for value in (6, -2):
        entry.index[1] = torch.where(torch.arange(len(entry.index[1])) == 0, value, entry.index[1])
        with pytest.raises(fxgrow.ArchiveError, match="does not fit 'fc.weight'"):
            fxgrow.save(grown, path)
