"""What `frameshard run configs/quickstart.yaml` does, with diffusers: one video from a prompt to an mp4.

    python diffusers_clip.py --model examples/shapes --output clip.mp4 [--threads 2]
"""

import argparse
from pathlib import Path

import av
import diffusers
import numpy as np
import torch
from diffusers import WanPipeline

# configs/quickstart.yaml
REQUEST = dict(
    prompt="a red circle moving left on a black background",
    negative_prompt="",
    width=128,
    height=128,
    num_frames=33,
    num_inference_steps=20,
    guidance_scale=5.0,
    max_sequence_length=64,
)
FPS = 16


def write_video(frames, file):
    """Frames [n, H, W, 3] in [0, 1] as H.264, yuv420p."""
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in (frames * 255).round().astype(np.uint8):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    diffusers.logging.disable_progress_bar()
    pipeline = WanPipeline.from_pretrained(options.model, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator("cpu").manual_seed(0)
    frames = pipeline(**REQUEST, generator=generator, output_type="np").frames[0]
    write_video(frames, options.output)


if __name__ == "__main__":
    main()
