"""Two ranks of which one is half as fast: context parallelism by weight beside an even split and the fast rank alone.

Each rank has a core of its own. The slow one's is shared with a process that computes all the time, to which the kernel gives
half of it, or, with --quota, the rank gets so much of each 5 ms (root, a cgroup of the cpu controller). Printed are the median seconds of a denoising step and the speed-up over the fast rank alone, the runs in turn. `auto` has
the program measure the speeds, anew in each round, and change the shares between steps; what it says of them is printed.

    python3 tests/bench/unequal_pair.py [--rounds 3] [--weights auto,1:1,2:1,3:2] [--steps 8]
                                       [--video 256x256x33] [--quota 0.5] [--model FOLDER] [--json FILE]
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2]
PROGRAM = Path(os.environ.get("FRAMESHARD_BUILD", SOURCE / "build" / "release")) / "frameshard"
SLOW_CORE_WORK = "while True: pass"
CGROUPS = Path("/sys/fs/cgroup")
PERIOD_US = 5000


def environment(directory):
    return dict(os.environ, FRAMESHARD_CACHE=str(directory), OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="",
                OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")


@contextlib.contextmanager
def slowed_core(core):
    """Another process on it; gives the words to start the slow rank with."""
    other = subprocess.Popen(["taskset", "-c", str(core), sys.executable, "-c", SLOW_CORE_WORK])
    try:
        yield []
    finally:
        other.kill()
        other.wait()


@contextlib.contextmanager
def slowed_group(share):
    """A cgroup with a part of each period; gives the words to start the slow rank in it."""
    v1 = CGROUPS / "cpu"
    group = (v1 if v1.is_dir() else CGROUPS) / f"frameshard-pair-{os.getpid()}"
    group.mkdir()
    try:
        if v1.is_dir():
            (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (group / "cpu.cfs_quota_us").write_text(str(int(share * PERIOD_US)))
        else:
            (group / "cpu.max").write_text(f"{int(share * PERIOD_US)} {PERIOD_US}")
        yield ["sh", "-c", f'echo $$ > {group}/cgroup.procs; exec "$@"', "sh"]
    finally:
        group.rmdir()


def step_seconds(directory, options, weights, ring_size):
    """Median of the slowest rank's seconds a step, without the first step."""
    width, height, frames = map(int, options.video.split("x"))
    config = {"model": {"path": str(options.model)},
              "request": {"prompt": "a red circle moving left", "width": width, "height": height, "num_frames": frames,
                          "guidance_scale": 1, "num_inference_steps": options.steps, "max_sequence_length": 64},
              "infer": {"pin_threads": False}, "output": {"directory": str(directory), "overwrite": True}}
    if weights:
        config["devices"] = [{"device": "cpu", "weight": weight} for weight in weights]
        config["infer"].update(diffusion={"cp_size": 2}, attention={"ring_size": ring_size})
    (Path(directory) / "speeds.json").unlink(missing_ok=True)
    file = Path(directory) / "pair.yaml"
    file.write_text(json.dumps(config).replace('"auto"', "auto"))  # in quotes it would be a text
    fast, slow = sorted(os.sched_getaffinity(0))[:2]
    program = [str(PROGRAM), "run", str(file)]
    command = ["taskset", "-c", str(fast), *program]
    with slowed_group(options.quota) if options.quota else slowed_core(slow) as slowly:
        if weights:
            command = ["mpirun", "--oversubscribe", "--bind-to", "none", "-n", "1", *command, ":",
                       "-n", "1", *slowly, "taskset", "-c", str(slow), *program]
        done = subprocess.run(command, env=environment(directory), capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"ended with {done.returncode}: {done.stderr[-2000:]}")
    for line in done.stderr.splitlines():
        if "measured speeds" in line or "rebalanced" in line:
            print(line, flush=True)
    lines = [json.loads(line) for line in (Path(directory) / "pair" / "metrics.jsonl").read_text().splitlines()]
    each = [max(line["seconds"]) if isinstance(line["seconds"], list) else line["seconds"] for line in lines if line["event"] == "step"]
    return statistics.median(each[1:])


def case_of(text):
    """Weights and the ring's size: "2:1" divides attention by heads, "2:1/ring" by tokens."""
    weights, _, ring = text.partition("/")
    return ["auto", "auto"] if weights == "auto" else [float(word) for word in weights.split(":")], 2 if ring == "ring" else 1


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--weights", default="auto,1:1,3:2,2:1,5:2", 
                        help="of the fast and the slow rank; 2:1/ring divides attention by tokens, not by heads")
    parser.add_argument("--video", default="256x256x33", help="width x height x frames")
    parser.add_argument("--quota", type=float, help="the slow rank's part of its core, instead of another process on it")
    parser.add_argument("--model", type=Path, default=SOURCE / "examples/shapes", help="a folder (default: the quick-start model)")
    parser.add_argument("--json", help="also write the numbers to this file")
    options = parser.parse_args()
    cases = {"fast rank alone": (None, 1)}
    cases.update({text: case_of(text) for text in options.weights.split(",")})
    times = {name: [] for name in cases}
    with tempfile.TemporaryDirectory() as directory:
        for _ in range(options.rounds):
            for name, case in cases.items():
                times[name].append(step_seconds(directory, options, *case))
    medians = {name: statistics.median(each) for name, each in times.items()}
    alone = medians["fast rank alone"]
    print(f"{'':18}{'s/step':>10}{'speed-up':>10}")
    for name, seconds in medians.items():
        print(f"{name:18}{seconds:10.4f}{alone / seconds:10.2f}")
    if options.json:
        Path(options.json).write_text(json.dumps({"s_a_step": times}, indent=2) + "\n")


if __name__ == "__main__":
    main()
