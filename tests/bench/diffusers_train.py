"""Training as one writes it with diffusers, peft and torch: the other side of training.py.

    python diffusers_train.py --model FOLDER --method lora|full|dreambooth [--ranks 2] [--steps 30]

Each rank is a process of one thread with a sample of its own a step; gradients are averaged by DDP over gloo. Latents and
texts, which real training would have encoded beforehand, are random. Prints the seconds of each step as a list in JSON.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch
from diffusers import WanTransformer3DModel
from peft import LoraConfig
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

ITEMS = 13
TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]  # of both attentions
SHIFT = 3.0


def load(options):
    model = WanTransformer3DModel.from_pretrained(options.model / "transformer", dtype=torch.float32).train()
    if options.method == "lora":
        model.requires_grad_(False)
        model.add_adapter(LoraConfig(r=options.rank, lora_alpha=options.rank, target_modules=TARGETS))
    return model


def noised(latents, generator):
    """As the engine trains: logit-normal noise levels, shifted."""
    level = torch.sigmoid(torch.randn(latents.shape[0], 1, 1, 1, 1, generator=generator))
    level = SHIFT * level / (1 + (SHIFT - 1) * level)
    noise = torch.randn(latents.shape, generator=generator)
    return (1 - level) * latents + level * noise, 1000 * level.flatten(), noise - latents


def train_rank(rank, options, meeting_place):
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(rank)
    model = network = load(options)
    if options.ranks > 1:
        distributed.init_process_group("gloo", init_method=f"file://{meeting_place}", rank=rank, world_size=options.ranks)
        network = DistributedDataParallel(model)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=1e-4, fused=options.fused)
    size = 2 if options.method == "dreambooth" else 1  # an instance, and one of its class beside it
    latents = torch.randn(ITEMS, size, model.config.in_channels, *options.latents, generator=generator)
    texts = torch.randn(ITEMS, size, options.text_tokens, model.config.text_dim, generator=generator)
    seconds = []
    for step in range(options.warmup + options.steps):
        start = time.perf_counter()
        noisy, timestep, target = noised(latents[step % ITEMS], generator)
        prediction = network(noisy, timestep, texts[step % ITEMS]).sample
        # Each of a pair has the mean of its own, and they are added: prior_loss_weight 1.
        (prediction - target).square().flatten(1).mean(1).sum().backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - start)
    if options.ranks > 1:
        distributed.destroy_process_group()
    if rank == 0:
        print(json.dumps(seconds[options.warmup:]), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a Wan folder in diffusers' layout")
    parser.add_argument("--method", choices=["lora", "full", "dreambooth"], required=True)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--steps", type=int, default=30, help="that are timed")
    parser.add_argument("--warmup", type=int, default=3, help="steps before them")
    parser.add_argument("--rank", type=int, default=128, help="and alpha of the LoRA")
    parser.add_argument("--latents", type=int, nargs=3, default=[9, 16, 16], help="frames, height and width")
    parser.add_argument("--text-tokens", type=int, default=128)
    parser.add_argument("--fused", action="store_true", default=None, help="torch's fused AdamW")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        arguments = options, Path(folder) / "ranks"
        if options.ranks == 1:
            train_rank(0, *arguments)
        else:
            torch.multiprocessing.spawn(train_rank, arguments, nprocs=options.ranks)


if __name__ == "__main__":
    main()
