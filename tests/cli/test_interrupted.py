"""Killed, cut off, unheard: whatever lies under a final name is complete, and the next run works."""

import ctypes
import json
import os
import select
import shutil
import signal
import struct
import time
from pathlib import Path

import pytest

from engine import (PROGRAM, assert_nothing_left, finish, in_tmp_path, is_complete_video, kill, latents, mpi_command, run, start,
                    succeed, write_config)

OUTPUT = Path("outputs/job")
LIMIT = 60  # seconds; only reached when something hangs
FRAMES = 33
VIDEO = {"width": 64, "height": 64, "num_frames": FRAMES}


class Watch:
    """Names as they appear in a directory, from the kernel: no moment is missed between two looks."""

    CREATE, MOVED_TO = 0x100, 0x80

    def __init__(self, directory):
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.fd = self.libc.inotify_init1(os.O_CLOEXEC)
        if self.libc.inotify_add_watch(self.fd, os.fsencode(directory), self.CREATE | self.MOVED_TO) < 0:
            raise OSError(ctypes.get_errno(), "inotify_add_watch")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self.fd)

    def wait_for(self, prefix):
        """Returns when a name with this prefix has appeared."""
        end = time.monotonic() + LIMIT
        while select.select([self.fd], [], [], max(0, end - time.monotonic()))[0]:
            if any(name.startswith(prefix) for name in self.names(os.read(self.fd, 65536))):
                return
        pytest.fail(f"no {prefix}* appeared")

    @staticmethod
    def names(events):
        at = 0
        while at < len(events):
            (length,) = struct.unpack_from("I", events, at + 12)
            yield events[at + 16:at + 16 + length].rstrip(b"\0").decode()
            at += 16 + length


def kill_when(appears, args, directory=OUTPUT):
    """Kills the run at the moment when a file of this name appears in the output directory."""
    directory.mkdir(parents=True, exist_ok=True)
    with Watch(directory) as watch:
        process = start([PROGRAM, *args])
        watch.wait_for(appears)
        kill(process)
    assert finish(process, LIMIT).code == 128 + signal.SIGKILL


def temporaries():
    return [path.name for path in OUTPUT.iterdir() if ".tmp-" in path.name]


def assert_complete_or_absent():
    """Every file under a final name can be read to its end."""
    names = {path.name for path in OUTPUT.iterdir() if ".tmp-" not in path.name}
    if "video.mp4" in names:
        assert is_complete_video(OUTPUT / "video.mp4", FRAMES)
    if "latents.safetensors" in names:
        assert latents(OUTPUT).shape == (1, 16, 9, 8, 8)
    if "run.yaml" in names:
        assert (OUTPUT / "run.yaml").read_text().startswith("model:")
    return names


def test_killed_while_writing_the_video():
    """The video is under way from the first decoded frame on; a run that was faster than the kill is done again."""
    write_config(".", request=VIDEO)
    for _ in range(10):
        shutil.rmtree("outputs", ignore_errors=True)
        kill_when(".video.mp4.tmp-", ["run", "job.yaml"])
        if temporaries():
            break
    assert temporaries(), "every kill came too late"
    assert "video.mp4" not in assert_complete_or_absent()

    succeed(run(["run", "job.yaml"]))
    assert temporaries() == []
    assert {"video.mp4", "latents.safetensors", "run.yaml", "metrics.jsonl"} <= assert_complete_or_absent()


@pytest.mark.parametrize("appears", [".run.yaml.tmp-", "run.yaml", ".latents.safetensors.tmp-", "latents.safetensors",
                                     ".preview.png.tmp-", "video.mp4"])
def test_killed_at_another_file(appears):
    """Whether the kill came before or after the rename: what is there is complete."""
    write_config(".", request=VIDEO)
    kill_when(appears, ["run", "job.yaml"])
    assert_complete_or_absent()
    succeed(run(["run", "job.yaml", "output.overwrite=true"]))
    assert temporaries() == []
    assert "video.mp4" in assert_complete_or_absent()


def test_killed_while_replacing():
    """The old video is complete or gone, and never stands beside new latents."""
    write_config(".", request=VIDEO)
    succeed(run(["run", "job.yaml"]))
    old = latents(OUTPUT)
    kill_when("latents.safetensors", ["run", "job.yaml", "request.seed=1", "output.overwrite=true"])
    replaced = (latents(OUTPUT) != old).any()
    assert not (replaced and "video.mp4" in assert_complete_or_absent())


def test_list_killed_after_a_video():
    """The next run makes what is missing, and the list of results is whole."""
    write_config(".", "list", requests=[{"seed": 1}, {"seed": 2}])
    first, second = Path("outputs/list/0000"), Path("outputs/list/0001")
    kill_when("video.mp4", ["run", "list.yaml"], first)
    assert is_complete_video(first / "video.mp4", 5)
    result = succeed(run(["run", "list.yaml"]))
    assert f"{first} is complete and is kept" in result.err
    assert is_complete_video(second / "video.mp4", 5)
    lines = Path("outputs/list/results.jsonl").read_text().splitlines()
    assert {json.loads(line)["id"] for line in lines} == {"0000", "0001"}


def lines_until(process, stream, text):
    """Reads until a line contains `text`."""
    for line in stream:
        if text in line:
            return
    pytest.fail(f"the run ended with {process.wait()} before \"{text}\"")


def start_denoising(ranks):
    """A run of very many steps, in its third; and the processes that do the work."""
    write_config(".", request={**VIDEO, "num_inference_steps": 1000})
    command = [PROGRAM, "run", "job.yaml"]
    process = start(command if ranks == 1 else mpi_command(ranks, command))
    lines_until(process, process.stderr, "denoise    2/1000")
    return process, [process.pid] if ranks == 1 else ranks_of(process)


def ranks_of(mpirun):
    children = Path(f"/proc/{mpirun.pid}/task/{mpirun.pid}/children").read_text().split()
    return [int(child) for child in children if b"frameshard" in Path(f"/proc/{child}/cmdline").read_bytes()]


def assert_ends(pid):
    """A process that is no child of ours; one that has ended counts although nobody has fetched its exit code."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    ended = select.select([handle], [], [], LIMIT)[0]
    os.close(handle)
    assert ended, f"process {pid} goes on"


@pytest.mark.parametrize("ranks", [1, 2])
def test_killed_while_denoising(ranks):
    """Alone: the process. Under mpirun: mpirun, and its ranks end by themselves."""
    process, workers = start_denoising(ranks)
    assert len(workers) == ranks
    kill(process)
    assert finish(process, LIMIT).code == 128 + signal.SIGKILL
    for worker in workers:
        assert_ends(worker)
    assert_nothing_left("outputs", denoised=True)
    succeed(run(["run", "job.yaml", "request.num_inference_steps=2"]))
    assert is_complete_video(OUTPUT / "video.mp4", FRAMES)


@pytest.mark.parametrize("victim", [0, 1])
def test_one_rank_killed(victim):
    """The job ends with the signal's code, and the other rank with it."""
    process, workers = start_denoising(2)
    os.kill(workers[victim], signal.SIGKILL)
    assert finish(process, LIMIT).code == 128 + signal.SIGKILL
    assert_ends(workers[1 - victim])
    assert_nothing_left("outputs", denoised=True)


# ---- nobody reads what is printed ----

def closed_pipe():
    reader, writer = os.pipe()
    os.close(reader)
    return writer


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_reader_has_gone(stream):
    """As in `frameshard run job.yaml | head -1`: the video is made all the same."""
    write_config(".", request=VIDEO)
    pipe = closed_pipe()
    result = finish(start([PROGRAM, "run", "job.yaml"], **{stream: pipe}), LIMIT)
    os.close(pipe)
    succeed(result)
    assert {"video.mp4", "latents.safetensors"} <= assert_complete_or_absent()


@pytest.mark.parametrize("closed", ["0", "1", "2", "0 1 2"])
def test_started_with_closed_streams(closed):
    """As some daemons do: the next file that is opened gets the number of a standard stream, and must not be written to."""
    write_config(".", request=VIDEO)
    redirections = " ".join(f"{number}>&-" for number in closed.split())
    result = finish(start(["sh", "-c", f"exec {PROGRAM} run job.yaml {redirections}"]), LIMIT)
    assert result.code == 0
    assert {"video.mp4", "latents.safetensors", "run.yaml", "metrics.jsonl"} <= assert_complete_or_absent()


def test_a_second_interrupt_does_not_wait():
    """The first one is answered at once, though the step that it waits for may take long."""
    write_config(".", request={**VIDEO, "num_inference_steps": 1000})
    process = start([PROGRAM, "run", "job.yaml"])
    lines_until(process, process.stderr, "denoise    2/1000")
    process.send_signal(signal.SIGINT)
    lines_until(process, process.stderr, "stopping after this step; a second ^C ends at once")
    process.send_signal(signal.SIGINT)
    assert finish(process, LIMIT).code == 130


@pytest.mark.parametrize("name, word", [("SIGINT", "stopped by a signal"), ("SIGHUP", "FAILED: ended by Hangup")])
def test_launch_ended_by_a_signal(name, word):
    """128+n, and a last line that says so: mpirun itself would make a 1 of it."""
    write_config(".", request={**VIDEO, "num_inference_steps": 1000})
    process = start([PROGRAM, "launch", "--nproc-per-node", "2", "run", "job.yaml"])
    lines_until(process, process.stderr, "denoise    2/1000")
    process.send_signal(getattr(signal, name))
    rest = process.stderr.read()
    assert process.wait(30) == 128 + getattr(signal, name)
    assert word in rest.splitlines()[-1], rest
    assert not Path("outputs/job/video.mp4").exists()
