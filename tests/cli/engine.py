"""Starts the program from outside, as a user does, and looks at what it leaves behind."""

import json
import os
import shutil
import signal
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy
import pytest
from PIL import Image
from safetensors.numpy import load_file

SOURCE = Path(os.environ.get("FRAMESHARD_SOURCE_DIR", Path(__file__).resolve().parents[2]))
PROGRAM = os.environ.get("FRAMESHARD", str(SOURCE / "build/release/frameshard"))
MODEL = SOURCE / "examples/shapes"
WEIGHTS = "diffusion_pytorch_model.safetensors"

BASE = {
    "model": {"path": str(MODEL)},
    "request": {
        "prompt": "a red circle moving left on a black background",
        "width": 32,
        "height": 32,
        "num_frames": 5,
        "num_inference_steps": 2,
        "max_sequence_length": 16,
    },
    "output": {"save_latents": True},
}


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path, monkeypatch):
    """Relative paths, those of the outputs above all, lie in the test's own directory. Import it to use it."""
    monkeypatch.chdir(tmp_path)


@dataclass
class Result:
    code: int
    out: str
    err: str


def clean_environment(changes=None):
    """Without the GPU, whose results differ in the last bits, and without what an outer launcher left behind."""
    launcher = ("OMPI_COMM_", "PMIX_", "PMI_", "SLURM_", "FRAMESHARD")
    env = {key: value for key, value in os.environ.items() if not key.startswith(launcher)}
    for key in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        env.pop(key, None)
    env.update(CUDA_VISIBLE_DEVICES="", OMP_NUM_THREADS="1", OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    env.update(changes or {})
    return env


def start(command, env=None, **streams):
    """The command, of text or bytes, in a process group of its own; its output in pipes unless `streams` says otherwise."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **streams}
    return subprocess.Popen([os.fsencode(word) for word in command], env=clean_environment(env), start_new_session=True,
                            errors="replace", stdin=subprocess.DEVNULL, **streams)


def kill(process, number=signal.SIGKILL):
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        pass


def finish(process, timeout):
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        kill(process, signal.SIGTERM)  # so that mpirun ends its ranks
        try:
            process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            kill(process)
        raise
    code = process.returncode
    return Result(128 - code if code < 0 else code, out or "", err or "")


def mpi_command(ranks, *programs):
    """One program for all ranks, or several, each a list of words, sharing them evenly."""
    each = str(ranks // len(programs))
    command = ["mpirun", "--oversubscribe", "--bind-to", "none"]
    for number, program in enumerate(programs):
        command += [":"] * (number > 0) + ["-n", each, *program]
    return command


def run(args, env=None, ranks=None, timeout=60):
    """The program with these arguments: alone, or as `ranks` processes of one thread under mpirun."""
    return mpirun(ranks, args, env, timeout) if ranks else finish(start([PROGRAM, *args], env), timeout)


def mpirun(ranks, args, env=None, timeout=60):
    return finish(start(mpi_command(ranks, [PROGRAM, *args]), env), timeout)


def succeed(result):
    assert result.code == 0, f"exit code {result.code}\n{result.err}"
    return result


def assert_fails(result, code, *parts):
    """The exit code, the message, and that it is there once."""
    assert result.code == code, f"exit code {result.code}, wanted {code}\n{result.err}"
    for part in parts:
        assert str(part) in result.err, f"not in the message: {part}\n{result.err}"
    if code not in (64, 137):
        assert result.err.count("FAILED") == 1, result.err
    assert "terminate called" not in result.err and "Backtrace" not in result.err, result.err


def assert_nothing_left(directory, denoised=False):
    """Neither a result nor a piece of one; reports of the failure may be there, and empty directories.

    A job that had begun to denoise may leave the file that it goes on from: after 10 s, or asked to stop.
    """
    allowed = ("error.rank", "resume-") if denoised else ("error.rank",)
    for path in Path(directory).rglob("*"):
        assert path.is_dir() or path.name.startswith(allowed), f"{path.relative_to(directory)} was left behind"


def merged(base, changes):
    if not isinstance(base, dict) or not isinstance(changes, dict):
        return changes
    keys = [*base, *(key for key in changes if key not in base)]
    return {key: merged(base[key], changes[key]) if key in base and key in changes else {**base, **changes}[key]
            for key in keys}


def write_config(directory, name="job", **changes):
    """A small, fast job with some sections changed; a `requests` list takes the place of the request."""
    config = merged(BASE, changes)
    if "requests" in changes:
        config["requests"] = [{**BASE["request"], **request} for request in changes["requests"]]
        del config["request"]
    file = Path(directory) / f"{name}.yaml"
    # JSON is YAML, and needs no library.
    file.write_text(json.dumps(config, indent=2, ensure_ascii=False), encoding="utf-8")
    return file


def link_or_copy(source, target):
    try:
        os.link(source, target)
    except OSError:  # another filesystem
        shutil.copyfile(source, target)


def copy_model(directory, name="model"):
    """The example model as links; replace a file of it with write_file(), which leaves the original alone."""
    return Path(shutil.copytree(MODEL, Path(directory) / name, copy_function=link_or_copy))


def write_file(file, contents):
    file.unlink(missing_ok=True)
    file.write_bytes(contents if isinstance(contents, bytes) else contents.encode())


def edit_json(file, **changes):
    write_file(file, json.dumps({**json.loads(file.read_text()), **changes}))


def read_safetensors(file):
    """The header as a dictionary, and the tensors' bytes."""
    whole = Path(file).read_bytes()
    (length,) = struct.unpack("<Q", whole[:8])
    return json.loads(whole[8:8 + length]), whole[8 + length:]


def pack_safetensors(header, data):
    """A file's bytes; the header may be a dictionary or any text."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def latents(directory):
    return load_file(Path(directory) / "latents.safetensors")["latents"]


def preview(directory):
    """Up to 6 frames side by side, as they were decoded: no video codec is between."""
    return numpy.asarray(Image.open(Path(directory) / "preview.png")).astype(int)


def close(a, b):
    """By the norm, relative to b's."""
    return numpy.linalg.norm(a - b) <= 1e-5 * numpy.linalg.norm(b)


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory):
    """The latents that one rank makes of write_config()'s job. Import it to use it."""
    directory = tmp_path_factory.mktemp("one")
    write_config(directory)
    succeed(run(["run", str(directory / "job.yaml"), f"output.directory={directory}/outputs"]))
    return latents(directory / "outputs/job")


def assert_same_video(directory, reference, tolerance=1e-5):
    """The final latents agree to `tolerance` of their largest value."""
    got, wanted = latents(directory), latents(reference)
    assert got.shape == wanted.shape
    worst = numpy.abs(got - wanted).max() / numpy.abs(wanted).max()
    assert worst <= tolerance, f"{directory} differs from {reference} by {worst:.2g}"


def is_complete_video(file, frames):
    import av

    with av.open(str(file)) as video:
        return len(list(video.decode(video=0))) == frames
