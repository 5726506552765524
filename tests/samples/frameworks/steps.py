"""Training steps of other frameworks on a GPU, for `autobatch.search`; and a search as a process.

    steps.py FRAMEWORK plain|measured|isolated [LIMIT_MIB]

Prints one JSON line: the answer, each trial, and what the framework said where memory ran out.
`plain` hits the limit; `measured` returns peaks, and should not; `isolated` works in a worker.
Without a limit the framework may take the whole card.
"""

import json
import sys
import time

WIDTH, LAYERS = 4096, 6


def torch_steps(limit_mib, measured):
    """A multilayer perceptron with Adam, in PyTorch."""

    def try_batch(batch_size):
        import torch

        if limit_mib:
            whole = torch.cuda.get_device_properties(0).total_memory
            torch.cuda.set_per_process_memory_fraction(limit_mib * 2**20 / whole)
        torch.cuda.reset_peak_memory_stats()
        layers = [torch.nn.Linear(WIDTH, WIDTH), torch.nn.ReLU()] * LAYERS
        model = torch.nn.Sequential(*layers).cuda()
        optimizer = torch.optim.Adam(model.parameters())
        for _ in range(3):
            data = torch.randn(batch_size, WIDTH, device="cuda")
            loss = (model(data) - data).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() if measured else None

    return try_batch


def cupy_steps(limit_mib, measured):
    """A forward pass that keeps its activations, in CuPy."""

    def try_batch(batch_size):
        import cupy

        if limit_mib:
            cupy.get_default_memory_pool().set_limit(size=limit_mib * 2**20)
        weights = [cupy.eye(WIDTH, dtype=cupy.float32) for _ in range(LAYERS)]
        kept = [cupy.ones((batch_size, WIDTH), dtype=cupy.float32)]
        for each in weights:
            kept.append(cupy.maximum(kept[-1] @ each, 0))
        cupy.cuda.Device().synchronize()

    return try_batch


STEPS = {"torch": torch_steps, "cupy": cupy_steps}


def main(framework, how, limit_mib):
    import autobatch

    try_batch = STEPS[framework](limit_mib, how == "measured")
    options = {"memory_limit": f"{limit_mib}MiB"} if how == "measured" else {"precision": 0.1}
    started = time.perf_counter()
    result = autobatch.search(
        try_batch, max_batch_size=1 << 24, start=256, isolated=how == "isolated", **options
    )
    seconds = round(time.perf_counter() - started, 2)
    row = {
        "framework": framework,
        "how": how,
        "limit_mib": limit_mib,
        "batch_size": result.batch_size,
        "limited_by": result.limited_by.kind.value,
        "trials": [[t.batch_size, t.outcome.value, t.peak_bytes, t.why] for t in result.trials],
        "seconds": seconds,
    }
    beyond = result.batch_size + max(1, result.batch_size // 5)
    try:
        try_batch(beyond)
        row["a_fifth_more"] = "went through"
    except Exception as error:
        row["a_fifth_more"] = f"{type(error).__name__}: {error}"[:300]
    print(json.dumps(row))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 0)
