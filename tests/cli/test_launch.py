"""`frameshard launch` on one machine: torchrun's flags, its own end and the ranks', and stopping in order."""

import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import numpy
import pytest

from engine import (PROGRAM, SOURCE, assert_fails, assert_nothing_left, finish, in_tmp_path, is_complete_video, latents, mpirun, run,
                    start, succeed, write_config)

OUTPUT = Path("outputs/job")
OPENMPI5 = SOURCE / "build/venv-openmpi5/bin"
PROGRAM5 = str(Path(PROGRAM).parent / "openmpi5/frameshard")
LONG = {"num_inference_steps": 1000}
SPLIT = {1: [], 2: ["infer.diffusion.cfg_size=2"], 4: ["infer.diffusion.cp_size=2", "infer.diffusion.cfg_size=2"]}
FIXED = ["infer.threads_per_rank=1", "infer.attention.ring_size=1"]


def launch(ranks, *args, flags=(), env=None, program=PROGRAM):
    return start([program, "launch", "--nproc-per-node", str(ranks), *flags, *args], env)


def when_running(process):
    """Reads stderr up to a step; returns what was read."""
    read = ""
    while not re.search("denoise +[0-9]+/", read):
        line = process.stderr.readline()
        assert line, f"ended with {process.wait()}:\n{read}"
        read += line
    return read


def ranks_of(process):
    """Process ids of the ranks below a launcher, in order."""
    found, parents = [], {process.pid}
    while parents:
        listing = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", ",".join(map(str, parents))], capture_output=True, text=True).stdout
        parents = set()
        for line in listing.splitlines():
            pid, words = line.split(None, 1)
            parents.add(int(pid))
            if words.startswith(f"{PROGRAM} run"):
                found.append(int(pid))
    return sorted(found)


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("version", ["4", "5"])
def test_the_same_bits_as_under_mpirun(version, ranks):
    env, program = None, PROGRAM
    if version == "5":
        if not Path(PROGRAM5).exists():
            pytest.skip("built without Open MPI 5: build/venv-openmpi5 is missing")
        env, program = {"PATH": f"{OPENMPI5}:{os.environ['PATH']}"}, PROGRAM5
    write_config(".")
    succeed(mpirun(ranks, ["run", "job.yaml", "output.directory=one", *SPLIT[ranks], *FIXED]))
    succeed(finish(launch(ranks, "run", "job.yaml", *SPLIT[ranks], *FIXED, env=env, program=program), 60))
    assert numpy.array_equal(latents(OUTPUT), latents("one/job"))


def test_torchruns_variables():
    write_config(".")
    result = succeed(run(["launch", "run", "job.yaml"], env={"PET_NPROC_PER_NODE": "2", "PET_NNODES": "1:1"}))
    assert "on 2 cpu ranks" in result.err


def test_launch_starts_doctor():
    result = run(["launch", "--nproc-per-node", "2", "doctor", "--seconds", "0.2"])
    assert "2 ranks, as OMPI_COMM_WORLD_SIZE says" in result.out + result.err


def test_output_files_a_rank():
    write_config(".")
    both = succeed(run(["launch", "--nproc-per-node", "2", "--tee", "0:3,1:3", "--log-dir", "logs", "--rdzv-id", "a", "run", "job.yaml"]))
    assert "outputs/job/video.mp4" in both.out and "plan: " in both.err
    directory = Path("logs/a/attempt_0")
    assert (directory / "0/stdout.log").read_text() == "outputs/job/video.mp4\n"
    assert "plan: " in (directory / "0/stderr.log").read_text() and (directory / "1/stderr.log").exists()

    hidden = succeed(run(["launch", "--nproc-per-node", "2", "-r", "3", "run", "job.yaml", "output.overwrite=true"]))
    assert hidden.out == "" and "plan: " not in hidden.err
    assert "plan: " in Path("logs/none/attempt_0/0/stderr.log").read_text()


def test_an_output_file_that_cannot_be_written():
    write_config(".")
    Path("logs").write_text("in the way")
    result = run(["launch", "--nproc-per-node", "2", "--tee", "3", "run", "job.yaml"])
    assert result.code == 74 and "set --log-dir" in result.err, result.err


# ---- ends ----

def test_a_rank_is_killed():
    write_config(".", request=LONG)
    process = launch(2, "run", "job.yaml")
    when_running(process)
    os.kill(ranks_of(process)[1], signal.SIGKILL)
    result = finish(process, 60)
    assert_fails(result, 137, f"rank 1 (host {socket.gethostname()}) was ended by signal 9 (Killed)", "the same command goes on")
    assert_nothing_left("outputs", denoised=True)


def test_a_restart_goes_on_with_what_is_missing():
    write_config(".", requests=[{"id": "first"}, {"id": "long", "num_inference_steps": 300}])
    process = launch(2, "run", "job.yaml", "infer.diffusion.cfg_size=2", flags=["--max-restarts", "2"])
    when_running(process)
    while "300" not in (line := process.stderr.readline()):  # the longest comes first
        assert line
    os.kill(ranks_of(process)[1], signal.SIGKILL)
    result = finish(process, 120)
    assert result.code == 0, result.err
    assert "ended with 137; restart 1 of 2" in result.err
    assert is_complete_video(OUTPUT / "first/video.mp4", 5) and is_complete_video(OUTPUT / "long/video.mp4", 5)


def test_no_restart_for_mistakes():
    write_config(".")
    shutil.copytree(SOURCE / "examples/shapes", "model")
    os.truncate("model/vae/diffusion_pytorch_model.safetensors", 100)
    result = run(["launch", "--nproc-per-node", "2", "--max-restarts", "3", "run", "job.yaml", "model.path=model"])
    assert result.code == 65 and "restart" not in result.err


def parent_of(pid):
    with open(f"/proc/{pid}/stat") as stat:
        return int(stat.read().rsplit(")", 1)[1].split()[1])


def test_mpirun_is_ended():
    """As by a batch system that signals every process: mpirun itself would only end with 1."""
    write_config(".", request=LONG)
    process = launch(2, "run", "job.yaml")
    when_running(process)
    os.kill(parent_of(ranks_of(process)[0]), signal.SIGTERM)
    result = finish(process, 60)
    assert result.code in (69, 75) and "FAILED" in result.err.splitlines()[-1], result.err


def places():
    return {path for place in ("/tmp", "/dev/shm") for path in Path(place).glob("frameshard-" + "[0-9a-f]" * 16)}


def test_what_a_killed_launcher_left_is_removed_by_the_next_one():
    write_config(".", request=LONG)
    before = places()
    process = launch(2, "run", "job.yaml")
    when_running(process)
    left = places() - before
    os.kill(process.pid, signal.SIGKILL)
    finish(process, 60)
    assert left and any(path.exists() for path in left)
    succeed(finish(launch(1, "run", "job.yaml", "request.num_inference_steps=1"), 60))
    assert not [path for path in left if path.exists()]


@pytest.mark.parametrize("killed", ["launcher", "mpirun"])
def test_no_rank_outlives_its_launcher(killed):
    write_config(".", request=LONG)
    process = launch(2, "run", "job.yaml")
    when_running(process)
    ranks = ranks_of(process)
    mpirun_pid = parent_of(ranks[0])
    handles = [os.pidfd_open(rank) for rank in ranks]
    os.kill(process.pid if killed == "launcher" else mpirun_pid, signal.SIGKILL)
    for handle in handles:
        assert select.select([handle], [], [], 20)[0], "a rank still runs"
        os.close(handle)
    result = finish(process, 60)
    assert result.code == 137
    assert killed == "launcher" or "FAILED: mpirun was ended by signal 9 (Killed)" in result.err, result.err


def test_another_mpirun_first_on_the_path():
    if not OPENMPI5.exists():
        pytest.skip("build/venv-openmpi5 is missing")
    write_config(".")
    assert_fails(run(["launch", "--nproc-per-node", "2", "run", "job.yaml"], env={"PATH": f"{OPENMPI5}:{os.environ['PATH']}"}), 69,
                 "is of Open MPI 5.0.11, and this program uses Open MPI v4", "first on PATH")


def test_no_mpirun():
    write_config(".")
    assert_fails(run(["launch", "--nproc-per-node", "2", "run", "job.yaml"], env={"PATH": "/nowhere"}), 66, "mpirun is not on PATH")


# ---- stopped in order ----

STARTS = {
    "launch": (lambda args: launch(2, *args), signal.SIGTERM),
    "mpirun": (lambda args: start(["mpirun", "-n", "2", "--oversubscribe", "--bind-to", "none", PROGRAM, *args]), signal.SIGUSR1),
    "alone": (lambda args: start([PROGRAM, *args]), signal.SIGTERM),
    "alone ^C": (lambda args: start([PROGRAM, *args]), signal.SIGINT),
    "launch ^C": (lambda args: launch(2, *args), signal.SIGINT),
    "threads": (lambda args: start([PROGRAM, *args, "infer.backend=threads", "infer.diffusion.cfg_size=2"]), signal.SIGUSR1),
}


@pytest.mark.parametrize("how", STARTS)
def test_stopped_and_gone_on_with(how):
    """75, after ^C 130, and the second start takes up at the step: the same bits as without a stop."""
    write_config(".", request={"num_inference_steps": 200})
    args = ["run", "job.yaml", "infer.threads_per_rank=1", *([] if how.startswith("alone") else SPLIT[2])]
    starter, number = STARTS[how]
    process = starter(args)
    when_running(process)
    process.send_signal(number)
    stopped = finish(process, 60)
    assert stopped.code == (130 if number == signal.SIGINT else 75), stopped.err
    assert stopped.err.count("FAILED") == 1 and "stopped by a signal" in stopped.err
    assert not (OUTPUT / "video.mp4").exists() and list(OUTPUT.glob("resume-*.safetensors"))

    second = succeed(finish(starter(args), 120))
    step = int(re.search("goes on after step ([0-9]+) of 200", second.err).group(1))
    assert step >= 1
    # What the first start did takes part neither in the lines nor in their times.
    assert re.findall("denoise +([0-9]+)/200", second.err)[0] == str(step + 1)
    assert not list(OUTPUT.glob("resume-*.safetensors"))
    steps = [json.loads(line) for line in (OUTPUT / "metrics.jsonl").read_text().splitlines() if '"step"' in line]
    assert len(steps) == 200 - step
    succeed(finish(starter([*args, "output.directory=whole"]), 120))
    assert numpy.array_equal(latents(OUTPUT), latents("whole/job"))


def test_two_replicas_stop_together():
    """Each at its own step of its own video; one line says so, and both go on."""
    write_config(".", requests=[{"id": "a", "num_inference_steps": 200}, {"id": "b", "num_inference_steps": 200, "seed": 1}])
    args = ["run", "job.yaml", "infer.diffusion.dp_size=2"]
    process = launch(2, *args)
    when_running(process)
    process.send_signal(signal.SIGTERM)
    stopped = finish(process, 60)
    assert stopped.code == 75 and stopped.err.count("FAILED") == 1, stopped.err
    assert len(list(OUTPUT.glob("*/resume-*.safetensors"))) == 2
    succeed(finish(launch(2, *args), 120))
    done = [json.loads(line) for line in (OUTPUT / "results.jsonl").read_text().splitlines()]
    assert sorted((line["id"], line["status"]) for line in done) == [("a", "done"), ("b", "done")]


def stop_while_running(*overrides):
    """Long before its last step, so that it saves what it has."""
    process = start([PROGRAM, "run", "job.yaml", *overrides])
    when_running(process)
    process.send_signal(signal.SIGTERM)
    assert finish(process, 60).code == 75


def test_what_was_saved_is_for_the_same_request():
    write_config(".", request={"num_inference_steps": 200})
    stop_while_running()
    other = succeed(run(["run", "job.yaml", "request.seed=1", "request.num_inference_steps=2"]))
    assert "goes on" not in other.err


def test_what_was_saved_cannot_be_read():
    write_config(".", request={"num_inference_steps": 200})
    stop_while_running()
    (file,) = OUTPUT.glob("resume-*.safetensors")
    os.truncate(file, 50)
    result = succeed(run(["run", "job.yaml"]))
    assert "starts anew" in result.err and file.name in result.err
    assert (OUTPUT / "video.mp4").exists()


def test_what_was_saved_was_changed_later():
    """By one bit; what was not changed is gone on with, wherever it lies."""
    write_config(".", request={"num_inference_steps": 200})
    stop_while_running()
    (file,) = OUTPUT.glob("resume-*.safetensors")
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    result = succeed(run(["run", "job.yaml"]))
    assert "starts anew" in result.err and f"{file}: its checksum does not fit its content" in result.err

    other = Path(f"other/job/{file.name}")
    other.parent.mkdir(parents=True)
    other.write_bytes(whole)
    assert "goes on after step" in succeed(run(["run", "job.yaml", "output.directory=other"])).err


def test_what_was_saved_is_of_another_request():
    write_config(".", request={"num_inference_steps": 200})
    names = []
    for seed in (0, 1):
        stop_while_running(f"request.seed={seed}")
        names += [name for name in OUTPUT.glob("resume-*.safetensors") if name not in names]
    names[1].rename(names[0])
    result = succeed(run(["run", "job.yaml"]))
    assert "starts anew" in result.err and f"{names[0]}: it is of another configuration" in result.err


def test_a_second_signal_does_not_wait():
    write_config(".", request=LONG)
    process = launch(2, "run", "job.yaml", flags=["--stop-grace", "60"])
    when_running(process)
    for rank in ranks_of(process):
        os.kill(rank, signal.SIGSTOP)
    process.send_signal(signal.SIGTERM)
    while "stopping: the ranks have 60 s" not in (line := process.stderr.readline()):
        assert line
    process.send_signal(signal.SIGTERM)
    result = finish(process, 30)
    assert result.code == 143 and "FAILED: ended by Terminated" in result.err


@pytest.mark.parametrize("grace", ["60", "0"])
def test_one_line_says_why_it_ends(grace):
    """Also where a second signal, or the end of the grace, comes while the ranks stop in order."""
    write_config(".", request=LONG)
    process = launch(2, "run", "job.yaml", flags=["--stop-grace", grace])
    when_running(process)
    process.send_signal(signal.SIGTERM)
    while "stopping: the ranks have" not in (line := process.stderr.readline()):
        assert line
    process.send_signal(signal.SIGTERM)
    result = finish(process, 30)
    (line,) = [line for line in result.err.splitlines() if "FAILED" in line]
    assert (result.code, "stopped by a signal" in line) in [(75, True), (143, False)], result.err


def test_the_grace_ends():
    write_config(".", request=LONG)
    process = launch(2, "run", "job.yaml", flags=["--stop-grace", "0.2"])
    when_running(process)
    for rank in ranks_of(process):
        os.kill(rank, signal.SIGSTOP)
    process.send_signal(signal.SIGTERM)
    assert finish(process, 30).code == 143
