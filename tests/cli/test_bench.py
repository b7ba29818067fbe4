"""`frameshard bench`: tables and JSON of a small model over two ranks, and what it refuses before it measures."""

import json
import os
import shutil
from pathlib import Path
from statistics import median

import pytest

from engine import PROGRAM, assert_fails, copy_model, finish, in_tmp_path, mpi_command, run, start, succeed

SHAPES = ["bench", "--model", "shapes", "--size", "64x64x5", "--warmup", "1"]
SMALL = [*SHAPES, "--steps", "1"]


def check_consistent(report, steps):
    """What holds between the numbers of every report."""
    cases = {(case["mesh"], case["guidance"]): case for case in report["meshes"]}
    assert len(cases) == len(report["meshes"])
    for (mesh, guidance), case in cases.items():
        assert case["ranks"] == case["dp_size"] * case["cfg_size"] * case["cp_size"]
        assert case["ulysses_size"] * case["ring_size"] == case["cp_size"]
        assert len(case["step_seconds"]) == steps and min(case["step_seconds"]) > 0
        assert case["seconds_a_step"] == pytest.approx(median(case["step_seconds"]))
        single = cases["single", guidance]["seconds_a_step"]
        assert case["speedup"] == pytest.approx(case["dp_size"] * single / case["seconds_a_step"])
        assert case["efficiency"] == pytest.approx(case["speedup"] / case["ranks"])
        assert 0 <= case["exchange_share"] < 1
        assert (case["bytes_sent_a_step"] > 0) == (case["cfg_size"] * case["cp_size"] > 1), mesh
        assert case["activation_bytes"] >= 0
    return cases


def test_alone_it_starts_its_ranks():
    """A rank a core, at least two; the tables on stdout, the numbers in the file, progress on stderr."""
    result = succeed(run([*SMALL, "--json", "bench.json"], timeout=120))
    report = json.loads(Path("bench.json").read_text())
    ranks = len(report["machine"]["ranks"])
    assert ranks == min(8, max(2, len(os.sched_getaffinity(0))))
    cases = check_consistent(report, steps=1)
    assert {("single", False), ("single", True), ("cp2", False), ("cfg2", True), ("dp2", False)} <= set(cases)
    assert (report["size"], report["tokens"], report["dtype"]) == ("64x64x5", 32, "float32")
    for title in ("context parallelism, guidance off", "CFG parallelism, guidance on", "data parallelism"):
        assert result.out.count(f"\n{title}\n") == 1
    for mesh, guidance in cases:
        assert sum(line.startswith(f"{mesh}{', guidance on' * guidance}: ") for line in result.err.splitlines()) == 1
    assert list(Path().iterdir()) == [Path("bench.json")]


def test_bytes_are_those_of_the_plan():
    """Two ranks under mpirun; what one sends in a step is what `plan` predicts for a video of one step."""
    succeed(run([*SHAPES, "--steps", "3", "--meshes", "cp2,cfg2", "--json", "bench.json"], ranks=2))
    cases = check_consistent(json.loads(Path("bench.json").read_text()), steps=3)
    assert set(cases) == {("single", False), ("single", True), ("cp2", False), ("cfg2", True)}
    model = copy_model(".")
    for mesh, guidance in (("cp2", 1), ("cfg2", 5)):
        request = {"prompt": "a", "width": 64, "height": 64, "num_frames": 5, "num_inference_steps": 1, "guidance_scale": guidance}
        Path("job.yaml").write_text(json.dumps({"model": {"path": str(model)}, "request": request}))
        key = f"infer.diffusion.{mesh[:-1]}_size=2"
        plan = json.loads(succeed(run(["plan", "job.yaml", key, "--world", "2", "--json"])).out)
        sent = [rank["bytes_sent"] for rank in plan["bytes_a_rank"]]
        assert cases[mesh, guidance > 1]["bytes_sent_a_step"] == max(sent)


def test_exchanges_in_chunks_move_the_same_bytes():
    """--overlap on against off."""
    sent = []
    for overlap in ("off", "on"):
        succeed(run([*SMALL, "--meshes", "cp2", "--overlap", overlap, "--cuda-graph", "off", "--json", "bench.json"], ranks=2))
        cases = check_consistent(json.loads(Path("bench.json").read_text()), steps=1)
        sent.append(cases["cp2", False]["bytes_sent_a_step"])
    assert sent[0] == sent[1] > 0


def test_a_ring_where_it_divides():
    succeed(run([*SMALL, "--meshes", "cp2,cfg2", "--ring", "2", "--json", "bench.json"], ranks=2))
    cases = check_consistent(json.loads(Path("bench.json").read_text()), steps=1)
    rings = {mesh: case["ring_size"] for (mesh, _), case in cases.items()}
    assert rings == {"single": 1, "cp2": 2, "cfg2": 1}


def test_random_weights_and_more_ranks_than_a_mesh_has():
    """No files at all; ranks that have no part in a mesh wait, and more ranks than cores are told."""
    args = ["bench", "--model", "wan-middle", "--size", "32x32x1", "--steps", "2", "--warmup", "1",
            "--meshes", "cfg2xcp2,cp2"]
    result = succeed(run([*args, "--json", "bench.json"], ranks=4, timeout=120))
    report = json.loads(Path("bench.json").read_text())
    assert set(check_consistent(report, steps=2)) == {("single", False), ("single", True), ("cp2", False), ("cfg2xcp2", True)}
    assert report["weight_bytes"] > 100e6
    if len(os.sched_getaffinity(0)) < 4:
        assert result.err.count("say nothing of ranks that have one each") == 1


def test_plot():
    if not shutil.which("gnuplot"):
        pytest.skip("no gnuplot: apt install gnuplot-nox")
    succeed(run([*SMALL, "--meshes", "cp2", "--plot", "it's.png"], ranks=2))
    assert Path("it's.png").read_bytes().startswith(b"\x89PNG\r\n")
    assert list(Path().iterdir()) == [Path("it's.png")]


@pytest.mark.parametrize(
    "args, code, message",
    [
        (["--model", "nope"], 64, '"nope" is neither a folder nor one of shapes, wan-middle, wan-1.3b, wan-14b'),
        (["--model", "."], 66, "model_index.json: no such file"),
        (["--size", "100x64x5"], 64, "the width must be a multiple of 16"),
        (["--size", "64x64x6"], 64, "the number of frames must be 4k+1"),
        (["--size", "64x64"], 64, "is no size; write WIDTHxHEIGHTxFRAMES"),
        (["--size", "16x16x4097"], 78, "1025 positions along an axis; this model knows 1024"),
        (["--meshes", "ring2"], 64, '"ring2" is no mesh'),
        (["--meshes", "cp64"], 64, "mesh cp64 needs 64 ranks, and there are"),
        (["--meshes", "cp2", "--size", "16x16x1"], 78, "2 ranks for the sequence, and this video has 1 token"),
        (["--steps", "0"], 64, "--steps"),
        (["--warmup", "0"], 64, "--warmup"),
        (["--dtype", "int8"], 64, "--dtype"),
        (["--overlap", "yes"], 64, "--overlap"),
        (["--cuda-graph", "1"], 64, "--cuda-graph"),
        (["--json", "missing/bench.json"], 74, "missing/bench.json"),
        (["--plot", "missing/bench.png"], 74 if shutil.which("gnuplot") else 69, "bench.png" if shutil.which("gnuplot") else ""),
    ],
)
def test_refused_before_anything_is_started(args, code, message):
    """No ranks, so no second process either: MPI is not on this PATH, and the message is still the right one."""
    Path("bin").mkdir()
    if shutil.which("gnuplot"):
        Path("bin/gnuplot").symlink_to(shutil.which("gnuplot"))
    model = [] if "--model" in args else ["--model", "shapes"]
    result = run(["bench", *model, *args], {"PATH": str(Path("bin").absolute())})
    assert_fails(result, code, message)
    assert result.out == ""


def test_plot_without_gnuplot():
    result = run([*SMALL, "--plot", "bench.png"], {"PATH": "/nowhere"})
    assert_fails(result, 69, "--plot needs the program gnuplot, which is not on PATH; install it (Debian, Ubuntu: apt")


def test_gnuplot_that_fails(tmp_path):
    Path("bin").mkdir()
    Path("bin/gnuplot").write_text("#!/bin/sh\necho no terminal; exit 1\n")
    Path("bin/gnuplot").chmod(0o755)
    result = run([*SMALL, "--meshes", "single", "--plot", "bench.png"],
                 {"PATH": f"{Path('bin').absolute()}:{os.environ['PATH']}"}, ranks=1)
    assert_fails(result, 69, "could not draw bench.png: no terminal")
    assert "context parallelism" in result.out and not Path("bench.png").exists()


def test_too_large_for_the_memory():
    """Terabytes of activations: found before a weight is made."""
    args = ["bench", "--model", "wan-14b", "--size", "4096x4096x513", "--meshes", "cp2"]
    assert_fails(run(args, ranks=2), 71, "wan-14b needs 53.23 GiB of weights", "on each of the 2 ranks that share it",
                 "free on this host; choose a smaller --model")


@pytest.mark.parametrize("args, code, message", [
    (["--size", "24x64x5"], 64, "the width must be a multiple of 16"),
    (["--json", "missing/bench.json"], 74, "missing/bench.json"),
    (["--meshes", "cp3"], 64, "mesh cp3 needs 3 ranks, and there are 2; start 3"),
])
def test_ranks_refuse_once(args, code, message):
    assert_fails(run(["bench", "--model", "shapes", *args], ranks=2), code, message)


def test_ranks_with_other_flags():
    words = [PROGRAM, *SMALL, "--meshes", "cp2"]
    result = finish(start(mpi_command(2, words, [*words, "--dtype", "bfloat16"])), 60)
    assert_fails(result, 76, "ranks disagree on the flags of bench: rank 0 has", "--dtype auto", "--dtype bfloat16")


def test_launch_starts_it():
    result = succeed(run(["launch", "--nproc-per-node", "2", *SMALL, "--meshes", "cfg2", "--dtype", "bfloat16"], timeout=120))
    assert "bfloat16, mpi, 1 thread a rank" in result.out
    assert "CFG parallelism, guidance on" in result.out and "context parallelism" not in result.out


@pytest.mark.parametrize("make, kind", [(os.mkfifo, "a FIFO"), (lambda name: os.symlink("elsewhere", name), "a link"), (os.mkdir, "a directory")],
                         ids=["FIFO", "link", "directory"])
def test_numbers_take_nobodys_place(make, kind):
    make("bench.json")
    result = run([*SMALL, "--meshes", "single", "--json", "bench.json"])
    assert result.code == 74 and f"bench.json: is {kind}; give the name of a file" in result.err, result.err
    assert not Path("bench.json").is_file()
