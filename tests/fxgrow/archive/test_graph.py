"""Archives whose checksums are right and whose content lies: nothing is called, made or read that is not allowed."""
from __future__ import annotations

import copy
import io
import json
import operator
import zipfile

import pytest
import safetensors.torch
import torch
from archives import refused, resealed, small_archive
from hypothesis import given
from hypothesis import strategies as st
from proving import proves
from torch import nn
from torch.fx import GraphModule

import fxgrow
from fxgrow.archive import allow, container
from fxgrow.errors import ArchiveError
from fxgrow.passes import Widen


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.fxgrow"


@pytest.fixture
def archive():
    return small_archive()


def node_of(graph, op):
    return next(n for n in graph["nodes"] if n["op"] == op)


def test_resealing_itself_changes_nothing(archive):
    assert resealed(archive, lambda graph: None) == archive


FORBIDDEN = """os.system posix.system builtins.eval builtins.exec builtins.open builtins.__import__ builtins.compile
builtins.setattr builtins.type torch.load torch.save torch.hub.load torch.from_file torch.from_numpy torch.ops.load_library
torch.set_default_dtype torch.set_num_threads torch.manual_seed torch.compile torch.jit.load torch.jit.script torch.fork
torch.utils.cpp_extension.load torch._dynamo.optimize torch._C._jit_set_profiling_mode torch.ops.aten.from_file
torch.ops.aten.save torch.ops.aten.manual_seed torch.ops.aten.warn torch.ops.aten.set_data torch.ops.aten._print torch.ops.image.read_file torch.ops.torchvision._cuda_version
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
    classes = [n for n, f in table.items() if isinstance(f, type) and not n.startswith("builtins.")]
    assert not classes
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
    "a record of other sizes": lambda g: g.update(record={"lineage": [], "removed": [], "parameters": {"conv.weight": {
        "source": "conv.weight", "axes": 9, "scale": 1.0}}}),
    "a record of a source that is no name": lambda g: g.update(record={"lineage": [], "removed": [], "parameters": {
        "conv.weight": {"source": 3, "axes": 4, "scale": 1.0}}}),
    "a record of removed numbers": lambda g: g.update(record={"lineage": [], "removed": [1], "parameters": {}}),
    "a record of removed words in disorder": lambda g: g.update(record={
        "lineage": [], "removed": ["b", "a"], "parameters": {}}),
    "a record of passes that are none": lambda g: g.update(record={"lineage": ["widen"], "removed": [], "parameters": {}}),
    "a graph and parts": lambda g: g.update(parts={"conv": {"class": "A", "nodes": g["nodes"]}}),
    "neither a graph nor parts": lambda g: g.update(nodes=None),
    "parts of a container": lambda g: g.update(nodes=None, parts={"": {"class": "A", "nodes": g["nodes"]}}),
    "a part that is a layer": lambda g: g.update(nodes=None, parts={"conv": {"class": "A", "nodes": g["nodes"]}}),
    "parametrizations that are none": lambda g: first_layer(g)["children"].update(parametrizations=0),
    "an object with a constructor": lambda g: first_layer(g)["attributes"].update(
        note={"plain": ["torchvision.models.resnet.ResNet", {}]}),
    "an object of a foreign class": lambda g: first_layer(g)["attributes"].update(note={"plain": ["pathlib.Path", {}]}),
    "an object with a method of its own": lambda g: first_layer(g)["attributes"].update(
        note={"plain": ["torchvision.models.detection._utils.BoxCoder", {"decode": {"function": "torch.relu"}}]}),
    "a tensor without data or size": lambda g: g["meta"].update({"model/x": {"size": [-1], "strides": [1], "dtype": {}}}),
    "a tensor beyond all memory": lambda g: g["meta"].update({"model/x": {
        "size": [2 ** 62, 2 ** 62], "strides": [2 ** 62, 1], "dtype": {"dtype": "float32"}}}),
    "a part too few": lambda g: g.pop("leaves"),
    "a part too many": lambda g: g.update(code="print(1)"),
}


@pytest.mark.parametrize("name", EDITS)
def test_lies(name, archive, path, capsys):
    path.write_bytes(resealed(archive, EDITS[name]))
    refused(path)
    assert not capsys.readouterr().out


def with_tensors(archive, edit):
    """The archive with its tensors edited and all checksums right again."""
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        graph, tensors = json.loads(file.read("graph.json")), safetensors.torch.load(file.read("tensors.safetensors"))
    edit(tensors)
    out = io.BytesIO()
    container.write(out, {k: v for k, v in graph.items() if k not in ("format", "version")},
                    safetensors.torch.save(tensors))
    return out.getvalue()


def test_tensors_that_nobody_has_or_that_are_missing(archive, path):
    path.write_bytes(with_tensors(archive, lambda t: t.update({"model/more": torch.ones(3)})))
    refused(path, "not part of the model")
    path.write_bytes(with_tensors(archive, lambda t: t.pop("model/conv.bias")))
    refused(path, "conv.bias.*not in the file")


def test_records_fit_their_parameters(path):
    x = torch.randn(2, 3, 8, 8)
    grown = fxgrow.transform(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3)).eval(), x, [Widen("0", to=6, seed=0)])
    fxgrow.save(grown, path)
    good = path.read_bytes()
    name = "record/fresh/0/0.weight"
    for lie in (torch.ones(5, dtype=torch.bool), torch.ones(6)):
        path.write_bytes(with_tensors(good, lambda t: t.update({name: lie})))
        refused(path, "record")
    for other in ("record/fresh/7/0.weight", "record/shares/0/0.weight", "record/other/0/0.weight"):
        path.write_bytes(with_tensors(good, lambda t: t.update({other: t[name].clone()})))
        refused(path, "record")
    path.write_bytes(with_tensors(good, lambda t: t.update({"record/shares/0/0.weight": torch.ones(5, dtype=torch.double)})))
    refused(path, "record")
    path.write_bytes(with_tensors(good, lambda t: None))
    assert path.read_bytes() == good and fxgrow.load(path) is not None


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


VALUES = st.sampled_from([None, True, 0, -1, 1, 2 ** 70, 0.5, "", "x", "self", "__class__", "torch.load", "training", [],
                          {}, [[]], {"node": "x"}, {"tuple": []}, {"float": "nan"}, {"dict": [[{"tuple": []}, 1]]},
                          {"set": [[]]}, {"function": "torch.relu"}, {"dict": [[[], 1]]}, {"size": [2 ** 70]},
                          {"namedtuple": ["A", ["b"], [1]]}])
NAMES = st.sampled_from(["", "x", "__class__", "forward", "a.b", "weight", "_modules"])


@pytest.fixture(params=["captured", "grown"])
def any_archive(request, archive, path):
    """One of a captured model, and one that holds a growth record."""
    if request.param == "captured":
        return archive
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)).eval()
    fxgrow.save(fxgrow.transform(model, torch.randn(2, 3, 6, 6), Widen("0", by=2, method="net2net", seed=0)), path)
    return path.read_bytes()


@given(st.data())
@proves(250)
def test_random_lies(any_archive, tmp_path_factory, data):
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
                holder[key] = copy.deepcopy(data.draw(VALUES))  # a later edit may change it

    path = tmp_path_factory.getbasetemp() / "lies"
    path.write_bytes(resealed(any_archive, edit))
    try:
        assert isinstance(fxgrow.load(path), GraphModule)
    except ArchiveError as error:
        assert "\n" not in str(error)
