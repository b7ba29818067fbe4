"""What a user can get wrong: an exit code, a message that says where, what was wanted and what to do, and nothing
half-written. Each case is a run of the program, because the promise is about the program."""

import json
import math
import os
import re
import struct
from pathlib import Path

import pytest

from engine import (MODEL, WEIGHTS, assert_fails, assert_nothing_left, assert_same_video, copy_model, edit_json, in_tmp_path,
                    is_complete_video, latents, mpirun, pack_safetensors, read_safetensors, run, succeed, write_config,
                    write_file)

OUTPUT = "outputs/job"


def refuse(args, code, *parts, **how):
    """Runs, and expects this refusal and no output."""
    assert_fails(run(args, **how), code, *parts)
    assert_nothing_left("outputs")


def refuse_model(change, code, *parts):
    """A copy of the example model, changed by `change(folder)`."""
    change(copy_model("."))
    write_config(".", model={"path": "model"})
    refuse(["run", "job.yaml"], code, *parts)


# ---- 6: truncated and corrupt weights ----

FILE = f"model/transformer/{WEIGHTS}"
ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def two(second, data=16, **first):
    """A file of two tensors, a and b."""
    return pack_safetensors({"a": {**ENTRY, **first}, "b": {**ENTRY, "data_offsets": [8, 16], **second}}, bytes(data))


def one(**changes):
    return pack_safetensors({"a": {**ENTRY, **changes}}, bytes(8))


def cut(bytes_left):
    return (MODEL / "transformer" / WEIGHTS).read_bytes()[:bytes_left]


CORRUPT = {
    "empty": (b"", ["truncated: 0 bytes"]),
    "cut in the header": (cut(1000), ["the header claims", "offset 8", "the file has 1000"]),
    "cut in the data": (cut(-1), ["truncated: tensor \"", "ends at offset", "the file has", "download it again"]),
    "header longer than the file": (struct.pack("<Q", 1 << 62) + b"{}", ["the header claims 4611686018427387904", "offset 8"]),
    "header longer than allowed": (struct.pack("<Q", 100_000_001) + b"{}", ["a header at most 100000000"]),
    "header is no JSON": (pack_safetensors(b'{"a": oops}', b""), ["corrupt header"]),
    "header is no object": (pack_safetensors(b"[1, 2]", b""), ["does not start with { at offset 8"]),
    "header is nested deeply": (pack_safetensors(b'{"a":' + b"[" * 100_000, b""), ["corrupt header"]),
    "two tensors of one name": (pack_safetensors(
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}',
        bytes(16)), ["two entries \"a\""]),
    "tensors overlap": (two({"data_offsets": [4, 12]}, data=12), ["tensor \"b\" starts at offset", "tensors overlap"]),
    "a hole": (two({"data_offsets": [12, 20]}, data=20), ["tensor \"b\" starts at offset", "a hole"]),
    "bytes after the last tensor": (two({}, data=20), ["tensors end at offset", "the file has"]),
    "size is not shape x type": (one(dtype="F16"), ["tensor \"a\"", "[0,8]", "do not hold 4 bytes of shape [2]"]),
    "offsets backwards": (one(data_offsets=[8, 0]), ["tensor \"a\"", "[8,0]"]),
    "offsets that overflow": (one(data_offsets=[(1 << 64) - 8, 0]), ["tensor \"a\"", "18446744073709551608"]),
    "offsets after the end": (one(data_offsets=[1 << 40, (1 << 40) + 8]), ["truncated: tensor \"a\" ends at offset"]),
    "shape that overflows": (one(shape=[1 << 40, 1 << 40]), ["tensor \"a\"", "impossible shape"]),
    "unknown element type": (one(dtype="F7"), ["tensor \"a\"", "unknown element type \"F7\""]),
    "shape with a fraction": (one(shape=[2.5]), ["tensor \"a\"", "shape"]),
    "an entry without a shape": (pack_safetensors({"a": {"dtype": "F32"}}, bytes(8)), ["tensor \"a\"", "corrupt header entry"]),
}


@pytest.mark.parametrize("case", CORRUPT)
def test_corrupt_weights(case):
    contents, parts = CORRUPT[case]
    refuse_model(lambda model: write_file(model / "transformer" / WEIGHTS, contents), 65, FILE, *parts)


def test_valid_header_of_any_length():
    """The low byte of a header's length may be that of a pickle: one file in 32 has it."""
    model = copy_model(".")
    header, data = read_safetensors(MODEL / "transformer" / WEIGHTS)
    header["__metadata__"] = {"pad": ""}
    length = len(pack_safetensors(header, b"")) - 8
    header["__metadata__"]["pad"] = " " * ((0x80 - length) % 256)
    contents = pack_safetensors(header, data)
    assert contents[0] == 0x80
    write_file(model / "transformer" / WEIGHTS, contents)
    write_config(".", model={"path": "model"})
    succeed(run(["run", "job.yaml"]))


def split_in_shards(folder, change=lambda weight_map: None):
    """The transformer as two files and an index, as large checkpoints come."""
    header, data = read_safetensors(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    header.pop("__metadata__", None)
    weight_map = {}
    names = list(header)
    for number, part in enumerate([names[::2], names[1::2]], 1):
        shard, entries, packed = f"part-{number}-of-2.safetensors", {}, b""
        for name in part:
            begin, end = header[name]["data_offsets"]
            entries[name] = {**header[name], "data_offsets": [len(packed), len(packed) + end - begin]}
            packed += data[begin:end]
            weight_map[name] = shard
        (folder / shard).write_bytes(pack_safetensors(entries, packed))
    change(weight_map)
    write_file(folder / f"{WEIGHTS}.index.json", json.dumps({"metadata": {}, "weight_map": weight_map}))


def test_shards_work():
    """So that the refusals below are for their reasons."""
    split_in_shards(copy_model(".") / "transformer")
    write_config(".", model={"path": "model"})
    succeed(run(["run", "job.yaml"]))


def moved_to(name):
    return lambda weight_map: weight_map.update({"proj_out.weight": name})


INDEX = {
    "shard in another directory": (moved_to("../part.safetensors"), 65, ["\"../part.safetensors\"", "plain file name"]),
    "absolute shard": (moved_to("/tmp/part.safetensors"), 65, ["plain file name"]),
    "shard without a name": (moved_to(""), 65, ["plain file name"]),
    "shard is not there": (moved_to("part-3-of-2.safetensors"), 66, ["part-3-of-2.safetensors", "no such file"]),
    "tensor is not in its shard": (lambda weight_map: weight_map.update(ghost="part-1-of-2.safetensors"), 65,
                                   ["\"ghost\"", "part-1-of-2.safetensors"]),
    "tensor is in another shard": (lambda weight_map: weight_map.update({name: "part-2-of-2.safetensors" for name in
                                   list(weight_map)[:1]}), 65, ["should be in part-2-of-2.safetensors"]),
}


@pytest.mark.parametrize("case", INDEX)
def test_bad_index(case):
    change, code, parts = INDEX[case]
    refuse_model(lambda model: split_in_shards(model / "transformer", change), code, *parts)


@pytest.mark.parametrize("contents", ["{", '{"metadata": {}}', '{"weight_map": [1]}'])
def test_index_is_no_index(contents):
    def change(model):
        (model / "transformer" / WEIGHTS).unlink()
        write_file(model / "transformer" / f"{WEIGHTS}.index.json", contents)

    refuse_model(change, 65, f"{FILE}.index.json")


# ---- pickles ----

@pytest.mark.parametrize("component, name", [("transformer", "diffusion_pytorch_model.bin"),
                                             ("vae", "diffusion_pytorch_model.pth"),
                                             ("text_encoder", "pytorch_model.bin")])
def test_pickle_alone(component, name):
    """A folder of the time before safetensors; the text encoder's file has transformers' name."""
    def change(model):
        for file in (model / component).glob("*.safetensors"):
            file.unlink()
        write_file(model / component / name, b"PK\x03\x04")

    refuse_model(change, 65, f"model/{component}/{name}", "pickle", "torch.load", "save_file")


@pytest.mark.parametrize("contents", [b"PK\x03\x04" + bytes(100), b"\x80\x02}q\0." + bytes(100), b"\x80\x04\x95" + bytes(100)])
def test_pickle_under_another_name(contents):
    refuse_model(lambda model: write_file(model / "vae" / WEIGHTS, contents), 65, f"model/vae/{WEIGHTS}", "pickle",
                 "torch.load", "save_file")


# ---- 7: weights of another model ----

def test_missing_weights_are_shortened():
    result = wrong_config(num_layers=9)
    assert_fails(result, 65, "missing: blocks.8.", "the weights do not fit", "model/transformer")
    assert result.err.count("missing: ") == 10
    assert re.search(r"\.\.\. and \d+ more", result.err)
    assert_nothing_left("outputs")


def wrong_config(**changes):
    edit_json(copy_model(".") / "transformer/config.json", **changes)
    write_config(".", model={"path": "model"})
    return run(["run", "job.yaml"])


def test_extra_weights_are_shortened():
    result = wrong_config(num_layers=7)
    assert_fails(result, 65, "not part of this model: blocks.7.", "... and ")
    assert result.err.count("not part of this model: ") == 10


def test_wrong_shapes():
    assert_fails(wrong_config(ffn_dim=770), 65, "wrong shape: blocks.0.ffn.net.0.proj.weight: got [768, 256], wanted [770, 256]")


def test_one_misnamed_weight():
    """Both what is missing and what is there instead are named, without the line for more."""
    def change(model):
        header, data = read_safetensors(model / "transformer" / WEIGHTS)
        header = {name.replace("proj_out.bias", "out_proj.bias"): entry for name, entry in header.items()}
        write_file(model / "transformer" / WEIGHTS, pack_safetensors(header, data))

    refuse_model(change, 65, "missing: proj_out.bias [64]", "not part of this model: out_proj.bias [64]")


# ---- 8: NaN ----

def with_nan(file, tensor):
    """All bits set are a NaN in every floating-point type."""
    header, data = read_safetensors(file)
    begin, end = header[tensor]["data_offsets"]
    write_file(file, pack_safetensors(header, data[:begin] + b"\xff" * (end - begin) + data[end:]))


@pytest.mark.parametrize("how", [{}, {"ranks": 2}])
def test_nan_in_the_transformer(how):
    with_nan(copy_model(".") / "transformer" / WEIGHTS, "proj_out.bias")
    write_config(".", model={"path": "model"})
    assert_fails(run(["run", "job.yaml"], **how), 80, "at denoise 1/2", "step 1 of 2", "NaN")
    assert_nothing_left(OUTPUT)
    (report,) = Path(OUTPUT).glob("error.rank*.json")
    assert {"code": 80, "phase": "denoise 1/2"}.items() <= json.loads(report.read_text()).items()


def test_nan_in_the_vae_keeps_the_latents():
    with_nan(copy_model(".") / "vae" / WEIGHTS, "decoder.conv_in.bias")
    write_config(".", model={"path": "model"})
    assert_fails(run(["run", "job.yaml"]), 80, "at decode", "NaN")
    assert abs(latents(OUTPUT)).max() < 100
    assert not [name for name in os.listdir(OUTPUT) if name.endswith((".mp4", ".png")) or name.startswith(".")]


# ---- 9 and 10: YAML ----

HEAD = f"model: {{path: {MODEL}}}\n"
REQUEST = HEAD + "request:\n  prompt: a red circle\n"

YAML = {
    "wrong type": (REQUEST + "  width: wide\n", "4:10", ["request.width must be an integer, got \"wide\""]),
    "number too large": (REQUEST + "  seed: 99999999999999999999\n", "4:9", ["request.seed", "does not fit in 64 bits"]),
    "out of range": (REQUEST + "  num_inference_steps: 0\n", "4:24", ["num_inference_steps must be between 1 and 1000, got 0"]),
    "unknown word": (REQUEST + "infer: {backend: nccI}\n", "4:18", ["infer.backend must be one of auto, nccl, mpi, threads",
                                                                   "did you mean \"nccl\"?"]),
    "unknown key": (REQUEST + "  widht: 64\n", "4:3", ["unknown key \"widht\" in request", "did you mean \"width\"?"]),
    "key twice": (REQUEST + "  width: 64\n  width: 32\n", "5:3", ["\"width\" is given twice: in line 4 and in line 5"]),
    "second document": (REQUEST + "---\nmodel: {}\n", "4:1", ["second document"]),
    "alias": (REQUEST + "  width: &w 64\n  height: *w\n", "4:10", ["anchors (&name) and aliases (*name) are not accepted"]),
    "empty": ("", "1:1", ["must be a mapping"]),
    "no requests": (HEAD + "requests: []\n", "2:11", ["empty list"]),
    "request and an empty list": (REQUEST + "requests: []\n", "4:11", ["empty list"]),
    "id for all": (REQUEST + "  id: x\nrequests: [{prompt: b}]\n", "4:7", ["request.id cannot be shared"]),
    "ids twice": (HEAD + "requests: [{prompt: a, id: x}, {prompt: b, id: x}]\n", "2:48", ["requests.0.id and requests.1.id"]),
    "id leaves the folder": (HEAD + "requests: [{prompt: a, id: ../x}]\n", "2:28", ["directory name"]),
    "frames": (REQUEST + "  num_frames: 34\n", "4:15", ["4k+1", "got 34; the nearest are 33 and 37"]),
    "width": (REQUEST + "  width: 100\n", "4:10", ["a multiple of 16", "got 100; the nearest are 96 and 112"]),
    "guidance off": (REQUEST + "  guidance_scale: 1\ninfer: {diffusion: {cfg_size: 2}}\n", "5:31",
                     ["cfg_size must be 1 or auto, got 2", "guidance is off", "guidance_scale is 1"]),
    "attention": (REQUEST + "infer: {diffusion: {cp_size: 4}, attention: {ulysses_size: 3, ring_size: 2}}\n", "4:45",
                  ["3 * 2 = 6, not 4"]),
    "not UTF-8": ((REQUEST + "  negative_prompt: ").encode() + b"caf\xe9\n", "4:23", ["not valid UTF-8"]),
    "NUL": (REQUEST + "  negative_prompt: \0\n", "4:20", ["a NUL byte"]),
}


@pytest.mark.parametrize("case", YAML)
def test_yaml(case, tmp_path):
    text, place, parts = YAML[case]
    write_file(tmp_path / "job.yaml", text)
    assert_fails(run(["run", "job.yaml"]), 78, f"job.yaml:{place}", *parts)
    assert os.listdir() == ["job.yaml"]


def test_yaml_over_a_mebibyte(tmp_path):
    write_file(tmp_path / "job.yaml", REQUEST + "#" * (1 << 20))
    assert_fails(run(["run", "job.yaml"]), 78, "job.yaml:1:1", "1 MiB")


OVERRIDES = {
    "unknown key": ("request.widht=64", 78, ["\"widht\"", "did you mean \"width\"?"]),
    "wrong type": ("request.width=wide", 78, ["request.width must be an integer, got \"wide\""]),
    "out of range": ("request.width=100", 78, ["the nearest are 96 and 112"]),
    "not UTF-8": (b"request.prompt=caf\xe9", 78, ["not valid UTF-8"]),
    "alias": ("infer.diffusion=*a", 78, ["aliases"]),
    "no request of that number": ("requests.1.width=64", 78, ["requests"]),
    "no equals sign": ("request.width", 64, ["\"request.width\"", "key=value"]),
}


@pytest.mark.parametrize("case", OVERRIDES)
def test_override(case):
    override, code, parts = OVERRIDES[case]
    write_config(".")
    assert_fails(run(["run", "job.yaml", override]), code, *parts)
    assert os.listdir() == ["job.yaml"]


# ---- 11 and 12: ranks ----

def test_ranks_that_do_not_fit():
    write_config(".", infer={"diffusion": {"cp_size": 2}})
    result = mpirun(3, ["run", "job.yaml"])
    assert_fails(result, 78, "dp*cfg*cp = 1*1*2 = 2 but 3 ranks were started", "sizes that fit 3: dp 1 x cfg 1 x cp 3",
                 "dp 3 x cfg 1 x cp 1")
    assert not os.path.isdir("outputs")


def test_odd_ranks_and_two_branches():
    write_config(".", infer={"diffusion": {"cfg_size": 2}})
    assert_fails(mpirun(3, ["run", "job.yaml"]), 78, "3 ranks were started", "dp 1 x cfg 1 x cp 3")


@pytest.mark.parametrize("sizes, product", [({"cp_size": 4}, 4), ({"cp_size": 2, "cfg_size": 2}, 4), ({"dp_size": 2}, 2)])
def test_alone_with_sizes(sizes, product):
    write_config(".", infer={"diffusion": sizes})
    refuse(["run", "job.yaml"], 78, f"dp*cfg*cp = {product} but 1 rank was started", f"mpirun -n {product}",
           f"--nproc-per-node {product}", "infer.backend=threads")


def test_launch_that_does_not_fit():
    """Found before any rank is started."""
    write_config(".", infer={"diffusion": {"cp_size": 2}})
    refuse(["launch", "--nproc-per-node", "3", "run", "job.yaml"], 78, "3 ranks were started", "sizes that fit 3")


def test_more_ranks_than_heads():
    """The ninth rank of a Ulysses group has no head of the model's eight."""
    size = {"width": 48, "height": 48, "num_frames": 5}
    write_config(".", "one", request=size)
    write_config(".", "nine", request=size, infer={"backend": "threads", "diffusion": {"cp_size": 9, "cfg_size": 1},
                                                   "attention": {"ulysses_size": 9}})
    succeed(run(["run", "one.yaml"]))
    result = succeed(run(["run", "nine.yaml"]))
    warnings = [line for line in result.err.splitlines() if "warning" in line and "share" not in line]
    assert len(warnings) == 1
    assert "cp_size 9 is more than the model's 8 heads" in warnings[0]
    assert_same_video("outputs/nine", "outputs/one")


def test_more_ranks_than_tokens():
    write_config(".", infer={"backend": "threads", "diffusion": {"cp_size": 9}})
    refuse(["run", "job.yaml"], 78, "cp_size 9 is more than the 8 tokens", "at most 8 ranks")


@pytest.mark.parametrize("sizes", [{"dp_size": 65536, "cp_size": 65536}, {"dp_size": 65536, "cp_size": 65536, "cfg_size": 2}])
def test_more_ranks_than_numbers(sizes):
    """The product does not fit in 32 bits."""
    write_config(".", infer={"backend": "threads", "diffusion": sizes})
    refuse(["run", "job.yaml"], 78)


# ---- devices ----

def test_no_gpu():
    write_config(".", infer={"device": "cuda"})
    refuse(["run", "job.yaml"], 78, "infer.device is cuda, but CUDA_VISIBLE_DEVICES hides every GPU", "infer.device=cpu")


def test_no_nccl():
    write_config(".", infer={"backend": "nccl"})
    assert_fails(mpirun(2, ["run", "job.yaml"]), 78, "infer.backend is nccl", "infer.backend=mpi")
    assert not os.path.isdir("outputs")


def test_threads_under_mpirun():
    write_config(".", infer={"backend": "threads"})
    assert_fails(mpirun(2, ["run", "job.yaml"]), 78, "infer.backend is threads, but mpirun or srun started")


def test_many_more_threads_than_cores():
    """Slow, and no mistake."""
    threads = 4 * len(os.sched_getaffinity(0)) + 1
    write_config(".", infer={"threads_per_rank": threads})
    result = succeed(run(["run", "job.yaml"]))
    assert f"warning: infer.threads_per_rank is {threads} and this process may use" in result.err


# ---- files ----

@pytest.mark.parametrize("how", [{}, {"ranks": 2}])
def test_unwritable_output(how):
    """Below a file: not even root can make a directory there."""
    Path("file").write_text("kept")
    write_config(".", output={"directory": "file/below"})
    assert_fails(run(["run", "job.yaml"], **how), 74, "file/below", "output.directory")
    assert Path("file").read_text() == "kept"


def test_complete_output_is_kept_and_replaced():
    write_config(".")
    succeed(run(["run", "job.yaml"]))
    first = latents(OUTPUT)
    refused = run(["run", "job.yaml", "request.seed=1"])
    assert_fails(refused, 74, f"{OUTPUT}/video.mp4", "a complete output is there", "output.overwrite=true")
    assert (latents(OUTPUT) == first).all()
    succeed(run(["run", "job.yaml", "request.seed=1", "output.overwrite=true"]))
    assert (latents(OUTPUT) != first).any()
    assert is_complete_video(f"{OUTPUT}/video.mp4", 5)


@pytest.mark.parametrize("args", [["run"], ["plan"], ["launch", "--nproc-per-node", "2", "run"]])
def test_no_config_file(args):
    assert_fails(run([*args, "absent.yaml"]), 66, "absent.yaml: no such file")
    assert os.listdir() == []


def test_config_is_a_directory():
    os.mkdir("job.yaml")
    assert_fails(run(["run", "job.yaml"]), 66, "job.yaml: is a directory")


def test_no_model():
    write_config(".", model={"path": "absent"})
    refuse(["run", "job.yaml"], 66, "model.path absent: no such folder")


@pytest.mark.parametrize("file", ["model_index.json", "transformer/config.json", f"transformer/{WEIGHTS}", "vae/config.json",
                                  f"vae/{WEIGHTS}", "text_encoder/config.json", "text_encoder/model.safetensors",
                                  "scheduler/scheduler_config.json", "tokenizer/spiece.model"])
def test_missing_part(file):
    name = file.rsplit("/", 1)[-1]
    refuse_model(lambda model: (model / file).unlink(), 66, f"model/{file.removesuffix(name)}".rstrip("/"), name)


@pytest.mark.parametrize("file, contents, part", [("model_index.json", "{", "not valid JSON at byte"),
                                                  ("transformer/config.json", "[]", "not a JSON object"),
                                                  ("scheduler/scheduler_config.json", "", "not valid JSON")])
def test_config_is_no_json(file, contents, part):
    refuse_model(lambda model: write_file(model / file, contents), 65, f"model/{file}", part)


def test_damaged_tokenizer():
    refuse_model(lambda model: write_file(model / "tokenizer/spiece.model", b"\x0a\xff\xff garbage"), 65, "spiece.model")


TRANSFORMER, VAE, SCHEDULER = "transformer/config.json", "vae/config.json", "scheduler/scheduler_config.json"

SETTINGS = [
    ("model_index.json", {"_class_name": "StableDiffusionPipeline"}, ["StableDiffusionPipeline is unknown", "WanPipeline"]),
    (TRANSFORMER, {"_class_name": "CogVideoXTransformer3DModel"}, ["_class_name", "WanTransformer3DModel"]),
    (TRANSFORMER, {"image_dim": 1280}, ["image_dim is set", "not supported yet"]),
    (TRANSFORMER, {"qk_norm": "rms_norm"}, ["qk_norm", "rms_norm_across_heads"]),
    (TRANSFORMER, {"in_channels": 36}, ["in_channels 36 and out_channels 16 differ"]),
    (TRANSFORMER, {"patch_size": [2, 2, 2]}, ["patch_size [1, 2, 2]"]),
    (TRANSFORMER, {"num_layers": "many"}, ["num_layers", "wrong type", "\"many\""]),
    (TRANSFORMER, {"num_layers": None}, ["num_layers", "missing"]),
    (TRANSFORMER, {"num_layers": 10**15}, ["num_layers"]),
    (TRANSFORMER, {"num_layers": 8.7}, ["num_layers", "wrong type"]),
    (VAE, {"is_residual": True}, ["is_residual = true is not supported", "false"]),
    (VAE, {"z_dim": 48}, ["z_dim"]),
    (VAE, {"dim_mult": [1, 2, 4]}, ["dim_mult needs 4 entries"]),
    (VAE, {"latents_mean": [0.0]}, ["latents_mean"]),
    ("text_encoder/config.json", {"model_type": "t5"}, ["model_type", "umt5"]),
    ("text_encoder/config.json", {"num_layers": 10**15}, ["num_layers"]),
    (SCHEDULER, {"_class_name": "DDIMScheduler"}, ["DDIMScheduler is not supported", "UniPCMultistepScheduler"]),
    (SCHEDULER, {"prediction_type": "epsilon"}, ["prediction_type = \"epsilon\" is not supported", "flow_prediction"]),
    (SCHEDULER, {"use_karras_sigmas": True}, ["use_karras_sigmas = true is not supported"]),
    (SCHEDULER, {"solver_order": 7}, ["solver_order"]),
    (SCHEDULER, {"solver_type": "midpoint"}, ["solver_type \"midpoint\""]),
    (SCHEDULER, {"final_sigmas_type": "sometimes"}, ["final_sigmas_type"]),
    (SCHEDULER, {"flow_shift": -3.0}, ["flow_shift"]),
]


def setting_name(value):
    return "{}={}".format(*next(iter(value.items()))) if isinstance(value, dict) else ""


@pytest.mark.parametrize("file, setting, parts", SETTINGS, ids=setting_name)
def test_unsupported_setting(file, setting, parts):
    refuse_model(lambda model: edit_json(model / file, **setting), 65, f"model/{file}", *parts)


@pytest.mark.parametrize("file, setting, parts", [
    (TRANSFORMER, {"text_dim": 4096}, ["text_dim", "4096", "128"]),
    ("model_index.json", {"boundary_ratio": 0.9}, ["Wan 2.2"]),
], ids=setting_name)
def test_parts_of_different_models(file, setting, parts):
    """Not one file's mistake: the folder is named."""
    refuse_model(lambda model: edit_json(model / file, **setting), 65, "model: ", *parts)


def latents_file(shape):
    size = 4 * math.prod(shape)
    return pack_safetensors({"latents": {"dtype": "F32", "shape": shape, "data_offsets": [0, size]}}, bytes(size))


@pytest.mark.parametrize("contents, code, parts", [
    (None, 66, ["noise.safetensors", "no such file"]),
    (latents_file([1, 16, 3, 4, 4]), 65, ["noise.safetensors", "[1, 16, 3, 4, 4]", "needs [1, 16, 2, 4, 4]"]),
    (latents_file([2, 16, 2, 4, 4]), 65, ["[2, 16, 2, 4, 4]", "needs [1, 16, 2, 4, 4]"]),
    (one(), 65, ["noise.safetensors", "no tensor \"latents\""]),
    (b"PK\x03\x04" + bytes(100), 65, ["noise.safetensors", "pickle"]),
], ids=["missing", "shape", "batch", "key", "pickle"])
def test_starting_noise(contents, code, parts, tmp_path):
    if contents is not None:
        write_file(tmp_path / "noise.safetensors", contents)
    write_config(".", request={"latents": "noise.safetensors"})
    assert_fails(run(["run", "job.yaml"]), code, *parts)
    assert_nothing_left("outputs")


# ---- 64: the command line ----

COMMAND_LINES = {
    "nothing": ([], ["subcommand is required"]),
    "unknown command": (["rum"], ["rum"]),
    "no config": (["run"], ["config is required"]),
    "unknown flag": (["run", "job.yaml", "--fast"], ["--fast"]),
    "ranks are no number": (["launch", "--nproc-per-node", "many", "run", "job.yaml"], ["--nproc-per-node", "\"many\""]),
    "no ranks": (["launch", "--nproc-per-node", "0", "run", "job.yaml"], ["--nproc-per-node", "\"0\""]),
    "ranks left out": (["launch", "--nproc-per-node"], ["--nproc-per-node"]),
    "nothing to launch": (["launch"], ["launch needs a command"]),
    "launch of another command": (["launch", "plan", "job.yaml"], ["launch needs a command"]),
    "launch without a config": (["launch", "run"], ["run: config is required"]),
    "words after --": (["launch", "--", "run", "job.yaml", "a=b"], ["not expected: run job.yaml a=b", "without --"]),
    "unknown flags": (["launch", "run", "job.yaml", "--fast", "--slow"], ["run: ", "not expected: --fast --slow"]),
    "a time that is no number": (["launch", "--stop-grace", "nan", "run", "job.yaml"], ["--stop-grace", "nan not in range"]),
    "an endless time": (["doctor", "--timeout", "inf"], ["--timeout", "inf not in range [1 - 3600]"]),
    "no time at all": (["doctor", "--seconds", "nan"], ["--seconds", "nan not in range [0.1 - 600]"]),
    "streams of a rank that is not there": (["launch", "--nproc-per-node", "2", "--tee", "9:3", "run", "job.yaml"],
                                            ["--tee 9:3: there is no local rank 9", "from 0 to 1"]),
    "no world": (["plan", "job.yaml", "--world", "0"], ["--world"]),
}


@pytest.mark.parametrize("case", COMMAND_LINES)
def test_command_line(case):
    args, parts = COMMAND_LINES[case]
    assert_fails(run(args), 64, *parts)
    assert os.listdir() == []
