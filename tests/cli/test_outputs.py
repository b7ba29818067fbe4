"""What a run prints and writes, and that it can be used again."""

import json
import os
import re
import shutil
from pathlib import Path

import av
import numpy
import pytest

from engine import (MODEL, assert_same_video, in_tmp_path, is_complete_video, latents, mpirun, read_safetensors, run, succeed,
                    write_config)

OUTPUT = Path("outputs/job")


def json_lines(file):
    return [json.loads(line) for line in Path(file).read_text().splitlines()]


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """One run of one video, looked at by several tests: the result and its folder."""
    folder = tmp_path_factory.mktemp("single")
    config = write_config(folder, request={"seed": 3, "num_inference_steps": 3, "negative_prompt": "a \"blue\" ring: 1"},
                          output={"directory": str(folder)})
    return succeed(run(["run", config])), folder / "job"


# ---- files ----

def test_files(single):
    _, folder = single
    assert sorted(os.listdir(folder)) == ["latents.safetensors", "metrics.jsonl", "preview.png", "run.yaml", "video.mp4"]


def test_video(single):
    _, folder = single
    assert is_complete_video(folder / "video.mp4", 5)
    with av.open(str(folder / "video.mp4")) as video:
        stream = video.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (stream.width, stream.height, stream.average_rate) == (32, 32, 16)
        assert video.metadata["prompt"] == "a red circle moving left on a black background"
        assert video.metadata["negative_prompt"] == "a \"blue\" ring: 1"
        assert video.metadata["seed"] == "3"
        assert re.fullmatch("[0-9a-f]{16}", video.metadata["config_hash"])


def test_video_can_start_before_it_is_whole(single):
    """faststart: the index lies before the pictures."""
    contents = (single[1] / "video.mp4").read_bytes()
    assert 0 < contents.index(b"moov") < contents.index(b"mdat")


def test_latents(single):
    header, data = read_safetensors(single[1] / "latents.safetensors")
    assert header == {"latents": {"dtype": "F32", "shape": [1, 16, 2, 4, 4], "data_offsets": [0, 2048]}}
    assert len(data) == 2048
    assert numpy.isfinite(latents(single[1])).all()


def test_latents_only_when_asked():
    write_config(".", output={"save_latents": False})
    succeed(run(["run", "job.yaml"]))
    assert not (OUTPUT / "latents.safetensors").exists()


def test_preview(single):
    """A PNG of the five frames side by side."""
    contents = (single[1] / "preview.png").read_bytes()
    assert contents.startswith(b"\x89PNG")
    assert contents[16:24] == (5 * 32).to_bytes(4, "big") + (32).to_bytes(4, "big")


def test_run_yaml_repeats_the_run(single):
    _, folder = single
    succeed(run(["run", folder / "run.yaml", "output.directory=again"]))
    assert (latents("again/run") == latents(folder)).all()
    assert metadata("again/run/video.mp4") == metadata(folder / "video.mp4")


def metadata(file):
    with av.open(str(file)) as video:
        return dict(video.metadata)


@pytest.mark.parametrize("ranks", [1, 3])
def test_metrics(ranks):
    """A line a step with a number a rank, and a line a rank."""
    write_config(".", request={"num_inference_steps": 4}, infer={"diffusion": {"cp_size": ranks}})
    succeed(run(["run", "job.yaml"], ranks=ranks))
    lines = json_lines(OUTPUT / "metrics.jsonl")
    steps = [line for line in lines if line["event"] == "step"]
    by_rank = [line for line in lines if line["event"] == "rank"]
    assert [line["step"] for line in steps] == [1, 2, 3, 4]
    assert all(len(line["seconds"]) == ranks and min(line["seconds"]) > 0 for line in steps)
    assert [line["rank"] for line in by_rank] == list(range(ranks))
    assert len(lines) == len(steps) + len(by_rank)
    for line in by_rank:
        assert line["peak_bytes"] > 100e6 and line["denoise_seconds"] > 0
        assert (line["bytes_sent"] > 0) == (ranks > 1)


# ---- what is printed ----

def test_plan_is_printed_first(single):
    text = single[0].err
    assert text.startswith("plan: Wan on 1 cpu rank\n")
    for label in ("mesh      dp 1 x cfg 1 x cp 1", "groups    none", "backend   none needed", "tokens    8 (2 x 2 x 2)",
                  "heads     8", "memory    ", "video     32x32, 5 frames, 3 steps, guidance 5"):
        assert f"\n  {label}" in text
    assert text.index("plan:") < text.index("denoise 1/3")


def test_plan_of_four_ranks():
    write_config(".")
    text = succeed(mpirun(4, ["run", "job.yaml"])).err
    for label in ("mesh      dp 1 x cfg 2 x cp 2, attention ulysses 2 x ring 1", "groups    cp{0,1} cp{2,3} cfg{0,2} cfg{1,3}",
                  "backend   mpi, 1 thread a rank", "tokens    4 each of 8", "heads     4 each of 8", "speed-up  "):
        assert text.count(f"\n  {label}") == 1


def test_progress_lines(single):
    text = single[0].err
    assert len(re.findall(r"^denoise [12]/3  \d+\.\d+ s/step  ETA \d+\.\d s$", text, re.M)) == 2
    assert len(re.findall(r"^denoise 3/3  \d+\.\d+ s/step  total \d+\.\d s$", text, re.M)) == 1
    assert "\r" not in text  # no terminal, no bar


@pytest.mark.parametrize("args", [["run"], ["launch", "--nproc_per_node=2", "run"]])
def test_last_line_is_the_video(args):
    """For `$(... | tail -n 1)`: everything else goes to stderr."""
    write_config(".")
    result = succeed(run([*args, "job.yaml"]))
    assert result.out.splitlines() == ["outputs/job/video.mp4"]


# ---- lists and batches ----

def test_list_of_batches():
    """Ids from the file or numbers, samples in folders of their own, each equal to its run alone."""
    write_config(".", "list", requests=[{"id": "ring", "seed": 7, "batch_size": 2}, {"seed": 1, "width": 48}])
    result = succeed(run(["run", "list.yaml"]))
    folders = ["outputs/list/ring/sample-0", "outputs/list/ring/sample-1", "outputs/list/0001"]
    assert result.out.splitlines() == [f"{folder}/video.mp4" for folder in folders]
    lines = json_lines("outputs/list/results.jsonl")  # the wide one first: it takes longest
    assert [(line["id"], line.get("sample"), line["status"], line["video"]) for line in lines] == [
        (name, sample, "done", f"{folder}/video.mp4")
        for name, sample, folder in [("0001", None, folders[2]), ("ring", 0, folders[0]), ("ring", 1, folders[1])]]
    assert all(line["config_hash"] == metadata(line["video"])["config_hash"] for line in lines)
    assert all(line["seconds"] > 0 and line["replica"] == 0 for line in lines)
    for folder, request in zip(folders, [{"seed": 7}, {"seed": 8}, {"seed": 1, "width": 48}]):
        shutil.rmtree(OUTPUT, ignore_errors=True)
        write_config(".", request=request)
        succeed(run(["run", "job.yaml"]))
        assert (latents(folder) == latents(OUTPUT)).all()


def test_list_started_again():
    """What is complete is kept as it is, what is missing is made."""
    write_config(".", "list", requests=[{"seed": 1}, {"seed": 2}])
    succeed(run(["run", "list.yaml"]))
    first, second = Path("outputs/list/0000/video.mp4"), Path("outputs/list/0001/video.mp4")
    kept, wanted = os.stat(first), latents(second.parent)
    shutil.rmtree(second.parent)
    result = succeed(run(["run", "list.yaml"]))
    assert "outputs/list/0000 is complete and is kept" in result.err
    assert result.out.splitlines() == [str(second)]
    assert (os.stat(first).st_ino, os.stat(first).st_mtime_ns) == (kept.st_ino, kept.st_mtime_ns)
    assert (latents(second.parent) == wanted).all()

    result = succeed(run(["run", "list.yaml"]))
    assert result.err.count("is complete and is kept") == 2 and "denoise 1/" not in result.err


@pytest.mark.parametrize("how", [{"ranks": 2}, {}], ids=["mpirun", "threads"])
def test_replicas_share_a_list(how):
    """Three requests for two replicas: one of them makes two."""
    requests = [{"seed": seed} for seed in (1, 2, 3)]
    write_config(".", "alone", requests=requests)
    write_config(".", "shared", requests=requests, infer={"diffusion": {"dp_size": 2},
                                                          "backend": "auto" if how else "threads"})
    succeed(run(["run", "alone.yaml"]))
    result = succeed(run(["run", "shared.yaml"], **how))
    names = ["0000", "0001", "0002"]
    assert sorted(result.out.splitlines()) == [f"outputs/shared/{name}/video.mp4" for name in names]
    assert sorted(line["id"] for line in json_lines("outputs/shared/results.jsonl")) == names
    for name in names:
        assert_same_video(f"outputs/shared/{name}", f"outputs/alone/{name}")


# ---- starting noise ----

def test_noise_from_a_file():
    """The latents of one run as the noise of another: taken as they are."""
    write_config(".", "first")
    write_config(".", "second", request={"latents": "outputs/first/latents.safetensors"})
    for name in ("first", "second"):
        succeed(run(["run", f"{name}.yaml"]))
    assert (latents("outputs/first") != latents("outputs/second")).any()
    shutil.rmtree("outputs/second")
    succeed(run(["run", "second.yaml", "request.seed=9"]))  # the seed no longer matters
    write_config(".", "third", request={"latents": "outputs/first/latents.safetensors"})
    succeed(run(["run", "third.yaml"]))
    assert (latents("outputs/second") == latents("outputs/third")).all()


# ---- the other commands ----

@pytest.mark.parametrize("world, mesh", [(1, "dp 1 x cfg 1 x cp 1"), (2, "dp 1 x cfg 2 x cp 1"), (3, "dp 1 x cfg 1 x cp 3"),
                                         (4, "dp 1 x cfg 2 x cp 2"), (5, "dp 1 x cfg 1 x cp 5"), (6, "dp 1 x cfg 2 x cp 3"),
                                         (7, "dp 1 x cfg 1 x cp 7"), (8, "dp 1 x cfg 2 x cp 4")])
def test_plan(world, mesh):
    write_config(".")
    text = succeed(run(["plan", "job.yaml", "--world", str(world)])).out
    assert f"plan: Wan on {world} cpu rank" in text
    assert f"  mesh      {mesh}, attention ulysses" in text
    assert (text.count("recommended") == 1) == (world > 1)
    assert not os.path.exists("outputs")


def test_plan_without_guidance():
    """One branch: nothing to split but the sequence."""
    write_config(".", request={"guidance_scale": 1.0})
    text = succeed(run(["plan", "job.yaml", "--world", "4"])).out
    assert "dp 1 x cfg 1 x cp 4" in text and "guidance off" in text


def test_plan_for_another_machine():
    """Two nodes of four GPUs, planned where there is none: a ring between the nodes."""
    write_config(".", request={"guidance_scale": 1.0, "width": 128, "height": 128})
    text = succeed(run(["plan", "job.yaml", "--world", "8", "--ranks-per-node", "4", "--device", "cuda"])).out
    assert "on 8 cuda ranks" in text and "attention ulysses 4 x ring 2" in text and "backend   nccl" in text


def test_version():
    text = succeed(run(["--version"])).out
    for part in (r"^frameshard \d+\.\d+\.\d+$", r"^LibTorch \d+\.\d+", r"^Open MPI v\d", r"CUDA and NCCL not in use: \w+"):
        assert re.search(part, text, re.M), text


@pytest.mark.parametrize("command, part", [([], "launch"), (["run"], "key=value"), (["launch"], "--nproc-per-node"),
                                           (["plan"], "--world"), (["devices"], "devices"), (["keys"], "key")])
def test_help(command, part):
    assert part in succeed(run([*command, "--help"])).out


def test_devices():
    text = succeed(run(["devices"])).out
    assert re.search(r"^cpu +\d.* free of .*, \d+ cores$", text, re.M)
    assert "no GPU: CUDA_VISIBLE_DEVICES hides every GPU" in text


def test_keys_name_everything_a_run_writes_down(single):
    """`keys` and the resolved configuration come from the same lists."""
    listed = {line.split()[0] for line in succeed(run(["keys"])).out.splitlines()}
    assert {"model.path", "request.prompt", "infer.diffusion.cp_size", "scheduler.flow_shift", "output.overwrite"} <= listed
    written = (single[1] / "run.yaml").read_text()
    # Left out: empty lists, and what is null.
    for key in listed - {"requests", "devices", "lora", "request.prompts", "request.context.window", "request.context.overlap",
                         "place.denoiser"}:
        assert re.search(rf"^ *{key.rsplit('.', 1)[-1]}:", written, re.M), key


def test_model_is_not_written_to(single):
    assert sorted(path.name for path in MODEL.iterdir()) == sorted(
        ["README.md", "model_index.json", "scheduler", "text_encoder", "tokenizer", "transformer", "vae"])
