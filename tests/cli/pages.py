"""The commands of a page of documentation, run as they stand."""

import os
import re
import shutil
from pathlib import Path

from engine import PROGRAM, SOURCE, finish, start

PATH = f"{Path(PROGRAM).parent}:{os.environ['PATH']}"


def blocks(page, kind="sh"):
    """The ```sh blocks of a page below docs/, or those marked with a word more ("sh node 0")."""
    return re.findall(rf"^```{re.escape(kind)}\n(.*?)^```", (SOURCE / page).read_text(), re.M | re.S)


def like_a_checkout():
    """What the commands name is in the working directory, as in a clone."""
    for name in ("configs", "examples"):
        if not Path(name).exists():
            shutil.copytree(SOURCE / name, name, symlinks=True)


def shell(commands, env=None):
    return start(["bash", "-euc", commands], {"PATH": PATH, "OMPI_MCA_rmaps_base_oversubscribe": "1", **(env or {})})


def run_block(commands, env=None, timeout=300):
    like_a_checkout()
    return finish(shell(commands, env), timeout)
