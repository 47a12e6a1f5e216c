"""grow_into with models of Hugging Face's transformers, of small configurations."""
from __future__ import annotations

import pytest
import torch
from support import shake

from fxgrow.errors import GrowthError
from fxgrow.passes.into import grow_into

transformers = pytest.importorskip("transformers")

WORDS = torch.arange(16).view(2, 8) % 11
IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def bert(width, heads, layers, inside):
    return transformers.BertForSequenceClassification(transformers.BertConfig(
        vocab_size=40, hidden_size=width, num_attention_heads=heads, num_hidden_layers=layers, intermediate_size=inside,
        max_position_embeddings=16))


def gpt2(width, heads, layers, inside):
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(
        vocab_size=40, n_embd=width, n_head=heads, n_layer=layers, n_inner=inside, n_positions=16, bos_token_id=1,
        eos_token_id=1))


def llama(width, heads, layers, inside):
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(
        vocab_size=40, hidden_size=width, num_attention_heads=heads, num_key_value_heads=heads // 2,
        intermediate_size=inside, num_hidden_layers=layers, max_position_embeddings=16))


def vit(width, heads, layers, inside):
    return transformers.ViTForImageClassification(transformers.ViTConfig(
        image_size=16, patch_size=8, hidden_size=width, num_attention_heads=heads, num_hidden_layers=layers,
        intermediate_size=inside))


def logits(model, x):
    with torch.no_grad():
        return model.eval()(x).logits


def models(make, small, big, dtype=torch.float64):
    torch.manual_seed(0)
    return shake(make(*small).to(dtype)).eval(), make(*big).to(dtype).eval()


CASES = [(bert, WORDS, (32, 4, 2, 48), (64, 8, 4, 80)), (bert, WORDS, (32, 4, 1, 48), (32, 4, 3, 48)),
         (gpt2, WORDS, (32, 4, 2, 48), (48, 6, 4, 80)), (gpt2, WORDS, (32, 4, 2, 48), (48, 4, 2, 48)),
         (llama, WORDS, (32, 4, 2, 48), (48, 6, 3, 80)), (llama, WORDS, (32, 4, 2, 48), (64, 8, 2, 48)),
         (vit, IMAGES, (32, 4, 2, 48), (48, 6, 4, 80)), (vit, IMAGES, (32, 4, 2, 48), (64, 4, 2, 48))]


@pytest.mark.thinned(7)
@pytest.mark.parametrize("make, x, small, big", CASES)
@pytest.mark.parametrize("method", ["r2r", "net2net", "netmorph"])
def test_the_bigger_configuration_computes_the_same(make, x, small, big, method):
    one, two = models(make, small, big)
    two.load_state_dict(grow_into(one, two, x, method=method, seed=0), strict=True)
    a, b = logits(one, x), logits(two, x)
    single = make is llama  # its norms compute in float32 whatever the type of the model
    assert float((a - b).abs().max() / a.abs().max()) <= (1e-6 if single else 1e-9)


def test_in_float32():
    one, two = models(gpt2, (32, 4, 2, 48), (48, 6, 3, 80), torch.float32)
    two.load_state_dict(grow_into(one, two, WORDS, seed=0))
    a, b = logits(one, WORDS), logits(two, WORDS)
    assert float((a - b).abs().max() / a.abs().max()) <= 1e-4


def test_numbers_are_where_the_record_says():
    """A norm's weight and bias move behind the new layer of a network whose layers end in norms."""
    one, two = models(bert, (32, 4, 1, 48), (32, 4, 2, 48))
    grown = grow_into(one, two, WORDS, seed=0)
    moved = "bert.encoder.layer.1.output.LayerNorm.weight"
    assert grown.record.parameters[moved].source == "bert.encoder.layer.0.output.LayerNorm.weight"
    assert torch.equal(grown[moved], one.get_parameter("bert.encoder.layer.0.output.LayerNorm.weight"))


def test_caches_stay_as_they_were_configured():
    one, two = models(gpt2, (32, 4, 1, 48), (32, 4, 2, 48))
    grow_into(one, two, WORDS, seed=0)
    assert one.config.use_cache and two.config.use_cache and one(WORDS).past_key_values is not None


def test_what_cannot_be_exact_is_refused():
    one, two = models(bert, (32, 4, 1, 48), (48, 6, 1, 48))
    with pytest.raises(GrowthError, match="integer factor"):  # the stream is normalised by norms that feed it
        grow_into(one, two, WORDS, seed=0)
    one, two = models(llama, (32, 4, 1, 48), (64, 4, 1, 48))
    with pytest.raises(GrowthError, match="self_attn"):  # longer heads are rotated by other angles
        grow_into(one, two, WORDS, seed=0)
    torch.manual_seed(0)
    a, b = (transformers.BertModel(transformers.BertConfig(
        vocab_size=40, hidden_size=w, num_attention_heads=4, num_hidden_layers=1, intermediate_size=32,
        max_position_embeddings=16)) for w in (32, 64))
    with pytest.raises(GrowthError, match="output"):  # its outputs are as many as it is wide
        grow_into(a, b, WORDS, seed=0)


def test_hidden_values_can_be_extended():
    def make(width, heads):
        return transformers.ViTModel(transformers.ViTConfig(
            image_size=16, patch_size=8, hidden_size=width, intermediate_size=40, num_attention_heads=heads,
            num_hidden_layers=2))

    torch.manual_seed(0)
    small, big = shake(make(32, 4).double()).eval(), make(48, 6).double().eval()
    big.load_state_dict(grow_into(small, big, IMAGES, seed=0, extend=True))
    with torch.no_grad():
        a, b = small(IMAGES), big(IMAGES)
    assert torch.allclose(a.last_hidden_state, b.last_hidden_state[..., :32], rtol=1e-9, atol=1e-9)
    assert torch.allclose(a.pooler_output, b.pooler_output[..., :32], rtol=1e-9, atol=1e-9)
