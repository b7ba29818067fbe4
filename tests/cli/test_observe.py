"""--profile, --watch and --prometheus: what is shown and written of a run."""

import json
import os
import pty
import re
import socket
import struct
import threading
import urllib.error
import urllib.request
from collections import Counter
from fcntl import ioctl
from pathlib import Path
from termios import TIOCSWINSZ

import numpy
import pytest
from safetensors.numpy import save_file

from engine import (PROGRAM, assert_fails, assert_nothing_left, finish, in_tmp_path, kill, mpi_command, run, start, succeed,
                    write_config)

OUTPUT = Path("outputs/job")
FOUR_THREADS = {"infer": {"backend": "threads", "diffusion": {"cp_size": 2, "cfg_size": 2}}}
STEPS = 4


def small_job(name="job", **changes):
    return write_config(".", name, **{"request": {"num_inference_steps": STEPS}, **changes})


# ---- --profile ----

def rank_lines(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {line["rank"]: line for line in lines if line["event"] == "rank"}


def spans_of(events, rank):
    """Every span of a rank, in the file's order; each lies inside the one that is open, or after it."""
    spans = [event for event in events if event["ph"] == "X" and event["pid"] == rank]
    open_ends = []
    for span in spans:
        end = span["ts"] + span["dur"]
        while open_ends and open_ends[-1] <= span["ts"] + 1e-4:
            open_ends.pop()
        assert not open_ends or end <= open_ends[-1] + 1e-4, f"{span} overlaps another"
        open_ends.append(end)
    return spans


def step_around(span, spans):
    return [step["name"] for step in spans if step["name"].startswith("denoise ")
            and step["ts"] <= span["ts"] + 1e-4 and span["ts"] + span["dur"] <= step["ts"] + step["dur"] + 1e-4]


def check_trace(folder, ranks, groups):
    trace = json.loads((folder / "trace.json").read_text())
    events = trace["traceEvents"]
    names = {event["pid"]: event["args"]["name"] for event in events if event["name"] == "process_name"}
    assert names == {rank: f"rank {rank} (host {socket.gethostname()}, cpu)" for rank in range(ranks)}
    assert set(trace["otherData"]["clock_error_us"]) == {str(rank) for rank in range(ranks)}
    assert trace["otherData"]["spans_left_out"] == {}
    for rank, metrics in rank_lines(folder).items():
        spans = spans_of(events, rank)
        counts = Counter(span["name"] for span in spans)
        for phase in ("text", "load", "queue", "prepare", "write", *(f"denoise {i + 1}/{STEPS}" for i in range(STEPS))):
            assert counts[phase] >= 1, f"rank {rank} has no {phase}"
        assert (counts["decode"] == 1) == (rank == 0)
        exchanges = [span for span in spans if re.fullmatch(r"\w+ (cp|cfg)\{.*\}.*", span["name"]) and not
                     span["name"].startswith("split")]
        assert {span["name"].split()[1][:2] for span in exchanges} == groups
        assert all(step_around(span, spans) for span in exchanges)
        assert all(span["args"]["group_size"] == 2 for span in exchanges)
        assert sum(span["args"]["bytes"] for span in exchanges) == metrics["cp_bytes"] + metrics["cfg_bytes"]
        assert bool(exchanges) == (metrics["bytes_sent"] > 0)
    return events


def test_profile_of_one_rank():
    small_job()
    succeed(run(["run", "job.yaml", "--profile"]))
    events = check_trace(OUTPUT, 1, set())
    assert min(event["ts"] for event in events if event["ph"] == "X") >= 0


def test_profile_of_threads():
    small_job(**FOUR_THREADS)
    succeed(run(["run", "--profile", "job.yaml"]))
    events = check_trace(OUTPUT, 4, {"cp", "cf"})
    # The ranks of a group are in an exchange at the same time, on one axis: the last to come is there before the first leaves.
    for name in ("all_gather cp{0,1}", "all_gather cfg{0,2}"):
        members = [int(rank) for rank in re.search(r"\{(.*)\}", name)[1].split(",")]
        each = [[span for span in spans_of(events, rank) if span["name"] == name] for rank in members]
        assert len(each[0]) == len(each[1]) == STEPS
        error = sum(json.loads((OUTPUT / "trace.json").read_text())["otherData"]["clock_error_us"].values())
        for one, other in zip(*each):
            assert max(one["ts"], other["ts"]) <= min(one["ts"] + one["dur"], other["ts"] + other["dur"]) + 2 * error


def test_profile_under_mpi():
    small_job()
    succeed(run(["run", "--profile", "job.yaml"], ranks=2))
    check_trace(OUTPUT, 2, {"cf"})


def test_each_video_of_a_list_has_its_trace():
    """Each begins where the one before it ended."""
    write_config(".", "list", requests=[{"seed": 1}, {"seed": 2}])
    succeed(run(["run", "--profile", "list.yaml"]))
    first, second = [json.loads(Path(f"outputs/list/{name}/trace.json").read_text())["traceEvents"] for name in ("0000", "0001")]
    end = max(span["ts"] + span["dur"] for span in spans_of(first, 0))
    begin = min(span["ts"] for span in spans_of(second, 0))
    assert begin == pytest.approx(end, abs=0.01)
    assert "load" not in {event["name"] for event in second}


def test_no_trace_unless_asked_and_an_old_one_goes():
    small_job()
    succeed(run(["run", "--profile", "job.yaml"]))
    assert (OUTPUT / "trace.json").exists()
    succeed(run(["run", "job.yaml", "output.overwrite=true"]))
    assert not (OUTPUT / "trace.json").exists()


# ---- --watch ----

def last_table(text):
    """The rows after the last title, as dictionaries."""
    lines = text.replace("\r", "").splitlines()
    title = max(i for i, line in enumerate(lines) if line.startswith("rank  host"))
    names = lines[title].split()
    rows = []
    for line in lines[title + 1:]:
        if not re.match(r" *\d+  ", line):
            break
        rows.append(dict(zip(names, re.split(r" {2,}", line.strip()))))
    return rows


def check_last_table(text, ranks):
    rows = last_table(text)
    assert [row["rank"] for row in rows] == [str(rank) for rank in range(ranks)]
    for row in rows:
        assert (row["host"], row["device"], row["phase"]) == (socket.gethostname(), "cpu", "done")
        assert row["step"] == f"{STEPS}/{STEPS}"
        assert float(row["s/step"]) > 0 and float(row["median"]) > 0
        assert re.fullmatch(r"\d+\.\d\d [MG]iB", row["memory"]) and row["sent"].endswith("/s")
    return rows


@pytest.mark.parametrize("how", ["one", "threads", "mpi", "launch"])
def test_watch_ends_with_a_table(how):
    small_job(**(FOUR_THREADS if how == "threads" else {}))
    words = ["launch", "--nproc-per-node", "2", "run"] if how == "launch" else ["run"]
    result = succeed(run([*words, "job.yaml", "--watch"], ranks=2 if how == "mpi" else None))
    ranks = {"one": 1, "threads": 4, "mpi": 2, "launch": 2}[how]
    check_last_table(result.err, ranks)
    assert "denoise 1/" not in result.err  # the table takes the bar's place
    assert "\033[" not in result.err  # no terminal
    assert result.out.splitlines() == ["outputs/job/video.mp4"]


def test_watch_of_replicas():
    small_job("list", requests=[{"seed": i, "num_inference_steps": STEPS} for i in range(3)],
              infer={"diffusion": {"dp_size": 2, "cfg_size": 1}})
    rows = check_last_table(succeed(run(["run", "list.yaml", "--watch"], ranks=2)).err, 2)
    assert [row["replica"] for row in rows] == ["0", "1"]


def on_terminal(command, columns=60):
    """What the program prints on a terminal of so many columns."""
    ours, its = pty.openpty()
    ioctl(its, TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = start(command, {"TERM": "xterm"}, stdout=its, stderr=its)
    os.close(its)
    guard = threading.Timer(60, kill, [process])
    guard.start()
    text = b""
    try:
        while piece := os.read(ours, 65536):
            text += piece
    except OSError:  # the terminal's other end is closed
        pass
    code = process.wait(timeout=60)
    guard.cancel()
    os.close(ours)
    return code, text.decode(errors="replace")


def test_watch_on_a_terminal_redraws_in_place():
    small_job()
    code, text = on_terminal([PROGRAM, "run", "job.yaml", "--watch"])
    assert code == 0, text
    live, final = text.rsplit("rank  host", 1)
    check_last_table("rank  host" + final, 1)
    tables = re.findall(r"(rank  host[^\r\n]*)\r\n([^\r\n]*)\r\n", live)
    assert tables and all(len(line) <= 60 for table in tables for line in table)
    # Each is taken away before anything else is printed.
    assert len(re.findall(r"rank  host[^\r\n]*\r\n[^\r\n]*\r\n\r\033\[2A\033\[J", live)) == len(tables)


# ---- --prometheus ----

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
@pytest.mark.parametrize("target, message", [("65536", "65536 is no port"), ("", "give a file, or a port")])
def test_targets_that_are_none(words, target, message):
    small_job()
    assert_fails(run([*words, "job.yaml", "--prometheus", target]), 64, "--prometheus", message)
    assert not Path("outputs").exists()


@pytest.mark.parametrize("ranks", [None, 2])
def test_file_that_cannot_be_written(ranks):
    small_job()
    assert_fails(run(["run", "job.yaml", "--prometheus", "missing/run.prom"], ranks=ranks), 74, "missing/run.prom")
    assert_nothing_left("outputs")


def test_port_that_is_taken_under_mpi():
    small_job()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert_fails(run(["run", "job.yaml", "--prometheus", str(port)], ranks=2), 69, f"port {port}", "or 0 for any")
    assert_nothing_left("outputs")


def test_ranks_with_different_flags():
    small_job()
    result = finish(start(mpi_command(2, [PROGRAM, "run", "job.yaml"], [PROGRAM, "run", "job.yaml", "--profile"])), 60)
    assert_fails(result, 76, "flags of run: rank 0 has none, rank 1 has --profile")


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
