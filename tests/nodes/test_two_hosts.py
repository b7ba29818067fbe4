"""`frameshard launch` over two hosts without ssh: the same result, and an end in order whatever is lost."""

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import numpy
import pytest

from engine import assert_nothing_left, in_tmp_path, latents, mpirun, succeed, write_config
from hosts import VERSIONS, assert_nothing_runs, end_everything, environment, frameshard_processes, launch, on_host, wait_until
from pages import PATH, blocks, like_a_checkout

SPLIT = ["infer.diffusion.cp_size=2", "infer.diffusion.cfg_size=2", "infer.attention.ulysses_size=2", "infer.threads_per_rank=1"]
LONG = {"num_inference_steps": 1000}
OUTPUT = Path("outputs/job")


@pytest.fixture(autouse=True)
def no_job_is_left():
    yield
    try:
        assert_nothing_runs()
    finally:
        end_everything()


@pytest.fixture(scope="module")
def one_machine(tmp_path_factory):
    """The same mesh on one machine under mpirun."""
    directory = tmp_path_factory.mktemp("one")
    write_config(directory)
    succeed(mpirun(4, ["run", str(directory / "job.yaml"), f"output.directory={directory}/outputs", *SPLIT]))
    return latents(directory / OUTPUT)


def both_succeed(*nodes):
    ended = [node.finish() for node in nodes]
    assert [node.code for node in ended] == [0, 0], "".join(f"\n---- node {i}\n{node.err}" for i, node in enumerate(ended))


# ---- the same result ----

@pytest.mark.parametrize("ranks", [(2, 2), (1, 3)], ids=str)
@pytest.mark.parametrize("version", VERSIONS)
def test_two_hosts_are_as_one(version, ranks, one_machine):
    if not Path(VERSIONS[version]).exists():
        pytest.skip("built without Open MPI 5: build/venv-openmpi5 is missing")
    write_config(".")
    nodes = [launch(host, "run", "job.yaml", *SPLIT, ranks=count, version=version) for host, count in zip((1, 2), ranks)]
    both_succeed(*nodes)
    assert numpy.array_equal(latents(OUTPUT), one_machine)


def test_a_master_that_comes_late():
    write_config(".")
    second = launch(2, "run", "job.yaml", *SPLIT, flags=["--rdzv-timeout", "30"], env={"FRAMESHARD_LOG": "debug"})
    second.wait_for("node 0 at .* does not answer yet")
    first = launch(1, "run", "job.yaml", *SPLIT)
    both_succeed(first, second)


def test_port_0_is_printed():
    write_config(".")
    first = launch(1, "run", "job.yaml", *SPLIT, flags=["--master-port", "0"])
    port = first.wait_for(r"waits at 10\.77\.0\.1:(\d+)").group(1)
    second = launch(2, "run", "job.yaml", *SPLIT, flags=["--master-port", port])
    both_succeed(first, second)


def test_the_pages_commands():
    """docs/start/launch.md, as it stands."""
    like_a_checkout()
    nodes = [on_host(number + 1, ["bash", "-euc", blocks("docs/start/launch.md", f"sh node {number}")[0]], environment(PATH=PATH))
             for number in (0, 1)]
    both_succeed(*nodes)
    assert Path("outputs/quickstart/video.mp4").exists()


def test_each_node_runs_in_its_own_directory(tmp_path):
    """As under torchrun; the outputs are written by rank 0, in node 0's directory."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_config(tmp_path / name)
    nodes = []
    for host, name in ((1, "one"), (2, "two")):
        os.chdir(tmp_path / name)
        nodes.append(launch(host, "run", "job.yaml", *SPLIT, flags=["--tee", "3", "--log-dir", "logs", "--rdzv-id", "x"]))
    os.chdir(tmp_path)
    both_succeed(*nodes)
    assert (tmp_path / "one/outputs/job/video.mp4").exists() and not (tmp_path / "two/outputs").exists()
    assert sorted(path.name for path in (tmp_path / "one/logs/x/attempt_0").iterdir()) == ["0", "1"]
    assert sorted(path.name for path in (tmp_path / "two/logs/x/attempt_0").iterdir()) == ["2", "3"]


@pytest.fixture
def second_network():
    """Another cable between the hosts: 10.78.0.1 and 10.78.0.2."""
    commands = ["ip link add br1 type bridge", "ip link set br1 up"]
    for host in (1, 2):
        commands += [f"ip link add w{host} type veth peer name eth1 netns h{host}", f"ip link set w{host} master br1 up",
                     f"ip -n h{host} addr add 10.78.0.{host}/24 dev eth1", f"ip -n h{host} link set eth1 up"]
    for command in commands:
        subprocess.run(command.split(), check=True)
    yield
    for link in ("w1", "w2", "br1"):
        subprocess.run(["ip", "link", "delete", link], check=True)


def received_bytes(link):
    shown = subprocess.run(["ip", "-j", "-s", "link", "show", link], capture_output=True, text=True, check=True).stdout
    return json.loads(shown)[0]["stats64"]["rx"]["bytes"]


def on_second_network(flags=()):
    return [launch(host, "run", "job.yaml", *SPLIT, flags=["--local-addr", f"10.78.0.{host}", *flags]) for host in (1, 2)]


def test_ranks_talk_over_the_address_that_is_told(second_network, one_machine):
    write_config(".")
    before = received_bytes("v1")
    both_succeed(*on_second_network())
    assert numpy.array_equal(latents(OUTPUT), one_machine)
    # The rendezvous alone is left for the first network: of the tensors nothing.
    assert received_bytes("w1") > 10 * (received_bytes("v1") - before)


def pull_the_cable():
    subprocess.run(["ip", "link", "set", "w2", "down"], check=True)


def drop_everything():
    """As a firewall does: nobody is told."""
    for host in (1, 2):
        neighbour = f"ip -n h{host} neigh add 10.78.0.{3 - host} lladdr 02:00:00:00:00:01 dev eth1 nud permanent"
        subprocess.run(neighbour.split(), check=True)
    subprocess.run(["ip", "link", "set", "w2", "nomaster"], check=True)


@pytest.mark.parametrize("cut", [pull_the_cable, drop_everything])
def test_ranks_that_cannot_reach_each_other(cut, second_network):
    """The launchers can."""
    write_config(".")
    cut()
    ended = [node.finish() for node in on_second_network(["--rdzv-timeout", "4"])]
    assert [node.code for node in ended] == [69, 69], ended
    assert "the ranks have not met; can MPI connect 10.78.0.1 and 10.78.0.2" in ended[0].err, ended[0].err
    assert ended[0].err.count("FAILED") == 1, ended[0].err
    assert_nothing_left("outputs")


# ---- who does not belong ----

def test_strangers_change_nothing():
    """Garbage, silence, another token: the job goes on without noticing."""
    write_config(".")
    first = launch(1, "run", "job.yaml", *SPLIT)
    first.wait_for("waits at")
    garbage = "import socket,sys\n" \
              "silent = socket.create_connection(('10.77.0.1', 29500))\n" \
              "for text in (b'GET / HTTP/1.1\\r\\n\\r\\n', b'\\xff' * 5000, b'\\0\\0\\0\\1', b'\\0\\0\\0\\x05proof'):\n" \
              "    s = socket.create_connection(('10.77.0.1', 29500)); s.sendall(text); s.close()\n" \
              "s = socket.create_connection(('10.77.0.1', 29500)); s.sendall(b'\\xff' * 5000)\n" \
              "while s.recv(100): pass\n"
    on_host(2, ["python3", "-c", garbage], {}).finish()
    first.wait_for("does not speak the launcher's protocol")
    refused = launch(2, "run", "job.yaml", *SPLIT, env={"FRAMESHARD_TOKEN": "6" * 64}).finish()
    assert refused.code == 77 and "refused this node's token" in refused.err and "FRAMESHARD_TOKEN" in refused.err
    first.wait_for("10.77.0.2 has another token")
    second = launch(2, "run", "job.yaml", *SPLIT)
    both_succeed(first, second)


def test_more_strangers_than_places():
    """Silent connections do not keep a node out."""
    write_config(".")
    first = launch(1, "run", "job.yaml", *SPLIT)
    first.wait_for("waits at")
    crowd = on_host(2, ["python3", "-c", "import socket,sys\nall = [socket.create_connection(('10.77.0.1', 29500)) for _ in range(100)]\n"
                        "print('ready', file=sys.stderr, flush=True); sys.stdin.read(); import time; time.sleep(60)"], {})
    crowd.wait_for("ready")
    both_succeed(first, launch(2, "run", "job.yaml", *SPLIT))
    os.killpg(crowd.process.pid, signal.SIGKILL)
    crowd.finish()


def test_a_waiting_node_is_ended():
    write_config(".")
    first = launch(1, "run", "job.yaml", nodes=3)
    second = launch(2, "run", "job.yaml", nodes=3)
    first.wait_for("node 1 .* joined")
    wait_until(lambda: processes("launcher", 2))
    os.kill(processes("launcher", 2)[0], signal.SIGTERM)
    assert [node.finish().code for node in (first, second)] == [143, 143]


def test_another_job_waits_at_the_same_place():
    write_config(".")
    first = launch(1, "run", "job.yaml", *SPLIT, flags=["--rdzv-id", "a"])
    other = launch(2, "run", "job.yaml", *SPLIT, flags=["--rdzv-id", "b"]).finish()
    assert other.code == 78 and 'this is the job "a", not "b"' in other.err, other.err
    both_succeed(first, launch(2, "run", "job.yaml", *SPLIT, flags=["--rdzv-id", "a"]))


@pytest.mark.parametrize("address", ["0.0.0.0", "localhost"])
def test_an_address_that_nobody_reaches(address):
    write_config(".")
    words = [VERSIONS["4"], "launch", "--nnodes", "2", "--node-rank", "0", "--master-addr", address, "run", "job.yaml"]
    refused = on_host(1, words, environment()).finish()
    assert refused.code == 64 and "which other nodes cannot reach" in refused.err, refused.err


def test_the_master_listens_on_one_address():
    write_config(".")
    first = launch(1, "run", "job.yaml", flags=["--rdzv-timeout", "30"])
    first.wait_for("waits at")
    listening = on_host(1, ["python3", "-c", "import socket; print(socket.create_connection(('127.0.0.1', 29500)))"], {}).finish()
    assert "refused" in listening.err
    os.kill(first.process.pid, signal.SIGINT)
    assert first.finish().code == 130


@pytest.mark.parametrize("wrong, code, parts", [
    ({"name": "h1"}, 78, ["same host name"]),
    ({"args": ["request.seed=4"]}, 76, ["request.seed=4", "same command"]),
    ({"nodes": 3}, 78, ["--nnodes 2", "with 3"]),
    ({"node_rank": 1, "version": "5"}, 76, ["Open MPI 4.1.4", "Open MPI 5.0.11"]),
], ids=["host name", "command", "nnodes", "version"])
def test_nodes_that_do_not_fit(wrong, code, parts):
    if wrong.get("version") == "5" and not Path(VERSIONS["5"]).exists():
        pytest.skip("built without Open MPI 5: build/venv-openmpi5 is missing")
    write_config(".")
    wrong = dict(wrong)
    more = wrong.pop("args", [])
    first = launch(1, "run", "job.yaml", *SPLIT)
    first.wait_for("waits at")
    second = launch(2, "run", "job.yaml", *SPLIT, *more, **wrong).finish()
    ended = first.finish()
    for node in (ended, second):
        assert node.code == code, node.err
        assert all(part in node.err for part in parts), node.err
    assert_nothing_left("outputs")


# ---- rendezvous that does not come about ----

def test_a_node_that_does_not_come():
    write_config(".")
    alone = launch(1, "run", "job.yaml", flags=["--rdzv-timeout", "0.5"], nodes=3).finish()
    assert alone.code == 69 and "nodes 1, 2 have not joined at 10.77.0.1:29500" in alone.err, alone.err
    assert alone.err.count("FAILED") == 1


def test_a_master_that_does_not_come():
    write_config(".")
    alone = launch(2, "run", "job.yaml", flags=["--rdzv-timeout", "0.5"]).finish()
    assert alone.code == 69 and "node 0 at 10.77.0.1:29500 cannot be reached" in alone.err, alone.err


def test_the_port_is_in_use():
    write_config(".")
    blocker = on_host(1, ["python3", "-c", "import socket,sys\ns = socket.create_server(('10.77.0.1', 29500)); "
                             "print('ready', file=sys.stderr, flush=True); s.accept()"], {})
    blocker.wait_for("ready")
    refused = launch(1, "run", "job.yaml").finish()
    assert refused.code == 69 and "port 29500 of 10.77.0.1 is in use" in refused.err, refused.err
    os.killpg(blocker.process.pid, signal.SIGKILL)
    blocker.finish()


def test_an_address_of_another_machine():
    write_config(".")
    refused = launch(2, "run", "job.yaml", node_rank=0).finish()
    assert refused.code == 69 and "10.77.0.1 is no address of this machine" in refused.err, refused.err


def test_a_config_error_reaches_both():
    write_config(".")
    first = launch(1, "run", "job.yaml", "infer.diffusion.cp_size=3")
    second = launch(2, "run", "job.yaml", "infer.diffusion.cp_size=3").finish()
    ended = first.finish()
    assert ended.code == second.code == 78, ended.err + second.err
    assert "4 ranks" in ended.err and "node 0 says" in second.err


# ---- what is lost while the ranks run ----

def running(version="4", flags=()):
    write_config(".", request=LONG)
    nodes = [launch(host, "run", "job.yaml", *SPLIT, version=version, flags=flags) for host in (1, 2)]
    nodes[0].wait_for("denoise +[0-9]+/1000")
    return nodes


def processes(kind, host):
    """Of the running job: 'rank', 'daemon' or 'launcher', on one host."""
    found = []
    for pid, words in frameshard_processes().items():
        name = Path(words[0]).name
        this = "daemon" if name in ("orted", "prted") else "rank" if words[1:2] == ["run"] and name == "frameshard" else \
            "launcher" if words[1:2] == ["launch"] else name
        where = subprocess.run(["ip", "netns", "identify", str(pid)], capture_output=True, text=True).stdout.strip()
        if this == kind and where == f"h{host}":
            found.append(pid)
    return found


@pytest.mark.parametrize("host", [1, 2])
def test_a_rank_is_killed(host):
    nodes = running()
    os.kill(processes("rank", host)[0], signal.SIGKILL)
    codes = [node.finish().code for node in nodes]
    assert codes == [137, 137], [node.err for node in nodes]
    assert re.search(rf"FAILED: rank [0-3] \(host h{host}\) was ended by signal 9 \(Killed\)", nodes[0].err), nodes[0].err
    assert_nothing_left("outputs", denoised=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_daemon_is_killed(version):
    """Of which Open MPI 5 makes exit code 0."""
    if not Path(VERSIONS[version]).exists():
        pytest.skip("built without Open MPI 5: build/venv-openmpi5 is missing")
    nodes = running(version)
    os.kill(processes("daemon", 2)[0], signal.SIGKILL)
    ended = [node.finish() for node in nodes]
    assert [node.code for node in ended] == [69, 69], ended
    assert "daemon of node 1" in ended[0].err


def test_a_launcher_is_killed():
    nodes = running()
    os.kill(processes("launcher", 2)[0], signal.SIGKILL)
    ended = nodes[0].finish()
    assert ended.code == 69 and "lost node 1 (host h2" in ended.err, ended.err
    nodes[1].finish()


def test_the_masters_launcher_is_killed():
    nodes = running()
    os.kill(processes("launcher", 1)[0], signal.SIGKILL)
    ended = nodes[1].finish()
    assert ended.code == 69 and "lost node 0" in ended.err, ended.err
    nodes[0].finish()
    for place in (Path("/tmp"), Path("/dev/shm")):  # of a launcher that could not clean up
        for left in place.glob("frameshard-????????????????"):
            subprocess.run(["rm", "-r", left], check=True)


def test_the_network_is_cut():
    nodes = running()
    subprocess.run(["ip", "link", "set", "v2", "down"], check=True)
    try:
        ended = [node.finish() for node in nodes]
    finally:
        subprocess.run(["ip", "link", "set", "v2", "up"], check=True)
    assert [node.code for node in ended] == [69, 69], ended
    assert "lost node 1" in ended[0].err and "no word for 10 s" in ended[0].err, ended[0].err
    assert "lost node 0" in ended[1].err, ended[1].err


def test_a_restart_after_a_loss():
    nodes = running(flags=["--max-restarts", "1"])
    before = set(processes("rank", 2))
    os.kill(min(before), signal.SIGKILL)
    nodes[0].wait_for("restart 1 of 1")
    wait_until(lambda: len(set(processes("rank", 2)) - before) == 2)
    nodes[0].wait_for("restart 1 of 1(.|\n)*denoise +[0-9]+/1000")
    os.kill(processes("rank", 1)[0], signal.SIGKILL)
    assert [node.finish().code for node in nodes] == [137, 137]


def test_a_lost_node_comes_back():
    """A scheduler starts its launcher again; the job goes on from what is saved."""
    flags = ["--max-restarts", "1"]
    nodes = running(flags=flags)
    os.kill(processes("launcher", 2)[0], signal.SIGKILL)
    nodes[0].wait_for("waits at 10.77.0.1:29500 for node 1(.|\n)*waits at 10.77.0.1:29500 for node 1")
    nodes[1].finish()
    again = launch(2, "run", "job.yaml", *SPLIT, flags=flags)
    nodes[0].wait_for("restart 1 of 1(.|\n)*denoise +[0-9]+/1000")
    os.kill(processes("rank", 1)[0], signal.SIGKILL)
    assert [node.finish().code for node in (nodes[0], again)] == [137, 137]


@pytest.mark.parametrize("host", [1, 2])
def test_an_interrupt_on_either_host(host):
    nodes = running()
    os.kill(processes("launcher", host)[0], signal.SIGINT)
    assert [node.finish().code for node in nodes] == [130, 130], [node.err for node in nodes]
    assert_nothing_left("outputs", denoised=True)
