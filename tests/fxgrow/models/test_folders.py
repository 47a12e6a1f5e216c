"""Folders of transformers as MODEL: what is loaded, what is drawn, what is refused; configurations that change."""
from __future__ import annotations

import json
from itertools import islice

import pytest
import torch
from support import shake

from fxgrow.errors import ArchiveError, ModelError
from fxgrow.models import (
    Told,
    changed,
    configurations_for,
    example_inputs,
    fresh,
    load_model,
    parse_changes,
    shapes_of,
    write_folder,
)
from fxgrow.record import GrowthRecord

transformers = pytest.importorskip("transformers")
WORDS = {"vocab_size": 40, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def qwen(**changes):
    torch.manual_seed(0)
    return shake(transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**{
        **WORDS, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 32, "tie_word_embeddings": True, **changes}))).eval()


@pytest.fixture
def folder(tmp_path):
    model = qwen()
    model.save_pretrained(tmp_path / "small", max_shard_size="10KB")
    return model, tmp_path / "small"


def test_a_folder_is_a_model_with_words_that_it_takes(folder):
    model, place = folder
    loaded, inputs = load_model(str(place))
    assert type(loaded) is type(model) and not loaded.training
    assert all(torch.equal(t, loaded.state_dict()[n]) for n, t in model.state_dict().items())
    words = inputs["input_ids"]
    assert words.shape == (2, 16) and 3 <= int(words.min()) and int(words.max()) < 40
    assert load_model(str(place), input_shape="input_ids=1,4:int64")[1]["input_ids"].shape == (1, 4)


def test_the_type_of_the_numbers_stays(tmp_path):
    qwen().to(torch.bfloat16).save_pretrained(tmp_path)
    assert next(load_model(str(tmp_path))[0].parameters()).dtype == torch.bfloat16


@pytest.mark.parametrize("make, takes", [
    (lambda: transformers.ViTModel(transformers.ViTConfig(image_size=16, patch_size=8, hidden_size=16, num_hidden_layers=1,
                                                          num_attention_heads=2, intermediate_size=16)), {"pixel_values"}),
    (lambda: transformers.T5ForConditionalGeneration(transformers.T5Config(
        vocab_size=40, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0)),
     {"input_ids", "decoder_input_ids"})])
def test_inputs_follow_from_a_configuration(make, takes):
    model = make().eval()
    inputs = example_inputs(model)
    assert set(inputs) == takes
    model(**inputs)


def test_code_in_a_folder_never_runs(folder):
    _, place = folder
    config = json.loads((place / "config.json").read_text())
    (place / "modeling_own.py").write_text("raise SystemExit('ran')")
    for change in ({"model_type": "own", "auto_map": {"AutoConfig": "modeling_own.Own"}},
                   {"architectures": ["OwnForCausalLM"]}):
        (place / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(ModelError, match="cannot be loaded|never run"):
            load_model(str(place))


def without_numbers(model, place):
    for file in place.glob("*.safetensors*"):
        file.unlink()
    return model, place


def test_pickles_are_read_without_running_them(folder):
    model, place = without_numbers(*folder)
    torch.save(model.state_dict(), place / "pytorch_model.bin")
    assert torch.equal(load_model(str(place))[0].model.norm.weight, model.model.norm.weight)

    class Evil:
        def __reduce__(self):
            return (exec, ("raise SystemExit('ran')",))

    torch.save({**model.state_dict(), "x": Evil()}, place / "pytorch_model.bin")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(str(place))


def test_what_a_folder_lacks_is_named(folder):
    from safetensors.torch import save_file
    model, place = without_numbers(*folder)
    save_file({n: t for n, t in model.state_dict().items() if "norm" not in n and n != "lm_head.weight"},
              place / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"has no model\..*norm"):
        load_model(str(place))


def test_quantised_folders_are_refused(folder):
    _, place = folder
    config = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "fp8"}}))
    with pytest.raises(ModelError, match="quantised"):
        load_model(str(place))


def test_a_configuration_alone_is_a_fresh_model_with_the_head_of_another(tmp_path):
    small = qwen()
    transformers.LlamaConfig(**WORDS, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                             intermediate_size=16).save_pretrained(tmp_path)
    model, _ = load_model(str(tmp_path / "config.json"), like=small.to(torch.bfloat16))
    assert type(model).__name__ == "LlamaForCausalLM" and model.lm_head.weight.dtype == torch.bfloat16


def test_what_a_class_keeps_in_another_type_is_kept_so_in_new_layers():
    config = transformers.T5Config(vocab_size=40, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2)
    small = transformers.T5ForConditionalGeneration(config).half()
    for block in (*small.encoder.block, *small.decoder.block):
        block.layer[-1].DenseReluDense.wo.float()  # as from_pretrained does
    big = fresh(type(small), changed(config, {"num_layers": 3}), small)
    kinds = {name: p.dtype for name, p in big.named_parameters()}
    assert len([n for n in kinds if n.endswith("wo.weight")]) == 4 and set(kinds.values()) == {torch.float16, torch.float32}
    assert all((kind == torch.float32) == name.endswith("wo.weight") for name, kind in kinds.items())


def test_changes_of_a_configuration():
    config = qwen().config
    assert parse_changes(["a=4096", "b.c=1e6", "d=silu", "e=false"]) == {"a": 4096, "b.c": 1e6, "d": "silu", "e": False}
    deeper = changed(config, {"num_hidden_layers": 5, "rope_parameters.rope_theta": 5e5})
    assert len(deeper.layer_types) == 5 and deeper.rope_parameters["rope_theta"] == 5e5 and config.num_hidden_layers == 2
    with pytest.raises(ModelError, match="num_hidden_layer'.*num_hidden_layers"):
        changed(config, {"num_hidden_layer": 5})
    assert changed(transformers.SwinConfig(depths=[2, 2]), {"depths.1": 4}).depths == [2, 4]
    with pytest.raises(ModelError, match="has no 'depths.2'"):
        changed(transformers.SwinConfig(depths=[2, 2]), {"depths.2": 4})
    with pytest.raises(ModelError, match="write a name"):
        parse_changes(["hidden_size"])


@pytest.mark.parametrize("changes", [
    {"num_hidden_layers": 5}, {"intermediate_size": 36},
    {"hidden_size": 32, "num_attention_heads": 8, "num_key_value_heads": 4, "num_hidden_layers": 3}])
def test_a_configuration_is_found_by_shapes(changes):
    model = qwen()
    wanted = changed(model.config, changes)
    told = wanted.to_diff_dict()
    found = islice(configurations_for(model, shapes_of(fresh(type(model), wanted))), 8)
    assert told in [config.to_diff_dict() for config in found]


def test_shapes_of_no_configuration():
    model = qwen()
    assert not list(configurations_for(model, {**shapes_of(model), "model.layers.0.mlp.up_proj.weight": (36, 16)}))


def test_a_folder_is_written_whole_or_not_at_all(folder, tmp_path, monkeypatch):
    model, place = folder
    (place / "tokenizer_config.json").write_text("{}")
    told = Told(str(place), GrowthRecord(lineage=[{"pass": "widen", "method": "r2r"}]))
    write_folder(model, str(tmp_path / "out"), told)
    assert {"config.json", "README.md", "growth", "tokenizer_config.json"} <= {f.name for f in (tmp_path / "out").iterdir()}
    assert "widen everywhere by r2r" in (tmp_path / "out" / "README.md").read_text()
    with pytest.raises(ArchiveError, match="exists already"):
        write_folder(model, str(tmp_path / "out"), told)
    before = set(tmp_path.iterdir())
    monkeypatch.setattr(type(model), "save_pretrained", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "disk full")))
    with pytest.raises(ArchiveError, match="disk full"):
        write_folder(model, str(tmp_path / "other"), told)
    assert set(tmp_path.iterdir()) == before


def test_words_and_pixels_are_drawn_for_a_model_that_takes_both():
    text, vision = ({"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, **sizes}
                    for sizes in (WORDS, {"image_size": 8, "patch_size": 4}))
    model = transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).eval()
    inputs = example_inputs(model)
    assert inputs["pixel_values"].shape == (2, 3, 8, 8) and model(**inputs).logits_per_image.shape == (2, 2)
