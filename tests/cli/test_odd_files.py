"""Paths that lead to something else than a file, and a stdout that takes nothing: refused, at once, by name."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from engine import (PROGRAM, assert_fails, clean_environment, finish, in_tmp_path, kill, run, start, succeed, write_config)

LIMIT = 20  # seconds; only reached when something waits for a writer


# ---- FIFOs ----

@pytest.mark.parametrize("words", [["run"], ["plan"], ["launch", "--nproc-per-node=2", "run"]])
def test_config_is_a_fifo(words):
    os.mkfifo("job.yaml")
    assert_fails(run([*words, "job.yaml"], timeout=LIMIT), 66, "job.yaml: is no regular file but a FIFO, a YAML file is wanted")


@pytest.mark.parametrize("name", ["p.yaml", "p.jsonl", "prompts/a.txt"])
def test_requests_from_a_fifo(name):
    Path("prompts").mkdir()
    os.mkfifo(name)
    write_config(".")
    source = name.split("/")[0]
    assert_fails(run(["run", "job.yaml", f"requests={source}"], timeout=LIMIT), 66, f"{name}: is no regular file but a FIFO")


def test_config_is_a_device():
    assert_fails(run(["run", "/dev/zero"], timeout=LIMIT), 66, "/dev/zero: is no regular file but a device")


def test_config_from_another_program():
    """What the shell writes as <(...)."""
    file = write_config(".")
    command = f"exec {PROGRAM} plan <(cat {file})"
    result = subprocess.run(["bash", "-c", command], env=clean_environment(), capture_output=True, text=True, timeout=LIMIT)
    assert result.returncode == 0, result.stderr


def test_the_first_sigterm_ends_what_has_not_begun():
    """The configuration never ends; the program reads it when more than a pipe's content has been written."""
    read, write = os.pipe()
    process = start([PROGRAM, "run", f"/dev/fd/{read}"], pass_fds=[read])
    try:
        os.write(write, b"#" * (1 << 17))
        process.send_signal(signal.SIGTERM)
        assert finish(process, LIMIT).code == 143
    finally:
        kill(process)
        os.close(read)
        os.close(write)


# ---- in the way of the outputs ----

@pytest.mark.parametrize("name, make", [("results.jsonl", os.mkdir), ("queue.json", os.mkdir), ("a/run.yaml", os.mkdir),
                                        ("a/metrics.jsonl", os.mkdir), ("a/video.mp4", os.mkdir),
                                        ("results.jsonl", os.mkfifo)])
def test_in_the_way_of_an_output(name, make):
    file = Path("outputs/job") / name
    file.parent.mkdir(parents=True)
    make(file)
    write_config(".", requests=[{"id": "a"}, {"id": "b"}])
    kind = "a FIFO" if make == os.mkfifo else "a directory"
    result = run(["run", "job.yaml"], timeout=LIMIT)
    assert_fails(result, 74, f"{file}: is {kind}", "output.directory")
    assert "denoise" not in result.err and (file.is_dir() or file.is_fifo())


def test_token_is_a_directory():
    write_config(".")
    Path("token").mkdir(mode=0o755)
    several = ["--nnodes", "2", "--node-rank", "1", "--master-addr", "127.0.0.1", "--token-file", "token"]
    result = run(["launch", *several, "run", "job.yaml"], timeout=LIMIT)
    assert_fails(result, 77, "token: is a directory; the token is a file of 64 hexadecimal digits")
    assert "chmod" not in result.err


# ---- stdout ----

@pytest.mark.parametrize("args", [["keys"], ["devices"], ["plan", "job.yaml"], ["plan", "job.yaml", "--json", "--world", "4"],
                                  ["doctor"]], ids=" ".join)
def test_stdout_that_takes_nothing(args):
    write_config(".")
    with open("/dev/full", "w") as full:
        result = finish(start([PROGRAM, *args], stdout=full), 60)
    assert_fails(result, 74, "stdout cannot be written: No space left on device")


def test_keys_for_a_reader_that_goes():
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as pipe:
        succeed(finish(start([PROGRAM, "keys"], stdout=pipe), LIMIT))


# ---- prompts that look like our own lines ----

FORGED = "a circle\nFAILED rank 0: all is lost\x1b[2J\x9b1A" + " and so on" * 50


def test_a_prompt_stays_on_one_line():
    write_config(".", request={"prompt": FORGED})
    result = succeed(run(["run", "job.yaml"]))
    (line,) = [line for line in result.err.splitlines() if line.startswith("outputs/job: ")]
    assert "a circle\\nFAILED rank 0: all is lost\\x1b[2J\\u009b1A and so on" in line and line.endswith("...")
    assert len(line) < 300 and "\x1b" not in result.err
    assert not [line for line in result.err.splitlines() if line.startswith("FAILED")]


def test_prompts_that_ranks_disagree_on():
    write_config(".", "a", request={"prompt": FORGED})
    write_config(".", "b")
    programs = [[PROGRAM, "run", f"{name}.yaml"] for name in "ab"]
    result = finish(start(["mpirun", "--oversubscribe", "--bind-to", "none", "-n", "1", *programs[0], ":", "-n", "1",
                           *programs[1]]), 60)
    assert result.code == 76 and "ranks disagree on request.prompt: rank 0 has " in result.err, result.err
    assert "\nFAILED rank 0" not in result.err and "\x1b[2J" not in result.err


# ---- a limit on the size of files ----

def test_files_beyond_ulimit():
    """The kernel would end the process by a signal."""
    write_config(".")
    result = finish(start(["bash", "-c", f"ulimit -f 1; exec {PROGRAM} run job.yaml"]), LIMIT)
    assert_fails(result, 74)
    names = [path.name for path in Path("outputs").rglob("*")]
    assert "video.mp4" not in names and not any(name.startswith(".") for name in names), names
