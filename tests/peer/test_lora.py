"""Low-rank changes against diffusers and PEFT: the same file on both sides, in the forms that diffusers reads.

The engine's files too: what it writes in each form must give the same in diffusers.
"""

import json

import pytest
import torch
from diffusers import WanPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from test_wan import (PROBE, PROGRAM, call, check, diffusers_set_up, generate, make_case, only_tensor, reference_latents,  # noqa: F401
                      relative_error, seeded)

TOLERANCE = 1e-5
RANK = 4
ALPHA = 6.0
LAYERS = {"attn1.to_q": "self_attn.q", "attn1.to_k": "self_attn.k", "attn1.to_v": "self_attn.v", "attn1.to_out.0": "self_attn.o",
          "attn2.to_q": "cross_attn.q", "attn2.to_k": "cross_attn.k", "attn2.to_v": "cross_attn.v",
          "attn2.to_out.0": "cross_attn.o", "ffn.net.0.proj": "ffn.0", "ffn.net.2": "ffn.2"}
OUTSIDE = {"condition_embedder.time_proj": "time_projection.1", "condition_embedder.text_embedder.linear_1": "text_embedding.0",
           "condition_embedder.text_embedder.linear_2": "text_embedding.2", "proj_out": "head.head",
           "condition_embedder.time_embedder.linear_1": "time_embedding.0",
           "condition_embedder.time_embedder.linear_2": "time_embedding.2"}


def draw_pairs(transformer, outside=False):
    """{diffusers' name: (Wan's own name, down, up)} of the blocks' layers, or of those around them too."""
    names = {f"blocks.{i}.{ours}": f"blocks.{i}.{theirs}" for i in range(len(transformer.blocks))
             for ours, theirs in LAYERS.items()}
    if outside:
        names |= OUTSIDE
    pairs = {}
    for number, (ours, theirs) in enumerate(names.items()):
        out, into = transformer.get_submodule(ours).weight.shape
        pairs[ours] = theirs, 0.2 * seeded(2 * number, RANK, into), 0.2 * seeded(2 * number + 1, out, RANK)
    return pairs


def diffusers_form(transformer):
    return {f"transformer.{ours}.lora_{letter}.weight": tensor for ours, (_, down, up) in draw_pairs(transformer, True).items()
            for letter, tensor in (("A", down), ("B", up))}


def comfyui_form(transformer, down_word, up_word, bias=False):
    tensors = {}
    for number, (theirs, down, up) in enumerate(draw_pairs(transformer, True).values()):
        name = f"diffusion_model.{theirs}"
        tensors |= {f"{name}.{down_word}.weight": down, f"{name}.{up_word}.weight": up}
        if theirs.startswith("blocks."):  # where diffusers knows it
            tensors[f"{name}.alpha"] = torch.tensor(ALPHA)
        if bias:
            tensors[f"{name}.diff_b"] = 0.1 * seeded(1000 + number, up.shape[0])
    return tensors


def kohya_form(transformer):
    tensors = {}
    for theirs, down, up in draw_pairs(transformer).values():
        name = "lora_unet_" + theirs.replace(".", "_")
        tensors |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": torch.tensor(ALPHA)}
    return tensors


FORMS = {
    "diffusers": diffusers_form,
    "comfyui": lambda transformer: comfyui_form(transformer, "lora_down", "lora_up"),
    "comfyui, lora_A": lambda transformer: comfyui_form(transformer, "lora_A", "lora_B"),
    "comfyui, diff_b": lambda transformer: comfyui_form(transformer, "lora_down", "lora_up", bias=True),
    "kohya": kohya_form,
}


class WithLora:
    """A pipeline with a file's changes for a while."""

    def __init__(self, pipeline, file):
        self.pipeline, self.file = pipeline, file

    def __enter__(self):
        self.pipeline.load_lora_weights(str(self.file.parent), weight_name=self.file.name)
        return self.pipeline

    def __exit__(self, *_):
        self.pipeline.unload_lora_weights()


def forward_inputs(case):
    return dict(latents=seeded(11, *case.latent_shape), timestep=torch.tensor([613.0]),
                text=case.text(case.request["prompt"]))


def forward_with(case, file, tmp_path):
    given, answer = tmp_path / "in.safetensors", tmp_path / "out.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in forward_inputs(case).items()}, given)
    call([PROBE, "forward_lora", case.folder, file, given, answer])
    return only_tensor(answer)


@torch.no_grad()
def reference_forward(case):
    given = forward_inputs(case)
    return case.pipeline.transformer(given["latents"], given["timestep"], given["text"]).sample


def compare(case, file, tmp_path):
    """The relative error of one forward pass with a file's changes, which must be seen."""
    ours = forward_with(case, file, tmp_path)
    without = reference_forward(case)
    with WithLora(case.pipeline, file):
        reference = reference_forward(case)
    assert relative_error(reference, without) > 1000 * TOLERANCE, "the changes show too little"
    return check(f"{case.name}: forward with {file.name}", ours, reference, TOLERANCE)


@pytest.mark.parametrize("name", ["three_heads", "deep"])
@pytest.mark.parametrize("form", FORMS)
def test_forward(name, form, make_case, record, tmp_path):
    case, file = make_case(name), tmp_path / "lora.safetensors"
    save_file(FORMS[form](case.pipeline.transformer), file)
    record(f"lora, {form}", "forward", compare(case, file, tmp_path))


@pytest.mark.parametrize("form", ["diffusers", "comfyui", "kohya"])
def test_files_that_we_write(form, make_case, record, tmp_path):
    """With an alpha that is not the rank."""
    case = make_case("deep")
    given, written = tmp_path / "given.safetensors", tmp_path / "written.safetensors"
    save_file(kohya_form(case.pipeline.transformer), given)
    call([PROBE, "convert_lora", case.folder, given, form, written])
    record(f"lora, written as {form}", "forward", compare(case, written, tmp_path))
    before, after = forward_with(case, given, tmp_path), forward_with(case, written, tmp_path)
    check("the same file in another form", after, before, TOLERANCE)


def test_alpha_in_the_metadata(make_case, record, tmp_path):
    """As diffusers saves what PEFT has trained."""
    case = make_case("three_heads")
    transformer = case.pipeline.transformer
    transformer.add_adapter(LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=["to_q", "to_v", "ffn.net.2"]))
    try:
        for number, (name, parameter) in enumerate(transformer.named_parameters()):
            if "lora_" in name:
                parameter.data.copy_(0.2 * seeded(number, *parameter.shape))
        WanPipeline.save_lora_weights(
            tmp_path, transformer_lora_layers=get_peft_model_state_dict(transformer),
            transformer_lora_adapter_metadata=transformer.peft_config["default"].to_dict(), weight_name="lora.safetensors")
    finally:
        transformer.delete_adapters("default")
    record("lora, alpha in metadata", "forward", compare(case, tmp_path / "lora.safetensors", tmp_path))


def test_whole_run(make_case, record, tmp_path):
    case, file = make_case("three_heads"), tmp_path / "lora.safetensors"
    save_file(FORMS["comfyui"](case.pipeline.transformer), file)
    with WithLora(case.pipeline, file):
        reference = reference_latents(case.pipeline, case.request)
    for merge in ("false", "true"):
        ours, _ = generate(case.folder, case.request, tmp_path, f"lora=[{{path: {file}, merge: {merge}}}]",
                           "output.overwrite=true")
        record("lora, whole run", "latents", check(f"latents with a LoRA, merged: {merge}", ours, reference))


# diffusers reads the third form only where every layer is in it.
@pytest.mark.parametrize("form", ["diffusers", "comfyui"])
def test_a_file_that_training_wrote(form, make_case, record, tmp_path):
    """The same final latents, and they are others than without it."""
    case, config = make_case("shapes"), tmp_path / "taught.yaml"
    config.write_text(json.dumps({
        "model": {"path": str(case.folder)},
        "train": {"method": "lora", "max_steps": 4},
        "adapter": {"rank": 4, "alpha": 6, "format": form},
        "data": {"procedural": {"items": 4, "only": "lime heart"}, "width": 32, "height": 32, "num_frames": 5,
                 "max_sequence_length": 16, "cache": str(tmp_path / "cache")},
        "optimizer": {"learning_rate": 0.01},
        "output": {"directory": str(tmp_path / "trained"), "tensorboard": False}}))
    call([PROGRAM, "train", config])
    file = tmp_path / "trained" / "taught" / "lora.safetensors"
    with WithLora(case.pipeline, file):
        reference = reference_latents(case.pipeline, case.request)
    ours, _ = generate(case.folder, case.request, tmp_path, f"lora=[{{path: {file}}}]")
    assert relative_error(reference, reference_latents(case.pipeline, case.request)) > 0.01, "nothing was learnt"
    record("lora, trained", form, check(f"latents with a LoRA trained, as {form}", ours, reference))
