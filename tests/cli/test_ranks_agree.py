"""Ranks that were started differently stop before the first step, and say what differs; once."""

import json
import os
from pathlib import Path

import pytest

from engine import (PROGRAM, WEIGHTS, assert_fails, assert_nothing_left, copy_model, finish, in_tmp_path, mpi_command, mpirun,
                    pack_safetensors, read_safetensors, run, start, write_config, write_file)


def run_differently(*programs):
    return finish(start(mpi_command(len(programs), *programs)), 60)


def assert_disagree(result, *parts):
    assert_fails(result, 76, "ranks disagree on", *parts)
    assert "denoise" not in result.err and "plan:" not in result.err
    assert_nothing_left("outputs")


DIFFERENCES = {
    "seed": ({"seed": 1}, {"seed": 2}, "request.seed: rank 0 has 1, rank 1 has 2"),
    "prompt": ({"prompt": "a red circle"}, {"prompt": "a blue circle"},
               "request.prompt: rank 0 has \"a red circle\", rank 1 has \"a blue circle\""),
    "steps": ({"num_inference_steps": 2}, {"num_inference_steps": 3},
              "request.num_inference_steps: rank 0 has 2, rank 1 has 3"),
    "a key that one leaves out": ({}, {"negative_prompt": "noise"},
                                  "request.negative_prompt: rank 0 has \"\", rank 1 has noise"),
}


@pytest.mark.parametrize("case", DIFFERENCES)
def test_config(case):
    first, second, message = DIFFERENCES[case]
    write_config(".", "a", request=first)
    write_config(".", "b", request=second)
    assert_disagree(run_differently([PROGRAM, "run", "a.yaml"], [PROGRAM, "run", "b.yaml"]), message)


def test_override():
    write_config(".")
    assert_disagree(run_differently([PROGRAM, "run", "job.yaml"], [PROGRAM, "run", "job.yaml", "scheduler.solver=euler"]),
                    "scheduler.solver: rank 0 has null, rank 1 has euler")


def test_last_of_four_ranks():
    write_config(".")
    same = [PROGRAM, "run", "job.yaml"]
    assert_disagree(run_differently(same, same, same, [*same, "request.seed=5"]), "request.seed: rank 0 has 0, rank 3 has 5")


def test_one_request_more():
    write_config(".", "a", requests=[{}])
    write_config(".", "b", requests=[{}, {}])
    assert_disagree(run_differently([PROGRAM, "run", "a.yaml"], [PROGRAM, "run", "b.yaml"]), "requests", "rank 0 has",
                    "rank 1 has")


def longer_header(file):
    header, data = read_safetensors(file)
    write_file(file, pack_safetensors(json.dumps(header).encode() + b" " * 64, data))


def other_order(file):
    """The same size: only the header's hash differs."""
    header, data = read_safetensors(file)
    text = json.dumps(dict(reversed(header.items())), separators=(",", ":")).encode()
    size = file.stat().st_size
    write_file(file, pack_safetensors(text.ljust(size - 8 - len(data)), data))
    assert file.stat().st_size == size


@pytest.mark.parametrize("change", [longer_header, other_order])
def test_weights(change):
    """Two hosts whose disks hold different copies under one path: two working directories stand for them."""
    for host in ("A", "B"):
        os.mkdir(host)
        copy_model(host)
    change(Path("B/model/transformer") / WEIGHTS)
    config = str(write_config(os.getcwd(), model={"path": "model"}))
    result = run_differently(*(["-wdir", os.path.abspath(host), PROGRAM, "run", config] for host in ("A", "B")))
    assert_fails(result, 76, "ranks disagree on weights: rank 0 has", "rank 1 has", f"transformer {WEIGHTS}", "bytes, header")
    assert "denoise" not in result.err
    for host in ("A", "B"):
        assert not os.path.exists(f"{host}/outputs")


# ---- the launcher says one thing and MPI another ----

@pytest.mark.parametrize("env", [{"OMPI_COMM_WORLD_SIZE": "4"}, {"WORLD_SIZE": "4"}, {"WORLD_SIZE": "4", "RANK": "2"}],
                         ids=lambda env: " ".join(env))
def test_launcher_counts_more_ranks(env):
    """Otherwise every process would make the whole video, and write it over the others'."""
    write_config(".")
    assert_fails(run(["run", "job.yaml"], env=env), 76, f"{next(iter(env))} is 4 but MPI started 1 rank", "unset")
    assert not os.path.isdir("outputs")


def test_variable_of_another_launcher_under_mpirun():
    write_config(".")
    assert_fails(mpirun(2, ["run", "job.yaml"], env={"WORLD_SIZE": "8"}), 76, "WORLD_SIZE is 8 but MPI started 2 ranks")


def test_srun_without_pmix():
    write_config(".")
    assert_fails(run(["run", "job.yaml"], env={"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_STEP_ID": "0"}), 76,
                 "SLURM_NTASKS is 4", "add --mpi=pmix")
    assert not os.path.isdir("outputs")


def test_a_rank_of_another_launcher():
    write_config(".")
    command = ["mpirun", "-n", "2", "--oversubscribe", "env", "OMPI_COMM_WORLD_RANK=1", PROGRAM, "run", "job.yaml"]
    assert_fails(finish(start(command), 60), 76, "OMPI_COMM_WORLD_RANK is 1 but this is MPI's rank 0")


def test_batch_script_of_slurm_is_no_rank():
    """A script's own variables, without a step: the process alone is meant."""
    write_config(".")
    assert run(["run", "job.yaml"], env={"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}).code == 0


# ---- said once ----

@pytest.mark.parametrize("change, code, part", [
    ("request.width=wide", 78, "request.width must be an integer"),
    ("model.path=absent", 66, "model.path absent"),
    ("infer.diffusion.cp_size=9", 78, "2 ranks were started"),
    ("request", 64, "key=value"),
])
def test_mistake_is_reported_once(change, code, part):
    """assert_fails counts the reports."""
    write_config(".")
    result = mpirun(2, ["run", "job.yaml", change])
    assert result.err.count("FAILED") == 1
    assert_fails(result, code, part)


def test_mistake_of_one_rank():
    """The others wait for no one."""
    write_config(".")
    same = [PROGRAM, "run", "job.yaml"]
    assert_fails(run_differently(same, same, [*same, "request.width=100"]), 78, "the nearest are 96 and 112")


def test_ranks_in_different_configs_of_the_same_contents():
    """Not a mistake: only what the files say counts."""
    for name in ("a", "b"):
        write_config(".", name)
    assert run_differently([PROGRAM, "run", "a.yaml"], [PROGRAM, "run", "b.yaml"]).code == 0
