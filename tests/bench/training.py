"""Training with the engine and with diffusers + peft + torch DDP on this machine's CPU: 1 and 2 ranks of one thread each.

The same middle Wan with random weights, float32, AdamW, one sample a rank and step; a LoRA of rank 128, all weights, and
Dreambooth: all weights with one of the class beside each sample. Latents and texts are encoded beforehand. The two take
turns, A B A B ..., each with 3 untimed steps first; printed are samples/s by the median step, and ratios.

    build/venv-test/bin/python tests/bench/training.py [--steps 30] [--methods lora full] [--only engine] [--json FILE]

With --epoch, instead, the engine alone on the quick-start model: 13 clips x 40 repeats for one epoch, on each number of
ranks.
"""

import argparse
import dataclasses
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(SOURCE / "tests" / "peer"))

import numpy as np  # noqa: E402
from diffusers_clip import write_video  # noqa: E402
from folders import write_folder  # noqa: E402
from side_by_side import BUILD, EXAMPLE, MIDDLE  # noqa: E402

METHODS = ["lora", "full", "dreambooth"]
WARMUP = 3
CLIPS, REPEATS = 13, 40
FRAMES, SIZE = 33, 128  # latents 9 x 16 x 16
TEXT_TOKENS = {"middle": 128, "shapes": 64}
# Longer than max_sequence_length, so that the engine, which does not compute padding, has as many tokens as the peer.
CAPTION = "a small bright square moves slowly over a dark ground and then comes back; " * 30


def environment():
    return dict(os.environ, OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="", OMPI_ALLOW_RUN_AS_ROOT="1",
                OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")


def run(command):
    command = [str(word) for word in command]
    done = subprocess.run(command, env=environment(), cwd=SOURCE, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-3000:]}")
    return done.stdout


def draw_clips(folder, colour):
    """13 clips of a square of one colour that moves, each by another way, in a folder that repeats them 40 times."""
    folder = folder / f"{REPEATS}_squares"
    folder.mkdir(parents=True)
    for clip in range(CLIPS):
        frames = np.full((FRAMES, SIZE, SIZE, 3), 0.1)
        for i, frame in enumerate(frames):
            x, y = (8 + clip * 5 + i) % 96, (90 - clip * 4 - 2 * i) % 96
            frame[y:y + 32, x:x + 32] = colour
        write_video(frames, folder / f"{clip:02}.mp4")
        (folder / f"{clip:02}.txt").write_text(CAPTION)


def prepare(scratch):
    draw_clips(scratch / "data", (0.9, 0.2, 0.1))
    draw_clips(scratch / "class", (0.2, 0.3, 0.9))


def train_config(scratch, name, model, ranks):
    """`name` begins with the method. The rest of a config is as `frameshard train` has it."""
    method = name.split("-")[0]
    config = {
        "model": {"path": str(model)},
        "train": {"method": method, "global_batch": ranks, "precision": "float32", "recompute": "off"},
        "data": {"folder": str(scratch / "data"), "width": SIZE, "height": SIZE, "num_frames": FRAMES,
                 "max_sequence_length": TEXT_TOKENS["shapes" if model == EXAMPLE else "middle"],
                 "cache": str(scratch / f"cache-{model.name}")},
        "parallel": {"device": "cpu", "threads_per_rank": 1},
        "output": {"directory": str(scratch / "outputs"), "overwrite": True},
    }
    if method == "lora":
        config["adapter"] = {"rank": 128, "alpha": 128}
    if method == "dreambooth":
        config["dreambooth"] = {"instance_prompt": CAPTION, "class_prompt": CAPTION, "class_folder": str(scratch / "class")}
    return config


def engine(scratch, name, config, ranks):
    """A run of `frameshard train`: its steps, as metrics.jsonl has them."""
    file = scratch / f"{name}.yaml"
    file.write_text(json.dumps(config))
    run(["mpirun", "--oversubscribe", "--bind-to", "none", "-n", ranks, BUILD / "frameshard", "train", file])
    lines = (scratch / "outputs" / name / "metrics.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if "loss" in line]


def engine_seconds(scratch, model, method, ranks, steps):
    name = f"{method}-{ranks}"
    config = train_config(scratch, name, model, ranks)
    config["train"]["max_steps"] = WARMUP + steps
    lines = engine(scratch, name, config, ranks)
    assert len(lines) == WARMUP + steps and lines[-1]["samples"] == ranks * len(lines), lines[-1:]
    return [line["seconds"] for line in lines[WARMUP:]]


def peer_seconds(scratch, model, method, ranks, steps):
    script = Path(__file__).with_name("diffusers_train.py")
    return json.loads(run([sys.executable, script, "--model", model, "--method", method, "--ranks", ranks,
                           "--steps", steps, "--warmup", WARMUP, "--text-tokens", TEXT_TOKENS["middle"]]))


SIDES = {"engine": engine_seconds, "peer": peer_seconds}


def measure(scratch, model, method, ranks, options):
    """Seconds of each timed step, by side."""
    sides = [side for side in SIDES if options.only in (None, side)]
    seconds = {side: [] for side in sides}
    for _ in range(options.turns):
        for side in sides:
            seconds[side] += SIDES[side](scratch, model, method, ranks, math.ceil(options.steps / options.turns))
    return seconds


def ratio(a, b):
    return f"{a / b:.2f}" if a and b else ""


def number(rate):
    return f"{rate:.3f}" if rate else ""


def side_by_side(scratch, options):
    # The autoencoder encodes beforehand: a small one is soon done.
    shape = dataclasses.replace(MIDDLE, vae=dict(base_dim=8))
    model = write_folder(shape, scratch / "middle", EXAMPLE / "tokenizer", seed=0)
    print(f"{'':11}{'':5} {'steps':>5} {'samples':>7} {'engine samples/s':>17} {'to 1 rank':>9} "
          f"{'peer samples/s':>15} {'to 1 rank':>9} {'engine to peer':>14}")
    results = []
    for method in options.methods:
        alone = {}
        for ranks in options.ranks:
            seconds = measure(scratch, model, method, ranks, options)
            rate = {side: ranks / statistics.median(times) for side, times in seconds.items()}
            alone = alone or rate if ranks == 1 else alone
            steps = max(map(len, seconds.values()))
            ours, theirs = rate.get("engine"), rate.get("peer")
            print(f"{method:11}x {ranks:<3} {steps:>5} {steps * ranks:>7} {number(ours):>17} "
                  f"{ratio(ours, alone.get('engine')):>9} {number(theirs):>15} "
                  f"{ratio(theirs, alone.get('peer')):>9} {ratio(ours, theirs):>14}", flush=True)
            results.append({"method": method, "ranks": ranks, "seconds": seconds, "samples_per_second": rate})
    return results


def one_epoch(scratch, options):
    print(f"{'':11}{'':5} {'steps':>5} {'samples':>7} {'epochs':>6} {'samples/s':>9} {'to 1 rank':>9} {'seconds':>8}")
    results = []
    for method in options.methods:
        alone = None
        for ranks in options.ranks:
            name = f"{method}-epoch-{ranks}"
            config = train_config(scratch, name, EXAMPLE, ranks)
            config["train"]["max_epochs"] = 1
            lines = engine(scratch, name, config, ranks)
            seconds, last = sum(line["seconds"] for line in lines), lines[-1]
            rate = last["samples"] / seconds
            alone = rate if ranks == 1 else alone
            print(f"{method:11}x {ranks:<3} {last['step']:>5} {last['samples']:>7} {last['epoch']:>6.2f} {number(rate):>9} "
                  f"{ratio(rate, alone):>9} {seconds:>8.1f}", flush=True)
            results.append({"method": method, "ranks": ranks, "last": last, "seconds": seconds, "samples_per_second": rate})
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30, help="that are timed, of each side (default 30)")
    parser.add_argument("--turns", type=int, default=3, help="in which each side does them (default 3)")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--ranks", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--only", choices=SIDES, help="one side")
    parser.add_argument("--epoch", action="store_true", help="the engine's whole epochs on the quick-start model")
    parser.add_argument("--json", type=Path, help="also write every step's seconds to this file")
    options = parser.parse_args()
    if min(options.steps, options.turns, *options.ranks) < 1:
        parser.error("--steps, --turns and --ranks are at least 1")
    with tempfile.TemporaryDirectory() as scratch:
        prepare(Path(scratch))
        results = (one_epoch if options.epoch else side_by_side)(Path(scratch), options)
    if options.json:
        options.json.write_text(json.dumps({"steps": options.steps, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
