"""`frameshard train`: the same weights however the work is divided, what it writes, going on after a stop, and bad input."""

import json
import shutil
import signal
import time
from pathlib import Path

import numpy
import pytest
import yaml
from PIL import Image
from engine import MODEL, PROGRAM, WEIGHTS, assert_fails, finish, in_tmp_path, run, start, succeed
from safetensors.numpy import load_file
from training import SMALL, cache, config, difference, metrics, train, weights

@pytest.fixture(scope="module")
def one_rank(tmp_path_factory, cache):
    """The weights and metrics that one rank ends with."""
    folder = tmp_path_factory.mktemp("one")
    values = json.loads(json.dumps(SMALL))
    values["data"]["cache"] = cache
    values["output"]["directory"] = str(folder)
    (folder / "job.yaml").write_text(yaml.safe_dump(values))
    succeed(train(str(folder / "job.yaml")))
    lines = [json.loads(line) for line in open(folder / "job/metrics.jsonl")]
    return load_file(folder / f"job/model/transformer/{WEIGHTS}"), lines


DIVISIONS = {
    "2 ranks, zero 0": (2, ["parallel.zero=0"]),
    "2 ranks, zero 1": (2, ["parallel.zero=1"]),
    "2 ranks, zero 2": (2, ["parallel.zero=2"]),
    "2 ranks, zero 3": (2, ["parallel.zero=3"]),
    "3 ranks": (3, []),
    "3 ranks, zero 3, small buckets": (3, ["parallel.zero=3", "parallel.bucket_megabytes=0.1"]),
    "cp 2": (2, ["parallel.cp_size=2"]),
    "cp 2, zero 3": (2, ["parallel.cp_size=2", "parallel.zero=3"]),
    "dp 2 x cp 2": (4, ["parallel.cp_size=2"]),
    "2:1": (2, ["devices=[{weight: 2}, {weight: 1}]"]),
    "threads": (None, ["parallel.backend=threads", "devices=[{device: cpu}, {device: cpu}]"]),
    "recomputed": (None, ["train.recompute=on"]),
}


@pytest.mark.parametrize("division", DIVISIONS)
def test_the_same_weights_however_divided(config, one_rank, division):
    ranks, overrides = DIVISIONS[division]
    succeed(train(config(), *overrides, ranks=ranks))
    wanted, lines = one_rank
    error = difference(wanted, weights())
    print(f"{division}: {error:.1e}")
    assert error < 1e-5
    mine = metrics()
    assert [line["samples"] for line in mine] == [line["samples"] for line in lines]
    assert numpy.allclose([line["loss"] for line in mine], [line["loss"] for line in lines], rtol=1e-3)


def test_every_sample_is_counted(one_rank):
    lines = one_rank[1]
    # 10 samples an epoch in steps of 3, the last of an epoch with 1.
    assert [line["samples"] for line in lines][:8] == [3, 6, 9, 10, 13, 16, 19, 20]
    assert lines[-1]["samples"] == 50 and lines[-1]["epoch"] == 5
    assert all(line["gradient_norm"] > 0 for line in lines)


def test_520_samples_on_any_number_of_ranks(config):
    file = config(data={"procedural": {"items": 13}, "repeats": 40}, train={"max_steps": None, "global_batch": 2})
    for world in ("1", "2", "8"):
        out = succeed(run(["train", file, "--plan", "--world", world])).out
        assert "13 items, 520 samples an epoch; 520 samples in 260 steps of 2 = 1 epochs" in out


def test_the_plan_of_a_large_model(tmp_path, config):
    file = config(data={"width": 832, "height": 480, "num_frames": 81}, train={"global_batch": 8}, model={"path": "wan-14b"})
    plan = ["train", file, "--plan", "--world", "8", "--device", "h200"]
    out = succeed(run(plan)).out
    assert "full: 14288491584 of 14288491584 weights (100 %) in bfloat16" in out
    assert "zero 1, 32760 tokens a sample, blocks recomputed" in out
    whole = run([*plan, "parallel.zero=0"])
    assert "a rank needs about" in whole.err and "use more ranks" in whole.err


@pytest.mark.parametrize("precision", ["bf16", "bf16_pure"])
def test_bfloat16_learns_as_float32_does(config, one_rank, precision):
    succeed(train(config(), f"train.precision={precision}", "parallel.bucket_megabytes=1", ranks=2))
    losses = [line["loss"] for line in metrics()]
    wanted = [line["loss"] for line in one_rank[1]]
    assert numpy.allclose(losses, wanted, rtol=0.1), (losses, wanted)


def test_errors_come_once_and_early_under_launch(config):
    result = run(["launch", "--nproc-per-node", "2", "train", config(), "train.batch=3"])
    assert_fails(result, 78, "train.batch")
    assert_fails(train(config(), "devices=[{dtype: bfloat16}]"), 78, "devices.0.dtype: ranks that train have one type")


def stop_after(process, steps):
    """Sends SIGTERM once so many steps are done."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if len(metrics()) >= steps:
                break
        except FileNotFoundError:
            pass
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)


def test_a_stop_while_videos_are_drawn(config):
    """400 denoising steps take longer than the way from the first step's line to the signal."""
    file = config(train={"max_steps": 3}, sample={"prompts": ["a red circle"], "every_steps": 1, "num_inference_steps": 400})
    process = start([PROGRAM, "train", file])
    stop_after(process, 1)
    assert_fails(finish(process, 60), 75, "stopped by a signal after step 1")
    assert [path.name for path in Path("outputs/job/state").iterdir()] == ["step-00000001"]
    assert not list(Path("outputs/job").glob("samples/**/video.mp4"))


def test_a_stop_at_the_end_of_an_epoch_loses_nothing_of_it(config):
    """The first epoch ends with its first step, and with a video that takes long; the next start makes up for it."""
    file = config(train={"max_steps": 2, "global_batch": 10}, checkpoint={"every_epoch": True},
                  sample={"prompts": ["a red circle"], "num_inference_steps": 400})
    process = start([PROGRAM, "train", file])
    stop_after(process, 1)
    assert_fails(finish(process, 60), 75, "stopped by a signal after step 1")
    assert not list(Path("outputs/job").glob("error.rank*.json")), "a stop is no failure"
    succeed(train(file, "sample.num_inference_steps=2"))
    for epoch in ("epoch-0001", "epoch-0002"):
        assert Path(f"outputs/job/epochs/{epoch}/model/model_index.json").exists()
        assert Path(f"outputs/job/epochs/{epoch}/sample-1/video.mp4").exists()
    assert [line["step"] for line in metrics()] == [1, 2]


def test_a_stop_while_the_class_is_drawn(config):
    file = config(train={"method": "dreambooth", "max_steps": 1},
                  dreambooth={"class_prompt": "a red circle", "class_items": 2}, sample={"num_inference_steps": 400})
    process = start([PROGRAM, "train", file])
    said = process.stderr.readline()
    while said and "drawing 2 items of the class" not in said:
        said = process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    assert_fails(finish(process, 60), 75, "stopped by a signal while items of the class were drawn")


def test_a_preset_is_planned_for_by_its_denoiser_alone(config):
    file = config(model={"path": "wan-1.3b"}, train={"text_encoder": True})
    assert_fails(run(["train", file, "--plan"]), 78, "wan-1.3b is planned for by its denoiser alone")


def test_a_stopped_run_goes_on_to_the_same_weights(config, one_rank):
    process = start([PROGRAM, "train", config(), "train.max_steps=20"])
    stop_after(process, 4)
    stopped = finish(process, 60)
    if stopped.code == 0:
        pytest.skip("the run had ended before the signal came")
    assert_fails(stopped, 75, "stopped by a signal after step", "the same command goes on from here")
    done = len(metrics())
    result = succeed(train(config()))
    assert f"going on after step {done} of 20" in result.err
    assert difference(one_rank[0], weights()) == 0
    assert [line["step"] for line in metrics()] == list(range(1, 21))


def test_a_state_goes_on_with_other_ranks(config, one_rank):
    file = config(checkpoint={"every_steps": 7})
    succeed(train(file, "train.max_steps=8", ranks=2))
    # As if it had been killed in its eighth step.
    shutil.rmtree("outputs/job/model")
    shutil.rmtree("outputs/job/state/step-00000008")
    result = succeed(train(file, ranks=3))
    assert "going on after step 7 of 20" in result.err
    assert difference(one_rank[0], weights()) < 1e-5


def test_lora_writes_a_file_that_run_takes(config):
    file = config(train={"method": "lora", "max_steps": 4}, adapter={"rank": 4})
    result = succeed(train(file, ranks=2))
    assert result.out.strip() == "outputs/job/lora.safetensors"
    lora = load_file("outputs/job/lora.safetensors")
    assert len(lora) >= 2 * 8 * 8
    assert max(abs(value).max() for name, value in lora.items() if "lora_B" in name) > 0
    video = {"model": {"path": str(MODEL)},
             "request": {"prompt": "a red circle", "width": 32, "height": 32, "num_frames": 5, "num_inference_steps": 2,
                         "max_sequence_length": 16},
             "output": {"save_latents": True}, "lora": [{"path": "outputs/job/lora.safetensors"}]}
    with open("with.yaml", "w") as out:
        yaml.safe_dump(video, out)
    video.pop("lora")
    with open("without.yaml", "w") as out:
        yaml.safe_dump(video, out)
    succeed(run(["run", "with.yaml"]))
    succeed(run(["run", "without.yaml"]))
    changed, plain = (load_file(f"outputs/{name}/latents.safetensors")["latents"] for name in ("with", "without"))
    assert numpy.abs(changed - plain).max() > 1e-4


def test_lora_is_the_same_on_two_ranks(config):
    file = config(train={"method": "lora", "max_steps": 6}, adapter={"rank": 4})
    succeed(train(file, "output.directory=one"))
    for number, overrides in enumerate([["parallel.zero=1"], ["parallel.zero=3"], ["parallel.cp_size=2"]]):
        succeed(train(file, f"output.directory=two{number}", *overrides, ranks=2))
        error = difference(load_file("one/job/lora.safetensors"), load_file(f"two{number}/job/lora.safetensors"))
        assert error < 1e-5, overrides


def test_dreambooth_draws_its_class(config):
    file = config(train={"method": "dreambooth", "max_steps": 3, "global_batch": 2},
                  dreambooth={"class_prompt": "a red circle moving left on a black background", "class_items": 3},
                  sample={"num_inference_steps": 2})
    result = succeed(train(file, ranks=2))
    assert "drawing 3 items of the class" in result.err
    assert result.out.strip() == "outputs/job/model"
    assert len(metrics()) == 3
    assert len(list(Path("outputs/job/class").glob("*/*/video.mp4"))) == 3
    assert not list(Path("outputs/job/class").glob("*/*/*.png"))
    # The class counts: without its loss the weights are others.
    with_class = weights()
    succeed(train(file, "dreambooth.prior_loss_weight=0", "output.overwrite=true"))
    assert difference(with_class, weights()) > 1e-5


def test_samples_validation_average_and_events(config):
    file = config(train={"max_steps": 4, "ema": 0.5}, validation={"procedural": {"items": 2, "seed": 1}, "every_steps": 2},
                  sample={"prompts": ["a red circle"], "every_steps": 4, "num_inference_steps": 2},
                  output={"tensorboard": True})
    result = succeed(train(file, ranks=2))
    assert "outputs/job/samples/step-00000004/sample-1/video.mp4" in result.err
    lines = metrics()
    assert [line["step"] for line in lines if "validation_loss" in line] == [2, 4]
    assert any("loss_by_level" in line for line in lines)
    assert list(Path("outputs/job/tensorboard").glob("events.out.tfevents.*"))


def test_a_complete_training_is_kept(config):
    file = config(train={"max_steps": 1})
    succeed(train(file))
    before = weights()
    assert_fails(train(file), 74, "outputs/job/model is there: this training is complete", "output.overwrite=true")
    assert difference(before, weights()) == 0
    succeed(train(file, "output.overwrite=true"))


def test_a_complete_training_is_made_longer(config):
    file = config(checkpoint={"every_steps": 1})
    succeed(train(file, "train.max_steps=2"))
    shutil.move("outputs/job/model", "outputs/job/model-2")
    succeed(train(file, "train.max_steps=4"))
    made_longer = weights()
    succeed(train(file, "train.max_steps=4", "output.overwrite=true"))
    assert difference(made_longer, weights()) == 0


def test_a_longer_training_leaves_no_sample_out(config):
    """The fifth sample alone was the second step; with more of them that step has three others."""
    file = config(train={"global_batch": 4}, checkpoint={"every_steps": 1})
    succeed(train(file, "train.max_samples=5"))
    shutil.rmtree("outputs/job/model")
    assert_fails(train(file, "train.max_samples=10"), 78, "is a state after 5 samples", "go on behind sample 8",
                 "restore train.max_samples")


def test_a_state_of_another_configuration_is_refused(config):
    file = config(checkpoint={"every_steps": 1})
    succeed(train(file, "train.max_steps=2"))
    shutil.rmtree("outputs/job/model")
    assert_fails(train(file, "optimizer.learning_rate=0.5"), 74, "was left by a training of another configuration")


def test_a_state_of_other_data_is_refused(config):
    file = config(checkpoint={"every_steps": 1})
    succeed(train(file, "train.max_steps=2"))
    shutil.rmtree("outputs/job/model")
    state = max(Path("outputs/job/state").glob("step-*")) / "state.json"
    state.write_text(state.read_text().replace('"identity"', '"other"'))
    assert_fails(train(file), 74, "was left by a training on other data or another model")


def test_epochs_are_kept_with_their_videos(config):
    file = config(train={"max_steps": 8}, checkpoint={"every_epoch": True, "keep": 1},
                  sample={"prompts": ["a red circle"], "num_inference_steps": 2}, parallel={"zero": 3})
    succeed(train(file, ranks=2))
    for epoch in ("epoch-0001", "epoch-0002"):
        assert Path(f"outputs/job/epochs/{epoch}/model/model_index.json").exists()
        assert Path(f"outputs/job/epochs/{epoch}/sample-1/video.mp4").exists()
    assert [path.name for path in Path("outputs/job/state").iterdir()] == ["step-00000008"]


def test_what_cannot_be_written_at_the_end_costs_no_step(config):
    file = config(train={"max_steps": 2, "global_batch": 5}, checkpoint={"every_epoch": True})
    Path("outputs/job").mkdir(parents=True)
    Path("outputs/job/epochs").write_text("in the way")
    assert_fails(train(file), 74, "outputs/job/epochs")
    assert [path.name for path in Path("outputs/job/state").iterdir()] == ["step-00000002"]
    steps = metrics()
    Path("outputs/job/epochs").unlink()
    succeed(train(file))
    assert metrics() == steps, "no step is computed again"
    assert Path("outputs/job/epochs/epoch-0001/model/model_index.json").exists()
    assert Path("outputs/job/model/model_index.json").exists()


def test_a_last_state_that_cannot_be_saved_costs_no_result(config):
    file = config(train={"max_steps": 2}, checkpoint={"every_epoch": True})
    Path("outputs/job").mkdir(parents=True)
    Path("outputs/job/state").symlink_to("/nowhere/state")
    result = succeed(train(file, ranks=2))
    assert result.err.count("the last step's state could not be saved, and its result is") == 1
    assert Path("outputs/job/model/model_index.json").exists()


def test_the_average_is_what_is_written(config):
    succeed(train(config(train={"max_steps": 4, "ema": 0.9}), "output.directory=average"))
    for zero in ("0", "1"):
        succeed(train(config(train={"max_steps": 4, "ema": 0.9}), f"output.directory=zero{zero}", f"parallel.zero={zero}", ranks=2))
    succeed(train(config(train={"max_steps": 4}), "output.directory=plain"))
    at = lambda folder: load_file(f"{folder}/job/model/transformer/{WEIGHTS}")  # noqa: E731
    assert difference(at("average"), at("zero0")) < 1e-6 and difference(at("average"), at("zero1")) < 1e-6
    assert difference(at("average"), at("plain")) > 1e-5


def test_a_loss_that_is_not_finite(config):
    file = config(optimizer={"learning_rate": 10.0, "clip_norm": 0.0})
    assert_fails(train(file, ranks=2), 80, "step", "the gradient's length", "optimizer.learning_rate")


@pytest.mark.parametrize(("overrides", "code", "message"), [
    (["train.method=dreambooth"], 78, "dreambooth.class_prompt must say"),
    (["data.procedural=null"], 78, "data.folder (or data.procedural) must be given"),
    (["data.folder=nowhere"], 78, "data.folder and data.procedural are both given"),
    (["train.from_scratch=true", "train.method=lora"], 78, "train.from_scratch needs train.method full or vae"),
    (["train.method=lora", "adapter.targets=[to_z]"], 78, "to_z"),
    (["parallel.cp_size=2"], 78, "parallel.cp_size is 2, but 1 rank was started"),
    (["parallel.zero=3", "train.recompute=off"], 78, "recomputes it in the backward pass"),
    (["train.batch=3"], 78, "train.batch"),
    (["autoencoder.kl_weight=1"], 78, "autoencoder is given, but train.method is full"),
    (["train.method=vae", "train.text_encoder=true"], 78, "train.text_encoder is for a denoiser"),
    (["train.method=vae", "sample.prompts=[a cat]"], 78, "sample.prompts are for a denoiser"),
    (["train.method=vae", "parallel.cp_size=2"], 78, "train.method vae divides samples alone"),
    (["train.method=vae", "parallel.zero=3"], 78, "train.method vae knows 0 to 2"),
    (["train.method=vae", "train.micro_batch=2"], 78, "takes clips one by one"),
    (["train.method=vae", "train.recompute=on"], 78, "train.recompute is for the blocks of a denoiser"),
    (["train.method=vae", "noise.shift=2"], 78, "noise has no effect with train.method vae"),
    (["train.method=vae", "model.dtype=bfloat16"], 78, "model.dtype has no effect with train.method vae"),
    (["train.method=vae", "autoencoder={absolute_weight: 0, square_weight: 0, edge_weight: 0, kl_weight: 0}"], 78,
     "there is nothing to learn"),
    (["train.method=vae", "autoencoder.windows=[1, 4]"], 78, "autoencoder.windows.1 is 4; it must be 1 + a multiple of 4"),
    (["train.method=vae", "autoencoder.windows=[9]"], 78, "at most data.num_frames (5)"),
    (["train.method=vae", "train.from_scratch=true", "autoencoder.decoder_only=true"], 78, "do not go together"),
    (["data.procedural={items: 4, only: dodecahedron}"], 78, "dodecahedron"),
])
def test_bad_configurations(config, overrides, code, message):
    assert_fails(train(config(), *overrides), code, message)


def folder_config(config, **more):
    return config(data={"procedural": None, "folder": "clips", "num_frames": 1, **more}, train={"max_steps": 2})


def picture(name, text=None):
    Image.new("RGB", (40, 40), (200, 30, 30)).save(name)
    if text is not None:
        name.with_suffix(".txt").write_text(text)


def test_a_folder_of_pictures_with_a_corrupt_one(config, tmp_path):
    clips = tmp_path / "clips"
    clips.mkdir()
    picture(clips / "a.png", "a red square")
    picture(clips / "b.png", "a red square")
    (clips / "c.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing more")
    (clips / "c.txt").write_text("a red square")
    result = succeed(train(folder_config(config), ranks=2))
    assert "left out" in result.err and "c.png" in result.err
    skipped = [json.loads(line) for line in open("outputs/job/skipped.jsonl")]
    assert [line["item"] for line in skipped] == ["c.png"]
    assert_fails(train(folder_config(config), "train.fail_on_bad_item=true", "output.overwrite=true"), 65, "c.png")


def test_folders_that_cannot_be_trained_on(config, tmp_path):
    assert_fails(train(folder_config(config)), 66, "clips")
    clips = tmp_path / "clips"
    clips.mkdir()
    assert_fails(train(folder_config(config)), 65, "clips")
    picture(clips / "a.png")
    assert_fails(train(folder_config(config)), 65, "a.png", "caption")
