"""AudioLDM2 and Stable Audio at a size that a test can build: random weights, 4 seconds at most."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import (
    AudioLDM2Pipeline,
    AudioLDM2ProjectionModel,
    AudioLDM2UNet2DConditionModel,
    AutoencoderKL,
    AutoencoderOobleck,
    DDIMScheduler,
    EDMDPMSolverMultistepScheduler,
    StableAudioDiTModel,
    StableAudioPipeline,
    StableAudioProjectionModel,
)
from transformers import (
    ClapAudioConfig,
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    ClapTextConfig,
    GPT2Config,
    GPT2Model,
    RobertaTokenizer,
    SpeechT5HifiGan,
    SpeechT5HifiGanConfig,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

LETTERS = [*"abcdefghijklmnopqrstuvwxyz"]


def write_stable_audio(folder: Path) -> Path:
    """80 samples and 10 latent frames a second."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        StableAudioPipeline(
            vae=AutoencoderOobleck(
                encoder_hidden_size=6,
                downsampling_ratios=[2, 4],
                channel_multiples=[2, 4],
                decoder_channels=3,
                decoder_input_channels=3,
                audio_channels=2,
                sampling_rate=80,
            ),
            text_encoder=_t5(),
            projection_model=StableAudioProjectionModel(
                text_encoder_dim=32, conditioning_dim=4, min_value=0, max_value=32
            ),
            tokenizer=_t5_tokenizer(),
            transformer=StableAudioDiTModel(
                sample_size=40,
                in_channels=3,
                num_layers=1,
                attention_head_dim=4,
                num_attention_heads=2,
                num_key_value_attention_heads=2,
                out_channels=3,
                cross_attention_dim=4,
                time_proj_dim=8,
                global_states_input_dim=8,
                cross_attention_input_dim=4,
            ),
            scheduler=EDMDPMSolverMultistepScheduler(
                solver_order=2, prediction_type="v_prediction", sigma_data=1.0, sigma_schedule="exponential"
            ),
        ).save_pretrained(folder)
    return folder


def write_audioldm2(folder: Path) -> Path:
    """64 samples a second, four for each of the vocoder's frames. Its index names GPT2Model, as the published ones."""
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "projection_dim": 8}
    text = ClapTextConfig(**sizes, num_attention_heads=1, vocab_size=64, max_position_embeddings=40)
    audio = ClapAudioConfig(
        spec_size=8,
        window_size=4,
        num_mel_bins=8,
        depths=[1, 1],
        num_attention_heads=[1, 1],
        num_hidden_layers=1,
        hidden_size=192,
        projection_dim=8,
        patch_size=2,
        patch_stride=2,
        patch_embed_input_channels=4,
    )
    names = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "\u0120", *LETTERS]
    roberta = RobertaTokenizer(vocab={name: i for i, name in enumerate(names)}, merges=[], model_max_length=32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AudioLDM2Pipeline(
            vae=AutoencoderKL(
                block_out_channels=(8, 16),
                in_channels=1,
                out_channels=1,
                norm_num_groups=8,
                down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
                up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
                latent_channels=4,
            ),
            text_encoder=ClapModel(
                ClapConfig(text_config=text.to_dict(), audio_config=audio.to_dict(), projection_dim=16)
            ),
            text_encoder_2=_t5(),
            projection_model=AudioLDM2ProjectionModel(
                text_encoder_dim=16, text_encoder_1_dim=32, langauge_model_dim=16
            ),
            language_model=GPT2Model(GPT2Config(n_embd=16, n_head=1, n_layer=1, vocab_size=64, n_positions=99)),
            tokenizer=roberta,
            tokenizer_2=_t5_tokenizer(),
            feature_extractor=ClapFeatureExtractor(hop_length=7900),
            unet=AudioLDM2UNet2DConditionModel(
                block_out_channels=(8, 16),
                layers_per_block=1,
                norm_num_groups=8,
                sample_size=32,
                in_channels=4,
                out_channels=4,
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
                cross_attention_dim=(8, 16),
            ),
            scheduler=DDIMScheduler(
                beta_start=0.00085,
                beta_end=0.012,
                beta_schedule="scaled_linear",
                clip_sample=False,
                set_alpha_to_one=False,
            ),
            vocoder=SpeechT5HifiGan(
                SpeechT5HifiGanConfig(
                    model_in_dim=8,
                    sampling_rate=64,
                    upsample_initial_channel=16,
                    upsample_rates=[2, 2],
                    upsample_kernel_sizes=[4, 4],
                    resblock_kernel_sizes=[3],
                    resblock_dilation_sizes=[[1, 3]],
                    normalize_before=False,
                )
            ),
        ).save_pretrained(folder)
    config = folder / "language_model" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "max_new_tokens": 4}))  # as in the published ones
    return folder


def _t5() -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(vocab_size=64, d_model=32, d_kv=8, d_ff=16, num_layers=1, num_heads=2, feed_forward_proj="relu")
    )


def _t5_tokenizer() -> T5Tokenizer:
    names = ["<pad>", "</s>", "<unk>", "\u2581", *LETTERS]
    return T5Tokenizer(vocab=[(name, 0.0) for name in names], extra_ids=0, model_max_length=32)
