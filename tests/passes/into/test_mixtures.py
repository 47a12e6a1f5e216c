"""Dense language models as mixtures of experts of stock classes, and mixtures with more experts; from folder to folder."""
from __future__ import annotations

import json
import shlex

import pytest
import torch
from click.testing import CliRunner
from support import shake
from torch import nn

import fxgrow
from fxgrow.cli.main import main
from fxgrow.models import load_model
from fxgrow.passes import Deepen, Experts, Widen

transformers = pytest.importorskip("transformers")
SMALL = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 4,
         "num_key_value_heads": 2, "max_position_embeddings": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
         "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}, "use_cache": False}
FOUR = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "norm_topk_prob": True}
WORDS = torch.randint(3, 40, (2, 6), generator=torch.Generator().manual_seed(0))


def made(kind: str, seed: int = 0, **changes) -> nn.Module:
    torch.manual_seed(seed)
    config = getattr(transformers, f"{kind}Config")(**{**SMALL, **changes})
    model = shake(getattr(transformers, f"{kind}ForCausalLM")(config).double(), seed).eval()
    if hasattr(config, "_experts_implementation"):
        model.set_experts_implementation("eager")  # torch's grouped products lack double precision
    return model


def apart(one: nn.Module, two: nn.Module, train: bool) -> float:
    words = torch.randint(3, 40, (3, 9), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        a, b = (m.train(train)(words).logits for m in (one, two))
    return float((a - b).abs().max() / a.abs().max())


def filled(small: nn.Module, kind: str, **changes) -> tuple[nn.Module, fxgrow.passes.into.GrownInto]:
    """Return a big model that has loaded what the small one grew into, which computes the same."""
    big = made(kind, 3, **changes)
    state = fxgrow.grow_into(small, big, (WORDS,), seed=0)
    assert all(torch.equal(p, q) for p, q in zip(big.parameters(), made(kind, 3, **changes).parameters()))
    model = made(kind, 5, **changes)
    model.load_state_dict(state, strict=True)
    for train in (False, True):
        assert apart(small, model, train) < 1e-6  # routers and norms compute in single precision
    return model, state


@pytest.mark.thinned(2)
@pytest.mark.parametrize("kind, into, changes", [
    ("Llama", "Mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2, "num_hidden_layers": 2, "hidden_size": 32,
                          "intermediate_size": 36, "num_attention_heads": 8, "num_key_value_heads": 4}),
    pytest.param("Mistral", "Mixtral", {"num_local_experts": 3, "num_experts_per_tok": 3}, marks=pytest.mark.sweep),
    ("Qwen3", "Qwen3Moe", FOUR)])
def test_dense_models_become_mixtures_whose_experts_all_learn(kind, into, changes):
    small = made(kind, head_dim=4, sliding_window=None)
    big, state = filled(small, into, head_dim=4, sliding_window=None, **changes)
    name, tensor = next((n, p) for n, p in big.named_parameters() if n.endswith("gate_up_proj"))
    assert torch.equal(tensor[0], tensor[-1]) and float(big.get_parameter("model.layers.0.mlp.gate.weight").detach().std())
    words = torch.randint(3, 40, (8, 20), generator=torch.Generator().manual_seed(1))
    big(words, labels=words).loss.backward()
    assert tensor.grad.flatten(1).any(1).all()
    assert state.record.new_mask(name, tensor).all()


@pytest.mark.thinned(3)
@pytest.mark.parametrize("sizes, way", [({"shared_expert_intermediate_size": 12}, "copies"),
                                        ({"norm_topk_prob": False, "shared_expert_intermediate_size": 32}, "netmorph"),
                                        ({"moe_intermediate_size": 8, "shared_expert_intermediate_size": 24}, "netmorph")])
def test_a_shared_expert_adds_nothing_or_carries_the_dense_numbers(sizes, way):
    _, state = filled(made("Qwen2"), "Qwen2Moe", **{**FOUR, **sizes})
    assert [s.method for s in state.plan.steps if s.kind == "experts"] == [way]


def test_weights_without_a_sum_of_their_own_are_refused_with_what_changes_that():
    big = made("Qwen3Moe", head_dim=4, **{**FOUR, "norm_topk_prob": False})
    with pytest.raises(fxgrow.GrowthError, match="--set norm_topk_prob=true"):
        fxgrow.grow_into(made("Qwen3", head_dim=4), big, (WORDS,))


@pytest.mark.parametrize("kind, sizes", [("Olmoe", {"norm_topk_prob": False}),
                                         pytest.param("Qwen2Moe", {}, marks=pytest.mark.sweep)])
def test_more_experts_from_fewer_are_copies_that_are_chosen_together(kind, sizes):
    few = {**FOUR, "num_experts": 2, "num_experts_per_tok": 1, **sizes}
    small = made(kind, **few)
    big, state = filled(small, kind, **{**few, "num_experts": 6, "num_experts_per_tok": 3})
    assert state.record.parameters["model.layers.0.mlp.gate.weight"].index[0].tolist() == [0, 0, 0, 1, 1, 1]
    for count, chosen in ((4, 1), (3, 1), (4, 3)):
        with pytest.raises(fxgrow.GrowthError, match="whole multiple"):
            fxgrow.grow_into(small, made(kind, **{**few, "num_experts": count, "num_experts_per_tok": chosen}), (WORDS,))


def test_noise_tells_equal_experts_apart():
    sizes = {"num_local_experts": 4, "num_experts_per_tok": 2}
    state = fxgrow.grow_into(made("Llama"), made("Mixtral", 3, **sizes), (WORDS,), noise=0.1, seed=0)
    weight = state["model.layers.0.mlp.experts.down_proj"]
    assert not state.verification.ok and not any(torch.equal(weight[0], weight[i]) for i in range(1, 4))
    with pytest.raises(fxgrow.GrowthError, match="has none"):
        fxgrow.grow_into(made("Llama"), made("Llama", 3), (WORDS,), noise=0.1)


@pytest.mark.skipif(not hasattr(torch.nn.functional, "grouped_mm"), reason="Mixtral runs on no CPU with this torch")
def test_folder_to_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made("Llama").save_pretrained("small64")
    made("Llama").float().save_pretrained("small")
    config = transformers.MixtralConfig(**{**SMALL, "num_local_experts": 4, "num_experts_per_tok": 2},
                                        architectures=["MixtralForCausalLM"])
    config.save_pretrained("mixtral")

    def run(words: str):
        result = CliRunner().invoke(main, shlex.split(words))
        assert result.exit_code == 0, f"{result.output}\n{result.stderr}\n{result.exception!r}"
        return json.loads(result.output)

    told = run("grow small --into mixtral/config.json -o out --json")
    assert "run a node at a time" in str(told["verification"]["notes"])
    assert told["verification"]["ok"] and [s["kind"] for s in told["steps"]] == ["experts", "rescale"]
    big, info = transformers.MixtralForCausalLM.from_pretrained("out", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert apart(transformers.LlamaForCausalLM.from_pretrained("small"), big.eval(), False) < 1e-4
    assert run("grow small64 --into mixtral/config.json -o out64 --json")["verification"]["ok"]
    copied = run("grow out --set num_local_experts=8 --set num_experts_per_tok=4 -o copied --json")
    assert copied["verification"]["ok"] and "run a node at a time" in str(copied["verification"]["notes"])
    again = transformers.MixtralForCausalLM.from_pretrained("copied")
    assert apart(big, again.eval(), False) < 1e-6 and len(again.model.layers[0].mlp.experts.down_proj) == 8
    more = run("grow out --set num_local_experts=8 --set num_experts_per_tok=4 --noise 0.05 -o more --json")
    assert not more["verification"]["ok"]
    assert transformers.MixtralForCausalLM.from_pretrained("more").config.num_local_experts == 8


@pytest.mark.parametrize("kind, method, sizes", [
    ("Mixtral", "net2net", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    ("Qwen2Moe", "r2r", {**FOUR, "norm_topk_prob": False, "shared_expert_intermediate_size": 20}),
    pytest.param("Olmoe", "netmorph", FOUR, marks=pytest.mark.sweep)])
def test_mixtures_become_deeper(kind, method, sizes):
    small, big = made(kind, **sizes), made(kind, 3, **sizes, num_hidden_layers=2)
    state = fxgrow.grow_into(small, big, (WORDS,), method=method, seed=0)
    assert "deepen" in str(state.plan.to_json()) and any(n.startswith("model.layers.1.mlp.experts") for n in state)
    big.load_state_dict(state, strict=True)
    for train in (False, True):
        assert apart(small, big, train) < 1e-6


@pytest.mark.skipif(not hasattr(torch.nn.functional, "grouped_mm"), reason="Mixtral runs on no CPU with this torch")
@pytest.mark.parametrize("grow, wanted", [
    (Deepen("model.layers", seed=0), {"num_hidden_layers": 2}),
    (Experts("model.layers.*.mlp", experts=8), {"num_local_experts": 8, "num_experts_per_tok": 4}),
    pytest.param(Widen(factor=2, seed=0), {"hidden_size": 32, "num_attention_heads": 8}, marks=pytest.mark.sweep)])
def test_passes_on_a_mixture_give_one_of_its_class(grow, wanted):
    small = made("Mixtral", num_local_experts=4, num_experts_per_tok=2).float()
    small.set_experts_implementation("grouped_mm")
    found = fxgrow.put_back(fxgrow.transform(small, (WORDS,), [grow]), small)
    assert type(found.model) is type(small) and found.verification.ok
    assert all(getattr(found.model.config, name) == value for name, value in wanted.items())
    if isinstance(grow, Deepen):
        new = found.model.model.layers[1].mlp.experts
        assert not new.down_proj.any() and new.gate_up_proj.any()


@pytest.mark.skipif(not hasattr(torch.nn.functional, "grouped_mm"), reason="Mixtral runs on no CPU with this torch")
def test_experts_of_a_dense_model_go_into_a_stock_class(tmp_path, monkeypatch):
    small = made("Llama")
    grown = fxgrow.transform(small, (WORDS,), [Experts(experts=4, top_k=3, noise=0.5, seed=0)])
    found = fxgrow.put_back(grown, small, kind="mixtral")  # with the noise that tells experts apart, as if they were trained
    config, block = found.model.config, found.model.model.layers[0].mlp
    assert (config.num_local_experts, config.num_experts_per_tok) == (4, 3) and found.verification.ok
    last = grown.model.get_parameter("model.layers.0.mlp.experts.3.down_proj.weight")
    assert torch.equal(block.experts.down_proj[3], last)
    assert apart(grown.model, found.model, False) < 1e-6 < 1e-3 < apart(small, found.model, False)
    assert found.record.parameters.keys() <= {n for n, _ in (*found.model.named_parameters(), *found.model.named_buffers())}
    monkeypatch.chdir(tmp_path)
    found.save("mixture")
    assert type(load_model("mixture")[0]) is transformers.MixtralForCausalLM
    with pytest.raises(fxgrow.GrowthError, match="q_norm: it divides"):
        fxgrow.put_back(grown, small, kind="olmoe")
    with pytest.raises(fxgrow.GrowthError, match="no perceptron became experts"):
        fxgrow.put_back(fxgrow.transform(small, (WORDS,), [Deepen("model.layers", seed=0)]), small, kind="mixtral")


@pytest.mark.skipif(not hasattr(torch.nn.functional, "grouped_mm"), reason="Mixtral runs on no CPU with this torch")
def test_layers_that_stay_dense_are_listed_in_the_configuration():
    small = made("Qwen2", num_hidden_layers=2)
    grown = fxgrow.transform(small, (WORDS,), [Experts("model.layers.1.mlp", experts=4, seed=0)])
    found = fxgrow.put_back(grown, small, kind="qwen2_moe")
    assert found.model.config.mlp_only_layers == [0] and found.verification.ok and apart(small, found.model, False) < 1e-6
    with pytest.raises(fxgrow.GrowthError, match="mixtral: its configuration does not say that model.layers.1.mlp alone"):
        fxgrow.put_back(fxgrow.transform(made("Llama", num_hidden_layers=2), (WORDS,), [
            Experts("model.layers.1.mlp", experts=4, seed=0)]), made("Llama", num_hidden_layers=2), kind="mixtral")


@pytest.mark.sweep
@pytest.mark.parametrize("kind, wanted", [("Llama", "mixtral"), ("Mistral", "mixtral"), ("Qwen2", "qwen2_moe"),
                                          ("Qwen3", "qwen3_moe"), ("Olmo2", "flex_olmo")])
def test_the_class_of_mixtures_is_found(kind, wanted):
    small = made(kind)
    found = fxgrow.put_back(fxgrow.transform(small, (WORDS,), [Experts(experts=4, seed=0)]), small)
    assert found.model.config.model_type == wanted and found.verification.ok and apart(small, found.model, False) < 1e-6
