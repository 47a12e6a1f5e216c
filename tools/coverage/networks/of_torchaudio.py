"""Models of torchaudio."""
import functools

import torch
from measuring import Network
from torchaudio import models


def rows(*sizes: int, step: int = 4):
    """Return inputs of rows of frames with their lengths."""
    def inputs(batch: int, longer: int) -> tuple:
        length = sizes[0] + step * longer
        return torch.randn(batch, length, *sizes[1:]), torch.full((batch,), length)
    return inputs


def wave(length: int, *channels: int, step: int = 160):
    def inputs(batch: int, longer: int) -> tuple:
        return torch.randn(batch, *channels, length + step * longer),
    return inputs


def wav2vec2(mode: str, **options):
    first = dict(extractor_mode=mode, extractor_conv_layer_config=[(16, 10, 5), (16, 3, 2)], extractor_conv_bias=False,
                 encoder_embed_dim=32, encoder_projection_dropout=0.0, encoder_pos_conv_kernel=8, encoder_pos_conv_groups=2,
                 encoder_num_layers=2, encoder_num_heads=4, encoder_attention_dropout=0.0, encoder_ff_interm_features=48,
                 encoder_ff_interm_dropout=0.0, encoder_dropout=0.0, encoder_layer_norm_first=mode == "layer_norm",
                 encoder_layer_drop=0.0, aux_num_out=5)
    return models.wav2vec2_model(**first)


def wavlm():
    return models.wavlm_model("group_norm", [(16, 10, 5), (16, 3, 2)], False, 32, 0.0, 8, 2, 2, 4, 16, 20, 0.0, 48, 0.0, 0.0,
                              False, 0.0, 5)


def tacotron(batch: int, longer: int) -> tuple:
    n = 6 + longer
    return torch.randint(0, 20, (batch, n)), torch.full((batch,), n), torch.randn(batch, 8, 10), torch.full((batch,), 10)


def wavernn(batch: int, longer: int) -> tuple:
    return torch.randn(batch, 1, (10 - 5 + 1) * 4), torch.randn(batch, 1, 8, 10)


def separated():
    return models.ConvTasNet(num_sources=2, enc_kernel_size=16, enc_num_feats=16, msk_kernel_size=3, msk_num_feats=8,
                             msk_num_hidden_feats=16, msk_num_layers=2, msk_num_stacks=2)


def rnnt(batch: int, longer: int) -> tuple:
    n = 8 + 4 * longer
    return torch.randn(batch, n, 8), torch.full((batch,), n), torch.randint(0, 10, (batch, 5)), torch.full((batch,), 5)


TACOTRON = dict(n_mels=8, n_symbol=20, symbol_embedding_dim=16, encoder_embedding_dim=16, encoder_n_convolution=1,
                attention_rnn_dim=16,
                attention_hidden_dim=16, attention_location_n_filter=4, attention_location_kernel_size=3, decoder_rnn_dim=16,
                prenet_dim=16,
                postnet_n_convolution=2, postnet_embedding_dim=16, postnet_kernel_size=3, decoder_dropout=0.0,
                attention_dropout=0.0)
NETWORKS = {
    "Conformer": Network(functools.partial(models.Conformer, 16, 4, 32, 2, 7), rows(12, 16)),
    "Conformer, group norm": Network(functools.partial(models.Conformer, 16, 4, 32, 2, 7, use_group_norm=True,
                                                       convolution_first=True), rows(12, 16)),
    "ConvTasNet": Network(separated, wave(160, 1)),
    "DeepSpeech": Network(functools.partial(models.DeepSpeech, 8, 24, 5), lambda batch,
                          longer: (torch.randn(batch, 1, 12 + 3 * longer, 8),)),
    "Emformer": Network(functools.partial(models.Emformer, 16, 4, 32, 2, 4, right_context_length=1), rows(13, 16)),
    "HDemucs": Network(functools.partial(models.HDemucs, ["a", "b"], channels=4, nfft=256, depth=3),
                       wave(2048, 2, step=512)),
    "RNNT": Network(functools.partial(models.emformer_rnnt_model, input_dim=8, encoding_dim=16, num_symbols=10,
                                      segment_length=4, right_context_length=4,
                                      time_reduction_input_dim=8, time_reduction_stride=4, transformer_num_heads=4,
                                      transformer_ffn_dim=16, transformer_num_layers=1, transformer_dropout=0.0,
                                      transformer_activation="gelu", transformer_left_context_length=4,
                                      transformer_max_memory_size=0, transformer_weight_init_scale_strategy="depthwise",
                                      transformer_tanh_on_mem=True,
                                      symbol_embedding_dim=16, num_lstm_layers=1, lstm_layer_norm=True,
                                      lstm_layer_norm_epsilon=1e-3, lstm_dropout=0.0), rnnt),
    "SquimObjective": Network(models.squim_objective_base, wave(1600)),
    "Tacotron2": Network(functools.partial(models.Tacotron2, **TACOTRON), tacotron),
    "Wav2Letter": Network(functools.partial(models.Wav2Letter, 5, "mfcc", 8), wave(80, 8, step=40)),
    "Wav2Vec2Model": Network(functools.partial(wav2vec2, "group_norm"), wave(800)),
    "Wav2Vec2Model, layer norm": Network(functools.partial(wav2vec2, "layer_norm"), wave(800)),
    "WavLM": Network(wavlm, wave(800)),
    "WaveRNN": Network(functools.partial(models.WaveRNN, [2, 2], 16, 4, 1, 16, 16, 5, 8, 16, 16), wavernn),
}
