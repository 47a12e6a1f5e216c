"""The networks of vit-pytorch that are one forward of a picture, a row or a video."""
import functools
import importlib

import torch
import vit_pytorch  # noqa: F401
from measuring import Network, image

CLASSES = dict(num_classes=5)
SQUARE = dict(image_size=32, patch_size=8, dim=32, depth=2, heads=4, mlp_dim=48, **CLASSES)
HEAD = dict(SQUARE, dim_head=8)
ROW = dict(seq_len=32, patch_size=8, dim=32, depth=2, heads=4, mlp_dim=48, channels=3, dim_head=8, **CLASSES)
VIDEO = dict(image_size=32, image_patch_size=8, frames=4, frame_patch_size=2, dim=32, depth=2, heads=4, mlp_dim=48,
             dim_head=8, **CLASSES)
STAGES = {f"s{i}_{k}": v for i in (1, 2, 3) for k, v in (("emb_dim", 8 * 2 ** i), ("heads", i), ("depth", 1))}
PLAIN = ("vit", "deepvit", "learnable_memory_vit", "parallel_vit", "normalized_vit", "rvt", "vit_5", "pit",
         "vit_for_small_dataset", "vit_with_decorr", "vit_with_keel_post_ln", "jumbo_vit", "simple_vit", "simple_uvit",
         "simple_vit_with_register_tokens", "simple_vit_with_qk_norm", "simple_vit_with_fft",
         "simple_vit_with_value_residual",
         "simple_vit_with_hyper_connections", "simple_vit_orthog_residual_update",
         "simple_vit_with_relative_proj_pos_bias", "simple_vit_with_specialized_cls", "attn_residual_with_dca_simple_vit")
CLASS = {"deepvit": "DeepViT", "normalized_vit": "nViT", "rvt": "RvT", "pit": "PiT", "jumbo_vit": "JumboViT",
         "simple_uvit": "SimpleUViT", "attn_residual_with_dca_simple_vit": "SimpleViT"}
MORE = {"pit": dict(depth=(1, 1)), "simple_vit_with_register_tokens": dict(num_register_tokens=2),
        "simple_vit_with_fft": dict(freq_patch_size=8), "simple_vit_with_hyper_connections": dict(num_residual_streams=2),
        "simple_uvit": dict(num_register_tokens=2), "jumbo_vit": dict(jumbo_cls_k=2, jumbo_ff_mult=1)}
OTHERS = {  # module: class, configuration, inputs
    "cait": ("CaiT", dict(HEAD, cls_depth=1), image()), "xcit": ("XCiT", dict(HEAD, cls_depth=1), image()),
    "vit_with_patch_merger": ("ViT", dict(HEAD, patch_merge_layer=1, patch_merge_num_tokens=4), image()),
    "cct": ("CCT", dict(img_size=32, embedding_dim=32, n_conv_layers=1, num_layers=2, num_heads=4, mlp_ratio=2,
                        num_classes=5,
                        positional_embedding="learnable"), image()),
    "cross_vit": ("CrossViT", dict(image_size=32, sm_dim=16, lg_dim=32, sm_patch_size=4, sm_enc_heads=2, sm_enc_mlp_dim=24,
                                   sm_enc_dim_head=8, lg_patch_size=8, lg_enc_depth=1, lg_enc_heads=2, lg_enc_mlp_dim=48,
                                   lg_enc_dim_head=8,
                                   cross_attn_depth=1, cross_attn_heads=2, cross_attn_dim_head=8, depth=1, **CLASSES),
                  image()),
    "crossformer": ("CrossFormer", dict(dim=(32, 32, 64, 64), depth=(1, 1, 1, 1), global_window_size=(2, 2, 1, 1),
                                        local_window_size=1, **CLASSES), image()),
    "cvt": ("CvT", dict(STAGES, **CLASSES), image()),
    "levit": ("LeViT", dict(image_size=64, dim=(16, 24), depth=1, heads=2, mlp_mult=2, stages=2, dim_key=8, dim_value=16,
                            **CLASSES), image(64)),
    "max_vit": ("MaxViT", dict(dim=16, depth=(1, 1), dim_head=8, dim_conv_stem=8, window_size=2, **CLASSES), image()),
    "max_vit_with_registers": ("MaxViT", dict(dim=16, depth=(1, 1), dim_head=8, dim_conv_stem=8, window_size=2, **CLASSES),
                               image()),
    "mobile_vit": ("MobileViT",
                   dict(image_size=(64, 64), dims=[16, 24, 32], channels=[8, 8, 12, 12, 16, 16, 16, 16, 24, 24, 32],
                        **CLASSES), image(64)),
    "nest": ("NesT", dict(image_size=32, patch_size=4, dim=16, heads=2, num_hierarchies=2, block_repeats=(1, 1), **CLASSES),
             image()),
    "regionvit": ("RegionViT", dict(dim=(16, 24, 32, 48), depth=(1, 1, 1, 1), window_size=1, **CLASSES), image(64, step=64)),
    "scalable_vit": ("ScalableViT", dict(dim=16, heads=(2, 2), depth=(1, 1), ssa_dim_key=(8, 8), reduction_factor=(2, 1),
                                         window_size=(4, 4), **CLASSES), image()),
    "sep_vit": ("SepViT", dict(dim=16, depth=(1, 1), heads=(2, 2), window_size=7, dim_head=8, **CLASSES),
                image(56, step=56)),
    "t2t": ("T2TViT", dict(image_size=32, dim=32, depth=2, heads=4, mlp_dim=48, t2t_layers=((7, 4), (3, 2)), **CLASSES),
            image()),
    "twins_svt": ("TwinsSVT",
                  dict({f"s{i}_{k}": v for i in (1, 2, 3, 4) for k, v in (("emb_dim", 8 * i), ("local_patch_size", 2),
                                                                          ("global_k", 2), ("depth", 1))}, **CLASSES),
                  image(64, step=64)),
    "vit_1d": ("ViT", ROW, image(32, axes=1)), "simple_vit_1d": ("SimpleViT", ROW, image(32, axes=1)),
    "vit_3d": ("ViT", VIDEO, None), "simple_vit_3d": ("SimpleViT", VIDEO, None),
    "vivit": ("ViViT", {**{k: v for k, v in VIDEO.items() if k != "depth"}, "spatial_depth": 1, "temporal_depth": 1}, None),
    "jet_vit": ("JetViT", dict(HEAD, window_size=2), image()),
          "look_vit": ("LookViT", dict(dim=32, image_size=32, depth=1, patch_size=8, heads=2,
        mlp_factor=2, dim_head=8, highres_patch_size=4, highres_mlp_factor=2, cross_attn_heads=2, cross_attn_dim_head=8,
                                       patch_conv_kernel_size=3, **CLASSES), image()),
    "looped_vit": ("LoopedViT", dict(dim=32, image_size=32, patch_size=8, pre_loop_depth=1, num_looped_blocks=1,
                                     post_loop_depth=1, loop_depth=2, heads=2, dim_head=8, mlp_dim=48, **CLASSES), image()),
    "ats_vit": ("ViT", dict(HEAD, max_tokens_per_depth=(12, 8)), image()),
          "wwt": ("WWT", dict(image_size=32, patch_size=8, dim=32, depth=1, num_slots=4, heads=2, dim_head=8, mlp_dim=48,
                              **CLASSES), image()),
    "vit_nd_rotary": ("ViTND", dict(ndim=2, input_shape=32, patch_size=8, num_classes=5, dim=32, depth=2, heads=4,
                                    mlp_dim=48, dim_head=8), image()),
    "vit_nd": ("ViTND", dict(ndim=2, input_shape=32, patch_size=8, num_classes=5, dim=32, depth=2, heads=4, mlp_dim=48,
                             dim_head=8), image()),
}


def video(batch: int, longer: int) -> tuple:
    return torch.randn(batch, 3, 4, 32, 32),


def make(module: str, kind: str, options: dict):
    return getattr(importlib.import_module(f"vit_pytorch.{module}"), kind)(**options)


def plain(module: str) -> tuple:
    kind = CLASS.get(module) or ("SimpleViT" if module.startswith("simple") else "ViT")
    return kind, HEAD | MORE.get(module, {}), image()


NETWORKS = {module: Network(functools.partial(make, module, kind, options), inputs or video)
            for module, (kind, options, inputs) in [*((m, plain(m)) for m in PLAIN), *OTHERS.items()]}
