"""Archives: what goes in comes out bit by bit, and what cannot go in is refused with a reason."""
from __future__ import annotations

import copy
import errno
import io
import json
import os
import stat
import subprocess
import sys
import threading
import zipfile
from collections import namedtuple

import pytest
import torch
import torch.nn.functional as F
import torchvision
from archives import IMAGE, Small, refused, resealed, round_trip, run, same, small_archive
from support import shake
from thin import thin
from torch import nn
from torch.fx import GraphModule

import fxgrow
from fxgrow.errors import ArchiveError
from fxgrow.passes import Widen
from fxgrow.record import ParameterRecord


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.fxgrow"


@pytest.fixture
def archive():
    return small_archive()


# --- what comes back ------------------------------------------------------------------------------------------------

MODELS = {
    "small": (Small, IMAGE),
    "resnet18": (lambda: thin(lambda: torchvision.models.resnet18(num_classes=7)), IMAGE),
    "mobilenet_v3_small": (lambda: torchvision.models.mobilenet_v3_small(num_classes=7), IMAGE),
    "vit": (lambda: torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 32, dropout=0.1), IMAGE),
    "swin": (lambda: torchvision.models.SwinTransformer([2, 2], 16, [1, 2], [2, 2], [4, 4], stochastic_depth_prob=0.5),
             IMAGE),
    "googlenet": (lambda: thin(lambda: torchvision.models.googlenet(num_classes=7, init_weights=False)), (2, 3, 64, 64)),
}


@pytest.mark.thinned(3)
@pytest.mark.parametrize("name", MODELS)
def test_outputs_and_names_are_the_same(name, path):
    build, shape = MODELS[name]
    round_trip(shake(build()), torch.randn(shape), path)


@pytest.mark.parametrize("name", ["convnext_atto", "resnet10t"])
def test_timm_models(name, path):
    timm = pytest.importorskip("timm")
    round_trip(shake(timm.create_model(name, num_classes=3, drop_path_rate=0.3)), torch.randn(IMAGE), path)


class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(11, 6, padding_idx=0)
        self.rnn = nn.LSTM(6, 8, 2, batch_first=True, bidirectional=True, dropout=0.2)
        self.cell = nn.GRUCell(16, 5)

    def forward(self, tokens):
        out, (hidden, _) = self.rnn(self.table(tokens))
        return self.cell(out[:, -1]), hidden


def test_recurrent_layers_rebuild_their_flat_weights(path):
    _, loaded = round_trip(Reader(), torch.randint(0, 11, (2, 7)), path)
    with torch.no_grad():
        loaded.rnn.weight_hh_l0.zero_()
        before = loaded(torch.ones(1, 4, dtype=torch.long))[0]
        loaded.rnn.bias_ih_l0.add_(3)
    assert loaded.rnn._flat_weights[0] is loaded.rnn.weight_ih_l0
    assert not torch.equal(before, loaded(torch.ones(1, 4, dtype=torch.long))[0])
    assert loaded.meta["fxgrow"]["input_dtypes"] == [torch.int64]


@pytest.mark.parametrize("name", ["weight_norm", "spectral_norm", "orthogonal"])
def test_parametrized_layers(name, path):
    model = nn.Sequential(getattr(nn.utils.parametrizations, name)(nn.Linear(6, 4)), nn.Linear(4, 4))
    captured, loaded = (m.eval().get_submodule("0") for m in round_trip(model, torch.randn(2, 6), path))
    assert nn.utils.parametrize.is_parametrized(loaded, "weight") and isinstance(loaded, nn.Linear)
    nn.utils.parametrize.remove_parametrizations(loaded, "weight")
    assert torch.equal(loaded.weight, captured.weight)


def test_tensors_without_data_stay_so(path):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3)).to("meta", torch.bfloat16)
    model[2].weight = nn.Parameter(model[2].weight.detach().contiguous(memory_format=torch.channels_last))
    x = torch.randn(2, 3, 8, 8, device="meta", dtype=torch.bfloat16)
    grown = fxgrow.transform(model, x, [Widen("0", factor=2, seed=0)])
    fxgrow.save(grown, path)
    loaded = fxgrow.load(path)
    ours, theirs = ([(n, t.shape, t.stride(), t.dtype, t.device.type) for n, t in m.state_dict().items()]
                    for m in (grown.model, loaded))
    assert ours == theirs and loaded(x).shape == (2, 4, 4, 4)
    assert loaded.get_submodule("0").weight is not loaded.get_submodule("2").weight


def test_a_model_that_is_not_captured_needs_its_inputs(path):
    with pytest.raises(ArchiveError, match="example_inputs="):
        fxgrow.save(Small(), path)
    assert not path.exists()
    fxgrow.save(Small(), path, example_inputs=torch.randn(IMAGE))
    assert fxgrow.load(path).meta["fxgrow"]["input_shapes"] == [IMAGE]
    with pytest.raises(ArchiveError, match="not a model"):
        fxgrow.save({"weights": 1}, path)


def test_shared_things_stay_shared(path):
    gm, loaded = round_trip(Small(), torch.randn(IMAGE), path)
    assert loaded.head.weight is loaded.embed.weight and loaded.back.weight is not loaded.embed.weight
    assert len(list(loaded.parameters())) == len(list(gm.parameters()))
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.BatchNorm1d(4), nn.BatchNorm1d(4))
    model[1].weight.data = model[0].weight.data  # two parameters, one memory
    model[3].running_mean = model[2].running_mean
    _, loaded = round_trip(model, torch.randn(3, 4), path)
    first, second = (loaded.get_submodule(n).weight for n in ("0", "1"))
    assert first is not second and first.data_ptr() == second.data_ptr()
    assert loaded.get_submodule("3").running_mean is loaded.get_submodule("2").running_mean


def test_shared_modules_stay_one(path):
    gm = fxgrow.capture(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), torch.randn(3, 4))
    gm.add_module("other", gm.get_submodule("0"))
    _, loaded = round_trip(gm, torch.randn(3, 4), path)
    assert loaded.get_submodule("0") is loaded.get_submodule("other")


def test_parameters_that_overlap_in_part_are_refused(path):
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    whole = torch.randn(6, 4)
    model[0].weight.data, model[1].weight.data = whole[:4], whole[2:]
    with pytest.raises(ArchiveError, match="share part of their memory"):
        fxgrow.save(model, path, example_inputs=torch.randn(2, 4))


def test_flags_types_and_layouts_are_kept(path):
    model = MODELS["resnet18"][0]().to(memory_format=torch.channels_last)
    model.layer1.requires_grad_(False)
    model.layer2.eval()
    gm, loaded = round_trip(model, torch.randn(IMAGE), path)
    assert loaded.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    assert not loaded.layer1.get_submodule("0").conv1.weight.requires_grad
    assert not loaded.layer2.get_submodule("0").bn1.training and loaded.layer3.get_submodule("0").bn1.training
    model = nn.Linear(6, 4)
    model.weight = nn.Parameter(torch.randn(6, 4).t())
    _, loaded = round_trip(nn.Sequential(model), torch.randn(2, 6), path)
    assert loaded.get_submodule("0").weight.stride() == (1, 4)


@pytest.mark.filterwarnings("ignore:Complex modules")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.complex64])
def test_number_types(dtype, path):
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)).to(dtype)
    gm, loaded = round_trip(model, torch.randn(2, 4).to(dtype), path)
    assert {t.dtype for t in loaded.parameters()} == {dtype}
    assert loaded.meta["fxgrow"]["input_dtypes"] == [dtype]


def test_mode_switches_live_on(path):
    _, loaded = round_trip(Small(), torch.randn(IMAGE), path)
    train, evaluation = (run(loaded, (torch.ones(IMAGE),), mode)["last"] for mode in (True, False))
    assert not torch.equal(train, evaluation)
    assert any(n.op == "get_attr" and n.target == "training" for n in loaded.graph.nodes)


def test_arguments_of_every_kind(path):
    class Odd(nn.Module):
        def forward(self, x):
            x = x.to(torch.float64, memory_format=torch.contiguous_format)[..., None][:, 1:-1:2]
            x = x.clamp(-float("inf"), float("inf")) + float("inf") * 0 + torch.zeros(2, dtype=x.dtype, device="cpu").sum()
            x = x + x.sort(0).values.max(0).indices.to(x.dtype)
            return Out(torch.stack([x, -x], 0), {"a": [x.shape[0], (x,)], 3: None, True: "it's \"quoted\"\n"})

    Out = namedtuple("Out", "first rest")
    _, loaded = round_trip(Odd(), torch.randn(2, 6), path)
    assert run(loaded, (torch.randn(2, 6),), False)._fields == ("first", "rest")


def test_extra_inputs_and_leaves_are_found_again(path, archive):
    path.write_bytes(archive)
    info = fxgrow.load(path).meta
    assert info["fxgrow"]["input_shapes"] == [IMAGE] and info["fxgrow"]["input_dtypes"] == [torch.float32]
    assert info["fxgrow"]["extra"] == {"note": ("a", 1.5)} and info["fxgrow"]["record"].parameters == {}
    assert info["example_inputs"][0].is_meta and info["leaves"] == {} and info["growth"]["outcomes"] == []
    with pytest.raises(ArchiveError, match="extra"):
        fxgrow.save(fxgrow.load(path), path, extra={"a": object()})


def test_nodes_remember_where_they_came_from(path):
    gm, loaded = round_trip(MODELS["resnet18"][0](), torch.randn(IMAGE), path)
    before, after = ([(n.name, n.meta.get("owner")) for n in m.graph.nodes] for m in (gm, loaded))
    assert before == after
    assert any(n.meta.get("owner") == "layer1.0" for n in loaded.graph.nodes)


def test_a_grown_model_keeps_its_record_and_grows_on(path):
    x = torch.randn(IMAGE)
    model = shake(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3))).eval()
    grown = fxgrow.transform(model, x, [Widen("0", factor=1.5, seed=0)])
    fxgrow.save(grown, path)
    loaded = fxgrow.load(path)
    record = loaded.meta["fxgrow"]["record"]
    assert record.to_json() == grown.record.to_json() and record.lineage[0]["pass"] == "widen"
    expected = grown.record.to_tensors()
    assert expected and record.to_tensors().keys() == expected.keys()
    assert all(torch.equal(t, expected[n]) for n, t in record.to_tensors().items())
    same(run(grown.model, (x,), False), run(loaded, (x,), False))

    more = fxgrow.transform(loaded, x, [Widen(factor=1.5, seed=1)])
    assert len(more.record.lineage) == 2 and fxgrow.verify(model, more.model, x).ok
    fxgrow.save(more, path)
    assert len(fxgrow.load(path).meta["growth"]["record"].lineage) == 2


def test_maps_of_a_record_may_be_one_tensor(path):
    grown = fxgrow.capture(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1)), torch.randn(IMAGE))
    index, fresh = torch.tensor([0, 1, -1, -1]), torch.tensor([False, False, True, True])
    entry = ParameterRecord("0.weight", [index, None, None, None], [fresh, None, None, None])
    grown.meta["growth"] = {"record": fxgrow.GrowthRecord({"0.weight": entry, "1.weight": entry}), "outcomes": []}
    fxgrow.save(grown, path)
    assert torch.equal(fxgrow.load(path).meta["fxgrow"]["record"].parameters["1.weight"].index[0], index)


def test_a_loaded_model_is_a_module_like_any_other(path):
    _, loaded = round_trip(Small(), torch.randn(IMAGE), path)
    x = torch.randn(IMAGE)
    loaded(x)["logits"].sum().backward()
    assert loaded.conv.weight.grad is not None
    other = copy.deepcopy(loaded)
    with torch.no_grad():
        other.conv.weight.zero_()
    assert loaded.conv.weight.abs().sum() > 0
    loaded.load_state_dict(Small().state_dict(), strict=True)


def test_the_same_model_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        torch.manual_seed(1)
        fxgrow.save(Small(), tmp_path / name, example_inputs=torch.randn(IMAGE))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    code = ("import torch, fxgrow, sys\nfrom torch import nn\ntorch.manual_seed(1)\n"
            "fxgrow.save(nn.Sequential(nn.Linear(3, 4), nn.GELU()), sys.argv[1], example_inputs=torch.ones(1, 3))")
    exec(code.replace("sys.argv[1]", repr(str(tmp_path / "c"))), {})
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "d")], check=True,  # no order of sets leaks into the file
                   env={**os.environ, "PYTHONHASHSEED": "7"})
    assert (tmp_path / "c").read_bytes() == (tmp_path / "d").read_bytes()


def test_the_file_is_a_plain_zip_of_data(archive):
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        assert file.namelist() == ["graph.json", "manifest.json", "tensors.safetensors"]
        assert all(i.compress_type == zipfile.ZIP_STORED and i.date_time == (1980, 1, 1, 0, 0, 0) for i in file.infolist())
        graph = json.loads(file.read("graph.json"))
    assert graph["format"] == "fxgrow" and graph["version"] == 1
    assert {n["op"] for n in graph["nodes"]} >= {"placeholder", "call_module", "call_function", "get_attr", "output"}


# --- what cannot be saved -------------------------------------------------------------------------------------------

class Opaque(nn.Module):
    calls = 0

    def forward(self, x):
        self.calls += 1
        return x * 2


def test_code_of_others_is_refused_with_a_reason(path):
    model = nn.Sequential(nn.Linear(3, 3), Opaque())
    fxgrow.save(model, path, example_inputs=torch.randn(2, 3))
    refused(path, r"layer '1' is of class .*Opaque.*no code.*into=")
    assert torch.equal(fxgrow.load(path, into=model)(torch.ones(2, 3)), model(torch.ones(2, 3)))


def test_attributes_that_are_not_data_are_refused(path):
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    model[0].note = object()
    with pytest.raises(ArchiveError, match="attribute 'note' of '0'"):
        fxgrow.save(model, path, example_inputs=torch.randn(2, 3))
    model[0].note = (1, {"a": torch.float16}, F.relu, nn.LayerNorm)
    fxgrow.save(model, path, example_inputs=torch.randn(2, 3))
    assert fxgrow.load(path).get_submodule("0").note == (1, {"a": torch.float16}, F.relu, nn.LayerNorm)
    model[1].forward = lambda x: x
    with pytest.raises(ArchiveError, match="replaces a method"):
        fxgrow.save(model, path, example_inputs=torch.randn(2, 3))


class Typed(nn.Module):
    """Asks for the type of its input, and brings sequences of two lengths together."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 4)

    def forward(self, x):
        x = x if x.is_floating_point() else x / 255
        return self.layer(nn.utils.rnn.pad_sequence([x[0], x[1, :2]], batch_first=True))


def test_questions_about_types_and_padded_sequences_come_back(path):
    model, x = Typed(), torch.randn(2, 4, 3)
    fxgrow.save(model, path, example_inputs=x)
    assert torch.equal(fxgrow.load(path)(x), model(x))


def test_hooks_and_odd_tensors_are_refused(path):
    x = torch.randn(2, 3)
    rnn = Reader()
    nn.utils.parametrizations.weight_norm(rnn.rnn, "weight_hh_l0")
    with pytest.raises(ArchiveError, match="remove_parametrizations"):
        fxgrow.save(rnn, path, example_inputs=torch.ones(2, 3, dtype=torch.long))
    hooked = nn.Sequential(nn.Linear(3, 3))
    hooked[0].register_forward_hook(lambda *a: None)
    with pytest.raises(ArchiveError, match="'0' has hooks"):
        fxgrow.save(hooked, path, example_inputs=x)
    sparse = nn.Sequential(nn.Linear(3, 3))
    sparse[0].register_buffer("odd", torch.ones(3, 3).to_sparse())
    with pytest.raises(ArchiveError, match="sparse"):
        fxgrow.save(sparse, path, example_inputs=x)


def test_functions_of_others_are_refused(path):
    gm = fxgrow.capture(nn.Sequential(nn.Linear(3, 3)), torch.randn(2, 3))
    node = list(gm.graph.nodes)[1]
    node.target, node.op = os.getenv, "call_function"
    with pytest.raises(ArchiveError, match="calls os.getenv"):
        fxgrow.save(gm, path)
    gm = fxgrow.capture(nn.Sequential(nn.Linear(3, 3)), torch.randn(2, 3))
    gm.constant = 3.0
    with gm.graph.inserting_after(list(gm.graph.nodes)[0]):
        gm.graph.create_node("get_attr", "constant")
    with pytest.raises(ArchiveError, match="reads 'constant'"):
        fxgrow.save(gm, path)


# --- writing --------------------------------------------------------------------------------------------------------

def test_a_failed_write_leaves_nothing_and_keeps_the_old_file(path, monkeypatch):
    model = fxgrow.capture(nn.Sequential(nn.Linear(3, 3)), torch.randn(2, 3))
    path.write_bytes(b"old")

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for broken in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, broken, full)
            with pytest.raises(ArchiveError, match="No space left on device") as caught:
                fxgrow.save(model, path)
        assert "\n" not in str(caught.value)
        assert path.read_bytes() == b"old" and os.listdir(path.parent) == [path.name]
    fxgrow.save(model, path)
    assert isinstance(fxgrow.load(path), GraphModule) and os.listdir(path.parent) == [path.name]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_devices_are_written_to_not_replaced():
    model = fxgrow.capture(nn.Sequential(nn.Linear(3, 3)), torch.randn(2, 3))
    with pytest.raises(ArchiveError, match="No space left"):
        fxgrow.save(model, "/dev/full")
    fxgrow.save(model, "/dev/null")
    assert all(stat.S_ISCHR(os.stat(p).st_mode) for p in ("/dev/full", "/dev/null"))


def test_places_that_cannot_be_written(tmp_path):
    model = fxgrow.capture(nn.Sequential(nn.Linear(3, 3)), torch.randn(2, 3))
    (tmp_path / "file").write_text("x")
    os.mkfifo(tmp_path / "pipe")
    for place, match in ((tmp_path, "directory"), (tmp_path / "no" / "m", "does not exist"), (tmp_path / "pipe", "neither"),
                         (tmp_path / "file" / "m", "Not a directory|not exist"), ("a\0b", "null byte"), ("", "directory")):
        with pytest.raises(ArchiveError, match=match) as caught:
            fxgrow.save(model, place)
        assert "\n" not in str(caught.value)


def test_loading_and_saving_in_threads(archive, tmp_path):
    path = tmp_path / "shared"
    path.write_bytes(archive)
    model, failures = fxgrow.load(path), []

    def work():
        try:
            for _ in range(5):
                fxgrow.save(model, path)
                fxgrow.load(path)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures and path.read_bytes() == archive and os.listdir(tmp_path) == ["shared"]


# --- complex numbers, and attributes that hide a method ---------------------------------------------------------------

class Waves(nn.Module):
    """A complex parameter, buffers of both complex types, a view of one of them and complex constants."""

    def __init__(self):
        super().__init__()
        self.into, self.out = nn.Linear(3, 4), nn.Linear(4, 2)
        self.into.type = "nn.Linear"  # as ultralytics calls its layers; it hides nn.Module.type
        self.mix = nn.Parameter(torch.randn(4, 4, dtype=torch.complex128))
        self.register_buffer("turn", torch.randn(6, 4, dtype=torch.complex128)[::2], persistent=False)
        self.register_buffer("small", torch.randn(4, dtype=torch.complex64))
        self.register_buffer("mirrored", torch.randn(4, dtype=torch.complex128).conj())

    def forward(self, x):
        z = torch.complex(self.into(x), x.new_zeros(x.shape[0], 4)) @ self.mix * self.turn[0] * (0.5 + 2j)
        return self.out((z * self.small.to(z.dtype) + self.mirrored).abs())


def test_complex_numbers(path):
    model = Waves().double()
    model.turn, model.small = (torch.randn(n, dtype=t) for n, t in (((3, 4), torch.complex128), (4, torch.complex64)))
    _, loaded = round_trip(model, torch.randn(5, 3).double(), path)
    assert loaded.mix.dtype is torch.complex128 and isinstance(loaded.mix, nn.Parameter) and loaded.mix.requires_grad
    assert "turn" not in loaded.state_dict() and loaded.get_submodule("into").type == "nn.Linear"
    loaded(torch.randn(2, 3).double()).sum().backward()
    assert loaded.mix.grad.is_complex()
    good = path.read_bytes()
    for lie in (lambda g: g["tensors"][0].update(kind="complex parameter"), lambda g: g["tensors"][0].update(kind="complex"),
                lambda g: g["tensors"][0].update(kind="complex complex tensor")):
        path.write_bytes(resealed(good, lie))
        refused(path)


@pytest.mark.parametrize("name, value", [("type", torch.relu), ("type", torch.ones(1)), ("_apply", 1), ("forward", "x"),
                                         ("type", [nn.ReLU()])])
def test_only_plain_data_may_hide_a_method(name, value, path):
    gm = fxgrow.capture(nn.Sequential(nn.Linear(3, 3), nn.ReLU()), torch.ones(2, 3))
    vars(gm.get_submodule("1"))[name] = value
    with pytest.raises(ArchiveError, match=f"'{name}' of '1'.*replaces a method"):
        fxgrow.save(gm, path)


def test_plain_data_that_hides_a_method_comes_back(path):
    gm = fxgrow.capture(nn.Sequential(nn.Linear(3, 3), nn.ReLU()), torch.ones(2, 3))
    gm.get_submodule("1").type = {"a": (1, "b")}
    fxgrow.save(gm, path)
    assert fxgrow.load(path).get_submodule("1").type == {"a": (1, "b")}
    path.write_bytes(resealed(path.read_bytes(), lambda g: g["modules"][1]["attributes"].update(
        type={"function": "torch.relu"})))
    refused(path, "may hold code")


def test_experts_of_transformers(path):
    transformers = pytest.importorskip("transformers")
    config = transformers.MixtralConfig(vocab_size=20, hidden_size=8, intermediate_size=12, num_hidden_layers=1,
                                        num_attention_heads=2, num_key_value_heads=1, num_local_experts=4)
    model = transformers.MixtralForCausalLM(config).eval()
    words = {"input_ids": torch.randint(20, (2, 6))}
    captured = fxgrow.capture(model, words)
    fxgrow.save(captured, path)
    with torch.no_grad():
        assert torch.equal(fxgrow.load(path)(**words).logits, captured(**words).logits)
