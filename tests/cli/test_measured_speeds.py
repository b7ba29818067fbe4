"""`devices` with `weight: auto`: speeds that are measured, and kept in a file."""

import json
from pathlib import Path

import pytest

from engine import assert_fails, close, in_tmp_path, latents, mpirun, one_rank, run, succeed, write_config

OUTPUT = Path("outputs/job")
AUTO = "devices=[{device: cpu, weight: auto}, {device: cpu, weight: auto}]"
CP_2 = "infer.diffusion.cp_size=2"
CACHE = {"FRAMESHARD_CACHE": "cache"}
SPEEDS = Path("cache/speeds.json")


def run_auto(*overrides, env=None, ranks=None):
    return succeed(run(["run", "job.yaml", AUTO, CP_2, "output.overwrite=true", *overrides], {**CACHE, **(env or {})}, ranks))


def measured_line(result):
    lines = [line for line in result.err.splitlines() if "measured speeds:" in line]
    assert len(lines) == 1, result.err
    return lines[0]


def known():
    return json.loads(SPEEDS.read_text())["operations_per_second"]


def set_speeds(*speeds):
    """What the file says of the ranks, in their order."""
    keys = sorted(known())
    assert len(keys) == len(speeds), keys
    SPEEDS.write_text(json.dumps({"operations_per_second": dict(zip(keys, speeds))}))


@pytest.mark.parametrize("ranks", [None, 2], ids=["threads", "mpirun"])
def test_the_first_run_measures_and_the_second_reads(ranks, one_rank):
    write_config(".")
    first = run_auto(ranks=ranks)
    assert "(kept in cache/speeds.json)" in measured_line(first), first.err
    assert len(known()) == 2 and all(speed > 0 for speed in known().values())
    assert close(latents(OUTPUT), one_rank)

    set_speeds(4e9, 1e9)
    second = run_auto(ranks=ranks)
    assert "rank 0 1.00, rank 1 0.25 (from cache/speeds.json)" in measured_line(second), second.err
    assert "speeds    1:0.25" in second.err and "heads     6+2 of 8" in second.err, second.err
    assert close(latents(OUTPUT), one_rank)


def test_nearly_equal_speeds_are_even_shares():
    write_config(".")
    run_auto()
    set_speeds(1e9, 0.97e9)
    result = run_auto()
    assert measured_line(result).endswith("(from cache/speeds.json): even shares"), result.err
    assert "heads     4 each of 8" in result.err, result.err


def test_another_size_is_measured_for_itself():
    write_config(".")
    run_auto()
    assert "kept in" in measured_line(run_auto("request.num_frames=9"))
    assert len(known()) == 4
    assert "from" in measured_line(run_auto("request.seed=3"))


def test_a_broken_file_is_replaced_with_one_warning():
    write_config(".")
    SPEEDS.parent.mkdir()
    SPEEDS.write_text('{"operations_per_second": {')
    result = run_auto()
    assert result.err.count("the speeds are measured anew, and the file is replaced") == 1, result.err
    assert len(known()) == 2


def test_a_cache_that_cannot_be_written_is_one_warning(one_rank):
    write_config(".")
    Path("cache").write_text("a file")
    result = run_auto()
    assert result.err.count("the measured speeds are not kept: ") == 1, result.err
    assert "(not kept)" in measured_line(result)
    assert close(latents(OUTPUT), one_rank)


def test_a_plan_measures_nothing():
    write_config(".")
    command = ["plan", "job.yaml", AUTO, CP_2, "--json"]
    before = succeed(run(command, CACHE))
    assert "weight: auto is measured by run" in before.err and not SPEEDS.exists(), before.err
    assert json.loads(before.out)["machine"]["speeds"] is None
    run_auto()
    set_speeds(4e9, 1e9)
    after = succeed(run(command, CACHE))
    assert "measured by run" not in after.err, after.err
    assert json.loads(after.out)["machine"]["speeds"] == [1, 0.25]


def test_numbers_beside_auto():
    write_config(".")
    result = run(["run", "job.yaml", "devices=[{weight: auto}, {weight: 2}]"], CACHE)
    assert_fails(result, 78, "devices gives 1 of 2 weights as auto", "give all of them, or none")
    assert not Path("outputs").exists() and not SPEEDS.exists()
