"""The picture shows what the prompt says: colours, ground, and the way the object moves, measured in the mp4."""

import av
import numpy
import pytest

from engine import mpirun, run, succeed, write_config

SIZE, FRAMES = 128, 33
COLORS = {"red": (235, 60, 30), "green": (40, 190, 70), "blue": (30, 90, 230), "yellow": (250, 190, 30),
          "white": (240, 240, 240), "black": (8, 8, 10), "navy": (10, 20, 75), "teal": (0, 95, 100)}
# How much of its bounding box a shape fills, with the soft edges that the model draws.
SHAPES = {"triangle": 0.58, "circle": 0.77, "square": 0.95}
WAYS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}

# One by two processes that divide a list, one by four that divide the video.
LIST = ["a green square moving right on a black background", "a blue triangle moving up on a white background",
        "a yellow circle moving down on a navy background", "a white square moving left on a teal background"]
SPLIT = "a red circle moving left on a black background"


def request(prompt):
    return {"prompt": prompt, "width": SIZE, "height": SIZE, "num_frames": FRAMES, "num_inference_steps": 12, "seed": 1,
            "max_sequence_length": 64}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Prompt to frames, [frame, row, column, RGB]."""
    folder = tmp_path_factory.mktemp("prompts")
    output = {"directory": str(folder)}
    several = write_config(folder, "list", requests=[request(prompt) for prompt in LIST], output=output,
                           infer={"diffusion": {"dp_size": 2}})
    split = write_config(folder, "split", request=request(SPLIT), output=output,
                         infer={"diffusion": {"cp_size": 2, "cfg_size": 2}})
    made = succeed(run(["launch", "--nproc-per-node", "2", "run", several], timeout=400)).out.split()
    made += succeed(mpirun(4, ["run", split], timeout=300)).out.split()
    assert len(made) == len(LIST) + 1
    directories = {prompt: folder / f"list/{number:04d}" for number, prompt in enumerate(LIST)}
    directories[SPLIT] = folder / "split"
    return {prompt: decode(directory / "video.mp4") for prompt, directory in directories.items()}


def decode(file):
    with av.open(str(file)) as video:
        assert video.streams.video[0].average_rate == 16
        return numpy.stack([frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]).astype(float)


def ground_of(frames):
    """The border is ground: objects keep away from it for most of the time."""
    border = numpy.concatenate([frames[:, :4].reshape(-1, 3), frames[:, -4:].reshape(-1, 3)])
    return numpy.median(border, axis=0)


def object_of(frames):
    """True where a pixel is far from the ground."""
    return numpy.linalg.norm(frames - ground_of(frames), axis=-1) > 100


def path_of(mask):
    """The object's centre in each frame, (x, y), as fractions of the picture."""
    y, x = numpy.mgrid[:SIZE, :SIZE] / SIZE
    return numpy.array([(x[frame].mean(), y[frame].mean()) for frame in mask])


def shape_of(mask):
    """By the share of its bounding box that the object fills, the median over the frames."""
    shares = []
    for frame in mask:
        y, x = numpy.nonzero(frame)
        shares.append(frame.sum() / ((numpy.ptp(y) + 1) * (numpy.ptp(x) + 1)))
    return min(SHAPES, key=lambda name: abs(SHAPES[name] - numpy.median(shares)))


def nearest_color(color, names):
    return min(names, key=lambda name: numpy.linalg.norm(numpy.subtract(COLORS[name], color)))


def words(prompt):
    """a COLOR SHAPE moving WAY on a GROUND background"""
    _, color, shape, _, way, _, _, ground, _ = prompt.split()
    return color, shape, way, ground


@pytest.mark.parametrize("prompt", [*LIST, SPLIT])
def test_picture_shows_the_prompt(videos, prompt):
    frames = videos[prompt]
    color, shape, way, ground = words(prompt)
    assert frames.shape == (FRAMES, SIZE, SIZE, 3)
    mask = object_of(frames)
    assert nearest_color(ground_of(frames), ["black", "white", "navy", "teal"]) == ground
    assert nearest_color(frames[mask].mean(axis=0), ["red", "green", "blue", "yellow", "white", "black"]) == color
    assert shape_of(mask) == shape
    check_size(mask)
    check_path(path_of(mask), WAYS[way])


def check_size(mask):
    """One object of a few per cent of the picture, there in every frame."""
    share = mask.mean(axis=(1, 2))
    assert 0.01 < share.min() and share.max() < 0.2, share


def check_path(path, way):
    """Along the prompted axis always onward and by a quarter of the picture, across it still."""
    along = path @ numpy.array(way)
    across = path @ numpy.abs(way)[::-1]
    assert along[-1] - along[0] >= 0.25, along
    assert numpy.diff(along).min() > 0, along
    assert numpy.ptp(across) < 0.08, across
