"""Which devices are used, what is loaded where (`place:`), and what is held at the same time (`infer.low_memory`)."""

import json
import re
from pathlib import Path

import numpy
import pytest
from safetensors.numpy import save_file

from engine import assert_fails, in_tmp_path, latents, mpirun, one_rank, run, succeed, write_config

OUTPUT = Path("outputs/job")
TWO_CPUS = "devices=[{device: cpu}, {device: cpu}]"


def warnings(result):
    return [line for line in result.err.splitlines() if "warning" in line]


# ---- devices ----

def test_each_rank_names_its_device():
    write_config(".")
    one = succeed(run(["run", "job.yaml"])).err
    assert len(re.findall(r"rank 0: cpu of \S+: .+ cores, .+iB of memory, .+iB free", one)) == 1, one
    two = succeed(run(["run", "job.yaml", TWO_CPUS, "output.overwrite=true"])).err
    assert len(re.findall(r"ranks 0, 1: cpu of ", two)) == 1, two
    three = succeed(mpirun(3, ["run", "job.yaml", "output.overwrite=true"])).err
    assert len(re.findall(r"ranks 0, 1, 2: cpu of ", three)) == 1, three


def test_short_form(one_rank):
    """place.denoiser is a list of devices of equal weight; run.yaml says the same in the long form."""
    write_config(".")
    result = succeed(run(["run", "job.yaml", "place.denoiser=[cpu, cpu]", "infer.diffusion.cfg_size=2"]))
    assert "2 cpu ranks" in result.err
    assert (latents(OUTPUT) == one_rank).all()
    written = (OUTPUT / "run.yaml").read_text()
    assert written.count("device: cpu") == 2 and "denoiser" not in written, written
    again = succeed(run(["run", str(OUTPUT / "run.yaml"), "output.directory=again"]))
    assert "2 cpu ranks" in again.err


def test_a_missing_device():
    write_config(".")
    devices = "devices=[{device: cpu}, {device: cuda:3}]"
    result = run(["run", "job.yaml", devices])
    assert_fails(result, 78, "devices.1.device is cuda:3, but ", "infer.missing_devices=skip")
    assert not Path("outputs").exists()
    result = succeed(run(["run", "job.yaml", devices, "infer.missing_devices=skip"]))
    (line,) = warnings(result)
    assert "devices.1 is left out: it is cuda:3, but " in line
    assert "1 cpu rank" in result.err
    result = run(["run", "job.yaml", "place.denoiser=[cuda:2, cuda:3]", "infer.missing_devices=skip", "output.directory=none"])
    assert_fails(result, 78, "none of the 2 of devices is here: ", "list one that is, or cpu")


def test_a_missing_device_of_a_process():
    """Its rank is there, and cannot be skipped."""
    write_config(".")
    devices = "devices=[{device: cuda:2}, {device: cuda:3}]"
    assert_fails(mpirun(2, ["run", "job.yaml", devices, "infer.missing_devices=skip"]), 78, "cuda, but ")


@pytest.mark.parametrize("setting, line", [
    ("infer.max_devices=2", "infer.max_devices is 2: of 3 devices the first 2 are used"),
    ("infer.parallel=off", "infer.parallel is off: of 3 devices the first is used"),
])
def test_fewer_devices(setting, line, one_rank):
    write_config(".")
    result = succeed(run(["run", "job.yaml", "devices=[{device: cpu}, {}, {}]", setting]))
    assert [line in text for text in warnings(result)] == [True], result.err
    ranks = 1 if "off" in setting else 2
    assert f"{ranks} cpu rank{'s' if ranks > 1 else ''}" in result.err
    worst = abs(latents(OUTPUT) - one_rank).max()
    assert worst <= 1e-5 * abs(one_rank).max()
    plan = json.loads(succeed(run(["plan", "job.yaml", "devices=[{device: cpu}, {}, {}]", setting, "--json"])).out)
    assert plan["machine"]["ranks"] == ranks


def test_threads_without_parallelism():
    write_config(".")
    result = succeed(run(["run", "job.yaml", "infer.backend=threads", "infer.parallel=off"]))
    assert "1 cpu rank" in result.err and not warnings(result)
    sizes = "infer.diffusion.cp_size=2"
    assert_fails(run(["run", "job.yaml", "infer.backend=threads", "infer.parallel=off", sizes, "output.directory=a"]), 78,
                 "infer.parallel is off, but dp*cfg*cp = 2")
    assert_fails(run(["run", "job.yaml", "infer.backend=threads", "infer.max_devices=1", sizes, "output.directory=a"]), 78,
                 "infer.max_devices is 1, but dp*cfg*cp = 2")


def test_work_that_is_too_small_to_share():
    """One token, without guidance to share: one device is kept. Asked for, the size is refused."""
    write_config(".", request={"width": 16, "height": 16, "num_frames": 1, "guidance_scale": 1.0})
    result = succeed(run(["run", "job.yaml", "infer.backend=threads"]))
    (line,) = warnings(result)
    assert re.search(r"one device is used, and not \d: .*cp_size \d is more than the 1 tokens", line), line
    assert "1 cpu rank" in result.err
    asked = run(["run", "job.yaml", "infer.backend=threads", "infer.diffusion.cp_size=2", "output.directory=a"])
    assert_fails(asked, 78, "cp_size 2 is more than the 1 tokens")


def test_device_against_devices():
    write_config(".")
    devices = "devices=[{device: cpu}, {}]"
    result = succeed(run(["run", "job.yaml", devices, "infer.device=cuda", "infer.missing_devices=skip"]))
    first, second = warnings(result)
    assert "infer.device is cuda, but 1 of 2 devices is not: devices counts" in first
    assert "devices.1 is left out: it is cuda, but " in second


# ---- place ----

def test_parts_on_the_cpu(one_rank):
    write_config(".")
    parts = ["place.text_encoder=cpu", "place.vae=cpu"]
    succeed(run(["run", "job.yaml", *parts]))
    assert (latents(OUTPUT) == one_rank).all()
    result = succeed(run(["run", "job.yaml", *parts, "model.vae_dtype=bfloat16", "output.directory=half"]))
    (line,) = warnings(result)
    assert "place.vae is cpu, where convolutions in bfloat16 are hundreds of times slower" in line
    assert Path("half/job/preview.png").read_bytes() == (OUTPUT / "preview.png").read_bytes()


@pytest.mark.parametrize("part", ["text_encoder", "vae"])
@pytest.mark.parametrize("ranks", [None, 2])
def test_a_part_on_a_missing_device(part, ranks):
    write_config(".")
    place = f"place.{part}=cuda:3"
    assert_fails(run(["run", "job.yaml", place], ranks=ranks), 78, f"place.{part} is cuda:3, but ")
    result = succeed(run(["run", "job.yaml", place, "infer.missing_devices=skip"], ranks=ranks))
    (line,) = warnings(result)
    assert f"place.{part} is cuda:3, but " in line and "it goes where the denoiser is" in line


# ---- low_memory ----

REQUESTS = [{"prompt": "a red circle", "id": "a"}, {"prompt": "a blue square", "id": "b"}, {"prompt": "a ring", "id": "c"}]
HOW = {
    "one": lambda *args: run(["run", *args]),
    "threads": lambda *args: run(["run", *args, TWO_CPUS]),
    "replicas as threads": lambda *args: run(["run", *args, TWO_CPUS, "infer.diffusion.dp_size=2"]),
    "mpirun": lambda *args: mpirun(2, ["run", *args]),
    "replicas under mpirun": lambda *args: mpirun(4, ["run", *args, "infer.diffusion.dp_size=2"]),
    "not shared": lambda *args: mpirun(2, ["run", *args, "infer.share_weights=false"]),
}


@pytest.mark.parametrize("how", HOW)
def test_weights_that_are_read_again(how):
    """The same latents and frames of each of three videos; with 1 nothing changes on CPUs."""
    for level in (0, 1, 2):
        write_config(".", f"level{level}", requests=REQUESTS, infer={"low_memory": level})
        succeed(HOW[how](f"level{level}.yaml"))
    for unit in ("a", "b", "c"):
        kept = latents(f"outputs/level0/{unit}")
        for level in (1, 2):
            assert (latents(f"outputs/level{level}/{unit}") == kept).all()
            frames = [Path(f"outputs/level{i}/{unit}/preview.png").read_bytes() for i in (0, level)]
            assert frames[0] == frames[1]


def test_a_batch_from_given_latents():
    """What is written beside a video comes after the denoiser has gone."""
    write_config(".", "first", request={"batch_size": 2})
    succeed(run(["run", "first.yaml"]))
    noise = numpy.concatenate([latents(f"outputs/first/sample-{i}") for i in range(2)])
    save_file({"latents": noise}, "noise.safetensors")
    for level in (0, 2):
        write_config(".", f"level{level}", request={"batch_size": 2, "latents": "noise.safetensors"}, infer={"low_memory": level})
        succeed(run(["run", f"level{level}.yaml"]))
    for sample in ("sample-0", "sample-1"):
        assert (latents(f"outputs/level2/{sample}") == latents(f"outputs/level0/{sample}")).all()
        assert Path(f"outputs/level2/{sample}/noise.safetensors").exists()


def test_the_plan_shows_it():
    write_config(".")
    costs = [json.loads(succeed(run(["plan", "job.yaml", f"infer.low_memory={level}", "--json", "--device", "cpu"])).out)["memory"]
             for level in (0, 1, 2)]
    assert costs[0] == costs[1]
    assert costs[2]["denoise_bytes"] < costs[0]["denoise_bytes"] and costs[2]["decode_bytes"] < costs[0]["decode_bytes"]
