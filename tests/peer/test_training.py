"""One step's loss and gradients, and the weights after 20 steps of AdamW, against diffusers, peft and torch's autograd.

Compared are all weights that are trained together, ||a - b|| / ||b||: gradients within 1e-5, weights within 1e-4. The
models are folders of random weights (folders.py). One thread on both sides.
"""

import os
import pathlib
import subprocess

import pytest

PROBE = os.environ.get("FRAMESHARD_PROBE")
if not PROBE:
    pytest.skip("FRAMESHARD_PROBE is not set", allow_module_level=True)

import torch  # noqa: E402
from diffusers import WanPipeline, WanTransformer3DModel  # noqa: E402
from folders import SHAPES, make_transformer, write_folder  # noqa: E402
from peft import LoraConfig, get_peft_model_state_dict  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from transformers import AutoTokenizer, UMT5EncoderModel  # noqa: E402

EXAMPLE = pathlib.Path(__file__).resolve().parents[2] / "examples" / "shapes"
GRADIENT_TOLERANCE = 1e-5
WEIGHT_TOLERANCE = 1e-4
# Of how far the weights moved: Adam's first steps are as long for gradients of rounding noise as for any other.
CHANGE_TOLERANCE = 1e-3
# A head_dim that is no multiple of 6; heads that nothing divides, without the norm of cross-attention; many layers.
NAMES = ["three_heads", "seven_heads", "deep"]
TEXT_ROWS = 12
STEPS = 20
# What `frameshard train` begins with.
ADAMW = dict(lr=1e-4, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
CLIP_NORM = 1.0


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    """`folder_of(name)`: the folder of that shape, made once."""
    folders = {}

    def make(name):
        if name not in folders:
            folder = tmp_path_factory.mktemp(name) / "model"
            folders[name] = write_folder(SHAPES[name], folder, EXAMPLE / "tokenizer", seed=list(SHAPES).index(name))
        return folders[name]

    return make


def load(folder):
    return WanTransformer3DModel.from_pretrained(folder / "transformer", dtype=torch.float32)


def batch(model, size, seed):
    """A noised batch; the texts are padded with zeros to unlike lengths."""
    generator = torch.Generator().manual_seed(seed)
    latents = size, model.config.in_channels, 2, 6, 8
    text = torch.randn(size, TEXT_ROWS, model.config.text_dim, generator=generator)
    for i in range(size):
        text[i, 3 + 4 * i + seed % 3:] = 0
    return {
        "noisy": torch.randn(latents, generator=generator),
        "timestep": 1000 * torch.rand(size, generator=generator),
        "text": text,
        "target": torch.randn(latents, generator=generator),
    }


def loss_of(model, given):
    prediction = model(given["noisy"], given["timestep"], given["text"]).sample
    return (prediction - given["target"]).square().mean()


def add_lora(model, folder, seed=0):
    """Gives a model changes of rank 4 that are not 0, and writes them to a file as diffusers does."""
    config = LoraConfig(r=4, lora_alpha=4, target_modules=["to_q", "to_k", "to_v", "to_out.0"])
    model.requires_grad_(False)
    model.add_adapter(config)
    generator = torch.Generator().manual_seed(seed)
    for name, weight in trained(model).items():
        deviation = 0.5 if name.endswith("lora_B") else weight.shape[1] ** -0.5
        weight.data = deviation * torch.randn(weight.shape, generator=generator)
    WanPipeline.save_lora_weights(folder, transformer_lora_layers=get_peft_model_state_dict(model))
    return folder / "pytorch_lora_weights.safetensors"


def trained(model):
    """What requires gradients, by the names that the engine's probe has."""
    return {
        name.removesuffix(".default.weight") if ".lora_" in name else name: weight
        for name, weight in model.named_parameters()
        if weight.requires_grad
    }


def probe(what, files, tmp_path, tensors):
    given, answer = tmp_path / "in.safetensors", tmp_path / "out.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, given)
    command = [PROBE, what, *files, given, answer]
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, f"{command[:3]} ended with {done.returncode}: {done.stderr[-2000:]}"
    return load_file(answer)


def together(tensors):
    """All values in the order of their names, float64."""
    return torch.cat([tensors[name].detach().double().flatten() for name in sorted(tensors)])


def error_of(ours, theirs):
    __tracebackhide__ = True
    assert ours.keys() == theirs.keys()
    unlike = [name for name in ours if ours[name].shape != theirs[name].shape]
    assert not unlike, f"other shapes: {unlike}"
    assert together(theirs).isfinite().all() and together(theirs).norm() > 0, "nothing to compare with"
    return float((together(ours) - together(theirs)).norm() / together(theirs).norm())


def largest_errors(ours, theirs):
    """For the message: the weights that are farthest off."""
    errors = {name: float((ours[name] - theirs[name]).norm() / theirs[name].norm()) for name in theirs}
    return ", ".join(f"{name} {errors[name]:.2g}" for name in sorted(errors, key=errors.get, reverse=True)[:5])


def compare_gradients(what, model, files, size, tmp_path):
    """The relative error of all gradients; the loss is checked."""
    given = batch(model, size, seed=size)
    ours = probe(what, files, tmp_path, given)
    loss = loss_of(model, given)
    loss.backward()
    assert abs(float(ours.pop("loss")) / float(loss.detach()) - 1) <= GRADIENT_TOLERANCE
    ours = {name.removeprefix("grad."): gradient for name, gradient in ours.items()}
    theirs = {name: weight.grad for name, weight in trained(model).items()}
    error = error_of(ours, theirs)
    assert error <= GRADIENT_TOLERANCE, f"{error:.3g}; the largest: {largest_errors(ours, theirs)}"
    return error


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_gradients(name, size, folder_of, tmp_path, record):
    folder = folder_of(name)
    error = compare_gradients("gradients", load(folder), [folder], size, tmp_path)
    record(name, "gradients", error)


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_a_lora(name, size, folder_of, tmp_path, record):
    folder = folder_of(name)
    model = load(folder)
    lora = add_lora(model, tmp_path / "lora")
    error = compare_gradients("gradients_lora", model, [folder, lora], size, tmp_path)
    record(name, "LoRA's", error)


def test_gradients_of_a_text_encoder(folder_of, tmp_path, record):
    folder = folder_of(NAMES[0])
    caption, length = "a red circle moving left on a black background", 24
    encoder = UMT5EncoderModel.from_pretrained(folder / "text_encoder", dtype=torch.float32)
    tokens = AutoTokenizer.from_pretrained(folder / "tokenizer")(
        [caption], padding="max_length", max_length=length, return_tensors="pt")
    hidden = encoder(tokens.input_ids, tokens.attention_mask).last_hidden_state * tokens.attention_mask.unsqueeze(-1)
    factors = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(3))
    loss = (hidden * factors).sum()
    loss.backward()
    ours = probe("gradients_text", [folder, caption], tmp_path, {"factors": factors})
    assert abs(float(ours.pop("loss")) / float(loss.detach()) - 1) <= GRADIENT_TOLERANCE
    ours = {name.removeprefix("grad."): gradient for name, gradient in ours.items()}
    theirs = {name: weight.grad for name, weight in encoder.named_parameters()}
    error = error_of(ours, theirs)
    assert error <= GRADIENT_TOLERANCE, f"{error:.3g}; the largest: {largest_errors(ours, theirs)}"
    record(NAMES[0], "text encoder", error)


def train(model, batches):
    """20 steps as `frameshard train` takes them: the weights before and after."""
    weights = trained(model)
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    optimizer = torch.optim.AdamW(weights.values(), **ADAMW)
    norms = []
    for given in batches:
        optimizer.zero_grad()
        loss_of(model, given).backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(weights.values(), CLIP_NORM)))
        optimizer.step()
    return before, {name: weight.detach() for name, weight in weights.items()}, norms


def compare_training(what, model, files, tmp_path):
    """The relative errors of all weights after the steps, and of how far they moved."""
    batches = [batch(model, 1, seed=100 + step) for step in range(STEPS)]
    tensors = {f"{key}.{step}": tensor for step, given in enumerate(batches) for key, tensor in given.items()}
    ours = probe(what, files, tmp_path, tensors)
    before, theirs, norms = train(model, batches)
    assert max(norms) > CLIP_NORM, "no gradient was clipped"
    error = error_of(ours, theirs)
    assert error <= WEIGHT_TOLERANCE, f"{error:.3g}; the largest: {largest_errors(ours, theirs)}"
    moved = [{name: after[name] - before[name] for name in before} for after in (ours, theirs)]
    change_error = error_of(*moved)
    assert change_error <= CHANGE_TOLERANCE, f"{change_error:.3g}; the largest: {largest_errors(*moved)}"
    return error, change_error


@pytest.mark.parametrize("name", NAMES)
def test_twenty_steps(name, folder_of, tmp_path, record):
    folder = folder_of(name)
    error, change_error = compare_training("train", load(folder), [folder], tmp_path)
    record(name, "20 steps", error)
    record(name, "change", change_error)


@pytest.mark.parametrize("name", NAMES)
def test_twenty_steps_of_a_lora(name, folder_of, tmp_path, record):
    folder = folder_of(name)
    model = load(folder)
    lora = add_lora(model, tmp_path / "lora")
    error, change_error = compare_training("train_lora", model, [folder, lora], tmp_path)
    record(name, "20 LoRA's", error)
    record(name, "its change", change_error)
