"""`frameshard doctor`: a line a finding, 69 where something is to change; alone and as ranks."""

import os
import re
import signal
from pathlib import Path

import pytest

from engine import PROGRAM, assert_fails, finish, in_tmp_path, mpi_command, mpirun, run, start, write_config

QUICK = ["--seconds", "0.1"]


def findings(result):
    """Lines by verdict and subject. Checks what holds for every report: form, last line, exit code."""
    lines = result.out.splitlines()
    found = [re.fullmatch(r"(ok|CHANGE|note) +([^:]+): (.+)", line) for line in lines if not line.startswith("  ")]
    assert lines and all(found[:-1]), result.out + result.err
    verdicts = [match[1] for match in found[:-1]]
    assert lines[-1] == f"doctor: {verdicts.count('ok')} ok, {verdicts.count('CHANGE')} to change"
    assert result.code == (69 if "CHANGE" in verdicts else 0), result.out + result.err
    assert "FAILED" not in result.err
    return [match.groups() for match in found[:-1]]


def of(result, subject, verdict=None):
    texts = [text for kind, name, text in findings(result) if name == subject and verdict in (None, kind)]
    assert texts, f"no {verdict or 'line'} of {subject}\n{result.out}"
    return texts


def limited(files, *args):
    return ["sh", "-c", f'ulimit -n {files}; exec "$@"', "sh", PROGRAM, "doctor", *args]


def fake_program(name, text):
    Path("bin").mkdir()
    file = Path("bin") / name
    file.write_text(f"#!/bin/sh\necho '{text}'\n")
    file.chmod(0o755)
    return {"PATH": f"{Path('bin').absolute()}:{os.environ['PATH']}"}


def test_alone():
    result = run(["doctor"])
    for subject in ("MPI", "launcher", "versions", "cores", "threads"):
        of(result, subject, "ok")
    assert "one rank alone" in of(result, "exchange", "note")[0]
    assert "CUDA_VISIBLE_DEVICES hides every GPU" in of(result, "GPU", "note")[0] or "driver" in of(result, "GPU", "note")[0]


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks(ranks):
    write_config(".")
    result = mpirun(ranks, ["doctor", "job.yaml", *QUICK])
    assert of(result, "launcher", "ok") == [f"{ranks} ranks, as OMPI_COMM_WORLD_SIZE says [all ranks]"]
    for subject in ("MPI", "versions", "/dev/shm", "config", "plan", "plan's memory"):
        assert len(of(result, subject)) == 1
    assert len(of(result, "cores")) == 1 and f"{ranks} rank" in of(result, "cores")[0]
    assert f"mpi inside the host, {ranks} ranks: all_to_all" in of(result, "exchange", "ok")[0]
    table = [line for line in result.out.splitlines() if line.startswith("  ")]
    assert [row.split()[:2] for row in table[3:]] == [
        [f"{n}.00", unit] for unit, sizes in (("KiB", (1, 4, 16, 64, 256)), ("MiB", (1, 4, 16))) for n in sizes]
    assert all(float(cell) > 0 for row in table[3:] for cell in row.split()[2:])


def test_mpirun_of_another_version():
    result = run(["doctor"], fake_program("mpirun", "mpirun (Open MPI) 5.0.3"))
    change = of(result, "MPI", "CHANGE")[0]
    assert f"{Path('bin/mpirun').absolute()} is of Open MPI 5.0.3, this program is linked with" in change
    assert "first on PATH" in change


def test_no_mpirun():
    Path("bin").mkdir()
    assert "no mpirun on PATH" in of(run(["doctor"], {"PATH": str(Path("bin").absolute())}), "MPI", "note")[0]


def test_mpirun_of_unknown_make():
    assert "prints nothing known: hello" in of(run(["doctor"], fake_program("mpirun", "hello")), "MPI", "note")[0]


def test_few_open_files():
    result = finish(start(limited(500)), 60)
    assert of(result, "open files", "CHANGE")[0].startswith("500 at most, 1024 are needed for 1 rank; ulimit -n 1024")


def test_few_open_files_of_one_rank():
    result = finish(start(mpi_command(2, [PROGRAM, "doctor", *QUICK], limited(500, *QUICK))), 60)
    assert of(result, "open files", "CHANGE")[0].endswith("[rank 1]")
    assert of(result, "open files", "ok")[0].endswith("[rank 0]")


@pytest.mark.parametrize("variable", ["OMPI_COMM_WORLD_SIZE", "WORLD_SIZE"])
def test_singletons(variable):
    result = run(["doctor"], {variable: "4"})
    assert f"launcher says 4, MPI says 1 ({variable}=4)" in of(result, "launcher", "CHANGE")[0]


def test_too_many_threads():
    cores = len(os.sched_getaffinity(0))
    result = run(["doctor"], {"OMP_NUM_THREADS": str(cores + 1)})
    assert f"OMP_NUM_THREADS is {cores + 1}, and 1 rank share" in of(result, "threads", "CHANGE")[0]


def test_missing_config():
    assert "nowhere.yaml" in of(run(["doctor", "nowhere.yaml"]), "config", "CHANGE")[0]


def test_unknown_key():
    write_config(".")
    result = mpirun(2, ["doctor", "job.yaml", "request.sed=3", *QUICK])
    change = of(result, "config", "CHANGE")
    assert len(change) == 1 and "sed" in change[0] and change[0].endswith("[all ranks]")
    of(result, "exchange", "ok")  # the rest is still looked at


def test_different_configs():
    write_config(".", "a", request={"seed": 1})
    write_config(".", "b", request={"seed": 2})
    programs = [[PROGRAM, "doctor", f"{name}.yaml", *QUICK] for name in "ab"]
    change = of(finish(start(mpi_command(2, *programs)), 60), "config", "CHANGE")
    assert len(change) == 1 and "ranks disagree on request.seed: rank 0 has 1, rank 1 has 2" in change[0]


def test_a_list_that_is_partly_bad():
    """As `run` goes on with the others."""
    write_config(".", requests=[{"id": "good"}, {"id": "bad", "width": 100}])
    result = run(["doctor", "job.yaml"])
    assert "job.yaml can be used" in of(result, "config", "ok")[0]
    assert "bad fails, the others go on: " in of(result, "config", "note")[0] and "the nearest are 96 and 112" in result.out
    of(result, "plan", "ok")


@pytest.mark.parametrize("other, message", [
    (["job.yaml", *QUICK], "rank 0 has --seconds 0.1 --timeout 30 and no configuration, rank 1 has"),
    (["--seconds", "0.2"], "rank 1 has --seconds 0.2 --timeout 30 and no configuration"),
])
def test_different_arguments(other, message):
    write_config(".")
    result = finish(start(mpi_command(2, [PROGRAM, "doctor", *QUICK], [PROGRAM, "doctor", *other])), 25)
    assert_fails(result, 76, "ranks disagree on the arguments of doctor: ", message)


def test_uneven_plan():
    """8 heads over a group of 3; planned for as many ranks as the sizes say, without starting them."""
    write_config(".", request={"width": 128, "height": 128, "num_frames": 33})
    result = run(["doctor", "job.yaml", "infer.diffusion.cp_size=3", "infer.attention.ulysses_size=3"])
    assert "dp 1 x cfg 1 x cp 3 on 3 cpu ranks" in of(result, "plan", "ok")[0]
    assert "8 heads over 3 ranks: at most 3" in of(result, "heads", "CHANGE")[0]
    of(result, "tokens", "ok")


def test_plan_that_does_not_fit():
    write_config(".", request={"width": 8192, "height": 8192, "num_frames": 81})
    change = of(run(["doctor", "job.yaml"]), "plan's memory", "CHANGE")[0]
    assert "a smaller video" in change


def test_rank_that_hangs():
    """A stopped rank stands for one behind a firewall."""
    process = start(mpi_command(2, [PROGRAM, "doctor", "--seconds", "60", "--timeout", "2"]))
    shown = []
    for line in process.stdout:  # facts have been gathered when they are printed; the exchange follows
        shown.append(line)
        if "versions:" in line:
            break
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    last = next(pid for pid in children if b"OMPI_COMM_WORLD_RANK=1\0" in Path(f"/proc/{pid}/environ").read_bytes())
    os.kill(int(last), signal.SIGSTOP)
    result = finish(process, 60)
    lines = "".join(shown) + result.out
    assert re.search(r"CHANGE exchange: rank 0 \(host \S+\) has waited 2 s in .+: another "
                     r"rank hangs or cannot be reached; let the hosts reach each other", lines), lines + result.err
    assert re.search(r"^doctor: \d+ ok, \d+ to change$", lines, re.MULTILINE)
    assert result.code == 69


@pytest.mark.parametrize("args", [["--seconds", "0"], ["--timeout", "soon"], ["--nonsense"]])
def test_bad_flags(args):
    assert run(["doctor", *args]).code == 64
