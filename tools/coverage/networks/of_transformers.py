"""Architectures of transformers, each as a configuration of two layers, and called by name as its users do."""
import functools
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
import torch
import transformers
from measuring import Network

V = 64  # words
LM = dict(vocab_size=V, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
          max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=0)
GQA, UNTIED = dict(LM, num_key_value_heads=2), dict(tie_word_embeddings=False)
FREE, TIED = dict(GQA, **UNTIED), dict(GQA, tie_word_embeddings=True)
MOE = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24)
BERT = dict(LM, type_vocab_size=2)
GPT = dict(vocab_size=V, n_positions=64, n_embd=32, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2)
DEEPSEEK = dict(LM, **UNTIED, num_key_value_heads=4, kv_lora_rank=8, q_lora_rank=12, qk_rope_head_dim=4, qk_nope_head_dim=8,
                v_head_dim=8, n_routed_experts=4, n_shared_experts=1, num_experts_per_tok=2, moe_intermediate_size=24,
                first_k_dense_replace=1)
PICTURE = dict(image_size=32, patch_size=8, num_channels=3, num_labels=5)
VIT = dict(PICTURE, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
S2S = dict(vocab_size=V, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
           decoder_attention_heads=4,
           encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=64, pad_token_id=0, bos_token_id=1,
           eos_token_id=2,
           decoder_start_token_id=2, forced_eos_token_id=2)
T5 = dict(vocab_size=V, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=0)
AUDIO = dict(vocab_size=V, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
             conv_dim=(16, 16),
             conv_stride=(5, 2), conv_kernel=(10, 3), num_feat_extract_layers=2, num_conv_pos_embeddings=8,
             num_conv_pos_embedding_groups=2, mask_time_prob=0.0, mask_feature_prob=0.0, apply_spec_augment=False)
TEXT = dict(LM, projection_dim=16)
SEEN = dict(image_size=32, patch_size=8, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            projection_dim=16)
STAGES = dict(num_stages=2, hidden_sizes=[16, 32], depths=[2, 2], num_labels=5)
WINDOWS = dict(PICTURE, embed_dim=16, depths=[2, 2], num_heads=[2, 4], drop_path_rate=0.0) | dict(patch_size=4)

# kind of inputs: class without its ending: configuration
CAUSAL = {  # ...ForCausalLM
    "Llama": FREE, "Mistral": dict(FREE, sliding_window=4),
          "Mixtral": dict(FREE, num_local_experts=4, num_experts_per_tok=2),
    "Qwen2": FREE, "Qwen3": dict(FREE, head_dim=8), "Qwen2Moe": dict(FREE, **MOE, shared_expert_intermediate_size=24),
    "Qwen3Moe": dict(FREE, **MOE, head_dim=8), "Olmo": FREE, "Olmo2": FREE,
          "Olmoe": dict(FREE, num_experts=4, num_experts_per_tok=2),
    "Gemma": dict(GQA, head_dim=8), "Gemma2": dict(GQA, head_dim=8, query_pre_attn_scalar=8, sliding_window=4),
    "Gemma3": dict(GQA, head_dim=8, query_pre_attn_scalar=8, sliding_window=4), "Phi": FREE, "Phi3": FREE,
    "GPTNeoX": dict(LM, **UNTIED), "GPTJ": dict(GPT, rotary_dim=4), "GPTBigCode": GPT,
    "GPTNeo": dict(vocab_size=V, max_position_embeddings=64, hidden_size=32, num_layers=2, num_heads=4, window_size=4,
                   attention_types=[[["global", "local"], 1]], bos_token_id=1, eos_token_id=2),
    "GptOss": dict(FREE, head_dim=8, num_local_experts=4, num_experts_per_tok=2, sliding_window=4), "Starcoder2": FREE,
    "OPT": dict(vocab_size=V, hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4,
                max_position_embeddings=64,
                word_embed_proj_dim=32, pad_token_id=0, bos_token_id=1, eos_token_id=2),
    "Bloom": dict(vocab_size=V, hidden_size=32, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2),
    "Falcon": dict(vocab_size=V, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, bos_token_id=1, eos_token_id=2),
    "Mpt": dict(vocab_size=V, d_model=32, n_heads=4, n_layers=2, expansion_ratio=2, max_seq_len=64), "Cohere": GQA,
    "Cohere2": dict(GQA, sliding_window=4), "StableLm": FREE,
    "Granite": dict(FREE, embedding_multiplier=2.0, residual_multiplier=0.5, logits_scaling=3.0, attention_multiplier=0.2),
    "DeepseekV2": dict(DEEPSEEK, topk_method="greedy"), "DeepseekV3": dict(DEEPSEEK, n_group=2, topk_group=1),
    "Glm": dict(FREE, head_dim=8), "Glm4": dict(FREE, head_dim=8), "SmolLM3": GQA, "Nemotron": FREE,
          "Helium": dict(FREE, head_dim=8),
    "Exaone4": dict(FREE, sliding_window=4), "Lfm2": dict(GQA, layer_types=["conv", "full_attention"],
                                                          block_auto_adjust_ff_dim=False),
    "Mamba": dict(vocab_size=V, hidden_size=32, state_size=8, num_hidden_layers=2, time_step_rank=4, bos_token_id=1,
                  eos_token_id=2),
    "Mamba2": dict(vocab_size=V, hidden_size=32, state_size=8, num_hidden_layers=2, num_heads=8, head_dim=8, n_groups=2,
                   chunk_size=4, bos_token_id=1, eos_token_id=2),
    "Rwkv": dict(vocab_size=V, hidden_size=32, attention_hidden_size=32, num_hidden_layers=2, intermediate_size=48,
                 context_length=64),
    "Jamba": dict(FREE, num_experts=2, num_experts_per_tok=1, use_mamba_kernels=False, attn_layer_period=2,
                  attn_layer_offset=1,
                  mamba_d_state=4, mamba_dt_rank=4),
}
MASKED = {  # ...ForMaskedLM
    "Bert": BERT, "Roberta": BERT, "XLMRoberta": BERT, "Albert": dict(BERT, embedding_size=16),
          "Electra": dict(BERT, embedding_size=16),
    "DistilBert": dict(vocab_size=V, max_position_embeddings=64, n_layers=2, n_heads=4, dim=32, hidden_dim=48),
    "DebertaV2": dict(BERT, relative_attention=True, position_buckets=8, pos_att_type=["p2c", "c2p"],
                      norm_rel_ebd="layer_norm",
                      share_att_key=True, position_biased_input=False),
    "MPNet": LM, "Longformer": dict(BERT, attention_window=4), "FNet": BERT, "RoFormer": BERT,
    "ModernBert": dict(LM, local_attention=4, global_attn_every_n_layers=2),
    "ConvBert": dict(BERT, embedding_size=16, head_ratio=2, conv_kernel_size=3),
    "MobileBert": dict(BERT, embedding_size=16, intra_bottleneck_size=16, true_hidden_size=16),
    "Funnel": dict(vocab_size=V, block_sizes=[1, 1], num_decoder_layers=1, d_model=32, n_head=4, d_head=8, d_inner=48),
    "SqueezeBert": dict(BERT, embedding_size=32),
}
PICTURES = {  # ...ForImageClassification
    "ViT": VIT, "DeiT": VIT, "Beit": dict(VIT, use_relative_position_bias=True), "Swin": dict(WINDOWS, window_size=2),
    "Swinv2": dict(WINDOWS, window_size=4), "ConvNext": STAGES, "ConvNextV2": STAGES, "Dinov2": dict(VIT, mlp_ratio=2),
    "ResNet": dict(embedding_size=8, hidden_sizes=[16, 32], depths=[2, 2], num_labels=5, layer_type="bottleneck"),
    "RegNet": dict(embedding_size=8, hidden_sizes=[16, 32], depths=[2, 2], groups_width=4, num_labels=5),
    "PoolFormer": dict(hidden_sizes=[16, 32], depths=[2, 2], patch_sizes=[7, 3], strides=[4, 2], padding=[2, 1],
                       num_encoder_blocks=2, mlp_ratio=2.0, num_labels=5),
    "PvtV2": dict(image_size=32, num_encoder_blocks=4, depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 16, 32], num_labels=5,
                  num_attention_heads=[1, 2, 2, 4], sr_ratios=[4, 2, 1, 1], mlp_ratios=[2, 2, 2, 2]),
    "MobileViT": dict(image_size=32, hidden_sizes=[16, 24, 32], neck_hidden_sizes=[8, 8, 12, 16, 16, 24, 64], num_labels=5,
                      num_attention_heads=4, mlp_ratio=2.0, expand_ratio=2.0),
    "Levit": dict(image_size=32, hidden_sizes=[16, 32, 48], num_attention_heads=[2, 4, 4], depths=[1, 1, 1],
                  key_dim=[8, 8, 8],
                  mlp_ratio=[2, 2, 2], attention_ratio=[2, 2, 2], num_labels=5),
    "MobileNetV2": dict(image_size=32, num_labels=5),
}
OTHERS = {  # class: configuration, kind of inputs
    "GPT2LMHeadModel": (GPT, "lm"),
          "CTRLLMHeadModel": (dict(vocab_size=V, n_positions=64, n_embd=32, dff=48, n_layer=2, n_head=4), "lm"),
    "XLNetLMHeadModel": (dict(vocab_size=V, d_model=32, n_layer=2, n_head=4, d_inner=48), "lm"),
    "BertForSequenceClassification": (dict(BERT, num_labels=3), "mlm"), "T5ForConditionalGeneration": (T5, "s2s"),
    "MT5ForConditionalGeneration": (dict(T5, **UNTIED), "s2s"), "BartForConditionalGeneration": (S2S, "s2s"),
    "PegasusForConditionalGeneration": (S2S, "s2s"), "MarianMTModel": (S2S, "s2s"),
    "WhisperForConditionalGeneration": (dict(S2S, num_mel_bins=8, max_source_positions=20, max_target_positions=32,
                                             suppress_tokens=None, begin_suppress_tokens=None), "speech"),
    "Wav2Vec2ForCTC": (AUDIO, "wave"),
          "HubertForCTC": (dict(AUDIO, feat_extract_norm="layer", do_stable_layer_norm=True, conv_bias=True), "wave"),
    "DINOv3ViTModel": (dict(VIT, num_register_tokens=2), "image"),
    "SegformerForSemanticSegmentation": (dict(num_encoder_blocks=2, depths=[2, 2], sr_ratios=[2, 1], hidden_sizes=[16, 32],
                                              patch_sizes=[7, 3], strides=[4, 2], num_attention_heads=[2, 4],
                                              mlp_ratios=[2, 2],
                                              decoder_hidden_size=32, num_labels=5), "image"),
    "DetrForObjectDetection": (dict(d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
                                    decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, num_queries=5,
                                    num_labels=4), "detr"),
    "CLIPModel": (dict(projection_dim=16, text_config=TEXT, vision_config=SEEN), "pair"),
    "SiglipModel": (dict(text_config=TEXT, vision_config=SEEN), "pair"),
    "BlipForConditionalGeneration": (dict(projection_dim=16, text_config=dict(TEXT, encoder_hidden_size=32),
                                          vision_config=SEEN), "pair"),
    "PerceiverForImageClassificationLearned": (dict(num_latents=6, d_latents=32, d_model=32, num_blocks=1, image_size=16,
                                                    num_self_attends_per_block=2, num_self_attention_heads=4, num_labels=5,
                                                    num_cross_attention_heads=4), "learned"),
    "DPTForDepthEstimation": (dict(VIT, num_hidden_layers=4, neck_hidden_sizes=[8, 8, 16, 16], fusion_hidden_size=16,
                                   backbone_out_indices=[0, 1, 2, 3],
                                   reassemble_factors=[4, 2, 1, 0.5], is_hybrid=False), "image"),
    "TimesformerModel": (dict(VIT, num_frames=2), "video"), "VideoMAEModel": (dict(VIT, num_frames=2, tubelet_size=1),
                                                                              "video"),
    "ASTForAudioClassification": (dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                                       patch_size=8,
                                       max_length=32, num_mel_bins=16, frequency_stride=8, time_stride=8), "spectrum"),
}


def inputs(kind: str, batch: int, longer: int) -> dict:
    """Return what users of such a network pass, by name."""
    n, side = 8 + 4 * longer, 32 * (1 + longer)
    row = functools.partial(torch.randint, 3, V)
    return {"lm": lambda: {"input_ids": row((batch, n))},
            "mlm": lambda: {"input_ids": row((batch, n)), "attention_mask": torch.ones(batch, n, dtype=torch.long)},
            "s2s": lambda: {"input_ids": row((batch, n)), "decoder_input_ids": row((batch, n - 2))},
            "speech": lambda: {"input_features": torch.randn(batch, 8, 40), "decoder_input_ids": row((batch, 5 + longer))},
            "wave": lambda: {"input_values": torch.randn(batch, 400 + 100 * longer)},
            "image": lambda: {"pixel_values": torch.randn(batch, 3, side, side)},
            "learned": lambda: {"inputs": torch.randn(batch, 3, 16, 16)},
            "detr": lambda: {"pixel_values": torch.randn(batch, 3, 64, 64),
                             "pixel_mask": torch.ones(batch, 64, 64, dtype=torch.long)},
            "video": lambda: {"pixel_values": torch.randn(batch, 2, 3, 32, 32)},
            "spectrum": lambda: {"input_values": torch.randn(batch, 32, 16)},
            "pair": lambda: {"input_ids": torch.cat([row((batch, n - 1)), torch.full((batch, 1), 2)], 1),
                             "pixel_values": torch.randn(batch, 3, 32, 32)}}[kind]()


def make(name: str, options: dict):
    """Build an architecture; attention and experts in plain torch."""
    kind = getattr(transformers, name)
    if name.startswith("Detr"):
        options = options | {"backbone_config": transformers.ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", out_features=["stage2"])}
    config = kind.config_class(**options)
    config._experts_implementation = "batched_mm"  # the grouped product takes no float64
    if hasattr(config, "use_cache"):
        config.use_cache = False
    return kind(config)


TABLE = {**{f"{n}ForCausalLM": (o, "lm") for n, o in CAUSAL.items()}, "LlamaForCausalLM, tied": (TIED, "lm"),
         "Qwen2ForCausalLM, tied": (TIED, "lm"),
         **{f"{n}ForMaskedLM": (o, "mlm") for n, o in MASKED.items()},
         **{f"{n}ForImageClassification": (o, "image") for n, o in PICTURES.items()}, **OTHERS}
NETWORKS = {name: Network(functools.partial(make, name.partition(",")[0], options), functools.partial(inputs, kind))
            for name, (options, kind) in TABLE.items()}
