"""docs/start/: the commands for one machine."""

import pytest

from engine import in_tmp_path, succeed
from pages import blocks, run_block

MPIRUN = blocks("docs/start/mpirun.md")
LAUNCH = [block for block in blocks("docs/start/launch.md") if "--nnodes" not in block]


@pytest.mark.parametrize("block", MPIRUN + LAUNCH)
def test_a_command(block):
    result = succeed(run_block(block, {"OMP_NUM_THREADS": "1"}))
    if "video" in result.out:
        assert result.out.strip().endswith("video.mp4")


def test_each_page_has_commands():
    assert len(MPIRUN) == 3 and len(LAUNCH) == 2
