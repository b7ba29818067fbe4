"""The engine and diffusers side by side on this machine's CPU: the same weights and inputs, the same number of threads.

Measured are one transformer forward (1 thread), the decoding of 33 frames of 128x128 (2 threads), both for the
quick-start model and for a larger one with random weights, and the whole quick-start video as a process (2 threads).
The two take turns, A B A B ..., after one untimed turn each; printed are the medians and their ratio.

    build/venv-test/bin/python tests/bench/side_by_side.py [--rounds 5] [--only forward|decode|clip] [--json FILE]
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(SOURCE / "tests" / "peer"))

import diffusers  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from diffusers import AutoencoderKLWan, WanTransformer3DModel  # noqa: E402
from folders import Shape, text_shape, write_folder  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

EXAMPLE = SOURCE / "examples" / "shapes"
BUILD = Path(os.environ.get("FRAMESHARD_BUILD", SOURCE / "build" / "release"))
CLIP = Path(__file__).with_name("diffusers_clip.py")

# As large as a CPU does in seconds: `frameshard bench --model wan-middle` has these sizes too.
MIDDLE = Shape(
    heads=8, head_dim=64, layers=6, ffn_dim=2048, freq_dim=256, text=text_shape(256, 4, 64, 2), vae=dict(base_dim=32)
)
PROMPT_TOKENS = 12  # "a red circle moving left on a black background"
FORWARD = {"shapes": ((16, 9, 16, 16), 64), "middle": ((16, 9, 32, 32), 128)}  # latents, tokens of text
DECODE = (16, 9, 16, 16)  # 33 frames of 128x128
TOLERANCE = 1e-4


def environment(threads):
    """This many threads, and no GPU on either side."""
    return dict(os.environ, OMP_NUM_THREADS=str(threads), CUDA_VISIBLE_DEVICES="")


def run(command, threads, cwd=None):
    done = subprocess.run([str(word) for word in command], env=environment(threads), cwd=cwd, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command[:3]))} ended with {done.returncode}: {done.stderr[-2000:]}")


class Probe:
    """One part of the engine in a process of its own, which does it once a line and tells its seconds."""

    def __init__(self, what, folder, given, threads):
        command = [BUILD / "frameshard_probe", f"time_{what}", folder, given]
        self.process = subprocess.Popen(
            [str(word) for word in command], env=environment(threads), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __call__(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"frameshard_probe ended with {self.process.wait()}")
        return json.loads(line)["seconds"]

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def stopwatch(work):
    def timed():
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return timed


def take_turns(ours, theirs, rounds):
    """Seconds of each round; the first turns, in which both make what they keep, are not counted."""
    ours(), theirs()
    return [(ours(), theirs()) for _ in range(rounds)]


def seeded(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def check_same(what, folder, given, scratch, reference):
    """That both compute the same thing."""
    answer = scratch / f"{what}_out.safetensors"
    run([BUILD / "frameshard_probe", what, folder, given, answer], threads=2)
    (ours,) = load_file(answer).values()
    error = float((ours - reference).norm() / reference.norm())
    if not error <= TOLERANCE:
        sys.exit(f"{what} of {folder}: the engine and diffusers differ by {error:.2g}; their times say nothing")


def measure_part(what, folder, tensors, work, threads, scratch, rounds):
    """`work()` is what diffusers does with the tensors."""
    given = scratch / f"{what}_in.safetensors"
    save_file(tensors, given)
    check_same(what, folder, given, scratch, work())
    torch.set_num_threads(threads)
    with contextlib.closing(Probe(what, folder, given, threads)) as ours:
        return take_turns(ours, stopwatch(work), rounds)


def measure_forward(name, folder, scratch, rounds, used):
    """`used`: rows of the text before its padding with zeros, as a pipeline gives it."""
    shape, tokens = FORWARD[name]
    model = WanTransformer3DModel.from_pretrained(folder / "transformer").eval()
    tensors = {
        "latents": seeded(1, 1, *shape),
        "timestep": torch.tensor([613.0]),
        "text": seeded(2, 1, tokens, model.config.text_dim),
    }
    tensors["text"][:, used:] = 0
    return measure_part(
        "forward", folder, tensors, lambda: model(tensors["latents"], tensors["timestep"], tensors["text"]).sample, 1, scratch, rounds
    )


def measure_decode(folder, scratch, rounds):
    vae = AutoencoderKLWan.from_pretrained(folder / "vae").eval()
    mean = torch.tensor(vae.config.latents_mean).view(1, -1, 1, 1, 1)
    deviation = torch.tensor(vae.config.latents_std).view(1, -1, 1, 1, 1)
    latents = seeded(3, 1, *DECODE)
    return measure_part("decode", folder, {"latents": latents}, lambda: vae.decode(latents * deviation + mean).sample, 2, scratch, rounds)


def measure_clip(scratch, rounds):
    """From the start of the process to its end: the start, the texts, all steps, the decoding and the mp4."""
    ours = [BUILD / "frameshard", "run", "configs/quickstart.yaml", f"output.directory={scratch / 'ours'}",
            "output.overwrite=true", "infer.threads_per_rank=2"]
    theirs = [sys.executable, CLIP, "--model", EXAMPLE, "--output", scratch / "theirs.mp4", "--threads", 2]
    return take_turns(
        stopwatch(lambda: run(ours, 2, cwd=SOURCE)), stopwatch(lambda: run(theirs, 2, cwd=SOURCE)), rounds
    )


def summary(name, threads, rounds):
    ours, theirs = zip(*rounds)
    a, b = statistics.median(ours), statistics.median(theirs)
    return {"what": name, "threads": threads, "frameshard_seconds": list(ours), "diffusers_seconds": list(theirs),
            "frameshard_median": a, "diffusers_median": b, "ratio": b / a}


def measure(scratch, rounds, only):
    """A summary of each comparison, as it is done."""
    folders = {"shapes": EXAMPLE}
    if only != "clip":
        folders["middle"] = write_folder(MIDDLE, scratch / "middle", EXAMPLE / "tokenizer", seed=0)
    for name, folder in folders.items():
        if only in (None, "forward"):
            for used, words in ((FORWARD[name][1], "a full text"), (PROMPT_TOKENS, "a prompt")):
                times = measure_forward(name, folder, scratch, rounds, used)
                yield summary(f"transformer forward, {name}, {words}", 1, times)
        if only in (None, "decode"):
            yield summary(f"decode 33 frames of 128x128, {name}", 2, measure_decode(folder, scratch, rounds))
    if only in (None, "clip"):
        yield summary("whole quick-start video, as a process", 2, measure_clip(scratch, rounds))


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="turns of each that are counted (default 5)")
    parser.add_argument("--only", choices=["forward", "decode", "clip"], help="one kind of measurement")
    parser.add_argument("--json", type=Path, help="also write every round's seconds to this file")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds is at least 1")
    diffusers.logging.set_verbosity_error()
    diffusers.logging.disable_progress_bar()
    transformers.logging.disable_progress_bar()
    results = []
    print(f"{'':40} {'threads':>7} {'frameshard':>11} {'diffusers':>11} {'ratio':>6}")
    with tempfile.TemporaryDirectory() as scratch:
        for result in measure(Path(scratch), options.rounds, options.only):
            results.append(result)
            print(f"{result['what']:40} {result['threads']:>7} {result['frameshard_median']:>9.4f} s "
                  f"{result['diffusers_median']:>9.4f} s {result['ratio']:>6.2f}", flush=True)
    if options.json:
        options.json.write_text(json.dumps({"rounds": options.rounds, "torch": torch.__version__, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
