"""What all tests share: one thread a worker, one seed, and sweeps only on request."""
import collections
import gc
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is loaded; for processes that tests start, too
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # the same tests on a machine with an accelerator, which they do not need
os.environ.pop("COLUMNS", None)  # of whoever watches the tests: tables are as wide as on a pipe

import proving
import pytest
import torch
from chromium import browser, opened  # noqa: F401  # fixtures

torch.set_num_threads(1)


def pytest_configure(config):
    if "sweep" in config.getoption("-m"):
        proving.share = 1


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Leave sweeps out, unless -m asks for them; of a thinned test, keep another one of each n cases in a row."""
    if config.getoption("-m"):
        return
    seen, kept, left_out = collections.Counter(), [], []
    for item in items:
        thinned = item.get_closest_marker("thinned")
        step = thinned.args[0] if thinned else 1
        row, place = divmod(seen[item.function], step)
        seen[item.function] += 1
        (left_out if "sweep" in item.keywords or place != row % step else kept).append(item)
    items[:] = kept
    config.hook.pytest_deselected(items=left_out)


def pytest_collection_finish():
    """Keep the garbage collector from walking through the libraries and the tests again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(5_000, 10, 20)
