"""What every test shares."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """One CPU thread a test: tiny models are faster so, and figures do not depend on the machine's cores."""
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(1)
