"""Several prompts with weights and masks, and context windows: the passes of a step over any number of ranks."""

import json
import zlib
from pathlib import Path
from struct import pack

import numpy
import pytest

from engine import assert_fails, close, in_tmp_path, latents, mpirun, run, succeed, write_config

OUTPUT = Path("outputs/job")
TEXTS = ["a red circle moving left on a black background", "a blue square moving right on a black background",
         "a green circle moving up on a black background", "a white square", "a yellow circle"]


def write_png(path, rows):
    """Gray, 8 bits (https://www.w3.org/TR/png)."""
    def chunk(kind, data):
        return pack(">I", len(data)) + kind + data + pack(">I", zlib.crc32(kind + data))
    lines = b"".join(b"\0" + bytes(row) for row in rows)
    Path(path).write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", pack(">IIBBBBB", len(rows[0]), len(rows), 8, 0, 0, 0, 0))
                           + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b""))


def write_job(prompts, **request):
    """The first prompt counts everywhere, the others in the left or right half."""
    write_png("left.png", [[255] * 4 + [0] * 4] * 8)
    write_png("right.png", [[0] * 4 + [255] * 4] * 8)
    several = [{"text": text, "weight": 1 + i, **({"mask": ["left.png", "right.png"][i % 2]} if i else {})}
               for i, text in enumerate(TEXTS[:prompts])]
    write_config(".", request={"prompt": "", "prompts": several, **request})


@pytest.mark.parametrize("prompts", [1, 2, 3, 5])
def test_prompts_with_masks_over_devices(prompts):
    write_job(prompts)
    succeed(run(["run", "job.yaml"]))
    one = latents(OUTPUT)
    for devices in range(2, min(4, prompts + 1) + 1):
        weights = ", ".join(f"{{device: cpu, weight: {weight}}}" for weight in range(devices, 0, -1))
        result = succeed(run(["run", "job.yaml", f"devices=[{weights}]", f"infer.diffusion={{cfg_size: {devices}}}",
                              "output.overwrite=true"]))
        assert close(latents(OUTPUT), one), f"{prompts} prompts on {devices}"
        assert prompts == 1 or "passes    cfg 0: " in result.err, result.err


def test_what_a_mask_hides_changes_nothing_there():
    """A prompt whose mask is black on one side does not touch that side in a single step."""
    write_job(2, num_inference_steps=1, guidance_scale=1)
    succeed(run(["run", "job.yaml", "request.prompts=[{text: a red circle}, {text: a blue square, mask: left.png}]"]))
    both = latents(OUTPUT)
    succeed(run(["run", "job.yaml", "request.prompts=[{text: a red circle}]", "output.overwrite=true"]))
    alone = latents(OUTPUT)
    assert numpy.array_equal(both[..., 3:], alone[..., 3:])  # the edge is smoothed
    assert not numpy.allclose(both[..., :1], alone[..., :1], atol=1e-3)


@pytest.mark.parametrize("frames", [81, 129])
def test_a_long_video_by_windows(frames):
    write_config(".", request={"num_frames": frames, "context": {"window": 33, "overlap": 16}})
    result = succeed(run(["run", "job.yaml", "infer.diffusion.cfg_size=1"]))
    windows = {81: 4, 129: 6}[frames]
    assert f"prompt 1 of window {windows}" in result.err, result.err
    one = latents(OUTPUT)
    assert one.shape[2] == (frames - 1) // 4 + 1
    result = succeed(mpirun(3, ["run", "job.yaml", "output.overwrite=true"]))
    assert close(latents(OUTPUT), one)


def test_windows_of_the_whole_length_change_nothing():
    write_config(".", request={"num_frames": 9})
    succeed(run(["run", "job.yaml"]))
    plain = latents(OUTPUT)
    succeed(run(["run", "job.yaml", "request.context={window: 33}", "output.overwrite=true"]))
    assert numpy.array_equal(latents(OUTPUT), plain)


def test_the_plan_shows_who_computes_what():
    write_job(3)
    plan = json.loads(succeed(run(["plan", "job.yaml", "infer.diffusion.cfg_size=2", "--json",
                                   "devices=[{weight: 2}, {weight: 1}]"])).out)
    assert plan["passes"] == ["cfg 0: prompt 1, prompt 3, negative", "cfg 1: prompt 2"] or plan["passes"] == [
        "cfg 0: prompt 1, prompt 3", "cfg 1: prompt 2, negative"], plan["passes"]


@pytest.mark.parametrize("batch, ranks", [(1, 2), (2, 4), (5, 2), (7, 3), (21, 4)])
def test_a_batch_over_replicas(batch, ranks):
    """Every sample is made, also where there are fewer than replicas, and is what it is alone."""
    write_config(".", request={"batch_size": batch, "num_frames": 1, "width": 16, "height": 16, "num_inference_steps": 1})
    succeed(run(["run", "job.yaml", "infer.backend=threads", f"infer.diffusion.dp_size={ranks}",
                 "infer.diffusion.cp_size=1", "infer.diffusion.cfg_size=1"], timeout=120))
    folders = [OUTPUT] if batch == 1 else [OUTPUT / f"sample-{i}" for i in range(batch)]
    samples = [latents(folder) for folder in folders]
    succeed(run(["run", "job.yaml", f"request.seed={batch - 1}", "request.batch_size=1", "output.directory=alone"]))
    assert close(samples[-1], latents(Path("alone/job")))


@pytest.mark.parametrize("prompts, code, part", [
    ("[{text: a, mask: none.png}]", 66, "none.png"),
    ("[{text: a, mask: job.yaml}]", 65, "job.yaml"),
    ("[{text: a, mask: left.png}, {text: b, mask: left.png}]", 65, "leave 25 %"),
    ("[{text: a, weight: -1}]", 78, "request.prompts.0.weight"),
    ("[{text: a, wieght: 1}]", 78, "did you mean \"weight\"?"),
], ids=str)
def test_prompts_that_cannot_be(prompts, code, part):
    write_job(1)
    assert_fails(run(["run", "job.yaml", f"request.prompts={prompts}"]), code, part)
    assert not OUTPUT.exists()


def test_more_groups_than_passes():
    write_config(".", request={"num_frames": 33, "context": {"window": 17, "overlap": 4}})
    result = run(["run", "job.yaml", "infer.backend=threads", "infer.diffusion.cfg_size=9"])
    assert_fails(result, 78, "cfg_size 9 is more than the 4 passes of a step of a request; set infer.diffusion.cfg_size=4")
