"""Denoisers and autoencoders of diffusers."""
import functools

import diffusers
import torch
from measuring import Network, image


def noisy(*sizes: int, step: int = 8, words: tuple = (), more: dict | None = None):
    """Return a noisy sample of these sizes with its step of time, and what it is conditioned on."""
    def inputs(batch: int, longer: int) -> dict:
        given = {"sample": torch.randn(batch, sizes[0], *(n + step * longer for n in sizes[1:])),
                 "timestep": torch.tensor(7)}
        return given | ({"encoder_hidden_states": torch.randn(batch, *words)} if words else {}) | (more or {})
    return inputs


def of(name: str, inputs, **options) -> Network:
    return Network(functools.partial(lambda: getattr(diffusers, name)(**options)), inputs)


def latents(batch: int, **sizes) -> dict:
    return {k: torch.randn(batch, *v) for k, v in sizes.items()} | {"timestep": torch.full((batch,), 7.0)}


def flux(batch: int, longer: int) -> dict:
    return latents(batch, hidden_states=(16, 4), encoder_hidden_states=(6, 32), pooled_projections=(32,)) | {
        "img_ids": torch.zeros(16, 3), "txt_ids": torch.zeros(6, 3)}


def sd3(batch: int, longer: int) -> dict:
    return latents(batch, hidden_states=(4, 32, 32), encoder_hidden_states=(6, 32), pooled_projections=(64,))


def dit(batch: int, longer: int) -> dict:
    return {"hidden_states": torch.randn(batch, 4, 8, 8), "timestep": torch.full((batch,), 7),
            "class_labels": torch.arange(batch)}


def pixart(batch: int, longer: int) -> dict:
    return {"hidden_states": torch.randn(batch, 4, 8, 8), "timestep": torch.full((batch,), 7),
            "encoder_hidden_states": torch.randn(batch, 6, 32),
            "added_cond_kwargs": {"resolution": None, "aspect_ratio": None}}


def sana(batch: int, longer: int) -> dict:
    return latents(batch, hidden_states=(4, 16, 16), encoder_hidden_states=(6, 8))


BLOCKS = dict(block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4)
CROSS = dict(down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
             cross_attention_dim=24, attention_head_dim=4)
NETWORKS = {
    "UNet2DModel": of("UNet2DModel", noisy(3, 16, 16), sample_size=16, **BLOCKS, attention_head_dim=4,
                      down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D")),
    "UNet2DConditionModel": of("UNet2DConditionModel", noisy(4, 16, 16, words=(6, 24)), sample_size=16, **BLOCKS, **CROSS),
    "UNet1DModel": of("UNet1DModel", noisy(2, 64, step=32), sample_size=64, in_channels=2, out_channels=2,
                      extra_in_channels=64, block_out_channels=(32, 64),
                      down_block_types=("DownBlock1DNoSkip", "DownBlock1D"), up_block_types=("UpBlock1D", "UpBlock1DNoSkip"),
                      norm_num_groups=4),
    "UNet3DConditionModel": of("UNet3DConditionModel", noisy(4, 2, 16, 16, step=0, words=(6, 24)), sample_size=16, **BLOCKS,
                               down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
                               up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
                               cross_attention_dim=24, attention_head_dim=4),
    "AutoencoderKL": of("AutoencoderKL", image(32), block_out_channels=(8, 16), norm_num_groups=4,
                        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
                        latent_channels=4),
    "AsymmetricAutoencoderKL": of("AsymmetricAutoencoderKL", image(32), down_block_out_channels=(8, 16),
                                  up_block_out_channels=(8, 16), norm_num_groups=4,
                                  down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2),
    "AutoencoderTiny": of("AutoencoderTiny", image(32), encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8),
                          num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1)),
    "AutoencoderDC": of("AutoencoderDC", image(32), in_channels=3, latent_channels=4, encoder_block_out_channels=(8, 16),
                        decoder_block_out_channels=(8, 16),
                        encoder_layers_per_block=(1, 1), decoder_layers_per_block=(1, 1), encoder_block_types="ResBlock",
                        decoder_block_types="ResBlock",
                        encoder_qkv_multiscales=((), ()), decoder_qkv_multiscales=((), ()), attention_head_dim=4),
    "VQModel": of("VQModel", image(32), block_out_channels=(8, 16), norm_num_groups=4, num_vq_embeddings=16,
                  latent_channels=4,
                  down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2),
    "DiTTransformer2DModel": of("DiTTransformer2DModel", dit, num_attention_heads=2, attention_head_dim=8, in_channels=4,
                                out_channels=4, num_layers=2, sample_size=8,
                                patch_size=2, num_embeds_ada_norm=1000, norm_num_groups=4),
    "PixArtTransformer2DModel": of("PixArtTransformer2DModel", pixart, num_attention_heads=2, attention_head_dim=8,
                                   in_channels=4, out_channels=8, num_layers=2, sample_size=8,
                                   patch_size=2, cross_attention_dim=16, caption_channels=32,
                                   use_additional_conditions=False),
    "FluxTransformer2DModel": of("FluxTransformer2DModel", flux, patch_size=1, in_channels=4, num_layers=1,
                                 num_single_layers=1, attention_head_dim=16,
                                 num_attention_heads=2, joint_attention_dim=32, pooled_projection_dim=32,
                                 axes_dims_rope=[4, 4, 8]),
    "SD3Transformer2DModel": of("SD3Transformer2DModel", sd3, sample_size=32, patch_size=2, in_channels=4, num_layers=2,
                                attention_head_dim=8, num_attention_heads=4,
                                caption_projection_dim=32, joint_attention_dim=32, pooled_projection_dim=64, out_channels=4),
    "SanaTransformer2DModel": of("SanaTransformer2DModel", sana, patch_size=1, in_channels=4, out_channels=4, num_layers=1,
                                 attention_head_dim=4, num_attention_heads=2,
                                 num_cross_attention_heads=2, cross_attention_head_dim=4, cross_attention_dim=8,
                                 caption_channels=8, sample_size=16),
    "ControlNetModel": of("ControlNetModel", lambda batch, longer: noisy(4, 16, 16, words=(6, 24))(batch, longer) | {
        "controlnet_cond": torch.randn(batch, 3, 128 + 64 * longer, 128 + 64 * longer)}, **BLOCKS,
                          down_block_types=CROSS["down_block_types"], cross_attention_dim=24,
        attention_head_dim=4, conditioning_embedding_out_channels=(8, 8, 8, 8)),
}
