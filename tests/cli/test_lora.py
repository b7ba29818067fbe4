"""`lora:` of a run: files of low-rank changes, merged or computed beside the weights, alone and together."""

import json
from pathlib import Path

import numpy
import pytest
from safetensors.numpy import save_file

from engine import (MODEL, PROGRAM, WEIGHTS, assert_fails, assert_nothing_left, assert_same_video, close, finish,
                    in_tmp_path, latents, mpi_command, one_rank, read_safetensors, run, start, succeed, write_config)

RANK = 4
ALPHA = 6
KOHYA = {"attn1": "self_attn", "attn2": "cross_attn", "to_q": "q", "to_k": "k", "to_v": "v", "to_out_0": "o",
         "ffn_net_0_proj": "ffn_0", "ffn_net_2": "ffn_2"}


def layers():
    """Name and [out, in] of the blocks' linear layers."""
    header, _ = read_safetensors(MODEL / "transformer" / WEIGHTS)
    return {name.removesuffix(".weight"): entry["shape"] for name, entry in header.items()
            if name.startswith("blocks.") and name.endswith(".weight") and len(entry["shape"]) == 2}


def pairs(seed, size=0.05):
    random = numpy.random.default_rng(seed)
    draw = lambda *shape: (size * random.standard_normal(shape)).astype(numpy.float32)  # noqa: E731
    return {name: (draw(RANK, shape[1]), draw(shape[0], RANK)) for name, shape in layers().items()}


def write_diffusers(file, pairs):
    """diffusers' form has no alpha: the second matrix has it within."""
    tensors = {}
    for name, (down, up) in pairs.items():
        tensors[f"transformer.{name}.lora_A.weight"] = down
        tensors[f"transformer.{name}.lora_B.weight"] = up * numpy.float32(ALPHA / RANK)
    save_file(tensors, file)


def write_kohya(file, pairs, **more):
    tensors = dict(more)
    for name, (down, up) in pairs.items():
        name = "lora_unet_" + name.replace(".", "_")
        for ours, theirs in KOHYA.items():
            name = name.replace(ours, theirs)
        tensors |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up,
                    f"{name}.alpha": numpy.array(ALPHA, numpy.float32)}
    save_file(tensors, file)


@pytest.fixture(autouse=True)
def files(in_tmp_path):
    write_diffusers("a.safetensors", pairs(1))
    write_kohya("b.safetensors", pairs(2))
    write_config(".")


def make(directory, *lora, ranks=None, options=()):
    """Latents of the job with these entries of `lora`."""
    entries = "[" + ", ".join(lora) + "]"
    result = succeed(run(["run", "job.yaml", f"output.directory={directory}", f"lora={entries}", *options], ranks=ranks))
    return latents(f"{directory}/job"), result


def test_merged_or_beside(one_rank):
    beside, result = make("beside", "{path: a.safetensors}")
    assert f"lora a.safetensors: {len(layers())} layers, rank {RANK}, scale 1\n" in result.err
    merged, result = make("merged", "{path: a.safetensors, merge: true}")
    assert f"lora a.safetensors: {len(layers())} layers, rank {RANK}, scale 1, merged\n" in result.err
    assert close(beside, merged)
    assert numpy.linalg.norm(beside - one_rank) > 0.01 * numpy.linalg.norm(one_rank)
    half, _ = make("half", "{path: a.safetensors, scale: 0.5}")
    assert not close(half, beside) and not close(half, one_rank)


def test_forms_are_equal():
    write_kohya("kohya.safetensors", pairs(1))
    assert close(make("diffusers", "{path: a.safetensors}")[0], make("kohya", "{path: kohya.safetensors}")[0])


def test_two_at_once():
    beside, _ = make("beside", "{path: a.safetensors}", "{path: b.safetensors, scale: 0.7}")
    merged, _ = make("merged", "{path: a.safetensors, merge: true}", "{path: b.safetensors, scale: 0.7, merge: true}")
    mixed, _ = make("mixed", "{path: b.safetensors, scale: 0.7}", "{path: a.safetensors, merge: true}")
    assert close(beside, merged) and close(mixed, merged)
    assert not close(make("one", "{path: a.safetensors}")[0], beside)


def test_opposites_cancel(one_rank):
    both, _ = make("both", "{path: a.safetensors}", "{path: a.safetensors, scale: -1}")
    assert close(both, one_rank)


@pytest.mark.parametrize("merge", ["true", "false"])
@pytest.mark.parametrize("ranks, options", [
    (2, ["infer.diffusion.cp_size=2"]),
    (2, ["infer.diffusion.cp_size=2", "infer.share_weights=false"]),
    (None, ["infer.backend=threads", "infer.diffusion.cp_size=2"]),
])
def test_ranks(merge, ranks, options):
    """Ranks that share their weights merge once, or each has a copy to merge into."""
    entry = f"{{path: a.safetensors, merge: {merge}}}"
    make("one", entry)
    make("several", entry, ranks=ranks, options=options)
    assert_same_video("several/job", "one/job")


@pytest.mark.parametrize("merge", ["true", "false"])
def test_read_again_for_each_video(merge):
    """With low memory the weights are read for each video; what was merged into them is then gone and merged anew."""
    write_config(".", "list", requests=[{"id": "a"}, {"id": "b"}])
    entry = f"lora=[{{path: a.safetensors, merge: {merge}}}]"
    make("one", f"{{path: a.safetensors, merge: {merge}}}")
    succeed(run(["run", "list.yaml", entry, "infer.low_memory=2"]))
    for unit in ("a", "b"):
        assert_same_video(f"outputs/list/{unit}", "one/job")


def test_run_yaml_makes_it_again():
    first, _ = make("first", "{path: a.safetensors, scale: 0.5, merge: true}")
    succeed(run(["run", "first/job/run.yaml", "output.directory=second"]))
    assert (latents("second/run") == first).all()


def test_is_part_of_what_determines_the_result():
    """A complete list made without is neither kept nor replaced."""
    write_config(".", "list", requests=[{"id": "a"}])
    succeed(run(["run", "list.yaml"]))
    succeed(run(["run", "list.yaml"]))
    succeed(run(["run", "list.yaml", "lora=[]"]))
    assert_fails(run(["run", "list.yaml", "lora=[{path: a.safetensors}]"]), 74, "another configuration")



REFUSED = {
    "missing": (66, ["missing.safetensors: no such file"]),
    "other": (65, ["other.safetensors: none of its 2 tensors changes a layer of this model",
                   "transformer.blocks.40.attn1.to_q.lora_A.weight [4, 256]", "is it a LoRA, and one for this model?"]),
    "larger": (65, ["larger.safetensors: transformer.blocks.0.attn1.to_q.lora_A.weight has shape [4, 5120]",
                    "a LoRA for a model of another size?"]),
    "nan": (65, ["nan.safetensors: transformer.blocks.0.attn1.to_q.lora_A.weight has values that are NaN or Inf"]),
    "broken": (65, ["broken.safetensors", "truncated"]),
}


@pytest.mark.parametrize("name, ranks", [(name, None) for name in REFUSED] + [("missing", 2), ("other", 2)])
def test_refused_before_anything_starts(name, ranks):
    draw = lambda *shape: numpy.ones(shape, numpy.float32)  # noqa: E731
    query = "transformer.blocks.0.attn1.to_q"
    contents = {"other": {"transformer.blocks.40.attn1.to_q.lora_A.weight": draw(4, 256),
                          "transformer.blocks.40.attn1.to_q.lora_B.weight": draw(256, 4)},
                "larger": {query + ".lora_A.weight": draw(4, 5120), query + ".lora_B.weight": draw(5120, 4)},
                "nan": {query + ".lora_A.weight": numpy.nan * draw(4, 256), query + ".lora_B.weight": draw(256, 4)}}
    if name in contents:
        save_file(contents[name], f"{name}.safetensors")
    Path("broken.safetensors").write_bytes(Path("a.safetensors").read_bytes()[:-100])
    code, messages = REFUSED[name]
    result = run(["run", "job.yaml", f"lora=[{{path: a.safetensors}}, {{path: {name}.safetensors}}]"], ranks=ranks)
    assert_fails(result, code, *messages)
    assert "plan:" not in result.err
    assert_nothing_left("outputs")
    if ranks is None:
        assert_fails(run(["plan", "job.yaml", f"lora=[{{path: {name}.safetensors}}]"]), code, *messages)


@pytest.mark.parametrize("entry, message", [
    ("{scale: 1}", "lora.0.path must be given"),
    ("{path: ''}", "lora.0.path"),
    ("{path: a.safetensors, scale: 1000}", "lora.0.scale"),
    ("{path: a.safetensors, merged: true}", "merged"),
])
def test_configuration(entry, message):
    assert_fails(run(["run", "job.yaml", f"lora=[{entry}]"]), 78, message)


def test_text_encoder_is_left_out():
    write_kohya("c.safetensors", pairs(1), **{"lora_te_q.lora_down.weight": numpy.ones((2, 3), numpy.float32)})
    with_text, result = make("with", "{path: c.safetensors}")
    assert result.err.count("c.safetensors: its 1 tensors of a text encoder are left out") == 1
    assert close(with_text, make("without", "{path: a.safetensors}")[0])


def test_ranks_with_other_content():
    """Files of the same name, size and header, in two directories."""
    programs = []
    for number in (1, 2):
        Path(str(number)).mkdir()
        write_diffusers(f"{number}/a.safetensors", pairs(number))
        command = f"cd {number} && exec {PROGRAM} run ../job.yaml 'lora=[{{path: a.safetensors}}]'"
        programs.append(["sh", "-c", command])
    result = finish(start(mpi_command(2, *programs)), 60)
    assert_fails(result, 76, "ranks disagree on the content of lora's files")


def test_plan_counts_adapters():
    """Beside the weights they take memory, merged none."""
    bytes_of = lambda *options: json.loads(  # noqa: E731
        succeed(run(["plan", "job.yaml", "--json", *options])).out)
    assert bytes_of("lora=[{path: a.safetensors, merge: true}]") == bytes_of()
    assert bytes_of("lora=[{path: a.safetensors}]") != bytes_of()


def test_keys():
    assert any(line.startswith("lora ") for line in succeed(run(["keys"])).out.splitlines())
