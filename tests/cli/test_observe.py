"""--profile and --watch: what is shown and written of a run."""

import json
import os
import pty
import re
import socket
import struct
import threading
from collections import Counter
from fcntl import ioctl
from pathlib import Path
from termios import TIOCSWINSZ

import pytest

from engine import PROGRAM, assert_fails, finish, in_tmp_path, kill, mpi_command, run, start, succeed, write_config

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


def test_profile_of_exchanges_beside_attention():
    """Their bytes count once, at the start; what is left of them is waited for between other work."""
    small_job()
    succeed(run(["run", "--profile", "job.yaml", "infer.diffusion.cp_size=2", "infer.overlap_exchange=on"], ranks=2))
    names = {event["name"] for event in check_trace(OUTPUT, 2, {"cp"})}
    assert {"all_to_all_start cp{0,1}", "all_to_all_wait cp{0,1}"} <= names and "all_to_all cp{0,1}" not in names


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


# ---- what is refused ----

def test_ranks_with_different_flags():
    small_job()
    result = finish(start(mpi_command(2, [PROGRAM, "run", "job.yaml"], [PROGRAM, "run", "job.yaml", "--profile"])), 60)
    assert_fails(result, 76, "flags of run: rank 0 has none, rank 1 has --profile")
