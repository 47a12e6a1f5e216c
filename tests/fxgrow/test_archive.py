"""Archives: what goes in comes out bit by bit, and what is not an archive never gets further than one ArchiveError."""
from __future__ import annotations

import copy
import errno
import io
import json
import operator
import os
import pickle
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
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import shake
from torch import nn
from torch.fx import GraphModule
from torch.utils._pytree import tree_leaves

import fxgrow
from fxgrow import _archive_allow as allow
from fxgrow import _archive_zip
from fxgrow._atomic import atomic_write
from fxgrow.errors import ArchiveError
from fxgrow.passes import Widen

IMAGE = (2, 3, 32, 32)


class Small(nn.Module):
    """A bit of everything: conv, norm, dropout, a branch on the mode, a shared layer, shape arithmetic, a tied weight."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.mix = nn.Conv2d(8, 8, 1)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.embed = nn.Linear(8, 5, bias=False)
        self.back = nn.Linear(5, 8, bias=False)
        self.back.weight = nn.Parameter(self.embed.weight.detach().t().contiguous())
        self.head = nn.Linear(8, 5, bias=False)
        self.head.weight = self.embed.weight
        self.scale = nn.Parameter(torch.rand(8))
        self.register_buffer("shift", torch.randn(8), persistent=False)

    def forward(self, x):
        x = F.relu(self.norm(self.conv(x)))
        x = self.mix(F.dropout(self.mix(x), 0.25, self.training))
        n, c, h, w = x.shape
        x = x.view(n, c, h * w).transpose(1, 2)[:, ::7]
        x = x * self.scale + self.shift + self.attention(x, x, x, need_weights=False)[0]
        x = self.back(self.embed(x).clamp(min=-float("inf"), max=1e9)) + (0.5 if self.training else 0.25)
        return {"logits": self.head(x.mean(1)), "last": x}


def same(a, b):
    ours, theirs = tree_leaves(a), tree_leaves(b)
    assert len(ours) == len(theirs) and type(a).__name__ == type(b).__name__
    for one, two in zip(ours, theirs):
        if isinstance(one, torch.Tensor):
            torch.testing.assert_close(one, two, rtol=0, atol=0, equal_nan=True)
        else:
            assert one == two and type(one) is type(two)


def run(model, inputs, mode):
    torch.manual_seed(3)
    with torch.no_grad():
        return copy.deepcopy(model).train(mode)(*inputs)


def round_trip(model, inputs, path, **options):
    """Saves and loads; outputs in both modes, names, flags and a second saving must all be the same."""
    inputs = inputs if isinstance(inputs, tuple) else (inputs,)
    gm = fxgrow.capture(model, inputs)
    fxgrow.save(gm, path, **options)
    loaded = fxgrow.load(path)
    assert isinstance(loaded, GraphModule)
    assert list(loaded.state_dict()) == list(gm.state_dict())
    assert [(n, m.training) for n, m in loaded.named_modules()] == [(n, m.training) for n, m in gm.named_modules()]
    for of in ("named_parameters", "named_buffers"):
        ours, theirs = (list(getattr(m, of)(remove_duplicate=False)) for m in (gm, loaded))
        assert [(n, t.dtype, t.requires_grad, t.stride(), type(t)) for n, t in ours] == \
            [(n, t.dtype, t.requires_grad, t.stride(), type(t)) for n, t in theirs]
    for mode in (False, True):
        same(run(gm, inputs, mode), run(loaded, inputs, mode))
    again = path.with_name("again")
    fxgrow.save(loaded, again)
    assert again.read_bytes() == path.read_bytes()
    return gm, loaded


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.fxgrow"


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """An archive of `Small`, and its bytes."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("archive") / "small.fxgrow"
    fxgrow.save(shake(Small()), file, example_inputs=torch.randn(IMAGE), extra={"note": ("a", 1.5)})
    return file.read_bytes()


def refused(path, match=None, **options):
    with pytest.raises(ArchiveError, match=match) as caught:
        fxgrow.load(path, **options)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    return str(caught.value)


def resealed(archive: bytes, edit) -> bytes:
    """The archive with its description edited and all checksums right again."""
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        graph, tensors = json.loads(file.read("graph.json")), file.read("tensors.safetensors")
    edit(graph)
    out = io.BytesIO()
    for key in ("format", "version"):
        graph.pop(key, None)
    _archive_zip.write(out, graph, tensors)
    return out.getvalue()


# --- what comes back ------------------------------------------------------------------------------------------------

MODELS = {
    "small": (Small, IMAGE),
    "resnet18": (lambda: torchvision.models.resnet18(num_classes=7), IMAGE),
    "mobilenet_v3_small": (lambda: torchvision.models.mobilenet_v3_small(num_classes=7), IMAGE),
    "vit": (lambda: torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 32, dropout=0.1), IMAGE),
    "swin": (lambda: torchvision.models.SwinTransformer([2, 2], 16, [1, 2], [2, 2], [4, 4], stochastic_depth_prob=0.5),
             IMAGE),
    "googlenet": (lambda: torchvision.models.googlenet(num_classes=3, init_weights=False), (2, 3, 64, 64)),
}


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
    model = torchvision.models.resnet18(num_classes=3).to(memory_format=torch.channels_last)
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
    def forward(self, x):
        if type(x) is not torch.Tensor:
            raise TypeError("no tracing here")
        return x * 2


def test_code_of_others_is_refused_with_a_reason(path):
    with pytest.raises(ArchiveError, match=r"layer '1' is of class .*Opaque.*no code") as caught:
        fxgrow.save(nn.Sequential(nn.Linear(3, 3), Opaque()), path, example_inputs=torch.randn(2, 3))
    assert "\n" not in str(caught.value) and not path.exists()


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


def test_parametrizations_hooks_and_odd_tensors_are_refused(path):
    x = torch.randn(2, 3)
    with pytest.raises(ArchiveError, match="remove_parametrizations"):
        fxgrow.save(nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 3))), path, example_inputs=x)
    hooked = nn.Sequential(nn.Linear(3, 3))
    hooked[0].register_forward_hook(lambda *a: None)
    with pytest.raises(ArchiveError, match="'0' has hooks"):
        fxgrow.save(hooked, path, example_inputs=x)
    with pytest.raises(ArchiveError, match="meta device"):
        fxgrow.save(nn.Sequential(nn.Linear(3, 3, device="meta")), path, example_inputs=x)


def test_functions_of_others_are_refused(path):
    gm = fxgrow.capture(nn.Sequential(nn.Linear(3, 3)), torch.randn(2, 3))
    node = list(gm.graph.nodes)[1]
    node.target, node.op = os.getenv, "call_function"
    with pytest.raises(ArchiveError, match="calls os.getenv"):
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


def test_atomic_write_keeps_links_permissions_and_other_errors(tmp_path):
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_text("old")
    real.chmod(0o640)
    link.symlink_to(real)
    with pytest.raises(RuntimeError, match="mine"), atomic_write(link) as file:
        file.write(b"half")
        raise RuntimeError("mine")
    assert real.read_text() == "old"
    with atomic_write(link) as file:
        file.write(b"new")
        assert real.read_text() == "old"
    assert real.read_text() == "new" and link.is_symlink() and stat.S_IMODE(real.stat().st_mode) == 0o640
    assert sorted(os.listdir(tmp_path)) == ["link", "real"]


# --- damage ---------------------------------------------------------------------------------------------------------


def test_any_bit_may_flip(archive, tmp_path):
    path = tmp_path / "flipped"
    size = len(archive)
    places = {*range(0, size, size // 150), *range(40), *range(size - 600, size, 3), *range(size - 120, size)}
    for place in sorted(places):
        damaged = bytearray(archive)
        damaged[place] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        refused(path)


@given(st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_random_damage(archive, tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "damaged"
    cut = data.draw(st.integers(0, len(archive) - 1))
    length = data.draw(st.integers(0, 50))
    middle = data.draw(st.binary(max_size=50))
    damaged = data.draw(st.sampled_from([archive[:cut], archive[cut:], archive[:cut] + middle + archive[cut + length:],
                                         archive + middle, middle + archive, middle]))
    if damaged == archive:
        return
    path.write_bytes(damaged)
    refused(path)


def test_files_that_are_something_else(tmp_path):
    path = tmp_path / "other"
    for content, match in ((b"", "empty"), (b"PK\x03\x04", "damaged"), (b"hello world", "neither"),
                           (b"\x80\x02.", "neither"), (pickle.dumps({"a": 1}), "neither"), (b"\x93NUMPY" + b"\0" * 200, "neither")):
        path.write_bytes(content)
        refused(path, match)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.txt", "hello")
    refused(path, "zip file")
    refused(tmp_path / "missing", "No such file")
    refused(tmp_path, "directory")
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "not a regular file")
    if os.geteuid():
        path.chmod(0)
        refused(path, "Permission denied")


def rezip(archive: bytes, path, change, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        members = [(n, file.read(n)) for n in file.namelist()]
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in change(members):
            file.writestr(name, content)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_members_are_exactly_ours(archive, tmp_path):
    path = tmp_path / "members"
    for change in (lambda m: [*m, ("evil.txt", b"x")], lambda m: [*m, ("../evil.txt", b"x")], lambda m: [*m, m[0]],
                   lambda m: m[1:], lambda m: m[::-1], lambda m: [("../" + n, c) for n, c in m],
                   lambda m: [("/" + n, c) for n, c in m], lambda m: [*m, ("archive/data.pkl", b"cos\nsystem\n.")]):
        rezip(archive, path, change)
        refused(path)
    assert os.listdir(tmp_path) == ["members"]
    rezip(archive, path, lambda m: m)
    refused(path, "damaged")  # the same members in a container that we did not write
    rezip(archive, path, lambda m: m, zipfile.ZIP_DEFLATED)
    refused(path, "compressed")


def test_bombs_are_refused_at_once(archive, tmp_path):
    path = tmp_path / "bomb"
    rezip(archive, path, lambda m: [*m[:2], (m[2][0], b"\0" * 200_000_000)], zipfile.ZIP_DEFLATED)
    refused(path, "compressed")
    header = json.dumps({"model/x": {"dtype": "F32", "shape": [2 ** 40, 2 ** 10], "data_offsets": [0, 2 ** 52]}}).encode()
    out = io.BytesIO()
    graph = {k: v for k, v in json.loads(zipfile.ZipFile(io.BytesIO(archive)).read("graph.json")).items()
             if k not in ("format", "version")}
    _archive_zip.write(out, graph, len(header).to_bytes(8, "little") + header)
    path.write_bytes(out.getvalue())
    refused(path)
    for claimed in (2 ** 62, 2 ** 64 - 1):
        out = io.BytesIO()
        _archive_zip.write(out, graph, claimed.to_bytes(8, "little") + b"{}")
        path.write_bytes(out.getvalue())
        refused(path)
    rezip(archive, path, lambda m: [(m[0][0], b"[" * 1_000_000), *m[1:]])
    refused(path, "nested")


def test_versions_and_formats(archive, path):
    def rewrite(**changes):
        def change(members):
            graph = {**json.loads(members[0][1]), **changes}
            return [(members[0][0], json.dumps(graph).encode()), *members[1:]]
        rezip(archive, path, change)

    rewrite(version=2)
    refused(path, "version is 2.*newer fxgrow")
    for version in (0, -1, "1", True, None, 1.0):
        rewrite(version=version)
        refused(path, "version")
    rewrite(format="other")
    refused(path, "format is 'other'")
    rewrite(extra="changed")
    refused(path, "damaged")
    rezip(archive, path, lambda m: [(m[0][0], m[0][1][:-1] + b',"format":"fxgrow"}'), *m[1:]])
    refused(path, "not valid JSON")


# --- lies in a file whose checksums are right -----------------------------------------------------------------------


def node_of(graph, op):
    return next(n for n in graph["nodes"] if n["op"] == op)


def test_resealing_itself_changes_nothing(archive):
    assert resealed(archive, lambda graph: None) == archive


FORBIDDEN = """os.system posix.system builtins.eval builtins.exec builtins.open builtins.__import__ builtins.compile
builtins.setattr builtins.type torch.load torch.save torch.hub.load torch.from_file torch.from_numpy torch.ops.load_library
torch.set_default_dtype torch.set_num_threads torch.manual_seed torch.compile torch.jit.load torch.jit.script torch.fork
torch.utils.cpp_extension.load torch._dynamo.optimize torch._C._jit_set_profiling_mode torch.ops.aten.from_file
torch.ops.aten.save torch.ops.aten.set_data torch.ops.aten._print torch.ops.image.read_file torch.ops.torchvision._cuda_version
torch.classes.load_library torch.serialization.load torch.package.PackageImporter torch.nn.Linear torch.cuda.synchronize
torch.distributed.init_process_group torch.import_ir_module torch.nn.functional.torch torch.special.torch torch.seed
operator.attrgetter operator.methodcaller operator.itemgetter operator.call operator.delitem math.__loader__ subprocess.run
importlib.import_module torchvision.io.read_file torchvision.models.resnet18 torchvision.ops.torch timm.create_model
timm.models.load_checkpoint fxgrow.load fxgrow.layers.torch torch.__builtins__ torch torch.ops torch.ops.aten ..os x
torch.nn.functional.handle_torch_function torch.nn.functional.has_torch_function torch.autograd.backward torch.fbgemm_pack_gemm_matrix_fp16
""".split()  # noqa: E501


@pytest.mark.parametrize("target", FORBIDDEN)
def test_functions_that_an_archive_never_calls(target, archive, path):
    path.write_bytes(resealed(archive, lambda g: node_of(g, "call_function").update(target=target)))
    refused(path, "may call|name of a function")


def test_every_resolvable_name_is_harmless_and_unique():
    table = allow._functions()
    assert len(table) > 600 and table["torch.cat"] is torch.cat and table["operator.add"] is operator.add
    assert not any(w in n for n in table for w in ("load", "file", "save", "seed", "_num_threads", "compile", "numpy"))
    assert not any(isinstance(f, type) for n, f in table.items() if not n.startswith("builtins."))
    assert not allow.METHODS & {"numpy", "tofile", "__reduce__", "__reduce_ex__", "__class__", "__getattribute__", "apply_",
                                "map_", "register_hook", "share_memory_", "storage", "untyped_storage", "data_ptr", "set_",
                                "backward", "__dict__", "__setstate__", "__getattr__", "resize_", "__init__", "format"}
    assert not any(n.startswith("_") for n in allow.ATTRIBUTES)
    for name, function in table.items():
        assert allow.find_function(allow.function_name(function)) is function, name


@pytest.mark.parametrize("method", ["numpy", "tofile", "__reduce__", "__class__", "apply_", "register_hook", "set_",
                                    "share_memory_", "mean(); import os #", "untyped_storage", "format", "", "a.b"])
def test_methods_that_an_archive_never_calls(method, archive, path):
    path.write_bytes(resealed(archive, lambda g: node_of(g, "call_method").update(target=method)))
    refused(path, "method that an archive may call")


CLASSES = """os.Popen builtins.object torch.nn.Linear torch.nn.modules.linear.torch torch.jit._script.ScriptModule
torch.nn.parallel.DistributedDataParallel torch.fx.graph_module.GraphModule torch.nn.modules.lazy.LazyModuleMixin
torchvision.models.nothing.Here timm.models.__main__.X timm.nothing.X torchvision.io.image.ImageReadMode
torchvision.models.resnet.resnet18 torchvision.models.resnet.nn torch.nn.modules.linear.Linear.__class__""".split()


@pytest.mark.parametrize("name", CLASSES)
def test_classes_that_an_archive_never_makes(name, archive, path):
    def edit(graph):
        next(m for m in graph["modules"] if m["class"])["class"] = name

    path.write_bytes(resealed(archive, edit))
    refused(path, "layer class that an archive may hold|not in this version|install")


def first_layer(graph):
    return next(m for m in graph["modules"] if m["class"] == "torch.nn.modules.conv.Conv2d")


def getattr_node(name):
    return lambda g: node_of(g, "call_function").update(target="builtins.getattr", args=[{"node": "x"}, name], kwargs={})


EDITS = {
    "a dunder attribute": getattr_node("__class__"),
    "an unknown attribute": getattr_node("grad_fn"),
    "an attribute by a computed name": getattr_node({"node": "x"}),
    "a later node": lambda g: g["nodes"][1]["args"].__setitem__(0, {"node": g["nodes"][-2]["name"]}),
    "itself": lambda g: g["nodes"][1]["args"].__setitem__(0, {"node": g["nodes"][1]["name"]}),
    "a name twice": lambda g: g["nodes"][2].update(name=g["nodes"][1]["name"]),
    "code as a name": lambda g: g["nodes"][-2].update(name="a = 1; import os #"),
    "code as a keyword": lambda g: node_of(g, "call_function")["kwargs"].update({"out=__import__('os'), x": 1}),
    "code as an input": lambda g: g["nodes"][0].update(target="x=print('run')"),
    "self as a name": lambda g: g["nodes"][0].update(target="self"),
    "no output": lambda g: g["nodes"].pop(),
    "two outputs": lambda g: g["nodes"].insert(1, {**g["nodes"][-1], "name": "early"}),
    "an input at the end": lambda g: g["nodes"].insert(-1, {**g["nodes"][0], "name": "late", "target": "late"}),
    "no nodes": lambda g: g["nodes"].clear(),
    "an unknown operation": lambda g: g["nodes"][1].update(op="exec"),
    "an unknown kind of value": lambda g: g["nodes"][1]["args"].append({"python": "1"}),
    "an impossible dtype": lambda g: g["nodes"][1]["args"].append({"dtype": "load"}),
    "a float that is none": lambda g: g["nodes"][1]["args"].append({"float": "12"}),
    "an impossible slice": lambda g: g["nodes"][1]["args"].append({"slice": [1]}),
    "a deep value": lambda g: g["nodes"][1]["args"].append(eval("[" * 80 + "]" * 80)),
    "a missing module": lambda g: node_of(g, "call_module").update(target="nowhere"),
    "a module that is a method": lambda g: node_of(g, "call_module").update(target="conv.forward"),
    "a quote in a path": lambda g: node_of(g, "call_module").update(target='conv"), print("'),
    "a get_attr of a module": lambda g: node_of(g, "get_attr").update(target="conv"),
    "a get_attr of a number": lambda g: node_of(g, "get_attr").update(target="conv.stride"),
    "a get_attr of a dunder": lambda g: node_of(g, "get_attr").update(target="conv.__class__"),
    "a get_attr of nothing": lambda g: node_of(g, "get_attr").update(target="conv.nothing.training"),
    "a field too many": lambda g: g["nodes"][1].update(type="int"),
    "a field too few": lambda g: g["nodes"][1].pop("args"),
    "a forward of its own": lambda g: first_layer(g)["attributes"].update(forward={"function": "torch.relu"}),
    "a class of its own": lambda g: first_layer(g)["attributes"].update({"__class__": 1}),
    "hooks": lambda g: first_layer(g)["attributes"].update(_forward_hooks={"dict": [[0, {"function": "torch.relu"}]]}),
    "getattr as an attribute": lambda g: first_layer(g)["attributes"].update(act={"function": "builtins.getattr"}),
    "a missing attribute": lambda g: first_layer(g)["attributes"].pop("stride"),
    "an unknown tensor": lambda g: first_layer(g)["parameters"].update(weight=10 ** 6),
    "a buffer as a parameter": lambda g: first_layer(g)["parameters"].update(
        weight=next(i for i, t in enumerate(g["tensors"]) if t["kind"] == "tensor")),
    "a tensor that is missing": lambda g: g["tensors"][0].update(data="model/nothing"),
    "a gradient of whole numbers": lambda g: next(
        t for t in g["tensors"] if t["data"] == "model/norm.num_batches_tracked").update(requires_grad=True),
    "an unused tensor": lambda g: [m["buffers"].clear() for m in g["modules"]] and [
        m["not_persistent"].clear() for m in g["modules"]] and g["tensors"].pop(),
    "an impossible layout": lambda g: g["strides"].update({"model/conv.weight": [1, 1, 1, 1]}),
    "a huge layout": lambda g: g["strides"].update({"model/conv.weight": [2 ** 40, 2 ** 40, 2 ** 40, 2 ** 40]}),
    "a module inside itself": lambda g: g["modules"][0]["children"].update(again=0),
    "a module nobody has": lambda g: g["modules"].insert(0, g["modules"][0]),
    "a module path with a dot": lambda g: g["modules"][-1]["children"].update({"a.b": 0}),
    "a module called forward": lambda g: g["modules"][-1]["children"].update(forward=0),
    "a module called graph": lambda g: g["modules"][-1]["children"].update(graph=0),
    "a root with a class": lambda g: g["modules"][-1].update({"class": "torch.nn.modules.container.Sequential"}),
    "a class name that is code": lambda g: g.update({"class": "A:\n import os"}),
    "an input that is no shape": lambda g: g.update(inputs={"tuple": [{"tensor": [[-1], {"dtype": "float32"}]}]}),
    "an input beyond all memory": lambda g: g.update(
        inputs={"tuple": [{"tensor": [[2 ** 62, 2 ** 62], {"dtype": "float32"}]}]}),
    "a record of nothing": lambda g: g.update(record={}),
    "a record without its maps": lambda g: g.update(record={"lineage": 1, "parameters": {"conv.weight": {"axes": "x"}}}),
    "a part too few": lambda g: g.pop("leaves"),
    "a part too many": lambda g: g.update(code="print(1)"),
}


@pytest.mark.parametrize("name", EDITS)
def test_lies(name, archive, path, capsys):
    path.write_bytes(resealed(archive, EDITS[name]))
    refused(path)
    assert not capsys.readouterr().out


def test_deep_and_shared_trees_do_not_explode(archive, path):
    def shared(graph):  # every level holds the one below twice: 2^60 names
        empty = {"class": None, "training": True, "attributes": {}, "parameters": {}, "buffers": {}, "not_persistent": [],
                 "children": {}}
        root = graph["modules"].pop()
        start = len(graph["modules"])
        graph["modules"].append(empty)
        graph["modules"] += [{**empty, "children": {"a": start + i, "b": start + i}} for i in range(60)]
        graph["modules"].append({**root, "children": {**root["children"], "deep": len(graph["modules"]) - 1}})

    path.write_bytes(resealed(archive, shared))
    refused(path, "nests more than")


def all_places(data, found):
    for key, value in (data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()):
        found.append((data, key))
        all_places(value, found)
    return found


VALUES = st.sampled_from([None, True, 0, -1, 1, 2 ** 70, 0.5, "", "x", "self", "__class__", "torch.load", "training", [], {},
                          [[]], {"node": "x"}, {"tuple": []}, {"float": "nan"}, {"dict": [[{"tuple": []}, 1]]}, {"set": [[]]},
                          {"function": "torch.relu"}, {"dict": [[[], 1]]}, {"size": [2 ** 70]},
                          {"namedtuple": ["A", ["b"], [1]]}])
NAMES = st.sampled_from(["", "x", "__class__", "forward", "a.b", "weight", "_modules"])


@given(st.data())
@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
def test_random_lies(archive, tmp_path_factory, data):
    """Any change of the description gives a model or an ArchiveError, never anything else."""
    def edit(graph):
        for _ in range(data.draw(st.integers(1, 3))):
            places = all_places(graph, [])
            holder, key = places[data.draw(st.integers(0, len(places) - 1))]
            choice = data.draw(st.sampled_from(["value", "delete", "copy", "key"]))
            if choice == "delete":
                del holder[key]
            elif choice == "key" and isinstance(holder, dict):
                holder[data.draw(NAMES)] = holder.pop(key)
            elif choice == "copy":
                other, name = places[data.draw(st.integers(0, len(places) - 1))]
                holder[key] = copy.deepcopy(other[name])
            else:
                holder[key] = data.draw(VALUES)

    path = tmp_path_factory.getbasetemp() / "lies"
    path.write_bytes(resealed(archive, edit))
    try:
        assert isinstance(fxgrow.load(path), GraphModule)
    except ArchiveError as error:
        assert "\n" not in str(error)


# --- files of torch.save --------------------------------------------------------------------------------------------


def test_a_stock_model_is_read_without_trust(path):
    model = shake(torchvision.models.resnet18(num_classes=3)).eval()
    model.layer1.requires_grad_(False)
    torch.save(model, path)
    loaded = fxgrow.load(path)
    assert type(loaded) is torchvision.models.ResNet and not loaded.training
    ours, theirs = ([(n, p.requires_grad) for n, p in m.named_parameters()] for m in (model, loaded))
    assert ours == theirs
    x = torch.randn(IMAGE)
    same(loaded(x), model(x))
    assert fxgrow.capture(loaded, x) is not None


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("build", [
    lambda: torchvision.models.VisionTransformer(32, 8, 1, 2, 16, 32), lambda: nn.LSTM(3, 4, 2, bidirectional=True),
    lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16), 2), lambda: nn.ModuleDict({"a": nn.PReLU()}),
    lambda: pytest.importorskip("timm").create_model("vit_tiny_patch16_224", depth=1, embed_dim=16, num_heads=2)])
def test_partials_functions_and_enumerations_are_read(build, path):
    model = build()
    torch.save(model, path)
    loaded = fxgrow.load(path)
    assert type(loaded) is type(model) and repr(loaded) == repr(model)
    same(dict(loaded.state_dict()), dict(model.state_dict()))


class Evil:
    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


def test_code_in_a_pickle_never_runs(path, tmp_path):
    mark = tmp_path / "ran"
    model = torchvision.models.resnet18(num_classes=3)
    code = f"open({str(mark)!r}, 'w')"
    for evil in (Evil(os.system, f"touch {mark}"), Evil(eval, code), Evil(exec, code), Evil(open, str(mark), "w"),
                 Evil(subprocess.check_output, ["touch", str(mark)]), Evil(torch.save, 1, str(mark)), Evil(torch.Tensor.numpy, torch.ones(1))):
        for content in (evil, {"weight": torch.ones(2), "x": evil}, nn.Sequential(nn.Linear(2, 2))):
            if isinstance(content, nn.Module):
                content.note = evil
            for name in ("new", "old"):
                torch.save(content, path, _use_new_zipfile_serialization=name == "new")
                message = refused(path)
                assert name == "old" or "--trust-pickle" in message and "trust_pickle=True" in message
            path.write_bytes(pickle.dumps(content))
            refused(path)
    assert not mark.exists()
    model.note = Evil(os.system, f"touch {mark}")
    torch.save(model, path)
    assert "system" in refused(path)
    assert not mark.exists()
    assert isinstance(fxgrow.load(path, trust_pickle=True), torchvision.models.ResNet)
    assert mark.exists()  # the file does run code once it is trusted: the test above could have failed


def test_constructors_and_own_forwards_in_a_pickle_are_refused(path):
    torch.save(nn.Sequential(nn.Linear(2, 2)), path)
    assert isinstance(fxgrow.load(path), nn.Sequential)
    for evil in (Evil(nn.Linear, 2, 2), Evil(F.relu, torch.ones(1)), Evil(getattr, nn.Linear, "forward")):
        torch.save({"a": evil}, path)
        refused(path)
    for name, value in (("forward", F.relu), ("_forward_hooks", {0: F.relu}), ("__call__", F.relu)):
        model = nn.Sequential(nn.Linear(2, 2))
        vars(model[0])[name] = value
        torch.save(model, path)
        refused(path, "may hold code")


def test_storages_must_be_as_large_as_they_claim(path, tmp_path):
    torch.save(nn.Linear(1000, 1000), path)
    with zipfile.ZipFile(path) as file:
        members = {i.filename: file.read(i) for i in file.infolist()}
    key = max(members, key=lambda n: len(members[n]))
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(name, content[:16] if name == key else content)
    refused(path, "as large as it claims")


def test_torch_files_may_be_damaged_anywhere(path):
    torch.save(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), path)
    good = path.read_bytes()
    for place in range(0, len(good), 17):
        for damaged in (good[:place], good[:place] + bytes([good[place] ^ 4]) + good[place + 1:]):
            path.write_bytes(damaged)
            try:
                assert isinstance(fxgrow.load(path), nn.Module)  # zip files have bytes that nobody reads
            except ArchiveError as error:
                assert "\n" not in str(error)


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_weights_and_programs_are_told_apart(path):
    model = nn.Sequential(nn.Linear(2, 2))
    torch.save(model.state_dict(), path)
    refused(path, "only weights.*--weights FILE")
    torch.save({"epoch": 3, "model": model.state_dict()}, path)
    refused(path, "only weights")
    torch.save(model.state_dict(), path)
    refused(path, "only weights", trust_pickle=True)
    import safetensors.torch
    safetensors.torch.save_file(model.state_dict(), path)
    refused(path, "only weights")
    torch.save({"a": 1}["a"], path)
    refused(path, "holds a int")
    torch.jit.trace(model, torch.ones(1, 2)).save(path)
    refused(path, "TorchScript")
    torch.export.save(torch.export.export(model, (torch.ones(1, 2),)), path.with_suffix(".pt2"))
    refused(path.with_suffix(".pt2"), "torch.export")
    torch.save(Small(), path)
    refused(path, "Small.*trust_pickle=True")
    torch.save(fxgrow.capture(model, torch.ones(1, 2)), path)
    refused(path, "traced graph.*fxgrow.save")


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
