"""A LoRA that teaches: a shape that the model does not know, learnt on two ranks, told by clips that it was not trained on."""

import json

import yaml
from engine import MODEL, in_tmp_path, run, succeed

SIZES = {"width": 64, "height": 64, "num_frames": 17, "max_sequence_length": 64}


def test_a_shape_that_the_model_does_not_know():
    config = {
        "model": {"path": str(MODEL)},
        "train": {"method": "lora", "max_steps": 60, "global_batch": 4},
        "adapter": {"rank": 16},
        "data": {"procedural": {"items": 12, "only": "red heart"}, "cache": "cache", **SIZES},
        "optimizer": {"learning_rate": 1e-3, "warmup_samples": 8},
        "validation": {"procedural": {"items": 6, "seed": 1, "only": "red heart"}, "every_steps": 20},
        "checkpoint": {"every_epoch": False},
    }
    with open("heart.yaml", "w") as out:
        yaml.safe_dump(config, out)
    # The loss of the model as it is, on the same clips and with the same noise: after a step that changes next to nothing.
    succeed(run(["train", "heart.yaml", "train.max_steps=1", "optimizer.learning_rate=1e-9", "output.directory=before"], ranks=2))
    before = losses("before/heart/metrics.jsonl")
    succeed(run(["train", "heart.yaml"], ranks=2, timeout=300))
    after = losses("outputs/heart/metrics.jsonl")
    print(f"validation loss before {before}, after {after}")
    assert len(before) == 1 and len(after) == 3
    assert after[-1] < 0.8 * before[0]


def losses(file):
    lines = [json.loads(line) for line in open(file)]
    return [line["validation_loss"] for line in lines if "validation_loss" in line]
