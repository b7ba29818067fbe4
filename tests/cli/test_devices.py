"""`devices:`: one for each rank, with its speed."""

import json
import os
from pathlib import Path

import numpy
import pytest

from engine import close, in_tmp_path, latents, mpirun, one_rank, preview, run, succeed, write_config

OUTPUT = Path("outputs/job")
PAIR = "devices=[{device: cpu, weight: 2}, {device: cpu, weight: 1}]"


def test_unequal_ranks_under_mpirun(one_rank):
    write_config(".")
    result = succeed(mpirun(2, ["run", "job.yaml", PAIR, "infer.diffusion.cp_size=2"]))
    assert "speeds    2:1" in result.err and "heads     5+3 of 8" in result.err, result.err
    assert close(latents(OUTPUT), one_rank)


@pytest.mark.parametrize("weights", [[70, 30], [1, 0], [40, 40, 15, 5]], ids=str)
def test_a_rank_a_device_without_mpirun(weights, one_rank):
    """Threads of one process; guidance is on, so that some of the meshes divide it."""
    devices = ", ".join(f"{{device: cpu, weight: {weight}}}" for weight in weights)
    write_config(".")
    result = succeed(run(["run", "job.yaml", f"devices=[{devices}]", f"infer.diffusion={{cp_size: {len(weights)}}}"]))
    assert f"{len(weights)} cpu ranks" in result.err, result.err
    assert close(latents(OUTPUT), one_rank)


@pytest.mark.parametrize("weights", [(0, 1), (1, 9), (1, 0)], ids=str)
@pytest.mark.parametrize("tiling", ["off", "on"])
def test_decoding_by_weight(weights, tiling):
    """A band of no rows on either rank, tiles for one of them alone: the picture of one rank. Products of other shapes are
    rounded otherwise, which moves a few bytes by one."""
    write_config(".", request={"width": 288, "num_frames": 1, "num_inference_steps": 1}, lossy={"vae_tiling": tiling})
    succeed(run(["run", "job.yaml"]))
    one = preview(OUTPUT)
    pair = f"devices=[{{weight: {weights[0]}}}, {{weight: {weights[1]}}}]"
    succeed(mpirun(2, ["run", "job.yaml", pair, "infer.diffusion.cp_size=2", "infer.vae_parallel_size=2", "output.overwrite=true"]))
    assert numpy.abs(preview(OUTPUT) - one).max() <= 1


def test_shares_that_follow_the_speeds(one_rank, monkeypatch, tmp_path):
    """Few tokens and many steps: noise alone moves the measured speeds by more than 5 %."""
    monkeypatch.setenv("FRAMESHARD_CACHE", str(tmp_path / "cache"))
    write_config(".", request={"num_inference_steps": 40})
    succeed(run(["run", "job.yaml"]))
    one = latents(OUTPUT)
    measured = "devices=[{weight: auto}, {weight: auto}]"
    succeed(run(["run", "job.yaml", measured, "infer.diffusion.cp_size=2", "output.overwrite=true"]))
    assert close(latents(OUTPUT), one)
    lines = [json.loads(line) for line in (OUTPUT / "metrics.jsonl").read_text().splitlines()]
    assert all(abs(sum(line["shares"]) - 1) < 1e-6 for line in lines if line["event"] == "rebalance")


def test_more_threads_than_cores_are_said():
    write_config(".")
    cores = os.cpu_count()
    result = succeed(run(["run", "job.yaml", f"infer.threads_per_rank={cores + 1}"]))
    assert f"warning: {cores + 1} threads of the ranks share {cores} core" in result.err, result.err


def test_guidance_over_unequal_ranks(one_rank):
    write_config(".")
    succeed(run(["run", "job.yaml", PAIR, "infer.diffusion.cfg_size=2"]))
    assert close(latents(OUTPUT), one_rank)


def test_the_plan_takes_the_number_of_ranks_from_the_list():
    write_config(".")
    plan = json.loads(succeed(run(["plan", "job.yaml", PAIR, "infer.diffusion.cp_size=2", "--json"])).out)
    assert plan["machine"]["ranks_from"] == "devices" and plan["machine"]["ranks"] == 2
    assert plan["machine"]["speeds"] == [2, 1]


@pytest.mark.parametrize("override, code, parts", [
    ("devices=[{device: cuda:3}, {device: cuda:1}]", 78, ["devices.0.device is cuda:3, but", "infer.missing_devices=skip"]),
    ("devices=[{device: cpu}, {device: cuda:1}]", 78, ["devices.1.device is cuda:1, but", "infer.missing_devices=skip"]),
    ("devices=[{weight: 0}, {weight: 0}]", 78, ["every weight of devices is 0"]),
    ("devices=[{weight: -1}, {weight: 2}]", 78, ["devices.0.weight", "must be between 0"]),
    ("devices=[{device: gpu}, {}]", 78, ["devices.0.device", "must be auto, cpu, cuda or cuda:<number>", "gpu"]),
    ("devices=[{weight: fast}, {}]", 78, ["devices.0.weight", "number"]),
    ("devices=[{dtype: half}, {}]", 78, ["devices.0.dtype", "must be one of auto, float32, bfloat16", "half"]),
], ids=lambda value: value if isinstance(value, str) else "")
def test_devices_that_cannot_be(override, code, parts):
    write_config(".")
    result = run(["run", "job.yaml", override])
    assert result.code == code, result.err
    assert all(part in result.err for part in parts), result.err
    assert not Path("outputs").exists()


TYPES = "devices=[{device: cpu, weight: 2}, {device: cpu, weight: 1, dtype: bfloat16}]"


@pytest.mark.parametrize("under_mpi", [True, False], ids=["mpirun", "threads"])
def test_ranks_of_different_types(under_mpi, one_rank):
    """What they exchange is rounded to bfloat16, and so is the result: 8 bits, some steps."""
    write_config(".")
    words = ["run", "job.yaml", TYPES, "infer.diffusion.cp_size=2"]
    result = succeed(mpirun(2, words) if under_mpi else run(words))
    assert "exchange  in bfloat16: ranks compute in different types" in result.err, result.err
    assert "what they exchange is rounded to bfloat16" in result.err, result.err
    error = numpy.linalg.norm(latents(OUTPUT) - one_rank) / numpy.linalg.norm(one_rank)
    assert 1e-5 < error < 0.1, error


def test_the_type_of_a_rank_that_computes_nothing_does_not_count(one_rank):
    write_config(".")
    idle = "devices=[{device: cpu, weight: 0, dtype: bfloat16}, {device: cpu}]"
    result = succeed(run(["run", "job.yaml", idle, "infer.diffusion.cp_size=2"]))
    assert "different types" not in result.err and close(latents(OUTPUT), one_rank), result.err


def test_the_plan_has_the_type_that_is_exchanged():
    write_config(".")
    both = [json.loads(succeed(run(["plan", "job.yaml", devices, "infer.diffusion.cp_size=2", "--json"])).out)
            for devices in (PAIR, TYPES)]
    assert [plan["machine"]["wire"] for plan in both] == [None, "bfloat16"]
    plain, mixed = (plan["bytes_a_rank"][0]["bytes_sent"] for plan in both)
    assert plain == 2 * mixed


def test_types_are_those_of_the_planned_device():
    """An entry without a type computes in bfloat16 on a GPU, whatever is here."""
    write_config(".")
    words = ["plan", "job.yaml", "--world", "2", "--device", "h100", "infer.diffusion.cp_size=2", "--json"]
    plans = [json.loads(succeed(run([*words, f"devices=[{{weight: 2{dtype}}}, {{weight: 1}}]"])).out)
             for dtype in ("", ", dtype: bfloat16", ", dtype: float32")]
    assert [plan["machine"]["wire"] for plan in plans] == [None, None, "bfloat16"]
    assert plans[0]["memory"]["peak_bytes"] == plans[1]["memory"]["peak_bytes"] < plans[2]["memory"]["peak_bytes"]


def test_another_number_of_ranks_than_devices():
    write_config(".")
    result = mpirun(3, ["run", "job.yaml", PAIR])
    assert result.code == 78 and "devices lists 2 for 3 ranks; give one entry a rank, or start 2" in result.err, result.err
