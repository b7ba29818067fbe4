"""Several prompts with weights and masks, and context windows, against the same rules written with diffusers' parts."""

import numpy
import pytest
import torch
import torch.nn.functional
from PIL import Image
from test_wan import check, diffusers_set_up, generate, make_case  # noqa: F401

PROMPTS = [("a red circle moving left", 1.0, None), ("a blue square", 2.0, "left.png"), ("a white star", 0.5, "slope.png")]


def write_masks(folder):
    left = torch.zeros(48, 80)
    left[:, :40] = 255
    slope = torch.linspace(0, 255, 37).repeat(29, 1).round()  # of a size of its own
    for name, levels in (("left.png", left), ("slope.png", slope)):
        Image.fromarray(levels.to(torch.uint8).numpy(), mode="L").save(folder / name)


def weight_maps(folder, prompts, height, width):
    maps = []
    for _, weight, mask in prompts:
        level = torch.ones(1, 1, height, width)
        if mask:
            picture = torch.tensor(numpy.asarray(Image.open(folder / mask)), dtype=torch.float32) / 255
            size = Image.open(folder / mask).size
            level = torch.nn.functional.interpolate(picture.view(1, 1, size[1], size[0]), (height, width), mode="bilinear",
                                                    antialias=True)
        maps.append(weight * level.unsqueeze(2))
    return maps


def windows_of(frames, window, overlap):
    if frames <= window:
        return [(0, frames)]
    starts = list(range(0, frames - window, window - overlap)) + [frames - window]
    return [(start, start + window) for start in starts]


@torch.no_grad()
def reference(case, request, prompts, maps, window=None, overlap=0):
    """ComfyUI's mean of conditionings, guidance, and the pyramid mean over windows, around diffusers' transformer."""
    pipeline = case.pipeline
    frames = (request["num_frames"] - 1) // 4 + 1
    shape = 1, pipeline.transformer.config.in_channels, frames, request["height"] // 8, request["width"] // 8
    latents = torch.randn(shape, generator=torch.Generator("cpu").manual_seed(request["seed"]))
    texts = [case.text(text) for text, _, _ in prompts]
    negative = case.text(request["negative_prompt"])
    pipeline.scheduler.set_timesteps(request["num_inference_steps"])
    for t in pipeline.scheduler.timesteps:
        total, weights = torch.zeros(shape), torch.zeros(1, 1, frames, 1, 1)
        for begin, end in windows_of(frames, window or frames, overlap):
            part, length = latents[:, :, begin:end], end - begin
            predict = lambda text: pipeline.transformer(part, t.expand(1), text).sample  # noqa: E731
            cond = sum(m * predict(text) for m, text in zip(maps, texts)) / sum(maps)
            uncond = predict(negative)
            pyramid = torch.tensor([min(i + 1, length - i) for i in range(length)], dtype=torch.float32).view(1, 1, -1, 1, 1)
            total[:, :, begin:end] += pyramid * (uncond + request["guidance_scale"] * (cond - uncond))
            weights[:, :, begin:end] += pyramid
        latents = pipeline.scheduler.step(total / weights, t, latents, return_dict=False)[0]
    return latents


def engine_request(folder, request, prompts):
    given = {name: value for name, value in request.items() if name != "prompt"}
    given["prompts"] = [dict(text=text, weight=weight, **({"mask": str(folder / mask)} if mask else {}))
                        for text, weight, mask in prompts]
    return given


@pytest.mark.parametrize("count", [1, 2, 3])
def test_prompts_with_masks(count, make_case, record, tmp_path):
    case = make_case("three_heads")
    write_masks(tmp_path)
    prompts = PROMPTS[:count]
    maps = weight_maps(tmp_path, prompts, case.request["height"] // 8, case.request["width"] // 8)
    ours, _ = generate(case.folder, engine_request(tmp_path, case.request, prompts), tmp_path)
    record(case.name, f"{count} prompts", check(f"{count} prompts", ours, reference(case, case.request, prompts, maps)))


def test_context_windows(make_case, record, tmp_path):
    case = make_case("three_heads")
    request = dict(case.request, num_frames=29)  # 8 frames of latents
    ours, _ = generate(case.folder, dict(request, context=dict(window=13, overlap=4)), tmp_path)
    prompts = [(request["prompt"], 1.0, None)]
    maps = [torch.ones(1, 1, 1, request["height"] // 8, request["width"] // 8)]
    record(case.name, "windows", check("windows", ours, reference(case, request, prompts, maps, window=4, overlap=1)))
