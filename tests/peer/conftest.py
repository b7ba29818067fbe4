"""Collects the relative errors that the peer tests measure and prints them as a table at the end."""

import pytest

ERRORS = pytest.StashKey[dict]()


def pytest_configure(config):
    config.stash[ERRORS] = {}


@pytest.fixture
def record(pytestconfig):
    """`record(row, column, error)`: keeps the largest error of each cell."""

    def keep(row, column, error):
        cells = pytestconfig.stash[ERRORS].setdefault(row, {})
        cells[column] = max(error, cells.get(column, 0.0))

    return keep


@pytest.fixture(scope="module")
def one_thread():
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pytest_terminal_summary(terminalreporter, config):
    rows = config.stash[ERRORS]
    if not rows:
        return
    columns = list(dict.fromkeys(column for cells in rows.values() for column in cells))
    width = max(map(len, rows))
    terminalreporter.section("relative errors against diffusers")
    terminalreporter.write_line(" ".join([" " * width] + [f"{column:>10}" for column in columns]))
    for row, cells in rows.items():
        numbers = [f"{cells[column]:10.1e}" if column in cells else " " * 10 for column in columns]
        terminalreporter.write_line(" ".join([row.ljust(width)] + numbers))
