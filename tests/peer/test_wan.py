"""The engine against diffusers, part by part, on the same weights: float32, CPU, the same seed.

Text embeddings, one transformer forward, final latents of the whole loop, decoded frames and encoded moments must each
be within 1e-4 (||a - b|| / ||b||) of what diffusers computes here and now. The engine's side are the programs in the
environment variables FRAMESHARD (whole runs) and FRAMESHARD_PROBE (single parts, probe.cpp). One thread on both sides:
the models are too small for more.
"""

import dataclasses
import functools
import importlib
import json
import os
import pathlib
import shutil
import subprocess

import pytest

PROGRAM = os.environ.get("FRAMESHARD")
PROBE = os.environ.get("FRAMESHARD_PROBE")
if not PROGRAM or not PROBE:
    pytest.skip("FRAMESHARD and FRAMESHARD_PROBE are not set", allow_module_level=True)

import av  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from diffusers import WanPipeline  # noqa: E402
from folders import SHAPES, euler, unipc, write_folder  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

TOLERANCE = 1e-4
TILED_TOLERANCE = 1e-5
EXAMPLE = pathlib.Path(__file__).resolve().parents[2] / "examples" / "shapes"
LONG = "a red circle moves slowly over a white ground, then a Blue square follows it; " * 12

PROMPTS = {
    "plain": "a red circle moving left on a black background",
    "empty": "",
    "accented": "Un CERCLE rouge très décidé, à l'Été: ÀÉÎÕÜ ñ ß Øre!",
    "entities": "  two &lt;red&gt; &amp;amp; &quot;blue&quot;\t circles &#233;&#x1F600;\n&nbsp;spin ",
    "long": LONG,
}

BASE = dict(
    prompt=PROMPTS["plain"],
    negative_prompt="",
    width=80,
    height=48,
    num_frames=9,
    num_inference_steps=4,
    guidance_scale=5.0,
    seed=3,
    max_sequence_length=24,
)

# What is asked of each folder: between them long, empty, accented and odd prompts, guidance on and off, 1 to 20 steps.
REQUESTS = {
    "shapes": dict(BASE, width=64, height=64, num_inference_steps=6, max_sequence_length=64),
    "three_heads": dict(BASE, negative_prompt="blurred"),
    "seven_heads": dict(BASE, prompt=LONG, guidance_scale=1.0, num_frames=5, num_inference_steps=3, seed=2**40 + 7),
    "deep": dict(BASE, prompt=PROMPTS["accented"], negative_prompt=LONG, guidance_scale=3.5, num_inference_steps=5),
    "one_head": dict(BASE, prompt=PROMPTS["entities"], num_frames=1, width=48, height=112, num_inference_steps=1),
    # 13 frames: the fewest with which a frame sees two older latent frames in every temporal convolution.
    "sharded_bf16": dict(BASE, prompt="", guidance_scale=0.0, num_frames=13, width=32, height=80),
    "euler": dict(BASE, num_frames=5, num_inference_steps=6, seed=0, max_sequence_length=7),
    "wide": dict(BASE, width=64, height=48, num_frames=5, num_inference_steps=20, guidance_scale=2.0),
}


def relative_error(ours, reference):
    """||a - b|| / ||b|| in float64; shapes must be equal."""
    __tracebackhide__ = True
    if ours.shape != reference.shape:
        pytest.fail(f"shape {list(ours.shape)}, diffusers' {list(reference.shape)}")
    return float((ours.double() - reference.double()).norm() / reference.double().norm())


def check(what, ours, reference, tolerance=TOLERANCE):
    """The relative error; where it is too large, fails with the name of what differs."""
    __tracebackhide__ = True
    if not reference.isfinite().all() or reference.std() < 1e-3:
        pytest.fail(f"{what}: diffusers' result is not finite or constant: nothing to compare with")
    error = relative_error(ours, reference)
    if not error <= tolerance:
        pytest.fail(f"{what}: relative error {error:.3g} exceeds {tolerance:g}")
    return error


def call(command):
    """Runs a program of the engine; its messages are in the failure."""
    __tracebackhide__ = True
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        pytest.fail(f"{command[:3]} ended with {done.returncode}: {done.stderr[-2000:]}")


def probe(what, folder, tmp_path, **tensors):
    """One part of the engine on given tensors; the only tensor that it answers with."""
    given, answer = tmp_path / f"{what}_in.safetensors", tmp_path / f"{what}_out.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, given)
    call([PROBE, what, folder, given, answer])
    return only_tensor(answer)


def only_tensor(file):
    (tensor,) = load_file(file).values()
    return tensor


def generate(folder, request, tmp_path, *overrides):
    """A whole run of the program: its final latents, and the directory with its other outputs."""
    config = tmp_path / "case.yaml"
    document = {"model": {"path": str(folder)}, "request": request, "output": {"save_latents": True}}
    config.write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
    call([PROGRAM, "run", config, f"output.directory={tmp_path}", "infer.device=cpu", *overrides])
    return load_file(tmp_path / "case" / "latents.safetensors")["latents"], tmp_path / "case"


@torch.no_grad()
def reference_latents(pipeline, request, **settings):
    """diffusers' final latents for a request as the engine takes it."""
    given = {name: value for name, value in request.items() if name != "seed"}
    generator = torch.Generator("cpu").manual_seed(request["seed"])
    return pipeline(**given, **settings, generator=generator, output_type="latent").frames


@torch.no_grad()
def reference_frames(vae, latents):
    """Decoded as the pipeline does: denormalised first."""
    mean = torch.tensor(vae.config.latents_mean).view(1, -1, 1, 1, 1)
    deviation = torch.tensor(vae.config.latents_std).view(1, -1, 1, 1, 1)
    return vae.decode(latents * deviation + mean).sample


def seeded(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@dataclasses.dataclass(frozen=True)
class Case:
    """One folder, what is asked of it, and diffusers' answers."""

    name: str
    folder: pathlib.Path
    pipeline: WanPipeline = dataclasses.field(repr=False)
    request: dict = dataclasses.field(repr=False)

    @functools.cached_property
    def final_latents(self):
        return reference_latents(self.pipeline, self.request)

    @functools.cached_property
    def frames(self):
        return reference_frames(self.pipeline.vae, self.final_latents)

    @torch.no_grad()
    def text(self, prompt):
        length = self.request["max_sequence_length"]
        return self.pipeline.encode_prompt(prompt, None, False, max_sequence_length=length)[0]

    @property
    def latent_shape(self):
        r = self.request
        channels = self.pipeline.transformer.config.in_channels
        return 1, channels, (r["num_frames"] - 1) // 4 + 1, r["height"] // 8, r["width"] // 8


def load(folder):
    pipeline = WanPipeline.from_pretrained(folder, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module", autouse=True)
def diffusers_set_up():
    """One thread, and prompts cleaned as without ftfy, which the engine does not have."""
    torch.set_num_threads(1)
    patch = pytest.MonkeyPatch()
    patch.setattr(importlib.import_module("diffusers.pipelines.wan.pipeline_wan"), "is_ftfy_available", lambda: False)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def make_case(tmp_path_factory):
    """Makes a folder the first time that a test asks for it."""

    @functools.cache
    def make(name):
        folder = EXAMPLE
        if name != "shapes":
            folder = tmp_path_factory.mktemp(name) / "model"
            write_folder(SHAPES[name], folder, EXAMPLE / "tokenizer", seed=list(SHAPES).index(name))
        return Case(name, folder, load(folder), REQUESTS[name])

    return make


@pytest.fixture(scope="module", params=REQUESTS)
def case(request, make_case):
    return make_case(request.param)


@pytest.fixture
def small(make_case):
    """The case for what depends on no shape: schedules, inputs, the sensitivity of the comparison."""
    return make_case("three_heads")


# ---- parts, in every folder ----


def test_text(case, record, tmp_path):
    answer = tmp_path / "text.safetensors"
    for name, prompt in PROMPTS.items():
        call([PROBE, "text", case.folder, case.request["max_sequence_length"], prompt, answer])
        error = check(f"{case.name}: text embedding, {name} prompt", only_tensor(answer), case.text(prompt))
        record(case.name, "text", error)


@torch.no_grad()
def test_forward(case, record, tmp_path):
    latents, timestep = seeded(11, *case.latent_shape), torch.tensor([613.7 if case.name == "euler" else 613.0])
    text = case.text(case.request["prompt"])
    ours = probe("forward", case.folder, tmp_path, latents=latents, timestep=timestep, text=text)
    reference = case.pipeline.transformer(latents, timestep, text).sample
    record(case.name, "forward", check(f"{case.name}: transformer forward", ours, reference))


def test_trajectory(case, record, tmp_path):
    ours, _ = generate(case.folder, case.request, tmp_path)
    steps = case.request["num_inference_steps"]
    record(case.name, "latents", check(f"{case.name}: latents after {steps} steps", ours, case.final_latents))


def test_decode(case, record, tmp_path):
    ours = probe("decode", case.folder, tmp_path, latents=case.final_latents)
    clamped = float((case.frames.abs() == 1).float().mean())
    assert clamped < 0.5, f"{case.name}: {clamped:.0%} of diffusers' frames are clamped: nothing to compare"
    record(case.name, "decode", check(f"{case.name}: decoded frames", ours, case.frames))


# Latents of h x w, of which 32 make a tile: three tiles down whose last is narrower than the seam and two across,
# the other way round, and a picture that is larger than a tile in one direction alone.
TILED = {"shapes": (2, 50, 34), "three_heads": (1, 36, 75), "one_head": (2, 30, 33)}


@pytest.mark.parametrize("name", TILED)
def test_decode_in_tiles(name, make_case, record, tmp_path):
    case, size = make_case(name), TILED[name]
    latents = seeded(14, 1, case.latent_shape[1], *size)
    ours = probe("decode_tiled", case.folder, tmp_path, latents=latents)
    whole = reference_frames(case.pipeline.vae, latents)
    case.pipeline.vae.enable_tiling()
    try:
        reference = reference_frames(case.pipeline.vae, latents)
    finally:
        case.pipeline.vae.disable_tiling()
    assert relative_error(reference, whole) > 10 * TILED_TOLERANCE, f"{name}: tiles change nothing"
    error = check(f"{name}: frames in tiles", ours, reference, TILED_TOLERANCE)
    record(name, "decode in tiles", error)


@torch.no_grad()
def test_encode(case, record, tmp_path):
    r = case.request
    frames = seeded(12, 1, 3, r["num_frames"], r["height"], r["width"]).clamp(-1, 1)
    ours = probe("encode", case.folder, tmp_path, frames=frames)
    reference = case.pipeline.vae.encode(frames).latent_dist.parameters
    record(case.name, "encode", check(f"{case.name}: encoded moments", ours, reference))


@torch.no_grad()
def test_latents_for_training(case, record, tmp_path):
    """The posterior's mode, normalised: the inverse of what reference_frames() does first."""
    r, vae = case.request, case.pipeline.vae
    frames = seeded(13, 1, 3, r["num_frames"], r["height"], r["width"]).clamp(-1, 1)
    ours = probe("latents", case.folder, tmp_path, frames=frames)
    mean = torch.tensor(vae.config.latents_mean).view(1, -1, 1, 1, 1)
    deviation = torch.tensor(vae.config.latents_std).view(1, -1, 1, 1, 1)
    reference = (vae.encode(frames).latent_dist.mode() - mean) / deviation
    record(case.name, "latents", check(f"{case.name}: latents for training", ours, reference))


# ---- what a run starts from ----


@pytest.mark.parametrize("seed", [0, 42, 2**32 + 5, 2**63 - 1])
def test_noise_has_equal_bits(seed, tmp_path):
    shape = (1, 16, 3, 6, 10)
    answer = tmp_path / "noise.safetensors"
    call([PROBE, "noise", seed, *shape, answer])
    reference = torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed))
    assert torch.equal(only_tensor(answer), reference), f"seed {seed}: the noise is not torch.randn's"


def test_given_latents(small, record, tmp_path):
    latents = 0.7 * seeded(13, *small.latent_shape) + 0.2
    save_file({"latents": latents}, tmp_path / "noise.safetensors")
    ours, _ = generate(small.folder, small.request, tmp_path, f"request.latents={tmp_path / 'noise.safetensors'}")
    reference = reference_latents(small.pipeline, small.request, latents=latents)
    record("given latents", "latents", check("latents from given noise", ours, reference))


# ---- noise schedules ----


class WithSchedule:
    """A pipeline with another scheduler for a while."""

    def __init__(self, pipeline, scheduler):
        self.pipeline, self.scheduler, self.before = pipeline, scheduler, pipeline.scheduler

    def __enter__(self):
        self.pipeline.scheduler = self.scheduler
        return self.pipeline

    def __exit__(self, *_):
        self.pipeline.scheduler = self.before


def with_wan_sigmas(scheduler):
    """Hands the official grid, before the shift, to a scheduler; the pipeline only names a number of steps."""
    set_timesteps = scheduler.set_timesteps

    def patched(steps, device=None):
        sigmas = (1 - np.linspace(1, 1 / 1000, steps + 1))[::-1][:-1].copy()
        set_timesteps(sigmas=sigmas, device=device)

    scheduler.set_timesteps = patched
    return scheduler


OVERRIDES = {
    "solver=euler": (lambda: euler(3.0), ["scheduler.solver=euler"]),
    "flow_shift=12": (lambda: unipc(12.0), ["scheduler.flow_shift=12"]),
    "sigmas=wan": (lambda: with_wan_sigmas(unipc(3.0)), ["scheduler.sigmas=wan"]),
    "sigmas=wan, euler": (lambda: with_wan_sigmas(euler(3.0)), ["scheduler.sigmas=wan", "scheduler.solver=euler"]),
}


@pytest.mark.parametrize("name", OVERRIDES)
def test_schedule_overrides(name, small, record, tmp_path):
    make_scheduler, overrides = OVERRIDES[name]
    request = dict(small.request, num_inference_steps=6)
    ours, _ = generate(small.folder, request, tmp_path, *overrides)
    with WithSchedule(small.pipeline, make_scheduler()) as pipeline:
        reference = reference_latents(pipeline, request)
    assert relative_error(reference_latents(small.pipeline, request), reference) > 10 * TOLERANCE, "changes nothing"
    record(name, "latents", check(f"latents with {name}", ours, reference))


SCHEDULERS = {
    "order 1": unipc(solver_order=1),
    "order 3": unipc(solver_order=3),
    "sigma_min": unipc(final_sigmas_type="sigma_min"),
    "bh1, sigma_min": unipc(final_sigmas_type="sigma_min", solver_type="bh1"),  # with a final 0, diffusers makes NaN
    "no corrector": unipc(disable_corrector=[0, 2]),
    "shift_terminal": unipc(shift_terminal=0.1),
    "500 train steps": unipc(num_train_timesteps=500),
    "euler, shift_terminal": euler(3.0, shift_terminal=0.1),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_scheduler_of_the_folder(name, small, record, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(small.folder, folder)
    shutil.rmtree(folder / "scheduler")
    SCHEDULERS[name].save_pretrained(folder / "scheduler")
    request = dict(small.request, num_inference_steps=6)
    ours, _ = generate(folder, request, tmp_path)
    with WithSchedule(small.pipeline, SCHEDULERS[name]) as pipeline:
        reference = reference_latents(pipeline, request)
    record(name, "latents", check(f"latents with {name}", ours, reference))


# ---- the video file ----


def test_video_shows_the_frames(make_case, tmp_path):
    """Loosely, since the file is compressed: most of the range is far from the mean difference allowed."""
    case = make_case("shapes")
    _, directory = generate(case.folder, case.request, tmp_path)
    with av.open(str(directory / "video.mp4")) as video:
        shown = np.stack([frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)])
    wanted = ((case.frames[0].permute(1, 2, 3, 0) / 2 + 0.5) * 255).numpy()
    assert shown.shape == wanted.shape
    difference = float(np.abs(shown - wanted).mean())
    assert difference < 6, f"the frames of video.mp4 differ by {difference:.1f} of 255 from diffusers' in the mean"


# ---- the comparison itself: a small mistake in any tensor of the weights must exceed the tolerance ----


def parts_to_disturb(case):
    """Name of a part -> its module, and a function that runs it on something small."""
    p, video = case.pipeline, seeded(21, 1, 3, 9, 16, 16).clamp(-1, 1)
    latents, text = seeded(22, 1, case.latent_shape[1], 3, 2, 2), case.text(PROMPTS["plain"])
    return {
        "text": (p.text_encoder, lambda: case.text(PROMPTS["plain"])),
        "transformer": (p.transformer, lambda: p.transformer(latents, torch.tensor([613.0]), text).sample),
        "decoder": (p.vae, lambda: reference_frames(p.vae, latents)),
        "encoder": (p.vae, lambda: p.vae.encode(video).latent_dist.parameters),
    }


def belongs_to(part, name):
    if part == "decoder":
        return name.startswith(("decoder.", "post_quant_conv."))
    return part != "encoder" or name.startswith(("encoder.", "quant_conv."))


def little(name, parameter):
    """A view of little of a tensor: one number of a bias, norm or modulation table, one row of a matrix or kernel."""
    one_number = name.endswith(("bias", "gamma", "scale_shift_table")) or parameter.ndim == 1
    rows = parameter.view(-1, 1) if one_number else parameter
    return rows[1]  # of embeddings: the token </s>; of the relative positions: the neighbour


@torch.no_grad()
def change_from_mistake(view, typical, run, before):
    """Relative change of the result when a view of the weights is off by half of their typical size."""
    kept = view.clone()
    view += 0.5 * typical
    after = run()
    view.copy_(kept)
    return relative_error(after, before)


@pytest.mark.parametrize("part", ["text", "transformer", "decoder", "encoder"])
@torch.no_grad()
def test_small_mistakes_would_be_seen(part, small):
    model, run = parts_to_disturb(small)[part]
    before = run()
    changes = {
        name: change_from_mistake(little(name, parameter), parameter.square().mean().sqrt(), run, before)
        for name, parameter in model.named_parameters()
        if belongs_to(part, name)
    }
    unseen = {name: f"{change:.1e}" for name, change in changes.items() if change <= 2 * TOLERANCE}
    assert changes and not unseen, f"{part}: a mistake in these could pass: {unseen}"
