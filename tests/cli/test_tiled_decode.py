"""`lossy.vae_tiling`: a video whose frames differ a little from the undivided ones, the same for any number of decoders."""

import json
import re
from pathlib import Path

import numpy
import pytest

from engine import assert_same_video, in_tmp_path, preview, run, succeed, write_config

# 2 x 2 tiles of 256 every 192 pixels, the lower and right ones of 128 x 128 and more.
REQUEST = {"width": 336, "height": 320, "num_frames": 5, "num_inference_steps": 2, "guidance_scale": 1.0}
STRIDE, OVERLAP = 192, 64


def make(directory, name, ranks=None, infer=None, **lossy):
    config = write_config(directory, name, request=REQUEST, lossy=lossy, infer=infer or {},
                          output={"directory": str(directory)})
    return succeed(run(["run", config], ranks=ranks, timeout=120)), Path(directory) / name


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The undivided video, and the same in tiles."""
    folder = tmp_path_factory.mktemp("made")
    return make(folder, "whole"), make(folder, "tiled", vae_tiling="on")


def pictures(directory):
    import av

    with av.open(str(directory / "video.mp4")) as video:
        return numpy.stack([frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]).astype(float)


def jump(video, axis, at):
    """Mean step between two neighbouring lines of pixels, over the steps around it: 1 where there is no seam."""
    steps = numpy.abs(numpy.diff(video, axis=axis))
    lines = steps.mean(axis=tuple(i for i in range(4) if i != axis))
    return lines[at - 1] / lines[at - 9:at + 8].mean()


def test_frames_differ_a_little(made):
    """About as much as diffusers' tiles change these latents' frames: 2.9 of 255 in the mean, 36 at most; attention inside a
    frame sees a tile only. The mp4's own loss comes on top."""
    (whole_run, whole), (tiled_run, tiled) = made
    assert "decode    in 4 tiles of 256x256" in tiled_run.err and "decode    in" not in whole_run.err
    assert "lossy.vae_tiling is on" in tiled_run.err
    assert_same_video(tiled, whole, tolerance=0)  # up to the latents
    difference = numpy.abs(pictures(tiled) - pictures(whole))
    assert 1 < difference.mean() < 4 and difference.max() < 60


def test_seams_are_not_seen(made):
    (_, whole), (_, tiled) = made
    for axis in (1, 2):
        for at in (STRIDE, STRIDE + OVERLAP):
            assert jump(pictures(tiled), axis, at) < 1.5 * max(1, jump(pictures(whole), axis, at))


@pytest.mark.parametrize("ranks", [2, 3])
def test_decoders_share_the_tiles(ranks, made, tmp_path):
    _, alone = made[1]
    infer = {"vae_parallel_size": ranks, "diffusion": {"cp_size": ranks, "dp_size": 1}}
    done, together = make(tmp_path, "together", ranks, infer, vae_tiling="on")
    assert f"decode    in 4 tiles of 256x256, {ranks} ranks together" in done.err
    # The PNG: what is a byte's last bit here the mp4's coding makes more of. The latents are those of other products.
    assert numpy.abs(preview(together) - preview(alone)).max() <= 2


def test_run_yaml_says_on(made):
    (_, whole), (_, tiled) = made
    assert re.search(r'vae_tiling: "?on"?\n', (tiled / "run.yaml").read_text())
    assert re.search(r'vae_tiling: "?auto"?\n', (whole / "run.yaml").read_text())


def plan(device, tiling):
    write_config(".", request={"width": 4096, "height": 4096, "num_frames": 1}, lossy={"vae_tiling": tiling})
    return json.loads(succeed(run(["plan", "job.yaml", "--device", device, "--json"])).out)


def test_auto_is_decided_by_the_memory():
    small, large, refused = plan("rtx4090", "auto"), plan("h200", "auto"), plan("rtx4090", "off")
    assert small["decode"] == {"ranks": 1, "tiles": 22 * 22} and small["meshes"][0]["fits"]
    assert any(warning.startswith("decoding in tiles: ") for warning in small["warnings"])
    assert large["decode"]["tiles"] == 0 and large["memory"]["decode_bytes"] > 4 * small["memory"]["decode_bytes"]
    assert refused["decode"]["tiles"] == 0 and not refused["meshes"][0]["fits"]
    assert "does not fit into the device's" in refused["warnings"][0]
