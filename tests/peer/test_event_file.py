"""The engine's event files, read by TensorBoard's own reader."""

import os
import subprocess

import pytest

PROBE = os.environ.get("FRAMESHARD_PROBE")
if not PROBE:
    pytest.skip("FRAMESHARD_PROBE is not set", allow_module_level=True)

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # noqa: E402
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader  # noqa: E402

EVERYTHING = {"scalars": 0, "images": 0, "tensors": 0}


@pytest.fixture
def directory(tmp_path):
    """A log directory that the engine wrote (probe_events.cpp)."""
    Image.new("RGB", (3, 2), (255, 0, 0)).save(tmp_path / "red.png")
    subprocess.run([PROBE, "events", tmp_path / "log", tmp_path / "red.png"], check=True, timeout=60)
    return tmp_path / "log"


def accumulated(directory):
    return EventAccumulator(str(directory), size_guidance=EVERYTHING).Reload()


def test_numbers(directory):
    events = accumulated(directory)
    assert sorted(events.Tags()["scalars"]) == ["train/loss", "train/samples"]
    losses = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert losses == [(step, np.float32(1 / step)) for step in range(1, 301)]
    assert events.Scalars("train/samples")[-1].value == 600
    times = [event.wall_time for event in events.Scalars("train/loss")]
    assert times == sorted(times) and abs(times[0] - (directory / os.listdir(directory)[0]).stat().st_mtime) < 60


def test_text(directory):
    events = accumulated(directory)
    (event,) = events.Tensors("config")
    assert list(event.tensor_proto.string_val) == [b"# Training\n\n`learning_rate` 1e-4"]
    assert events.SummaryMetadata("config").plugin_data.plugin_name == "text"


def test_picture(directory, tmp_path):
    (picture,) = accumulated(directory).Images("sample/a red circle")
    assert (picture.step, picture.width, picture.height) == (2**40, 3, 2)
    assert picture.encoded_image_string == (tmp_path / "red.png").read_bytes()


def test_the_web_page_knows_each_kind(directory):
    """As its loader turns what is in the file into what its plugins show."""
    (name,) = os.listdir(directory)
    kinds = {}
    for event in EventFileLoader(str(directory / name)).Load():
        kinds.update({value.tag: value.metadata.plugin_data.plugin_name for value in event.summary.value})
    assert kinds == {"config": "text", "train/loss": "scalars", "train/samples": "scalars", "sample/a red circle": "images"}


def test_a_file_that_is_cut_off_keeps_what_is_whole(directory):
    (name,) = os.listdir(directory)
    whole = (directory / name).read_bytes()
    (directory / name).write_bytes(whole[:-1])
    assert len(list(EventFileLoader(str(directory / name)).Load())) == 1 + 1 + 300


def test_a_changed_byte_is_found(directory):
    (name,) = os.listdir(directory)
    changed = bytearray((directory / name).read_bytes())
    changed[-30] ^= 1
    (directory / name).write_bytes(changed)
    assert len(list(EventFileLoader(str(directory / name)).Load())) < 1 + 1 + 300 + 1
