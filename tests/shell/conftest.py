"""What a training loop ends with when Homeostat is not there."""

import pytest
import torch
from faulty_loop import untouched


@pytest.fixture(scope="session")
def twin() -> list[torch.Tensor]:
    return untouched()
