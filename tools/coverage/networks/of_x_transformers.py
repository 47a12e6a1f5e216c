"""Language models, encoders and picture transformers of x-transformers with one option of its attention each."""
import functools

from measuring import Network, image, words
from x_transformers import (
    ContinuousTransformerWrapper,
    Decoder,
    Encoder,
    TransformerWrapper,
    ViTransformerWrapper,
    XTransformer,
)

OPTIONS = {
    "plain": {}, "rotary rms swiglu": dict(rotary_pos_emb=True, use_rmsnorm=True, ff_glu=True, ff_swish=True),
    "alibi": dict(alibi_pos_bias=True, alibi_num_heads=2), "t5 bias sandwich": dict(rel_pos_bias=True, sandwich_norm=True),
    "talking heads": dict(attn_pre_talking_heads=True, attn_post_talking_heads=True),
    "macaron scalenorm": dict(macaron=True, use_scalenorm=True),
    "gates relu squared": dict(attn_gate_values=True, ff_relu_squared=True), "shifted tokens": dict(shift_tokens=1),
    "qk norm": dict(attn_qk_norm=True), "one key value head": dict(attn_one_kv_head=True),
    "grouped queries": dict(attn_kv_heads=2),
    "memory keys": dict(attn_num_mem_kv=4), "residual attention": dict(residual_attn=True),
    "gated residual": dict(gate_residual=True),
    "post norm": dict(pre_norm=False), "flash": dict(attn_flash=True), "simple rmsnorm": dict(use_simple_rmsnorm=True),
    "dynamic tanh": dict(use_dynamic_tanh=True), "value residual": dict(add_value_residual=True),
    "hyper connections": dict(num_residual_streams=2), "sparse top k": dict(attn_sparse_topk=4),
    "no bias": dict(ff_no_bias=True),
}
WIDTH = dict(dim=32, depth=2, heads=4, attn_dim_head=8)


def language(layers: type, options: dict):
    return TransformerWrapper(num_tokens=64, max_seq_len=32, attn_layers=layers(**WIDTH, **options))


def continuous():
    return ContinuousTransformerWrapper(dim_in=12, dim_out=10, max_seq_len=64, attn_layers=Encoder(**WIDTH))


def pictures():
    return ViTransformerWrapper(image_size=32, patch_size=8, num_classes=5, attn_layers=Encoder(**WIDTH))


def pair():
    options = {f"{side}_{name}": value for side in ("enc", "dec") for name, value in
               (("num_tokens", 64), ("depth", 2), ("heads", 4), ("attn_dim_head", 8), ("max_seq_len", 32))}
    return XTransformer(dim=32, tie_token_emb=True, **options)


def rows(batch: int, longer: int) -> tuple:
    return image(16, 12, 1, 8)(batch, longer)[0].transpose(1, 2),


NETWORKS = {f"decoder, {name}": Network(functools.partial(language, Decoder, options), words()) for name,
            options in OPTIONS.items()}
NETWORKS |= {"encoder, plain": Network(functools.partial(language, Encoder, {}), words()),
             "continuous": Network(continuous, rows),
             "pictures": Network(pictures, image())}
