"""srun and sbatch on a real Slurm of two nodes with two cores each (support/slurm_nodes.sh)."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import numpy
import pytest

from engine import (PROGRAM, SOURCE, assert_nothing_left, finish, in_tmp_path, latents, mpirun, start, succeed, write_config)
from pages import PATH, blocks, run_block

SPLIT = ["infer.diffusion.cp_size=2", "infer.diffusion.cfg_size=2", "infer.attention.ulysses_size=2", "infer.threads_per_rank=1"]
OUTPUT = Path("outputs/job")
CLUSTER = {key: os.environ[key] for key in ("SLURM_CONF", "OMPI_MCA_btl") if key in os.environ}


def srun(flags, args, timeout=120):
    return finish(start(["srun", "--mpi=pmix", "-K1", *flags, PROGRAM, *args], CLUSTER), timeout)


def sbatch(script, *args, flags=()):
    """Submits; returns the job's number."""
    command = ["sbatch", "--parsable", "--output=log-%A_%a", "--chdir", os.getcwd(), *flags, str(SOURCE / "examples/slurm" / script), *args]
    made = succeed(finish(start(command, {**CLUSTER, "PATH": PATH}), 60))
    return made.out.strip()


def slurm(*command):
    return subprocess.run(command, env={**os.environ, **CLUSTER}, capture_output=True, text=True, check=True).stdout


def wait_for_job(job, timeout=180):
    """The state that a job has ended with, of each of its tasks."""
    end = time.monotonic() + timeout
    while True:
        states = re.findall(r"JobState=(\w+)", slurm("scontrol", "show", "job", job))
        if states and all(state in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL") for state in states):
            return states
        assert time.monotonic() < end, f"job {job} is still {states}\n{logs()}"
        time.sleep(0.1)


def logs():
    return "".join(f"---- {path}\n{path.read_text()}" for path in Path(".").glob("log-*"))


def wait_for(pattern, timeout=120):
    end = time.monotonic() + timeout
    while not re.search(pattern, logs()):
        assert time.monotonic() < end, f"no {pattern!r} in\n{logs()}"
        time.sleep(0.05)


def test_two_nodes_are_as_one_machine():
    write_config(".")
    succeed(mpirun(4, ["run", "job.yaml", "output.directory=one", *SPLIT]))
    succeed(srun(["-N2", "-n4"], ["run", "job.yaml", *SPLIT]))
    assert numpy.array_equal(latents(OUTPUT), latents("one/job"))


@pytest.mark.parametrize("ranks", [1, 2])
def test_other_numbers_of_ranks(ranks):
    write_config(".")
    succeed(mpirun(ranks, ["run", "job.yaml", "output.directory=one"]))
    succeed(srun([f"-N{ranks}", f"-n{ranks}"], ["run", "job.yaml", "infer.threads_per_rank=1"]))
    assert numpy.array_equal(latents(OUTPUT), latents("one/job"))


def test_ranks_alternate_between_nodes():
    """Slurm deals ranks out in turn; those of a node are still neighbours, and so those that share the sequence."""
    ranks = str(Path(PROGRAM).parent / "frameshard_ranks")
    deal = ["srun", "--mpi=pmix", "-K1", "-N2", "-n4", "--distribution=cyclic"]
    labelled = succeed(finish(start([*deal, "--label", "sh", "-c", "echo $SLURM_NODEID"], CLUSTER), 60)).out.splitlines()
    assert [line.split()[-1] for line in sorted(labelled)] == ["0", "1", "0", "1"], "they do not alternate"
    succeed(finish(start([*deal, ranks, "ranks of one node follow each other"], CLUSTER), 60))


def test_ranks_without_pmix():
    """Each would be a world of its own, and all would end with 0."""
    write_config(".")
    # Without -K1, at which srun may kill the second task before it ends by itself, and then gives that one's 143.
    result = finish(start(["srun", "--mpi=none", "-N2", "-n2", PROGRAM, "run", "job.yaml"], CLUSTER), 60)
    assert result.code == 76 and "add --mpi=pmix" in result.err, result.err
    assert_nothing_left("outputs")


def test_a_rank_is_killed():
    write_config(".", request={"num_inference_steps": 1000})
    process = start(["srun", "--mpi=pmix", "-K1", "-N2", "-n4", PROGRAM, "run", "job.yaml", *SPLIT], CLUSTER)
    said = ""
    while "denoise" not in said:
        line = process.stderr.readline()
        assert line, said
        said += line
    ranks = subprocess.run(["pgrep", "-f", f"^{PROGRAM} run job.yaml"], capture_output=True, text=True).stdout.split()
    os.kill(int(ranks[-1]), signal.SIGKILL)
    # srun gives the highest code: the killed rank's, or that of one that it ended itself.
    assert finish(process, 60).code in (137, 143)
    assert_nothing_left("outputs", denoised=True)


def test_the_plan_reads_the_jobs_size():
    write_config(".")
    script = Path("plan.sbatch")
    script.write_text(f"#!/bin/bash\n{PROGRAM} plan job.yaml\n")
    job = succeed(finish(start(["sbatch", "--parsable", "--output=log-%A_%a", "-N2", "-n4", str(script)], CLUSTER), 60)).out.strip()
    assert wait_for_job(job) == ["COMPLETED"], logs()
    assert "4 ranks on 2 nodes, from SLURM_NTASKS" in logs()


def test_the_batch_script():
    write_config(".")
    job = sbatch("job.sbatch", "job.yaml", flags=["-N2", "--ntasks-per-node=2", "--cpus-per-task=1"])
    assert wait_for_job(job) == ["COMPLETED"], logs()
    assert (OUTPUT / "video.mp4").exists()


def test_stopped_and_requeued():
    """As at the end of the time: 75, back into the queue, and only what is missing is made."""
    write_config(".", requests=[{"id": "short"}, {"id": "long", "num_inference_steps": 400, "seed": 1}, {"id": "last", "seed": 2}])
    job = sbatch("job.sbatch", "job.yaml", flags=["-N2", "--ntasks-per-node=1", "--cpus-per-task=1"])
    wait_for(r"denoise +[0-9]+/400")
    slurm("scancel", "--signal=USR1", job)
    wait_for("stopped by a signal")
    while "JobState=PENDING" not in slurm("scontrol", "show", "job", job):
        time.sleep(0.05)
    slurm("scontrol", "update", f"JobId={job}", "StartTime=now+3")  # else a requeued job waits for two minutes
    wait_for("stopped by a signal(.|\n)*goes on after step [0-9]+ of 400")
    assert wait_for_job(job) == ["COMPLETED"], logs()
    done = [json.loads(line) for line in (OUTPUT / "results.jsonl").read_text().splitlines()]
    assert sorted(line["id"] for line in done) == ["last", "long", "short"]


def test_an_array_over_prompts():
    config = write_config(".", request={"num_inference_steps": 1})
    Path("prompts.txt").write_text("a red circle moving left on a black background\na blue square moving up on a white background\n")
    job = sbatch("array.sbatch", str(config), "prompts.txt", flags=["--array=1-2", "-N1", "-n1"])
    assert wait_for_job(job) == ["COMPLETED", "COMPLETED"], logs()
    assert [Path(f"outputs/line-{line}/job/video.mp4").exists() for line in (1, 2)] == [True, True]


@pytest.mark.parametrize("block", blocks("docs/start/slurm.md"))
def test_a_command_of_the_page(block):
    """docs/start/slurm.md, as it stands."""
    succeed(run_block(block, CLUSTER))
