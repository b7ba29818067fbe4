"""Two network hosts of one machine (support/two_hosts.sh), with a launcher on each."""

import os
import re
import select
import signal
import time
from pathlib import Path

import engine
from engine import Result, kill, start

TOKEN = "5" * 64
BUILD = Path(engine.PROGRAM).parent
OPENMPI5 = engine.SOURCE / "build/venv-openmpi5/bin"
VERSIONS = {"4": engine.PROGRAM, "5": str(BUILD / "openmpi5/frameshard")}
ADDRESS = {1: "10.77.0.1", 2: "10.77.0.2"}


def environment(version="4", **changes):
    path = os.environ["PATH"]
    return {"FRAMESHARD_TOKEN": TOKEN, "PATH": f"{OPENMPI5}:{path}" if version == "5" else path, **changes}


def on_host(number, command, env, name=None):
    """A command on host h1 or h2, with a host name of its own."""
    enter = ["ip", "netns", "exec", f"h{number}", "unshare", "-u", "sh", "-c", 'hostname "$0"; exec "$@"', name or f"h{number}"]
    return Started(start([*enter, *command], env))


class Started:
    """A process whose stderr can be waited on while it runs."""

    def __init__(self, process):
        self.process, self.err = process, ""
        os.set_blocking(process.stderr.fileno(), False)

    def read(self):
        try:
            while chunk := os.read(self.process.stderr.fileno(), 65536):
                self.err += chunk.decode(errors="replace")
        except BlockingIOError:
            pass

    def wait_for(self, pattern, timeout=60):
        """The match of a pattern in stderr, as soon as it is there."""
        end = time.monotonic() + timeout
        while True:
            ready, _, _ = select.select([self.process.stderr], [], [], max(0, end - time.monotonic()))
            self.read()
            if match := re.search(pattern, self.err):
                return match
            assert ready and self.process.poll() is None, f"no {pattern!r} in:\n{self.err}"

    def finish(self, timeout=60):
        end = time.monotonic() + timeout
        while self.process.poll() is None:
            if time.monotonic() > end:
                kill(self.process)
                raise AssertionError(f"still running after {timeout} s:\n{self.err}")
            select.select([self.process.stderr], [], [], 0.1)
            self.read()
        self.read()
        out = self.process.stdout.read()
        return Result(self.process.returncode if self.process.returncode >= 0 else 128 - self.process.returncode, out, self.err)


def launch(number, *args, ranks=2, version="4", flags=(), env=None, name=None, nodes=2, node_rank=None):
    """`frameshard launch` on one host, as node 0 on h1 and node 1 on h2."""
    node_rank = number - 1 if node_rank is None else node_rank
    words = [VERSIONS[version], "launch", "--nnodes", str(nodes), "--node-rank", str(node_rank), "--nproc-per-node", str(ranks),
             "--master-addr", ADDRESS[1], *flags, *args]
    return on_host(number, words, environment(version, **(env or {})), name)


def frameshard_processes():
    """Names of what a job runs, by process id; the hosts are a process namespace of their own."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        name = Path(os.fsdecode(words[0])).name
        if name in ("frameshard", "frameshard-agent", "mpirun", "prterun", "orted", "prted"):
            found[int(entry.name)] = [os.fsdecode(word) for word in words]
    return found


def end_everything():
    """Of a test that failed, so that it does not slow the others down."""
    for pid in frameshard_processes():
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def wait_until(condition, timeout=20):
    """Until something that has no file descriptor of its own has come about."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.02)


def assert_nothing_runs():
    wait_until(lambda: not frameshard_processes())
    left = [path for place in ("/tmp", "/dev/shm") for path in Path(place).glob("frameshard-*") if path.is_dir() and len(path.name) == 26]
    assert not left, left
