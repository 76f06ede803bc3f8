"""One thread: many threads on shared cores slow small tensors down severalfold."""

import torch

torch.set_num_threads(1)
