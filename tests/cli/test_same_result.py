"""n ranks make the video of one rank: every way of splitting, on real processes and on threads."""

import numpy
import pytest

from engine import assert_same_video, in_tmp_path, latents, mpirun, preview, run, succeed, write_config

# 32 tokens of 8 heads, both branches of guidance.
REQUEST = {"width": 64, "height": 64, "num_frames": 5, "num_inference_steps": 3}

SPLITS = {
    "hybrid": (4, {"cp_size": 2, "cfg_size": 2}, {}),
    "guidance": (2, {"cfg_size": 2}, {}),
    "ulysses 3": (3, {"cp_size": 3}, {"ulysses_size": 3}),
    "ring 3": (3, {"cp_size": 3}, {"ring_size": 3}),
    "ulysses x ring": (4, {"cp_size": 4, "cfg_size": 1}, {"ulysses_size": 2, "ring_size": 2}),
    "5 of 32 tokens and 8 heads": (5, {"cp_size": 5}, {}),
    "all": (8, {"cp_size": 4, "cfg_size": 2}, {"ulysses_size": 2, "ring_size": 2}),
}
STARTS = {
    "mpirun": lambda ranks, args: mpirun(ranks, args),
    "launch": lambda ranks, args: run(["launch", "--nproc-per-node", str(ranks), *args]),
    "threads": lambda ranks, args: run([*args, "infer.backend=threads"]),
}
CASES = [("mpirun", "hybrid"), ("mpirun", "ulysses x ring"), ("mpirun", "5 of 32 tokens and 8 heads"),
         ("launch", "guidance"), ("launch", "ulysses 3"), ("launch", "ring 3"), *(("threads", split) for split in SPLITS)]


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    config = write_config(folder, "one", request=REQUEST, output={"directory": str(folder)})
    succeed(run(["run", config]))
    return folder / "one"


@pytest.mark.parametrize("how, split", CASES)
def test_equals_one_rank(how, split, one_rank):
    ranks, diffusion, attention = SPLITS[split]
    config = write_config(".", "split", request=REQUEST, infer={"diffusion": diffusion, "attention": attention})
    result = succeed(STARTS[how](ranks, ["run", str(config)]))
    assert f"on {ranks} cpu ranks" in result.err
    assert_same_video("outputs/split", one_rank)


@pytest.mark.parametrize("how, split", [("mpirun", "hybrid"), ("mpirun", "ulysses 3"), ("threads", "ulysses x ring")])
def test_attention_while_heads_are_exchanged(how, split, one_rank):
    ranks, diffusion, attention = SPLITS[split]
    infer = {"diffusion": diffusion, "attention": attention, "overlap_exchange": "on"}
    write_config(".", "split", request=REQUEST, infer=infer)
    succeed(STARTS[how](ranks, ["run", "split.yaml"]))
    assert_same_video("outputs/split", one_rank)


def test_split_is_chosen(one_rank):
    """Sizes left at auto use all ranks: guidance first, then the sequence."""
    write_config(".", "split", request=REQUEST)
    assert "dp 1 x cfg 2 x cp 2" in succeed(mpirun(4, ["run", "split.yaml"])).err
    assert_same_video("outputs/split", one_rank)


def test_same_ranks_same_bits():
    """Two runs of the same layout: sums are always in the same order."""
    for name in ("first", "second"):
        write_config(".", name, request=REQUEST, infer={"diffusion": {"cp_size": 3}})
        succeed(mpirun(3, ["run", f"{name}.yaml"]))
    assert (latents("outputs/first") == latents("outputs/second")).all()


def test_comparison_sees_a_difference(one_rank):
    """The tolerance is far below what another seed makes."""
    write_config(".", "other", request={**REQUEST, "seed": 1})
    succeed(run(["run", "other.yaml"]))
    with pytest.raises(AssertionError):
        assert_same_video("outputs/other", one_rank, tolerance=0.1)


@pytest.mark.parametrize("how, decoders", [("mpirun", 2), ("mpirun", 4), ("threads", 4)])
def test_ranks_decode_together(how, decoders, one_rank):
    """A band of rows each; where they meet nothing is seen."""
    write_config(".", "split", request=REQUEST, infer={"vae_parallel_size": decoders, "diffusion": {"cp_size": 4}})
    succeed(STARTS[how](4, ["run", "split.yaml"]))
    got, wanted = preview("outputs/split"), preview(one_rank)
    assert wanted.std() > 10 and numpy.abs(got - wanted).max() <= 1 and numpy.abs(got - wanted).mean() < 0.05
