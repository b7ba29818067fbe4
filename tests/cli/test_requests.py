"""Many requests from one queue: where they come from, which of them fail, and what a run started again does."""

import json
import os
import re
import signal
from pathlib import Path

import numpy
import pytest

from engine import (BASE, PROGRAM, WEIGHTS, assert_fails, assert_nothing_left, assert_same_video, copy_model, finish, in_tmp_path,
                    is_complete_video, kill, latents, mpirun, pack_safetensors, read_safetensors, run, start, succeed,
                    write_config, write_file)

OUTPUT = Path("outputs/job")
PROMPTS = ["a red circle moving left on a black background", "a blue square moving up on a white background"]
SHARED = {key: value for key, value in BASE["request"].items() if key != "prompt"}


def write_source_config(source, shared=SHARED, name="job", **sections):
    """A job whose requests lie elsewhere, with what they share."""
    config = {"model": BASE["model"], "request": shared, "requests": source, "output": BASE["output"], **sections}
    Path(f"{name}.yaml").write_text(json.dumps(config))


def results(directory=OUTPUT):
    return [json.loads(line) for line in (directory / "results.jsonl").read_text().splitlines()]


def by_id(directory=OUTPUT):
    lines = results(directory)
    assert len({line["id"] for line in lines}) == len(lines), lines
    return {line["id"]: line for line in lines}


def metadata(file):
    import av

    with av.open(str(file)) as video:
        return dict(video.metadata)


# ---- where requests come from ----

def as_jsonl(requests):
    return "".join(json.dumps(request) + "\n" for request in requests)


def make_directory():
    os.mkdir("prompts")
    for name, prompt in zip(["one", "two"], PROMPTS):
        Path(f"prompts/{name}.txt").write_text(prompt + "\n")


SOURCES = {
    "yaml": (lambda: Path("p.yaml").write_text(json.dumps([{"prompt": prompt} for prompt in PROMPTS])), "p.yaml",
             ["0000", "0001"]),
    "jsonl": (lambda: Path("p.jsonl").write_text(as_jsonl({"prompt": prompt, "id": f"n{i}"} for i, prompt in
                                                          enumerate(PROMPTS))), "p.jsonl", ["n0", "n1"]),
    "directory": (make_directory, "prompts", ["one", "two"]),
}


@pytest.mark.parametrize("case", SOURCES)
def test_source(case):
    make, source, ids = SOURCES[case]
    make()
    write_source_config(source)
    result = succeed(run(["run", "job.yaml"]))
    assert result.out.splitlines() == [str(OUTPUT / name / "video.mp4") for name in ids]
    assert [metadata(OUTPUT / name / "video.mp4")["prompt"] for name in ids] == PROMPTS
    assert {name: line["status"] for name, line in by_id().items()} == dict.fromkeys(ids, "done")


def test_source_on_the_command_line():
    """Over a single request, which then is what they share."""
    make_directory()
    write_config(".")
    result = succeed(run(["run", "job.yaml", "requests=prompts", "request.seed=7"]))
    assert len(result.out.splitlines()) == 2
    assert metadata(OUTPUT / "one/video.mp4")["seed"] == "7"


MISTAKES = {
    "missing": ("none.jsonl", None, 66, ["none.jsonl: no such file or directory"]),
    "empty": ("p.jsonl", "\n\n", 65, ["p.jsonl: holds no request"]),
    "unknown key": ("p.jsonl", as_jsonl([{"prompt": "a"}, {"promt": "b"}]), 78, ["p.jsonl:2: ", "\"promt\" in requests.1",
                                                                               "did you mean \"prompt\"?"]),
    "unknown key in YAML": ("p.yaml", "- prompt: a\n- prompt: b\n  widht: 5\n", 78, ["p.yaml:3:3: ", "did you mean \"width\"?"]),
    "ids twice": ("p.jsonl", as_jsonl([{"prompt": "a", "id": "x"}, {"prompt": "b", "id": "x"}]), 78,
                  ["p.jsonl:2: requests.0.id and requests.1.id are both \"x\"; the first is at p.jsonl:1"]),
    "no prompt": ("p.jsonl", as_jsonl([{"prompt": "a"}, {"seed": 1}]), 78, ["requests.1.prompt must be given"]),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistake_in_a_source(case):
    name, text, code, parts = MISTAKES[case]
    if text is not None:
        Path(name).write_text(text)
    write_source_config(name)
    assert_fails(run(["run", "job.yaml"]), code, *parts)
    assert not Path("outputs").exists()


def test_empty_directory():
    os.mkdir("prompts")
    write_source_config("prompts")
    assert_fails(run(["run", "job.yaml"]), 65, "prompts: holds no request", ".txt")


def test_request_by_number_where_there_is_one():
    write_config(".")
    assert_fails(run(["run", "job.yaml", "requests.0.seed=7"]), 78, "this config has request", "use request.seed=7")


def test_run_yaml_holds_one_video():
    """It makes the same video again, alone."""
    write_config(".", requests=[{"seed": 3, "batch_size": 2}, {"prompt": "another"}])
    succeed(run(["run", "job.yaml"]))
    folder = OUTPUT / "0000/sample-1"
    assert "another" not in (folder / "run.yaml").read_text()
    succeed(run(["run", folder / "run.yaml", "output.directory=again"]))
    again = Path("again/run/0000")
    assert (latents(again) == latents(folder)).all()
    assert metadata(again / "video.mp4") == metadata(folder / "video.mp4")


def noise_file(name, batch=1, value=None):
    values = numpy.random.default_rng(0).standard_normal((batch, 16, 2, 4, 4)).astype("float32")
    if value is not None:
        values[0, 0, 0, 0, 0] = value
    header = {"latents": {"dtype": "F32", "shape": list(values.shape), "data_offsets": [0, values.nbytes]}}
    Path(name).write_bytes(pack_safetensors(header, values.tobytes()))


def test_a_batch_goes_on_with_the_samples_that_are_missing():
    write_config(".", request={"batch_size": 2})
    succeed(run(["run", "job.yaml"]))
    kept = (OUTPUT / "sample-0/video.mp4").stat().st_mtime_ns
    (OUTPUT / "sample-1/video.mp4").unlink()
    again = succeed(run(["run", "job.yaml"]))
    assert "sample-0 is complete and is kept" in again.err
    assert again.out.split() == ["outputs/job/sample-1/video.mp4"]
    assert (OUTPUT / "sample-0/video.mp4").stat().st_mtime_ns == kept


def test_run_yaml_of_a_batch_with_noise_of_its_own():
    noise_file("noise.safetensors", batch=2)
    write_config(".", requests=[{"batch_size": 2, "latents": "noise.safetensors"}])
    succeed(run(["run", "job.yaml"]))
    succeed(run(["run", OUTPUT / "0000/sample-1/run.yaml", "output.directory=again"]))
    assert (latents("again/run/0000") == latents(OUTPUT / "0000/sample-1")).all()


# ---- requests that fail ----

def write_some_bad():
    """Four requests: no multiple of 16, fine, NaN from the first step on, fine."""
    noise_file("nan.safetensors", value=numpy.nan)
    write_config(".", requests=[{"width": 40}, {"seed": 1}, {"latents": "nan.safetensors", "id": "nan"}, {"seed": 2}])


# Ranks of one replica; they must agree on what has failed.
SPLITS = {"alone": (None, []), "sequence": (2, ["infer.diffusion.cp_size=2"]),
          "guidance x sequence": (4, ["infer.diffusion={cfg_size: 2, cp_size: 2}"])}


def test_a_request_beyond_the_memory_does_not_stop_the_others():
    """Its noise alone would be 17 GB; the longest is tried first."""
    write_config(".", requests=[{}, {"width": 4096, "height": 4096, "num_frames": 4093, "id": "huge"}, {"seed": 1}])
    result = finish(start(["bash", "-c", f"ulimit -v 12000000; exec {PROGRAM} run job.yaml"]), 60)
    assert_fails(result, 71, "FAILED: 1 of 3 videos failed; the first: huge: out of memory: ")
    assert result.out.splitlines() == [str(OUTPUT / name / "video.mp4") for name in ("0000", "0002")]
    assert by_id()["huge"]["code"] == 71
    assert_nothing_left(OUTPUT / "huge")


@pytest.mark.parametrize("split", SPLITS)
def test_bad_requests_do_not_stop_the_others(split):
    ranks, sizes = SPLITS[split]
    write_some_bad()
    result = run(["run", "job.yaml", *sizes], ranks=ranks)
    assert_fails(result, 78, "FAILED: 2 of 4 videos failed; the first: 0000: ", "requests.0.width must be a multiple of 16")
    assert result.out.splitlines() == [str(OUTPUT / name / "video.mp4") for name in ("0001", "0003")]
    assert result.err.count("0000 fails, the others go on: ") == 1 and result.err.count("nan fails, the others go on: ") == 1
    lines = by_id()
    assert {name: line["status"] for name, line in lines.items()} == {
        "0000": "failed", "0001": "done", "nan": "failed", "0003": "done"}
    assert (lines["0000"]["code"], lines["nan"]["code"]) == (78, 80)
    assert "step 1 of 2 made a NaN" in lines["nan"]["message"]
    assert lines["nan"]["video"] is None and "code" not in lines["0001"]
    for name in ("0000", "nan"):
        assert_nothing_left(OUTPUT / name)


@pytest.mark.parametrize("split", ["alone", "guidance x sequence"])
def test_nan_in_the_vae(split):
    """The first rank of a replica decodes alone: the others must learn of it, and all go on to the next video."""
    ranks, sizes = SPLITS[split]
    weights = copy_model(".") / "vae" / WEIGHTS
    header, data = read_safetensors(weights)
    begin, end = header["decoder.conv_in.bias"]["data_offsets"]
    write_file(weights, pack_safetensors(header, data[:begin] + b"\xff" * (end - begin) + data[end:]))
    write_config(".", model={"path": "model"}, requests=[{"seed": 1}, {"seed": 2}])
    result = run(["run", "job.yaml", *sizes], ranks=ranks)
    assert_fails(result, 80, "FAILED: 2 of 2 videos failed; the first: 0000: the VAE made a NaN")
    assert [(line["id"], line["status"], line["code"]) for line in results()] == [("0000", "failed", 80), ("0001", "failed", 80)]
    assert sorted(os.listdir(OUTPUT)) == ["queue.json", "results.jsonl"]


BAD = {
    "model": ({"num_frames": 4097}, 78, "rope_max_seq_len"),
    "noise": ({"latents": "none.safetensors"}, 66, "none.safetensors: no such file"),
    "guidance": ({"guidance_scale": 1.0}, 78, "guidance is off"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_value(case):
    request, code, part = BAD[case]
    write_config(".", requests=[{"seed": 1}, request], infer={"diffusion": {"cfg_size": 2}, "backend": "threads"})
    assert_fails(run(["run", "job.yaml"]), code, "1 of 2 videos failed", part)
    assert by_id()["0001"]["code"] == code and part in by_id()["0001"]["message"]


def test_no_request_can_be_made():
    """Nothing to go on with: an error like any other."""
    write_config(".", requests=[{"width": 40}, {"width": 41}])
    assert_fails(run(["run", "job.yaml"]), 78, "job.yaml:", "requests.0.width must be a multiple of 16")
    assert not Path("outputs").exists()


@pytest.mark.parametrize("args", [["run", "--fail-fast"], ["launch", "--nproc-per-node", "2", "run", "--fail-fast"]])
def test_fail_fast(args):
    """What is wrong from the start ends the job before anything is started."""
    write_some_bad()
    assert_fails(run([*args, "job.yaml"]), 78, "requests.0.width must be a multiple of 16")
    assert not Path("outputs").exists()


@pytest.mark.parametrize("how", [{}, {"ranks": 2}])
def test_fail_fast_while_running(how):
    noise_file("nan.safetensors", value=numpy.nan)
    write_config(".", requests=[{"latents": "nan.safetensors"}, {"seed": 1}])
    assert_fails(run(["run", "--fail-fast", "job.yaml"], **how), 80, "at denoise 1/2", "step 1 of 2")
    assert not (OUTPUT / "0001/video.mp4").exists()


def test_failed_ones_are_tried_again():
    write_some_bad()
    assert run(["run", "job.yaml"]).code == 78
    noise_file("nan.safetensors")
    result = run(["run", "job.yaml"])
    assert_fails(result, 78, "FAILED: 1 of 4 videos failed; the first: 0000")
    assert result.out.splitlines() == [str(OUTPUT / "nan/video.mp4")]
    assert {name: line["status"] for name, line in by_id().items()} == {
        "0000": "failed", "0001": "done", "nan": "done", "0003": "done"}


# ---- started again ----

def test_killed_in_the_middle():
    """Only what is missing is made, and each video has one line, however often the run is killed."""
    requests = [{"seed": seed, "num_inference_steps": 2 if seed < 4 else 1000} for seed in range(5)]
    write_config(".", requests=[{**request, "id": f"r{i}"} for i, request in enumerate(requests)])
    # The longest comes first: it is cut down to what the others are after the first kill.
    process = start([PROGRAM, "run", "job.yaml"])
    lines = iter(process.stderr)
    assert any("denoise    2/1000" in line for line in lines)
    kill(process)
    assert finish(process, 60).code == 128 + signal.SIGKILL
    short = ["run", "job.yaml", "requests.4.num_inference_steps=2"]
    process = start([PROGRAM, *short])
    assert any("r3: " in line for line in process.stderr)  # the fourth of equal ones
    kill(process)
    assert finish(process, 60).code == 128 + signal.SIGKILL
    made = {file: file.stat().st_mtime_ns for file in OUTPUT.glob("*/video.mp4")}
    assert len(made) >= 3
    result = succeed(run(short))
    assert len(result.out.splitlines()) == 5 - len(made)
    for file, time in made.items():
        assert file.stat().st_mtime_ns == time and f"{file.parent} is complete and is kept" in result.err
    assert {name: line["status"] for name, line in by_id().items()} == dict.fromkeys(["r0", "r1", "r2", "r3", "r4"], "done")
    assert all(is_complete_video(OUTPUT / name / "video.mp4", 5) for name in by_id())


def cut(file):
    os.truncate(file, file.stat().st_size - 100)


def test_video_that_is_cut_off_is_made_again():
    write_config(".", requests=[{"seed": 1}, {"seed": 2}, {"seed": 3}])
    succeed(run(["run", "job.yaml"]))
    videos = [OUTPUT / f"000{i}/video.mp4" for i in range(3)]
    wanted = latents(videos[0].parent)
    cut(videos[0])
    videos[1].write_bytes(b"no video")
    with open(OUTPUT / "results.jsonl", "a") as file:  # a line that a crash has cut, and another run's
        file.write('{"id": "other", "status": "done", "video": "x"}\n{"id": "0002", "sta')
    result = succeed(run(["run", "job.yaml"]))
    assert result.err.count("it is made again") == 2 and result.err.count("is complete and is kept") == 1
    assert result.out.splitlines() == [str(video) for video in videos[:2]]
    assert all(is_complete_video(video, 5) for video in videos)
    assert (latents(videos[0].parent) == wanted).all()
    assert sorted(by_id()) == ["0000", "0001", "0002", "other"]


@pytest.mark.parametrize("args, how", [(["run"], {}), (["run"], {"ranks": 2}), (["launch", "--nproc-per-node", "2", "run"], {})],
                         ids=["alone", "mpirun", "launch"])
def test_video_of_another_configuration_is_refused(args, how):
    tiny = {"width": 16, "height": 16, "num_frames": 1, "num_inference_steps": 1}
    write_config(".", requests=[{"seed": seed, **tiny} for seed in range(7)])
    succeed(run(["run", "job.yaml"]))
    before = {file: file.stat().st_mtime_ns for file in OUTPUT.rglob("*")}
    other = [*args, "job.yaml", "scheduler.solver=euler", "requests.6.id=new"]
    result = run(other, **how)
    assert_fails(result, 74, "6 complete videos are of another configuration: 0000, 0001, 0002, 0003, 0004, ...",
                 "output.overwrite=true", "output.directory", "other ids")
    assert "denoise" not in result.err
    assert {file: file.stat().st_mtime_ns for file in before} == before and not (OUTPUT / "new").exists()


def test_overwrite():
    write_config(".", requests=[{"seed": 1}, {"seed": 2}])
    succeed(run(["run", "job.yaml"]))
    old = latents(OUTPUT / "0000")
    result = succeed(run(["run", "job.yaml", "requests.0.seed=5", "output.overwrite=true"]))
    assert len(result.out.splitlines()) == 2
    assert (latents(OUTPUT / "0000") != old).any()
    assert metadata(OUTPUT / "0000/video.mp4")["config_hash"] == by_id()["0000"]["config_hash"]


# ---- the queue ----

def mixed_requests(count):
    sizes = [(16, 5), (32, 5), (16, 9), (48, 5)]
    return [{"seed": i, "height": 16, "width": sizes[i % 4][0], "num_frames": sizes[i % 4][1], "prompt": PROMPTS[i % 2]}
            for i in range(count)]


def test_replicas_share_a_queue():
    """24 requests of four sizes on 2 replicas of 2 ranks: all done, as one rank makes them."""
    requests = mixed_requests(24)
    write_config(".", "one", requests=requests)
    write_config(".", "four", requests=requests, infer={"diffusion": {"dp_size": 2, "cp_size": 2}})
    succeed(run(["run", "one.yaml"], timeout=120))
    result = succeed(mpirun(4, ["run", "four.yaml"], timeout=200))
    names = [f"{i:04}" for i in range(24)]
    printed = result.out.splitlines()
    assert sorted(printed) == [f"outputs/four/{name}/video.mp4" for name in names]
    four = Path("outputs/four")
    for name in names:
        # Of 4 to 6 tokens, some of which the sums' order moves by 1e-5.
        assert_same_video(four / name, f"outputs/one/{name}", tolerance=3e-5)
    lines = by_id(four)
    assert set(lines) == set(names) and {line["replica"] for line in lines.values()} == {0, 1}
    queue = json.loads((four / "queue.json").read_text())
    assert queue["videos"] == 24 and queue["replicas"] == 2 and queue["seconds"] > 0
    print(f"idle share of 24 videos on 2 replicas: {queue['idle_share']:.3f}")
    assert 0 <= queue["idle_share"] < 0.25  # a few per cent; more only where the machine is busy otherwise
    assert re.search(r"queue: 24 videos on 2 replicas, \d+\.\d % idle", result.err)
    # One rank starts them in the queue's order: by cost, then by place in the list.
    order = [line["id"] for line in results(Path("outputs/one"))]
    cost = {name: request["width"] * ((request["num_frames"] - 1) // 4 + 1) for name, request in zip(names, requests)}
    assert order == sorted(names, key=lambda name: (-cost[name], name))


def test_more_replicas_than_texts():
    """A replica without a text to encode, and one without a video."""
    write_config(".", requests=[{"seed": 1, "guidance_scale": 1.0}, {"seed": 2, "guidance_scale": 1.0}],
                 infer={"diffusion": {"dp_size": 3}})
    succeed(mpirun(3, ["run", "job.yaml"]))
    assert {line["status"] for line in by_id().values()} == {"done"}


def test_texts_are_encoded_by_all_replicas():
    """Three replicas, six texts of different lengths: what each encodes reaches all."""
    requests = [{"prompt": "a red circle " * (1 + i), "negative_prompt": "blue" * i, "seed": 1} for i in range(3)]
    write_config(".", "one", requests=requests)
    write_config(".", "three", requests=requests, infer={"diffusion": {"dp_size": 3}, "backend": "threads"})
    for name in ("one", "three"):
        succeed(run(["run", f"{name}.yaml"]))
    for i in range(3):
        assert (latents(f"outputs/three/{i:04}") == latents(f"outputs/one/{i:04}")).all()
