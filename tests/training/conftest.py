"""One thread for all of training's tests, so that sums come out alike to the bit everywhere.

Tests compare runs in this process with runs in processes they start; how a sum is split over
threads would show in its last digit.
"""

from importlib.util import find_spec

import pytest


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    if find_spec("torch") is None:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
