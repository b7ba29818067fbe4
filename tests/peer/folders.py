"""Wan 2.1 folders with random weights in unusual shapes, made and saved by diffusers and transformers themselves.

Weights are scaled so that activations neither vanish nor explode, and norms, biases and modulation tables are far from
their neutral values, so that one which is left out, swapped or misread shows in the results.
"""

import dataclasses
import math
import shutil

import torch
from diffusers import (
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from transformers import AutoTokenizer, UMT5Config, UMT5EncoderModel


def unipc(flow_shift=3.0, **settings):
    """The scheduler of Wan's folders."""
    return UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=flow_shift, **settings
    )


def euler(shift, **settings):
    return FlowMatchEulerDiscreteScheduler(shift=shift, **settings)


@dataclasses.dataclass(frozen=True)
class Shape:
    """What one folder's parts look like; `text` and `vae` go to the parts' own constructors."""

    heads: int
    head_dim: int
    layers: int
    text: dict
    channels: int = 16
    ffn_dim: int = 96
    freq_dim: int = 64
    cross_attn_norm: bool = True
    vae: dict = dataclasses.field(default_factory=dict)
    scheduler: object = dataclasses.field(default_factory=unipc)
    dtype: torch.dtype = torch.float32
    max_shard_size: str = "10GB"


def text_shape(d_model, num_heads, d_kv, num_layers, **settings):
    return dict(d_model=d_model, num_heads=num_heads, d_kv=d_kv, num_layers=num_layers, **settings)


SHAPES = {
    # A head_dim that is not a multiple of 6: rotary positions get 8 + 6 + 6 of its 20 numbers.
    "three_heads": Shape(heads=3, head_dim=20, layers=1, text=text_shape(24, 2, 16, 1), ffn_dim=70),
    # A head count that no group size divides, and no norm before cross-attention.
    "seven_heads": Shape(
        heads=7, head_dim=14, layers=2, text=text_shape(40, 5, 8, 2), cross_attn_norm=False, freq_dim=100
    ),
    # Many layers, a VAE that halves time at other levels, a decoder wider than the encoder, fewer position buckets.
    "deep": Shape(
        heads=5,
        head_dim=8,
        layers=6,
        text=text_shape(32, 3, 12, 4, relative_attention_num_buckets=16, relative_attention_max_distance=20),
        vae=dict(temperal_downsample=[True, True, False], decoder_base_dim=12, dim_mult=[1, 2, 2, 4]),
    ),
    # One wide head, other widths of latents.
    "one_head": Shape(heads=1, head_dim=128, layers=2, text=text_shape(48, 6, 8, 2), channels=8, ffn_dim=200),
    # Several files with an index each, 16-bit weights.
    "sharded_bf16": Shape(
        heads=4,
        head_dim=24,
        layers=3,
        text=text_shape(64, 4, 16, 2),
        dtype=torch.bfloat16,
        max_shard_size="100KB",
        scheduler=unipc(flow_shift=5.0),
    ),
    "euler": Shape(heads=6, head_dim=10, layers=2, text=text_shape(20, 2, 10, 3), scheduler=euler(5.0)),
    "wide": Shape(heads=12, head_dim=16, layers=3, text=text_shape(56, 7, 8, 2), scheduler=unipc(flow_shift=8.0)),
}


def is_norm(name):
    return "norm" in name or name.endswith("gamma")


def spread(name, parameter, head_dim):
    """Centre and standard deviation of a parameter's random values."""
    if name.endswith("scale_shift_table"):
        return 0.0, 0.4
    if name.endswith("bias") or parameter.ndim == 1 and not is_norm(name):
        return 0.0, 0.3
    if is_norm(name):
        return 1.0, 0.3
    if name.endswith(("shared.weight", "embed_tokens.weight", "relative_attention_bias.weight")):
        return 0.0, 1.0
    deviation = 1.0 / math.sqrt(parameter[0].numel())
    if name.endswith("SelfAttention.q.weight"):
        deviation /= math.sqrt(head_dim)  # T5 does not scale its scores
    if name == "decoder.conv_out.weight":
        deviation *= 0.5  # few frames' values are clamped
    return 0.0, deviation


@torch.no_grad()
def randomise(model, generator, head_dim=1):
    """Draws every weight of a model anew; the same generator gives the same model."""
    for name, parameter in model.named_parameters():
        centre, deviation = spread(name, parameter, head_dim)
        parameter.copy_(centre + deviation * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def make_text_encoder(text, generator):
    config = UMT5Config(
        vocab_size=320, d_ff=3 * text["d_model"] + 1, feed_forward_proj="gated-gelu", dropout_rate=0.0, **text
    )
    return randomise(UMT5EncoderModel(config), generator, head_dim=text["d_kv"])


def make_transformer(shape, generator):
    model = WanTransformer3DModel(
        num_attention_heads=shape.heads,
        attention_head_dim=shape.head_dim,
        num_layers=shape.layers,
        ffn_dim=shape.ffn_dim,
        freq_dim=shape.freq_dim,
        text_dim=shape.text["d_model"],
        in_channels=shape.channels,
        out_channels=shape.channels,
        cross_attn_norm=shape.cross_attn_norm,
    )
    return randomise(model, generator)


def make_vae(shape, generator):
    means = 0.5 * torch.randn(shape.channels, generator=generator)
    deviations = 0.5 + 2 * torch.rand(shape.channels, generator=generator)
    settings = dict(base_dim=8, num_res_blocks=2, z_dim=shape.channels) | shape.vae
    model = AutoencoderKLWan(latents_mean=means.tolist(), latents_std=deviations.tolist(), **settings)
    return randomise(model, generator)


def write_folder(shape, folder, tokenizer, seed):
    """Saves a pipeline of this shape as `WanPipeline.save_pretrained` does; the tokenizer's files are copies."""
    generator = torch.Generator().manual_seed(seed)
    pipeline = WanPipeline(
        tokenizer=AutoTokenizer.from_pretrained(tokenizer),
        text_encoder=make_text_encoder(shape.text, generator).to(shape.dtype),
        transformer=make_transformer(shape, generator).to(shape.dtype),
        vae=make_vae(shape, generator).to(shape.dtype),
        scheduler=shape.scheduler,
    )
    pipeline.save_pretrained(folder, max_shard_size=shape.max_shard_size)
    shutil.rmtree(folder / "tokenizer")
    shutil.copytree(tokenizer, folder / "tokenizer")
    return folder
