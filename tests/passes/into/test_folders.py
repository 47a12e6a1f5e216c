"""Folders of transformers grown into folders: by another configuration, by passes, with more words and heads."""
from __future__ import annotations

import json

import pytest
import torch
from commands import run
from safetensors.torch import load_file, save_file
from support import shake

import fxgrow
from fxgrow.common import Refusal
from fxgrow.errors import ModelError
from fxgrow.models import example_inputs, load_model, results_alone
from fxgrow.passes import Deepen, Widen
from fxgrow.passes.into import nodewise
from fxgrow.passes.into.plan import Options
from fxgrow.passes.into.streaming import grow_folder
from fxgrow.record import record_in

transformers = pytest.importorskip("transformers")
SMALL = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "max_position_embeddings": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
BIG = {"hidden_size": 32, "num_attention_heads": 8, "num_key_value_heads": 4, "num_hidden_layers": 3}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def made(kind="Llama", seed=0, **changes):
    torch.manual_seed(seed)
    config = getattr(transformers, f"{kind}Config")(**{**SMALL, **changes})
    model = getattr(transformers, f"{kind}{'LMHeadModel' if kind == 'GPT2' else 'ForCausalLM'}")(config)
    return shake(model.double(), seed).eval()


def loaded(small, place):
    """Return the model of a folder, of which nothing is missing, which gives the logits and the words of the small one."""
    big, found = type(small).from_pretrained(place, output_loading_info=True, dtype=torch.float64)
    assert not found["missing_keys"] and not found["unexpected_keys"]
    words = torch.randint(3, 40, (3, 7))
    with torch.no_grad():
        one, two = small(words).logits, big.eval()(words).logits[..., :40]
    assert float((one - two).abs().max() / one.abs().max()) < 1e-5  # its norms compute in float32
    told = {"input_ids": words[:1, :3], "max_new_tokens": 6, "do_sample": False}
    assert torch.equal(small.generate(**told), big.generate(**told))
    assert torch.isfinite(big(words, labels=words).loss)
    return big


def test_a_folder_grows_by_changes_of_its_configuration(here):
    small = made()
    small.save_pretrained("small", max_shard_size="10KB")
    (here / "small" / "tokenizer.json").write_text("{}")
    changes = " ".join(f"--set {name}={value}" for name, value in BIG.items())
    said = json.loads(run(f"grow small {changes} -o out --json").output)
    big = loaded(small, "out")
    assert all(getattr(big.config, name) == value for name, value in BIG.items())
    assert said["file"] == "out" and (here / "out" / "tokenizer.json").exists()
    told = json.loads((here / "out" / "growth" / "verification.json").read_text())
    assert told["ok"] and "grow_into" in (here / "out" / "growth" / "record.json").read_text()
    run("info out")
    run("verify small out")
    assert "with something in it" in run(f"grow small {changes} -o out", 1).stderr


def test_a_refused_growth_leaves_no_folder(here):
    made().save_pretrained("small")
    assert "inv_freq" in run("grow small --set rope_parameters.rope_theta=20000 -o out", 1).stderr
    assert "hidden_sizes" in run("grow small --set hidden_sizes=3 -o out", 1).stderr
    assert "not a multiple" in run("grow small --set num_attention_heads=5 -o out", 1).stderr
    assert "cannot share 3" in run("grow small --set num_key_value_heads=3 -o out", 1).stderr
    assert "keeps model_type=llama: another class" in run("grow small --set model_type=mistral -o out", 1).stderr
    assert "keeps dtype=float64: a growth casts nothing" in run("grow small --set dtype=float32 -o out", 1).stderr
    run("grow small -o out", 2)
    assert {p.name for p in here.iterdir()} == {"small"}


def test_a_refusal_tells_which_settings_would_fit(here):
    made().save_pretrained("small")
    config = transformers.MistralConfig(**SMALL, sliding_window=64, architectures=["MistralForCausalLM"])
    config.save_pretrained("mistral")
    assert "it fits with --set sliding_window=null\n" in run("grow small --into mistral/config.json -o out", 1).stderr
    run("grow small --into mistral/config.json --set sliding_window=null -o out")
    assert "=1 is less than the 2 of the small" in run("grow small --set num_hidden_layers=1 -o no", 1).stderr


def test_passes_write_a_folder_where_the_result_is_of_the_class(here):
    small = made("Qwen2", tie_word_embeddings=True)
    small.save_pretrained("small")
    run("transform small --pass deepen --where model.layers --seed 0 --pass widen --factor 2 --seed 0 -o out")
    assert loaded(small, "out").config.num_hidden_layers == 3
    said = run("transform small --pass widen --where model.layers.0.mlp.gate_proj --factor 1.5 --seed 0 -o one")
    assert "no configuration of Qwen2ForCausalLM" in said.output and (here / "one").is_file()
    assert fxgrow.verify(small, fxgrow.load("one"), example_inputs(small)).ok


SEQUENCES = {"vocab_size": 40, "d_model": 16, "decoder_start_token_id": 2, "pad_token_id": 0, "bos_token_id": 1,
             "eos_token_id": 2}
LAYERS = {"encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
          "encoder_ffn_dim": 24, "decoder_ffn_dim": 24}


@pytest.mark.parametrize("kind, dtype, config", [
    ("T5", torch.float64, {"d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2}),
    pytest.param("Whisper", torch.float64, {"num_mel_bins": 4, "max_source_positions": 8, "max_target_positions": 24,
                                            **LAYERS}, marks=pytest.mark.sweep),
    pytest.param("Bart", torch.float32, {"max_position_embeddings": 24, "forced_eos_token_id": None, **LAYERS},  # eps twice
                 marks=pytest.mark.sweep)])
def test_both_sides_of_an_encoder_and_decoder_grow_in_a_folder(here, kind, dtype, config):
    torch.manual_seed(0)
    cls = getattr(transformers, f"{kind}ForConditionalGeneration")
    small = shake(cls(getattr(transformers, f"{kind}Config")(**SEQUENCES, **config)).to(dtype), 0).eval()
    small.save_pretrained("small")
    run("transform small --pass deepen --seed 0 --pass widen --factor 2 --seed 0 -o out")
    big, found = cls.from_pretrained("out", output_loading_info=True, dtype="auto")
    assert not found["missing_keys"] and not found["unexpected_keys"] and big.config.d_model == 32
    assert big.num_parameters() > 3 * small.num_parameters()
    inputs = {n: t[:1] for n, t in example_inputs(small).items()}
    with torch.no_grad():
        one, two = small(**inputs).logits, big.eval()(**inputs).logits
    assert float((one - two).abs().max() / one.abs().max()) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])  # whose graph says of masks that they have 16 bits
def test_an_encoder_and_decoder_grow_a_tensor_at_a_time(here, dtype):
    config = transformers.T5Config(**SEQUENCES, d_kv=8, d_ff=24, num_layers=1, num_heads=2)
    shake(transformers.T5ForConditionalGeneration(config).double(), 1).to(dtype).save_pretrained("small")
    changes = {"d_model": 32, "num_layers": 2, "num_decoder_layers": 2}
    done = grow_folder("small", None, changes, "out", lambda best: Options(best, "end", False, False, 0))
    assert done.verification.ok and (done.rounding is not None) is (dtype is torch.bfloat16)


def test_what_a_class_makes_anew_as_it_loads_is_no_part_of_a_folder(here):
    few = {**LAYERS, "encoder_layers": 1, "decoder_layers": 1}
    config = transformers.MarianConfig(**SEQUENCES, **few, max_position_embeddings=24)
    small = transformers.MarianMTModel(config).eval()
    small.save_pretrained("small")
    assert "makes model.decoder.embed_positions.weight anew" in run("grow small --set d_model=32 -o out", 1).stderr
    assert not (here / "out").exists()
    run("grow small --set encoder_ffn_dim=32 -o out")
    told = {"input_ids": torch.arange(3, 9)[None], "decoder_input_ids": torch.arange(4, 8)[None]}
    with torch.no_grad():
        one, two = small(**told).logits, transformers.MarianMTModel.from_pretrained("out")(**told).logits
    assert float((one - two).abs().max() / one.abs().max()) < 1e-5


def test_sound_whose_masks_are_drawn_by_numpy_and_read_in_training_alone(here):
    sizes = {"conv_dim": [8, 8], "conv_stride": [5, 2], "conv_kernel": [10, 3], "num_feat_extract_layers": 2,
             "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "hidden_size": 16, "num_attention_heads": 2,
             "vocab_size": 12}
    small = transformers.Wav2Vec2ForCTC(transformers.Wav2Vec2Config(**sizes, intermediate_size=24, num_hidden_layers=1))
    shake(small.eval(), 0).save_pretrained("small")
    run("grow small --set intermediate_size=32 -o out")
    big, x = transformers.Wav2Vec2ForCTC.from_pretrained("out"), torch.randn(2, 900)
    assert big.config.conv_dim == [8, 8]  # a list that the class insists on
    assert torch.equal(big.wav2vec2.masked_spec_embed, small.wav2vec2.masked_spec_embed)
    grown = fxgrow.grow_into(small, {"num_hidden_layers": 2}, approximate=True, seed=0)  # eps twice
    assert torch.equal(grown.model.wav2vec2.masked_spec_embed, small.wav2vec2.masked_spec_embed)
    for other in (big, grown.model.eval()):
        with torch.no_grad():
            one, two = small(x).logits, other(x).logits
        assert float((one - two).abs().max() / one.abs().max()) < 1e-4


def test_keys_that_grow_with_their_queries_are_no_copies(here):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 4, "num_kv_heads": 2, "vocab_size": 40}
    small = transformers.FalconForCausalLM(transformers.FalconConfig(**sizes, new_decoder_architecture=True)).eval()
    shake(small, 0).save_pretrained("small")
    run("grow small --set hidden_size=32 --set num_attention_heads=8 --set num_kv_heads=4 -o out")
    words = torch.randint(3, 40, (3, 7))
    with torch.no_grad():
        one, two = small(words).logits, transformers.FalconForCausalLM.from_pretrained("out")(words).logits
    assert float((one - two).abs().max() / one.abs().max()) < 1e-5


def test_products_of_16_bits_are_the_same_in_parts(monkeypatch):
    x, weight, bias = (torch.randn(shape).to(torch.bfloat16) for shape in ((3, 8), (10, 8), (10,)))
    with nodewise._Products():
        whole = [torch.nn.functional.linear(x, weight, b) for b in (None, bias)]
        monkeypatch.setattr(nodewise, "PART", 32)
        monkeypatch.setattr(nodewise, "LEAST", 4)
        parts = [torch.nn.functional.linear(x, weight, b) for b in (None, bias)]
    for one, two in zip(whole, parts):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize("by_system", [True, False])
def test_numbers_that_stay_are_copied_from_file_to_file(here, monkeypatch, by_system):
    def cannot(*args):
        raise OSError(22, "not from file to file")

    if not by_system:
        monkeypatch.setattr("os.sendfile", cannot)
    made().float().save_pretrained("small", max_shard_size="10KB")
    run("grow small --set num_hidden_layers=3 -o out")
    old, new = (load_model(place)[0].state_dict() for place in ("small", "out"))
    assert len(new) > len(old) and all(torch.equal(t, new[name]) for name, t in old.items())


def test_shards_that_the_index_does_not_name_are_left(here):
    small = made()
    small.float().save_pretrained("small", max_shard_size="10KB")
    for file in list((here / "small").glob("model-*.safetensors")):  # of a model that was saved there before
        numbers = {name: t + 1 for name, t in load_file(file).items()}
        save_file(numbers, file.with_name(file.name.replace("-of-", "-of-9")), {"format": "pt"})
    run("grow small --set num_hidden_layers=3 -o out")
    big = load_model("out")[0]
    assert all(torch.equal(t, big.state_dict()[name]) for name, t in small.state_dict().items())


def test_pixels_of_16_bits_are_widened_with_the_model(here):
    sizes = {"image_size": 8, "patch_size": 4, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 12}
    small = transformers.ViTForImageClassification(transformers.ViTConfig(**sizes, num_hidden_layers=1)).to(torch.bfloat16)
    small.save_pretrained("small")
    run("transform small --pass widen --factor 2 --seed 0 -o out")
    assert transformers.ViTForImageClassification.from_pretrained("out").config.hidden_size == 16


def test_what_a_configuration_says_of_each_layer_goes_with_the_layers():
    small = made("Gemma2", head_dim=4, query_pre_attn_scalar=4, sliding_window=4)
    assert small.config.layer_types == ["sliding_attention", "full_attention"]
    with results_alone(small):
        grown = fxgrow.transform(small, example_inputs(small), [Deepen("model.layers.0", seed=0)])
    assert fxgrow.put_back(grown, small).model.config.layer_types == ["sliding_attention"] * 2 + ["full_attention"]


def test_numbers_in_lists_of_a_configuration_are_found():
    torch.manual_seed(0)
    config = transformers.ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[2, 1], layer_type="basic")
    small = shake(transformers.ResNetForImageClassification(config).double(), 0).eval()
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    with results_alone(small):
        grown = fxgrow.transform(small, x, [Deepen("resnet.encoder.stages.0.layers.1", seed=0)])
        found = fxgrow.put_back(grown, small, x)
    assert found.verification.ok and (found.model.config.depths, found.model.config.hidden_sizes) == ([3, 1], [4, 8])


@pytest.mark.thinned(4)
@pytest.mark.parametrize("kind, changes", [
    ("GPT2", {"n_inner": 24}), ("Phi3", {}), ("Llama", {}), ("Qwen3", {"head_dim": 4})])
def test_a_wider_model_is_put_back_into_its_class(kind, changes):
    small = made(kind, **changes)
    grown = fxgrow.transform(small, example_inputs(small), [Widen(factor=2, seed=0)])
    found = fxgrow.put_back(grown, small)
    assert type(found.model) is type(small) and found.verification.ok
    found.save("wide")
    assert loaded(small, "wide").num_parameters() > 2 * small.num_parameters()
    again = found.record.shrink(found.model)
    assert all(torch.allclose(t, small.state_dict()[n], rtol=1e-5) for n, t in again.state_dict().items() if "inv" not in n)


def test_what_no_configuration_has_is_refused():
    small = made()
    grown = fxgrow.transform(small, example_inputs(small), [Widen("model.layers.0.mlp.up_proj", factor=2, seed=0)])
    with pytest.raises(fxgrow.GrowthError, match="no configuration"):
        fxgrow.put_back(grown, small)
    plain = torch.nn.Sequential(torch.nn.Linear(3, 4))
    with pytest.raises(fxgrow.GrowthError, match="no class with a configuration"):
        fxgrow.put_back(fxgrow.transform(plain, torch.randn(2, 3), [Deepen("0", seed=0)]), plain)


@pytest.mark.thinned(4)
@pytest.mark.parametrize("changes", [
    {"num_key_value_heads": 4}, {**BIG, "num_key_value_heads": 8},
    {"vocab_size": 48, "tie_word_embeddings": True}, {"vocab_size": 48, **BIG}])
def test_more_words_and_more_heads_of_keys(changes):
    small = made(tie_word_embeddings=changes.get("tie_word_embeddings", False))
    found = fxgrow.grow_into(small, changes, extend="vocab_size" in changes, seed=0)
    found.save("out")
    loaded(small, "out")


def test_keys_and_values_beside_queries_in_one_tensor_are_copied_in_their_places():
    small = made("Phi3", num_hidden_layers=1)
    grown = fxgrow.grow_into(small, {"num_key_value_heads": 4}, seed=0)
    index = grown.record.parameters["model.layers.0.self_attn.qkv_proj.weight"].index[0].tolist()
    assert index == [*range(16), *range(16, 20), *range(16, 20), *range(20, 24), *range(20, 24),
                     *range(24, 28), *range(24, 28), *range(28, 32), *range(28, 32)]
    words = torch.randint(3, 40, (3, 7))
    with torch.no_grad():
        assert float((small(words).logits - grown.model(words).logits).abs().max()) < 1e-6


def test_heads_of_keys_can_be_had_back():
    small = made()
    found = fxgrow.grow_into(small, {"num_key_value_heads": 4}, seed=0)
    again = found.record.shrink(found.model)
    name = "model.layers.1.self_attn.k_proj.weight"
    assert torch.equal(again.get_parameter(name), small.get_parameter(name))
    assert not found.unreached(example_inputs(small))


def test_more_positions_are_rows_that_old_inputs_never_read():
    small = made("GPT2")
    found = fxgrow.grow_into(small, {"n_positions": 64, "n_layer": 3}, seed=0)
    found.save("out")
    assert loaded(small, "out").transformer.wpe.weight.shape[0] == 64
    with pytest.raises(fxgrow.GrowthError, match="of the model's outputs.*`extend`"):
        fxgrow.grow_into(small, {"vocab_size": 48}, seed=0)


@pytest.mark.thinned(4)
@pytest.mark.parametrize("kind, changes, why", [
    ("Qwen2", BIG, None), ("Mistral", {"sliding_window": None, **BIG}, None), ("Qwen3", {"head_dim": 4}, "no norm .*q_norm"),
    ("Mistral", {"sliding_window": 4}, "model:")])
def test_into_another_class_where_the_mathematics_allows_it(kind, changes, why):
    small, big = made(), made(kind, 1, **{"head_dim": 4, **changes})
    if why is None:
        found = fxgrow.grow_into(small, big, seed=0)
        assert found.verification.ok and type(found.model).__name__ == f"{kind}ForCausalLM"
        return
    with pytest.raises(fxgrow.GrowthError, match=why):
        fxgrow.grow_into(small, big, seed=0)


@pytest.mark.thinned(2)
@pytest.mark.parametrize("kind, dtype", [("Llama", torch.float64), ("GPT2", torch.float32), ("Qwen2", torch.bfloat16)])
def test_folders_grow_a_tensor_at_a_time(here, kind, dtype):
    small = made(kind, tie_word_embeddings=kind != "Llama").to(dtype)
    small.save_pretrained("small", max_shard_size="10KB")
    names = {"num_hidden_layers": 4, "hidden_size": 32, "num_attention_heads": 8}
    changes = {**names, **({} if kind == "GPT2" else {"num_key_value_heads": 4, "intermediate_size": 48})}
    done = grow_folder("small", None, changes, "out", lambda best: Options(best, "end", False, False, 0))
    assert done.verification.ok and done.sizes[1] > 3 * done.sizes[0]
    big, found = type(small).from_pretrained("out", output_loading_info=True, dtype="auto")
    assert not found["missing_keys"] and not found["unexpected_keys"]
    words = torch.randint(3, 40, (3, 7))
    with torch.no_grad():
        one, two = small(words).logits, big.eval()(words).logits
    assert float((one - two).abs().max() / one.abs().max()) < (0.03 if dtype is torch.bfloat16 else 1e-5)
    new = big.get_parameter(next(n for n, p in big.named_parameters() if ".3." in n and p.ndim == 2))
    assert float(new.float().std()) > 0.01  # as its class draws it
    whole = fxgrow.grow_into(type(small).from_pretrained("small", dtype="auto"), changes, seed=0)
    assert whole.verification.ok and (dtype is torch.bfloat16) == (done.rounding is not None)
    assert (dtype is torch.bfloat16) == any("rounded once to bfloat16" in note for note in whole.verification.notes)
    again = {n: t for n, t in whole.items() if n in dict(big.named_parameters()) and ".0." in n}
    assert again.keys() and all(t.shape == big.get_parameter(n).shape for n, t in again.items())


def test_a_folder_of_16_bits_is_transformed_by_what_rounds_least(here):
    small = made(tie_word_embeddings=True).to(torch.bfloat16)
    small.save_pretrained("small")
    said = json.loads(run("transform small --pass widen --factor 2 --seed 0 -o out --json").output)
    assert said["lineage"][0]["method"] == "net2net" and not said["remark"]
    assert said["verification"] == json.loads((here / "out" / "growth" / "verification.json").read_text())
    assert "computed in float32 and rounded once to bfloat16" in said["verification"]["notes"]
    words = torch.randint(3, 40, (3, 7))
    with torch.no_grad():
        one, two = small(words).logits, type(small).from_pretrained("out", dtype="auto").eval()(words).logits
    assert two.dtype is torch.bfloat16 and float((one - two).abs().max() / one.abs().max()) < 0.03


@pytest.mark.parametrize("change", [{"rope_parameters.rope_theta": 1e6}, {"rope_parameters.rope_type": "llama3"}])
def test_other_angles_are_refused_though_16_bits_and_short_inputs_hide_them(here, change):
    rope = {"rope_type": "default", "rope_theta": 1e4, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 512}
    made(head_dim=8, rope_parameters=rope).to(torch.bfloat16).save_pretrained("small")
    with pytest.raises(fxgrow.GrowthError, match="inv_freq: the class has other numbers there"):
        grow_folder("small", None, change, "out", lambda best: Options(best, "end", False, False, 0))
    assert not (here / "out").exists()


def test_what_needs_both_models_at_once_is_told_before_anything_is_written(here):
    made().save_pretrained("small")
    with pytest.raises(Refusal):
        grow_folder("small", None, {"num_hidden_layers": 3}, "out", lambda best: Options(best, "end", False, False, 0, 0.1))
    assert {p.name for p in here.iterdir()} == {"small"}


def test_heads_of_keys_are_copied_a_tensor_at_a_time(here):
    small = made()
    small.save_pretrained("small")
    changes = {"num_key_value_heads": 4, "intermediate_size": 48}
    done = grow_folder("small", None, changes, "out", lambda best: Options(best, "end", False, False, 0))
    assert [step.name for step in done.plan.steps][0] == "key and value heads"
    assert loaded(small, "out").config.num_key_value_heads == 4
    run("shrink out -o small.pt")
    again = dict(fxgrow.load("small.pt").named_parameters())
    assert all(torch.equal(again[n], p) for n, p in small.named_parameters())


def test_a_folder_that_grew_is_read_with_its_growth(here):
    small = made()
    small.save_pretrained("small")
    for source, place, changes in (("small", "one", {"num_hidden_layers": 3}), ("one", "two", {"intermediate_size": 48})):
        grow_folder(source, None, changes, place, lambda best: Options(best, "end", False, False, 0))
    run("transform two --pass deepen --where model.layers --seed 0 -o three")
    module, _ = load_model("three")
    assert [step["pass"] for step in record_in(module).lineage] == ["grow_into", "grow_into", "deepen", "grow_into"]
    run("shrink three -o small.pt")
    again = dict(fxgrow.load("small.pt").named_parameters())
    assert all(torch.equal(again[n], p) for n, p in small.named_parameters())
    (here / "three" / "growth" / "record.json").write_text("{}")
    with pytest.raises(ModelError, match="tells no growth"):
        load_model("three")


@pytest.mark.parametrize("kind, before, after", [
    ("GPTBigCode", {"multi_query": True}, {"multi_query": False}), ("Falcon", {"multi_query": True}, {"multi_query": False}),
    pytest.param("Falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}, {"num_kv_heads": 4},
                 marks=pytest.mark.sweep)])
def test_heads_of_keys_that_stand_in_one_tensor_with_all_others(kind, before, after):
    config = getattr(transformers, f"{kind}Config")(vocab_size=40, hidden_size=16, num_hidden_layers=1, bos_token_id=1,
                                                    num_attention_heads=4, eos_token_id=2, **before)
    small = shake(getattr(transformers, f"{kind}ForCausalLM")(config).double(), 0).eval()
    grown = fxgrow.grow_into(small, after, seed=0)
    assert grown.verification.ok and [step.name for step in grown.plan.steps] == ["key and value heads"]
    words = torch.randint(3, 40, (3, 7))
    with torch.no_grad():
        one, two = small(words).logits, grown.model.eval()(words).logits
    assert float((one - two).abs().max() / one.abs().max()) < 1e-6


def test_a_number_inside_a_product_and_a_sum_is_made_up_for(here):
    torch.manual_seed(0)
    config = transformers.BloomConfig(vocab_size=40, hidden_size=16, n_layer=1, n_head=4, bos_token_id=1, eos_token_id=2)
    small = shake(transformers.BloomForCausalLM(config).double()).eval()
    small.save_pretrained("small")
    run("grow small --set hidden_size=32 -o out")  # heads twice as wide: the scale of their products with keys is another
    loaded(small, "out")
