"""Options that trade exactness for time: off unless asked for, their error reported, refused where they cannot work."""

import json
from pathlib import Path

import pytest

from engine import (assert_fails, assert_nothing_left, assert_same_video, in_tmp_path, latents, mpirun, run, succeed,
                    write_config)

OUTPUT = Path("outputs/job")
STEPS = 6
COMPARE = ["bench", "--model", "shapes", "--size", "64x64x5", "--warmup", "1", "--steps", str(STEPS)]


def ranks_of(folder):
    lines = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == "rank"]


def cpu_flags():
    return next(line.split(":")[1].split() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags"))


# ---- a run ----

def test_step_cache():
    """The first and the last step at least are computed; every rank says how many were not."""
    write_config(".", request={"num_inference_steps": STEPS})
    plain = succeed(run(["run", "job.yaml", "output.directory=plain"]))
    assert "step cache" not in plain.err
    assert [rank["steps_reused"] for rank in ranks_of("plain/job")] == [0]
    result = succeed(run(["run", "job.yaml", "lossy.step_cache=10"]))
    assert [rank["steps_reused"] for rank in ranks_of(OUTPUT)] == [STEPS - 2]
    assert result.err.count(f"step cache 10: 2 of {STEPS} steps computed, {STEPS - 2} reused") == 1
    assert not (latents(OUTPUT) == latents("plain/job")).all()


def test_step_cache_over_ranks():
    write_config(".", request={"num_inference_steps": STEPS}, lossy={"step_cache": 0.3})
    succeed(run(["run", "job.yaml", "output.directory=one"]))
    (alone,) = ranks_of("one/job")
    assert 0 < alone["steps_reused"] <= STEPS - 2
    succeed(mpirun(4, ["run", "job.yaml", "infer.diffusion={cp_size: 2, cfg_size: 2}"]))
    assert [rank["steps_reused"] for rank in ranks_of(OUTPUT)] == 4 * [alone["steps_reused"]]
    assert_same_video(OUTPUT, "one/job")


@pytest.mark.parametrize("change, message", [
    ("lossy.step_cache=-0.1", "lossy.step_cache"),
    ("lossy.step_cache=10.5", "lossy.step_cache"),
    ("lossy.step_cache=much", "lossy.step_cache"),
    ("lossy.float8_linear=2", "lossy.float8_linear"),
    ("lossy.stepcache=0.1", "stepcache"),
    ("lossy.float8_linear=true",
     "lossy.float8_linear needs a GPU of compute capability 8.9 or more; this is a CPU; set lossy.float8_linear=false"),
])
@pytest.mark.parametrize("ranks", [None, 2])
def test_refused(change, message, ranks):
    write_config(".")
    assert_fails(run(["run", "job.yaml", change], ranks=ranks), 78, message)
    assert_nothing_left("outputs")


@pytest.mark.parametrize("dtype, words", [("bfloat16", 1), ("float32", 0)])
def test_bfloat16_where_it_is_slow(dtype, words):
    multiplied = {"avx512_bf16", "amx_bf16"} & set(cpu_flags())
    write_config(".", model={"dtype": dtype})
    result = succeed(mpirun(2, ["run", "job.yaml"]))
    assert result.err.count("has neither AVX512-BF16 nor AMX: it will be slower than float32") == (0 if multiplied else words)


# ---- bench --compare ----

def test_compare():
    args = ["--compare", "lossy.step_cache=10", "--compare", "model.dtype=bfloat16,lossy.step_cache=10",
            "--compare", "lossy.step_cache=0.000001", "--json", "bench.json"]
    result = succeed(run([*COMPARE, *args]))
    report = json.loads(Path("bench.json").read_text())
    cached, both, none = report["comparisons"]
    assert report["steps"] == STEPS and report["dtype"] == "float32"
    assert cached["options"] == "lossy.step_cache=10" and both["options"] == "model.dtype=bfloat16,lossy.step_cache=10"
    assert cached["steps_reused"] == both["steps_reused"] == STEPS - 2
    assert 0 < cached["relative_error"] < 1 and 0 < both["relative_error"] < 1
    assert none["steps_reused"] == 0 and none["relative_error"] == 0
    for each in report["comparisons"]:
        assert each["time_ratio"] == pytest.approx(each["seconds_a_step"] / report["seconds_a_step"])
        assert sum(line.strip().startswith(each["options"] + " ") for line in result.out.splitlines()) == 1


def test_compare_with_random_weights():
    args = ["bench", "--model", "wan-middle", "--size", "32x32x1", "--warmup", "1", "--steps", "3"]
    succeed(run([*args, "--compare", "lossy.step_cache=10", "--json", "bench.json"]))
    (only,) = json.loads(Path("bench.json").read_text())["comparisons"]
    assert only["steps_reused"] == 1 and only["relative_error"] > 0


@pytest.mark.parametrize("args, code, message", [
    (["--compare", "lossy.step_cache"], 64, '--compare: "lossy.step_cache" cannot be compared; write KEY=VALUE'),
    (["--compare", "model.vae_dtype=bfloat16"], 64, '"model.vae_dtype=bfloat16" cannot be compared'),
    (["--compare", "lossy.step_cache=0.1,"], 64, '"" cannot be compared'),
    (["--compare", "lossy.step_cache=-1"], 78, "lossy.step_cache"),
    (["--compare", "model.dtype=int8"], 78, "model.dtype"),
    (["--compare", "lossy.float8_linear=true"], 78, "needs a GPU of compute capability 8.9 or more; this is a CPU"),
    (["--compare", "model.dtype=bfloat16", "--model", "wan-middle"], 64, "the weights of wan-middle are random numbers"),
    (["--compare", "lossy.step_cache=0.1", "--meshes", "cp2"], 64, "--meshes"),
    (["--compare", "lossy.step_cache=0.1", "--json", "missing/bench.json"], 74, "missing/bench.json"),
])
def test_compare_refused(args, code, message):
    model = [] if "--model" in args else ["--model", "shapes"]
    result = run(["bench", *model, *args])
    assert_fails(result, code, message)
    assert result.out == ""


def test_compare_takes_one_rank():
    result = run([*COMPARE, "--compare", "lossy.step_cache=10"], ranks=2)
    assert_fails(result, 64, "--compare runs on one rank")
