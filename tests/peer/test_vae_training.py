"""One step of an autoencoder that is trained: losses and gradients against diffusers and torch's autograd.

Gradients are compared over all weights together, ||a - b|| / ||b||, within 1e-5; each loss within 1e-5 of its own.
The models are folders of random weights (folders.py). One thread on both sides.
"""

import os
import pathlib
import subprocess

import pytest

PROBE = os.environ.get("FRAMESHARD_PROBE")
if not PROBE:
    pytest.skip("FRAMESHARD_PROBE is not set", allow_module_level=True)

import torch  # noqa: E402
from diffusers import AutoencoderKLWan  # noqa: E402
from folders import SHAPES, write_folder  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

EXAMPLE = pathlib.Path(__file__).resolve().parents[2] / "examples" / "shapes"
TOLERANCE = 1e-5
# The usual form; a decoder wider than the encoder that halves time at other levels; other widths of latents.
NAMES = ["three_heads", "deep", "one_head"]
WEIGHTS = dict(absolute=1.0, square=0.5, edges=2.0, kl=0.1)  # what the probe has
FRAMES, SIZE = 9, 32
# No absolute value is nearer than this to its kink, where rounding would decide about the gradient's sign.
MARGIN = 1e-5


pytestmark = pytest.mark.usefixtures("one_thread")


def decode(vae, z):
    """As AutoencoderKLWan._decode, without the limits of [-1, 1]."""
    vae.clear_cache()
    x, parts = vae.post_quant_conv(z), []
    for i in range(z.shape[2]):
        vae._conv_idx = [0]
        parts.append(
            vae.decoder(x[:, :, i:i + 1], feat_cache=vae._feat_map, feat_idx=vae._conv_idx, first_chunk=i == 0)
        )
    vae.clear_cache()
    return torch.cat(parts, dim=2)


def losses_of(vae, frames, noise, decoder_only=False):
    """The terms, and the smallest number whose absolute value is taken."""
    with torch.set_grad_enabled(torch.is_grad_enabled() and not decoder_only):
        latents = vae.encode(frames).latent_dist
        kl = 0.5 * (latents.mean.square() + latents.var - 1 - latents.logvar).mean()
    picture = decode(vae, latents.mean + torch.exp(0.5 * latents.logvar) * noise)
    difference = picture - frames
    edges = [(picture.diff(dim=dim) - frames.diff(dim=dim)).flatten() for dim in (3, 4)]
    terms = {
        "absolute": difference.abs().mean(),
        "square": difference.square().mean(),
        "edges": torch.cat(edges).abs().mean(),
        "kl": kl,
    }
    return terms, min(float(numbers.detach().abs().min()) for numbers in (difference, *edges))


@torch.no_grad()
def clip(vae):
    """A clip of noise, and the noise for its latents: the first seed's that keeps the margin."""
    for seed in range(200):
        generator = torch.Generator().manual_seed(seed)
        frames = 2 * torch.rand(1, 3, FRAMES, SIZE, SIZE, generator=generator) - 1
        noise = torch.randn(1, vae.config.z_dim, (FRAMES + 3) // 4, SIZE // 8, SIZE // 8, generator=generator)
        if losses_of(vae, frames, noise)[1] > MARGIN:
            return frames, noise
    pytest.fail("no clip keeps the margin")


def probe(what, folder, tmp_path, tensors):
    given, answer = tmp_path / "in.safetensors", tmp_path / "out.safetensors"
    save_file(tensors, given)
    command = list(map(str, [PROBE, what, folder, given, answer]))
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, f"{command[:3]} ended with {done.returncode}: {done.stderr[-2000:]}"
    return load_file(answer)


def together(tensors):
    """All values in the order of their names, float64."""
    return torch.cat([tensors[name].double().flatten() for name in sorted(tensors)])


def largest_errors(ours, theirs):
    """For the message: the weights that are farthest off, measured by all."""
    whole = together(theirs).norm()
    errors = {name: float((ours[name] - theirs[name]).norm() / whole) for name in theirs}
    return ", ".join(f"{name} {errors[name]:.2g}" for name in sorted(errors, key=errors.get, reverse=True)[:5])


@pytest.mark.parametrize("decoder_only", [False, True], ids=["whole", "decoder_only"])
@pytest.mark.parametrize("name", NAMES)
def test_gradients(name, decoder_only, tmp_path, record):
    folder = write_folder(SHAPES[name], tmp_path / "model", EXAMPLE / "tokenizer", seed=list(SHAPES).index(name))
    vae = AutoencoderKLWan.from_pretrained(folder / "vae", dtype=torch.float32)
    frames, noise = clip(vae)
    what = "vae_gradients_decoder" if decoder_only else "vae_gradients"
    ours = probe(what, folder, tmp_path, {"frames": frames, "noise": noise})

    terms, _ = losses_of(vae, frames, noise, decoder_only)
    total = sum(WEIGHTS[term] * value for term, value in terms.items())
    total.backward()
    for term, value in {**terms, "total": total}.items():
        assert abs(float(ours.pop(term)) / float(value.detach()) - 1) <= TOLERANCE, term

    ours = {name.removeprefix("grad."): gradient for name, gradient in ours.items()}
    theirs = {name: weight.grad for name, weight in vae.named_parameters() if weight.grad is not None}
    assert ours.keys() == theirs.keys()
    trained = {name.split(".")[0] for name in theirs}
    assert trained == {"decoder", "post_quant_conv"} | (set() if decoder_only else {"encoder", "quant_conv"})
    assert all(ours[name].shape == theirs[name].shape for name in theirs)
    assert together(theirs).isfinite().all() and together(theirs).norm() > 0, "nothing to compare with"
    error = float((together(ours) - together(theirs)).norm() / together(theirs).norm())
    assert error <= TOLERANCE, f"{error:.3g}; the largest: {largest_errors(ours, theirs)}"
    record(name, "decoder alone" if decoder_only else "whole", error)
