"""`frameshard plan`: what it prints, what it refuses, and that it counts the bytes that a run then sends."""

import json
import os
from pathlib import Path

import pytest

from engine import assert_fails, in_tmp_path, mpirun, run, succeed, write_config

# 45 tokens of 8 heads, both branches of guidance.
REQUEST = {"width": 80, "height": 144, "num_frames": 1, "num_inference_steps": 2}

# Ranks, sizes of the mesh, of the attention, changes to the request.
MESHES = {
    "guidance": (2, {"cfg_size": 2}, {}, {}),
    "ulysses, both branches on each": (2, {"cp_size": 2, "cfg_size": 1}, {"ulysses_size": 2}, {}),
    "ring": (2, {"cp_size": 2, "cfg_size": 1}, {"ring_size": 2}, {"num_inference_steps": 3}),
    "hybrid of two axes": (4, {"cp_size": 2, "cfg_size": 2}, {}, {}),
    "ulysses x ring": (4, {"cp_size": 4, "cfg_size": 1}, {"ulysses_size": 2, "ring_size": 2}, {}),
    "without guidance": (4, {"cp_size": 4}, {"ring_size": 4}, {"guidance_scale": 1.0}),
    "uneven": (7, {"cp_size": 7}, {}, {}),
    "uneven heads in a ring": (6, {"cp_size": 6, "cfg_size": 1}, {"ulysses_size": 3, "ring_size": 2}, {}),
    "all": (8, {"cp_size": 4, "cfg_size": 2}, {"ulysses_size": 2, "ring_size": 2}, {}),
    "more ranks than heads": (9, {"cp_size": 9}, {"ulysses_size": 9}, {}),
    "replicas": (4, {"cp_size": 2, "cfg_size": 1, "dp_size": 2}, {}, {"batch_size": 2}),
}
PROCESSES = ["ring", "hybrid of two axes"]


def plan(args, env=None):
    return run(["plan", "job.yaml", *args], env)


def plan_json(args, env=None):
    return json.loads(succeed(plan([*args, "--json"], env)).out)


def ranks_of(file):
    lines = [json.loads(line) for line in open(file, encoding="utf-8")]
    return [line for line in lines if line["event"] == "rank"]


# ---- bytes ----

@pytest.mark.parametrize("how, mesh", [*(("threads", mesh) for mesh in MESHES), *(("mpirun", mesh) for mesh in PROCESSES)])
def test_bytes_are_those_that_are_sent(how, mesh):
    """To the byte, for every rank, apart for the two groups."""
    ranks, diffusion, attention, changes = MESHES[mesh]
    backend = "threads" if how == "threads" else "auto"
    write_config(".", request={**REQUEST, **changes},
                 infer={"diffusion": diffusion, "attention": attention, "backend": backend})
    planned = plan_json(["--world", str(ranks)])
    assert (planned["mesh"]["dp"] * planned["mesh"]["cfg"] * planned["mesh"]["cp"]) == ranks
    succeed(mpirun(ranks, ["run", "job.yaml"]) if how == "mpirun" else run(["run", "job.yaml"]))
    samples = changes.get("batch_size", 1)
    for sample in range(samples):
        sent = ranks_of(f"outputs/job/{f'sample-{sample}/' if samples > 1 else ''}metrics.jsonl")
        keys = ("rank", "bytes_sent", "cp_bytes", "cfg_bytes")
        assert [{key: line[key] for key in keys} for line in sent] == planned["bytes_a_rank"]
    assert any(line["bytes_sent"] for line in planned["bytes_a_rank"])


# ---- clusters ----

def test_cluster():
    """64 H200 of 8 nodes: both branches, all-to-all inside a node, a ring between nodes."""
    write_config(".", request={"width": 256, "height": 256, "num_frames": 33})
    args = ["--world", "64", "--nodes", "8", "--device", "h200", "--interconnect", "ndr400"]
    text = succeed(plan(args)).out
    assert text.startswith("64 ranks on 8 nodes, from --world\nplan: Wan on 64 h200 ranks on 8 nodes, ndr400\n")
    for part in ("mesh      dp 1 x cfg 2 x cp 32, attention ulysses 8 x ring 4",
                 "groups    cp{0,1,..,31} cp{32,33,..,63} 32 cfg groups of 2: cfg{0,32} ..",
                 "heads     1 each of 8", " a rank of 140.00 GiB (", " sent, ", " of it a layer and pass",
                 " a step, ", " a video, predicted for denoising", " predicted, ", " % of a step is exchange",
                 "why       guidance takes the first factor of 2: a pair of ranks sends ",
                 "why       the sequence is shared by 32 ranks of several nodes: all-to-all over 8, a ring of 4 between nodes"):
        assert text.count(part) == 1, f"{part}\n{text}"
    rows = text[text.index("meshes, best first:"):].splitlines()
    assert len(rows) == 2 + 12 + 1 and rows[2].endswith("recommended")
    assert rows[-1].startswith("  and ") and "--all prints them" in rows[-1]
    more = int(rows[-1].split()[1])
    everything = succeed(plan([*args, "--all"])).out
    assert len(everything[everything.index("meshes, best first:"):].splitlines()) == 2 + 12 + more
    assert "idle replica" in everything and "longer ring" in everything
    assert not os.path.exists("outputs")


def test_json_says_the_same():
    write_config(".", request={"width": 256, "height": 256, "num_frames": 33})
    got = plan_json(["--world", "16", "--nodes", "2", "--device", "h100"])
    assert got["machine"] == {"ranks": 16, "nodes": 2, "device": "h100", "backend": "nccl", "threads_a_rank": 1,
                              "interconnect": "ndr400", "wire": None, "speeds": None, "memory_bytes": 79 * 2**30, "ranks_from": "--world"}
    assert got["mesh"] == {"dp": 1, "cfg": 2, "cp": 8, "ulysses": 8, "ring": 1}
    assert sum(got["tokens"]) == 9 * 16 * 16 and len(got["tokens"]) == 8 and got["heads"] == [1] * 8
    assert got["meshes"][0] == {**got["mesh"], **got["predicted"], "memory_bytes": got["memory"]["peak_bytes"],
                                "fits": True, "why_not": ""}
    assert all(mesh["why_not"] for mesh in got["meshes"][1:])
    assert len(got["bytes_a_rank"]) == 16 and len(got["reasons"]) == 2


def test_several_requests():
    """Enough of them, and a network that is slow enough: replicas."""
    write_config(".", requests=[{"seed": seed, "width": 160, "height": 160} for seed in range(8)])
    text = succeed(plan(["--world", "8", "--nodes", "8", "--device", "cpu", "--interconnect", "ethernet10"])).out
    assert "all 8, predicted for denoising" in text and "mesh      dp 4 x cfg 2 x cp 1" in text
    assert "why       4 replicas exchange nothing and make 8 videos in 2 rounds" in text


# ---- how many ranks ----

@pytest.mark.parametrize("env, args, text, source", [
    ({}, [], "1 rank on 1 node\n", None),
    ({"SLURM_NTASKS": "64", "SLURM_JOB_NUM_NODES": "8"}, [], "64 ranks on 8 nodes, from SLURM_NTASKS\n", "SLURM_NTASKS"),
    ({"SLURM_NTASKS": "8", "SLURM_NNODES": "2"}, [], "8 ranks on 2 nodes, from SLURM_NTASKS\n", "SLURM_NTASKS"),
    ({"SLURM_NTASKS_PER_NODE": "4", "SLURM_NNODES": "2"}, [], "8 ranks on 2 nodes, from SLURM_NTASKS_PER_NODE\n",
     "SLURM_NTASKS_PER_NODE"),
    ({"SLURM_NTASKS": "64", "SLURM_JOB_NUM_NODES": "8"}, ["--world", "4"], "4 ranks on 1 node, from --world\n", "--world"),
    ({}, ["--world", "10", "--nodes", "4"], "10 ranks on 4 nodes, from --world\n", "--world"),
    ({}, ["--world", "16", "--ranks-per-node", "8"], "16 ranks on 2 nodes, from --world\n", "--world"),
    ({}, ["--world", "16", "--ranks-per-node", "8", "--nodes", "2"], "16 ranks on 2 nodes, from --world\n", "--world"),
])
def test_ranks_and_nodes(env, args, text, source):
    write_config(".", request={"width": 128, "height": 128})
    assert succeed(plan(args, env)).out.startswith(text)
    assert plan_json(args, env)["machine"]["ranks_from"] == source


# ---- refusals ----

REFUSALS = {
    "unknown device": (["--device", "h300"], 64, ["--device is \"h300\"", "cpu, cuda, h200, h100"]),
    "unknown interconnect": (["--interconnect", "string"], 64, ["--interconnect is \"string\"", "hdr200, ndr200, ndr400, none"]),
    "nodes that nothing joins": (["--world", "8", "--nodes", "2", "--interconnect", "none"], 64,
                                 ["--interconnect none joins no nodes, and 2 were asked for"]),
    "more nodes than ranks": (["--world", "2", "--nodes", "4"], 64, ["--nodes 4 for 2 ranks"]),
    "nodes without a world": (["--nodes", "4"], 64, ["--nodes 4 for 1 rank", "--world"]),
    "sizes that disagree": (["--world", "16", "--nodes", "4", "--ranks-per-node", "8"], 64,
                            ["--ranks-per-node 8 puts 16 ranks on 2 nodes, not on --nodes 4"]),
    "no world": (["--world", "0"], 64, ["--world"]),
    "a node without ranks": (["--world", "4", "--ranks-per-node", "0"], 64, ["--ranks-per-node"]),
    "a mesh that does not fit": (["--world", "8", "infer.diffusion={dp_size: 1, cfg_size: 2, cp_size: 3}"], 78,
                                 ["dp*cfg*cp = 1*2*3 = 6 but 8 ranks were started; the nearest that fits: cfg 2 x cp 4 "
                                  "(set infer.diffusion.cp_size=4), or start 6 ranks"]),
    "more parts than tokens": (["--world", "16", "infer.diffusion={cp_size: 16}"], 78,
                               ["cp_size 16 is more than the 8 tokens of the smallest request",
                                "the nearest that fits: cfg 2 x cp 8 (set infer.diffusion.cp_size=8)"]),
    "attention that does not fit": (["--world", "4", "infer.diffusion={cp_size: 4}", "infer.attention={ulysses_size: 3}"], 78,
                                    ["ulysses_size 3 x ring_size auto is not cp_size 4",
                                     "infer.attention.ulysses_size=4 infer.attention.ring_size=1"]),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refused(case):
    args, code, parts = REFUSALS[case]
    write_config(".")
    assert_fails(plan(args), code, *parts)


@pytest.mark.parametrize("variable, value", [("SLURM_NTASKS", "many"), ("SLURM_JOB_NUM_NODES", "0"),
                                             ("SLURM_NTASKS_PER_NODE", "4(x2)")])
def test_variable_that_is_no_number(variable, value):
    write_config(".")
    assert_fails(plan([], {variable: value}), 64, f"{variable} is \"{value}\"", "--world")


@pytest.mark.parametrize("overrides", [[], ["infer.backend=threads", "infer.diffusion.cp_size=2"],
                                       ["devices=[{weight: 2}, {weight: 1}]", "infer.diffusion.cp_size=2"]], ids=str)
def test_planned_as_run_alone_does(overrides):
    """Line by line, from the mesh to the predicted time."""
    write_config(".")
    planned, made = succeed(run(["plan", "job.yaml", *overrides])).out, succeed(run(["run", "job.yaml", *overrides])).err
    lines = [line for line in planned.split("meshes, best first")[0].splitlines() if line.startswith("  ")]
    assert len(lines) > 5 and all(line in made.splitlines() for line in lines), (lines, made)


NO_GPU = pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="there may be a GPU")


@NO_GPU
def test_a_missing_device_is_left_out_as_run_does():
    write_config(".")
    devices = "devices=[{device: cuda:0, weight: 2}, {device: cpu}]"
    for command in ("plan", "run"):
        refused = run([command, "job.yaml", devices])
        assert refused.code == 78 and "devices.0.device is cuda:0, but" in refused.err, refused.err
        made = succeed(run([command, "job.yaml", devices, "infer.missing_devices=skip"]))
        assert "devices.0 is left out: it is cuda:0, but" in made.err, made.err


@NO_GPU
@pytest.mark.parametrize("override, text", [
    ("place.text_encoder=cuda", "place.text_encoder is cuda, but"),
    ("lossy.float8_linear=true", "lossy.float8_linear needs a GPU"),
])
def test_what_run_refuses_here_is_not_planned_for_here(override, text):
    write_config(".")
    for words in (["plan"], ["run"]):
        refused = run([*words, "job.yaml", override])
        assert refused.code == 78 and text in refused.err, refused.err
    succeed(run(["plan", "job.yaml", override, "--device", "h200"]))


def test_more_ranks_than_heads_is_a_warning():
    write_config(".", infer={"diffusion": {"cp_size": 16}}, request={"width": 64, "height": 64})
    text = succeed(plan(["--world", "16"])).out
    assert "warning   cp_size 16 is more than the model's 8 heads: attention runs as a ring of 2" in text


def test_help():
    text = succeed(run(["plan", "--help"])).out
    for part in ("--world", "--nodes", "--ranks-per-node", "--device", "h200", "--interconnect", "ndr400", "--json", "--all",
                 "Slurm"):
        assert part in text
