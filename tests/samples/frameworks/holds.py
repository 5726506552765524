"""Holds memory of a GPU through PyTorch: so many MiB for each line read, until stdin ends."""

import sys

import torch

held = []
for line in sys.stdin:
    held.append(torch.ones(int(line) << 18, device="cuda"))
    torch.cuda.synchronize()
    print(torch.cuda.memory_reserved(), flush=True)
