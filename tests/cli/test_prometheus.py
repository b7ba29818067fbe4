"""--prometheus: metrics in a file and at a port."""

import os
import re
import socket
import urllib.error
import urllib.request
from pathlib import Path

import numpy
import pytest
from safetensors.numpy import save_file

from engine import (PROGRAM, assert_fails, assert_nothing_left, finish, in_tmp_path, kill, mpi_command, run, start, succeed,
                    write_config)
from test_observe import FOUR_THREADS, OUTPUT, STEPS, last_table, rank_lines, small_job

SAMPLE = re.compile(r'([a-zA-Z_:][\w:]*)\{((?:[a-zA-Z_]\w*="(?:[^"\\\n]|\\[\\"n])*",?)*)\} (\S+)')
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def parse_metrics(text):
    """The text exposition format: (name, labels) -> value; a name's samples stand together, below its HELP and TYPE."""
    samples, types, done, current = {}, {}, set(), None
    assert not text or text.endswith("\n")
    for line in text.splitlines():
        if line.startswith("# HELP "):
            current = line.split()[2]
            assert current not in done, f"{current} comes twice"
            done.add(current)
        elif line.startswith("# TYPE "):
            name, kind = line.split()[2:]
            assert name == current and kind in ("gauge", "counter")
            types[name] = kind
        else:
            name, labels, value = SAMPLE.fullmatch(line).groups()
            assert name == current and name in types
            key = (name, frozenset((label, re.sub(r"\\(.)", r"\1", text)) for label, text in LABEL.findall(labels)))
            assert key not in samples, line
            samples[key] = float(value)
    assert all((kind == "counter") == name.endswith("_total") for name, kind in types.items())
    return samples


def of_rank(samples, rank, **labels):
    """Metrics of a rank by name, where the labels beyond the four of every sample are these."""
    who = {"rank": str(rank), "host": socket.gethostname(), "device": "cpu", "replica": "0", **labels}
    return {name: value for (name, found), value in samples.items() if dict(found) == who}


def check_final_metrics(text, folder, ranks):
    samples = parse_metrics(text)
    for rank in range(ranks):
        metrics = of_rank(samples, rank)
        assert metrics["frameshard_step_seconds"] > 0
        assert metrics["frameshard_steps_total"] == metrics["frameshard_steps_planned"] == STEPS
        assert metrics["frameshard_videos_done_total"] == (rank == 0)
        assert metrics["frameshard_videos_failed_total"] == 0
        assert 50e6 < metrics["frameshard_memory_bytes"] <= metrics["frameshard_memory_peak_bytes"]
        for group in ("cp", "cfg"):
            assert (of_rank(samples, rank, group=group) ==
                    {"frameshard_bytes_sent_total": rank_lines(folder)[rank][f"{group}_bytes"]})
        assert of_rank(samples, rank, phase="done") == {"frameshard_phase": 1}
    assert sum(name == "frameshard_phase" for name, _ in samples) == ranks


@pytest.mark.parametrize("how", ["threads", "mpi"])
def test_metrics_in_a_file(how):
    small_job(**(FOUR_THREADS if how == "threads" else {"infer": {"diffusion": {"cp_size": 2}}}))
    result = succeed(run(["run", "job.yaml", "--prometheus", "run.prom"], ranks=2 if how == "mpi" else None))
    check_final_metrics(Path("run.prom").read_text(), OUTPUT, 4 if how == "threads" else 2)
    assert f"denoise {STEPS}/{STEPS}" in result.err  # the bar stays
    assert [path.name for path in Path(".").iterdir() if "run.prom" in path.name] == ["run.prom"]


def test_failed_videos_are_counted():
    save_file({"latents": numpy.full((1, 16, 2, 4, 4), numpy.nan, numpy.float32)}, "nan.safetensors")
    write_config(".", "list", requests=[{"id": "nan", "latents": "nan.safetensors"}, {"id": "good"}])
    result = run(["run", "list.yaml", "--prometheus", "run.prom"])
    assert_fails(result, 80, "1 of 2 videos failed")
    metrics = of_rank(parse_metrics(Path("run.prom").read_text()), 0)
    assert (metrics["frameshard_videos_done_total"], metrics["frameshard_videos_failed_total"]) == (1, 1)


def read_url(process):
    """The address that the program tells."""
    for line in process.stderr:
        if line.startswith("metrics: "):
            return line.split()[1]
        if "built without cpp-httplib" in line:
            pytest.skip("this build has no HTTP")
    raise AssertionError("no address was told")


def test_metrics_at_a_port():
    """Asked while it runs; it ends in time although a client keeps its connection."""
    small_job(request={"num_inference_steps": 1000})
    process = start([PROGRAM, "run", "job.yaml", "--prometheus", "0"])
    try:
        url = read_url(process)
        host, port = re.fullmatch(r"http://(127\.0\.0\.1):(\d+)/metrics", url).groups()
        while True:  # until the first steps are told
            with urllib.request.urlopen(url, timeout=10) as answer:
                assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
                text = answer.read().decode()
            if text and of_rank(parse_metrics(text), 0).get("frameshard_steps_total", 0) > 0:
                break
        assert of_rank(parse_metrics(text), 0)["frameshard_steps_planned"] == 1000
        assert of_rank(parse_metrics(text), 0, phase="denoise") == {"frameshard_phase": 1}
        with pytest.raises(urllib.error.HTTPError) as other:
            urllib.request.urlopen(f"http://{host}:{port}/other", timeout=10)
        assert other.value.code == 404
        # Another program finds the port taken.
        assert_fails(run(["run", "job.yaml", "--prometheus", port, "output.directory=other"]), 69,
                     f"port {port} of 127.0.0.1", "--prometheus")
        with socket.create_connection((host, int(port)), timeout=10):
            process.terminate()
            assert finish(process, timeout=30).code == 75
    finally:
        kill(process)


# ---- what is refused ----

@pytest.mark.parametrize("words", [["run"], ["launch", "--nproc-per-node=2", "run"]])
@pytest.mark.parametrize("target, message", [("65536", "65536 is no port"), ("", "give a file, or a port"),
                                             ("-1", "-1 is no port"), ("80x", "80x is no port; they go from 0 (any free one) to "
                                                                              "65535 (./80x is a file)")])
def test_targets_that_are_none(words, target, message):
    small_job()
    assert_fails(run([*words, "job.yaml", "--prometheus", target]), 64, "--prometheus", message)
    assert not Path("outputs").exists()


@pytest.mark.parametrize("ranks", [None, 2])
def test_file_that_cannot_be_written(ranks):
    small_job()
    assert_fails(run(["run", "job.yaml", "--prometheus", "missing/run.prom"], ranks=ranks), 74, "missing/run.prom")
    assert_nothing_left("outputs")


IN_THE_WAY = {"a directory": lambda: Path("there").mkdir(), "a FIFO": lambda: os.mkfifo("there"),
              "a device": lambda: Path("there").symlink_to("/dev/null")}


@pytest.mark.parametrize("kind", IN_THE_WAY)
def test_what_is_no_file_is_not_replaced(kind):
    small_job()
    IN_THE_WAY[kind]()
    before = os.lstat("there")
    assert_fails(run(["run", "job.yaml", "--prometheus", "there"]), 74, f"--prometheus there: is {kind}; give the name of a file")
    assert os.path.samestat(before, os.lstat("there"))
    assert_nothing_left("outputs")


@pytest.mark.parametrize("ranks", [None, 2])
def test_the_configuration_is_not_replaced(ranks):
    small_job()
    Path("link").symlink_to("job.yaml")
    before = Path("job.yaml").read_text()
    assert_fails(run(["run", "job.yaml", "--prometheus", "link"], ranks=ranks), 74, "--prometheus link: is the job's configuration")
    assert Path("job.yaml").read_text() == before


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays(there):
    small_job()
    Path("folder").mkdir()
    Path("run.prom").symlink_to("folder/link")
    Path("folder/link").symlink_to("target")
    if there:
        Path("folder/target").write_text("old")
    succeed(run(["run", "job.yaml", "--prometheus", "run.prom"]))
    assert Path("run.prom").is_symlink() and Path("folder/link").is_symlink()
    assert of_rank(parse_metrics(Path("folder/target").read_text()), 0)["frameshard_videos_done_total"] == 1


def test_ranks_with_different_targets():
    small_job()
    result = finish(start(mpi_command(2, *([PROGRAM, "run", "job.yaml", "--prometheus", name] for name in "ab"))), 60)
    assert_fails(result, 76, "flags of run: rank 0 has --prometheus a, rank 1 has --prometheus b")


def test_port_that_is_taken_under_mpi():
    small_job()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert_fails(run(["run", "job.yaml", "--prometheus", str(port)], ranks=2), 69, f"port {port}", "--prometheus")
    assert_nothing_left("outputs")


def test_a_stopped_run_shows_where_it_was():
    small_job(request={"num_inference_steps": 1000})
    process = start(mpi_command(2, [PROGRAM, "run", "job.yaml", "--watch", "--prometheus", "run.prom"]))
    try:
        while not (Path("run.prom").exists()
                   and of_rank(parse_metrics(Path("run.prom").read_text()), 1).get("frameshard_steps_total")):
            assert process.poll() is None
        process.terminate()
        result = finish(process, 60)
    finally:
        kill(process)
    assert "stopped by a signal" in result.err
    assert [row["rank"] for row in last_table(result.err)] == ["0", "1"]
