"""Ranks of a host read each weight once and hold one copy of it."""

import json
import os
import re
import signal
from pathlib import Path

import pytest

from engine import (MODEL, PROGRAM, WEIGHTS, assert_fails, assert_nothing_left, copy_model, finish, in_tmp_path, kill, latents,
                    mpi_command, mpirun, run, start, succeed, write_config, write_file)

OUTPUT = Path("outputs/job")
FALLBACK = "each rank of this host holds a copy of the weights, "


def rank_lines():
    lines = [json.loads(line) for line in (OUTPUT / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == "rank"]


def shared_blocks(pid):
    """Bytes of each mapping of memory that was shared by this program."""
    sizes = []
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        if "/memfd:frameshard" in line:
            begin, end = (int(word, 16) for word in line.split()[0].split("-"))
            sizes.append(end - begin)
    return sizes


def children_of(pid):
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]


def lines_until(process, pattern):
    """Its lines of stderr up to the one that fits."""
    read = ""
    for line in process.stderr:
        read += line
        if re.search(pattern, line):
            return read
    raise AssertionError(f"no line with {pattern}")


@pytest.mark.parametrize("ranks, split", [(2, {"cfg_size": 2}), (3, {"cp_size": 3}), (2, {"dp_size": 2})])
def test_same_bits(ranks, split):
    """Shared or not, the weights are the same; so is what is made of them."""
    requests = [{"prompt": "a red circle", "id": "a"}, {"prompt": "a blue square", "id": "b"}]
    for name, share in (("shared", True), ("apart", False)):
        write_config(".", name, requests=requests, infer={"diffusion": split, "share_weights": share})
        assert FALLBACK not in succeed(mpirun(ranks, ["run", f"{name}.yaml"])).err
    for unit in ("a", "b"):
        assert (latents(f"outputs/shared/{unit}") == latents(f"outputs/apart/{unit}")).all()


@pytest.mark.parametrize("share", [True, False])
def test_one_block_in_memory(share):
    """While two ranks denoise, both have the transformer's weights in a block that they share."""
    write_config(".", request={"num_inference_steps": 1000}, infer={"diffusion": {"cp_size": 2}, "share_weights": share})
    process = start(mpi_command(2, [PROGRAM, "run", "job.yaml"]))
    try:
        lines_until(process, "first step after")
        ranks = children_of(process.pid)
        assert len(ranks) == 2
        blocks = [shared_blocks(pid) for pid in ranks]
        weights = (MODEL / "transformer" / WEIGHTS).stat().st_size
        for mine in blocks:
            assert bool(mine) == share and (not share or max(mine) > 0.9 * weights)
    finally:
        kill(process, signal.SIGTERM)
        finish(process, 60)


def test_where_memory_cannot_be_shared():
    """A limit below the weights' size: each rank has a copy, the first one says so, and the result is the same."""
    command = mpi_command(2, [PROGRAM, "run", "job.yaml"])
    write_config(".", infer={"diffusion": {"cp_size": 2}})
    succeed(finish(start(command), 60))
    shared = latents(OUTPUT)
    weights = (MODEL / "transformer" / WEIGHTS).stat().st_size
    limited = ["prlimit", f"--fsize={int(0.9 * weights)}:", *command, "output.overwrite=true"]
    result = succeed(finish(start(limited), 60))
    assert FALLBACK in result.err and "ulimit -f" in result.err
    assert (latents(OUTPUT) == shared).all()


@pytest.mark.parametrize("share", [True, False])
def test_weights_cut_before_they_are_loaded(share):
    """Headers are checked when the job is opened, and many long prompts encoded then; the rank that reads what is missing
    fails, and all end with its code."""
    file = copy_model(".") / "transformer" / WEIGHTS
    write_file(file, file.read_bytes())  # a copy, not a link
    words = " ".join(["a red circle moving left"] * 60)
    requests = [{"prompt": f"{number} {words}", "max_sequence_length": 512} for number in range(400)]
    write_config(".", model={"path": "model"}, requests=requests,
                 infer={"diffusion": {"cp_size": 2}, "share_weights": share})
    process = start(mpi_command(2, [PROGRAM, "run", "job.yaml"]))
    read = lines_until(process, "dp 1 x cfg 1 x cp 2")
    os.truncate(file, file.stat().st_size - 8)
    result = finish(process, 60)
    result.err = read + result.err
    assert_fails(result, 65, "load", "truncated", "download it again")
    assert_nothing_left("outputs")


@pytest.mark.parametrize("ranks", [None, 2])
def test_time_to_the_first_step(ranks):
    """From the start of the process: longer than what came before the step, and the step."""
    write_config(".", request={"num_inference_steps": 3})
    result = succeed(run(["run", "job.yaml"], ranks=ranks))
    assert len(re.findall(r"first step after \d+\.\d s", result.err)) == 1
    steps = [json.loads(line) for line in (OUTPUT / "metrics.jsonl").read_text().splitlines()]
    first = next(line for line in steps if line["event"] == "step")["seconds"]
    for line, step in zip(rank_lines(), first, strict=True):
        assert line["first_step_seconds"] > line["text_seconds"] + line["load_seconds"] + step
