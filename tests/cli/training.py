"""What the tests of `frameshard train` share: a small configuration, and what a run leaves."""

import json

import numpy
import pytest
import yaml
from engine import MODEL, WEIGHTS, run
from safetensors.numpy import load_file

SMALL = {
    "model": {"path": str(MODEL)},
    "train": {"method": "full", "max_steps": 20, "global_batch": 3},
    "data": {"procedural": {"items": 10}, "width": 32, "height": 32, "num_frames": 5, "max_sequence_length": 16},
    "optimizer": {"learning_rate": 3e-4},
    "checkpoint": {"every_epoch": False},
    "output": {"tensorboard": False},
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def config(tmp_path, cache):
    def write(name="job", **sections):
        values = json.loads(json.dumps(SMALL))
        values["data"]["cache"] = cache
        for section, keys in sections.items():
            values.setdefault(section, {}).update(keys)
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump(values))
        return str(file)

    return write


def weights(name="job"):
    return load_file(f"outputs/{name}/model/transformer/{WEIGHTS}")


def difference(a, b):
    assert a.keys() == b.keys()
    total = sum(float(numpy.sum(numpy.square(a[key].astype(numpy.float64)))) for key in a)
    apart = sum(float(numpy.sum(numpy.square(a[key].astype(numpy.float64) - b[key]))) for key in a)
    return (apart / total) ** 0.5


def metrics(name="job"):
    return [json.loads(line) for line in open(f"outputs/{name}/metrics.jsonl")]


def train(file, *overrides, ranks=None, timeout=100):
    return run(["train", file, *overrides], ranks=ranks, timeout=timeout)
