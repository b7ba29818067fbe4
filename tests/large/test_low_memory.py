"""What a rank holds in each phase is what the plan said, with all weights at the same time and with one part's at a time.
1 GB of disk, 2 GB of memory."""

import json
import os
import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(os.environ["FRAMESHARD_SOURCE_DIR"])
VIDEO = {"prompt": "a red circle", "width": 64, "height": 64, "num_frames": 5, "num_inference_steps": 2,
         "max_sequence_length": 64}
MPIRUN = ["mpirun", "-n", "2", "--oversubscribe", "--bind-to", "none"]
HOW = {
    "one rank": ([], []),
    "two processes": (MPIRUN, ["infer.diffusion.cp_size=2", "infer.share_weights=false"]),
    "two processes that share": (MPIRUN, ["infer.diffusion.cp_size=2"]),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("medium") / "model"
    tokenizer = ROOT / "examples" / "shapes" / "tokenizer"
    subprocess.run([os.environ["FRAMESHARD_MAKE_FOLDER"], "medium", path, tokenizer], check=True, timeout=600)
    yield path
    subprocess.run(["rm", "-r", path], check=True)


def program(command, timeout=600):
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "OMPI_ALLOW_RUN_AS_ROOT": "1",
           "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    result = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, env=env)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("how", HOW)
def test_peak_as_planned(how, folder, tmp_path):
    """The peak within 10 %, at each level; the second video reads again what the first one had freed."""
    before, options = HOW[how]
    (tmp_path / "job.yaml").write_text(json.dumps({
        "model": {"path": str(folder)}, "request": VIDEO,
        "requests": [{"id": "a"}, {"id": "b", "prompt": "a blue square"}], "output": {"directory": str(tmp_path)}}))
    peaks = {}
    for level in (0, 2):
        words = [str(tmp_path / "job.yaml"), *options, f"infer.low_memory={level}"]
        ranks = 1 if how == "one rank" else 2
        plan = json.loads(program([os.environ["FRAMESHARD"], "plan", *words, "--json", "--device", "cpu", "--world", str(ranks)]))
        program([*before, os.environ["FRAMESHARD"], "run", *words, "output.overwrite=true"])
        measured = []
        for video in ("a", "b"):
            lines = map(json.loads, (tmp_path / "job" / video / "metrics.jsonl").read_text().splitlines())
            ranks_of = [line for line in lines if line["event"] == "rank"]
            measured.append(max(line["peak_bytes"] for line in ranks_of))
            print(f"\n{how}, low_memory {level}, video {video}: " + ", ".join(
                f"{phase} {max(line[f'{phase}_peak_bytes'] for line in ranks_of) / 2**20:.0f} MiB"
                for phase in ("load", "denoise", "decode")), end="")
        planned = plan["memory"]["peak_bytes"]
        print(f"; planned {planned / 2**20:.0f} MiB (" + ", ".join(
            f"{phase} {plan['memory'][f'{phase}_bytes'] / 2**20:.0f}" for phase in ("text", "denoise", "decode")) + ")")
        peaks[level] = planned, max(measured)
    for level, (planned, peak) in peaks.items():
        assert 0.9 <= peak / planned <= 1.1, f"low_memory {level}: planned {planned / 2**20:.0f} MiB, measured {peak / 2**20:.0f}"
    # Each of the two may be off by 10 % of all, which is as much as a copy shared by two ranks lets one of them save.
    planned, measured = (peaks[0][i] - peaks[2][i] for i in (0, 1))
    assert measured > planned / 3
