"""Exported files run by what runs them: a file and a number of threads → a function of pixels to logits.

Run as a program (``python -m mmard.models.runtimes FILE C H W THREADS``) it measures one file, in a process of its own, and
prints JSON. Torch is imported only for files that need it, so that the memory measured is the runtime's.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Run = Callable[[Any], Any]
"""Pixels (B, C, H, W), float32 in [0, 1] → logits (B, classes), float32: numpy arrays."""
BATCHES = (1, 32)
SECONDS, MOST, FEWEST = 1.0, 50, 5  # of one measurement: its time, and how many runs it has at most and at least


def run_onnx(path: Path, threads: int) -> Run:
    """Open an ONNX file in onnxruntime, on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x})[0]


def run_openvino(path: Path, threads: int) -> Run:
    """Open a model of OpenVINO on the CPU, in single precision."""
    import openvino

    how = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    compiled = openvino.Core().compile_model(str(path), "CPU", how)
    return lambda x: compiled([x])[0]


def run_executorch(path: Path, threads: int) -> Run:
    """Open a program of ExecuTorch; its threads are the process's where the package cannot set them."""
    import torch
    from executorch.runtime import Runtime

    try:
        from executorch.extension.pybindings import portable_lib

        portable_lib._unsafe_reset_threadpool(threads)
    except (ImportError, AttributeError):
        pass
    program = Runtime.get().load_program(path)
    method = program.load_method("forward")

    def run(x: Any, program: Any = program) -> Any:  # the method does not keep its program alive
        return method.execute([torch.from_numpy(x)])[0].clone().numpy()

    return run


def run_torch(path: Path, threads: int) -> Run:
    """Open an exported program of PyTorch (``.pt2``) on the CPU."""
    import torch

    torch.set_num_threads(threads)
    module = torch.export.load(path).module()

    def run(x: Any) -> Any:
        with torch.no_grad():
            return module(torch.from_numpy(x)).numpy()

    return run


RUNTIMES: dict[str, Callable[[Path, int], Run]] = {
    ".onnx": run_onnx,
    ".xml": run_openvino,
    ".pte": run_executorch,
    ".pt2": run_torch,
}


def all_threads() -> int:
    """Count the processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def latency(run: Run, x: Any) -> dict[str, float]:
    """Time a run on the batch x: ``median`` and ``p95`` in milliseconds, and how many ``runs`` were timed."""
    for _ in range(3):
        run(x)
    taken: list[float] = []
    begun = time.perf_counter()
    while len(taken) < FEWEST or (len(taken) < MOST and time.perf_counter() - begun < SECONDS):
        clock = time.perf_counter()
        run(x)
        taken.append(1000 * (time.perf_counter() - clock))
    return {"median": float(np.median(taken)), "p95": float(np.quantile(taken, 0.95)), "runs": len(taken)}


def latencies(run: Run, shape: tuple[int, ...]) -> dict[str, dict[str, float]]:
    """Time a run on images of that shape (C, H, W): batch size → what `latency` says."""
    draw = np.random.default_rng(0)
    return {str(n): latency(run, draw.random((n, *shape), dtype=np.float32)) for n in BATCHES}


def peak_mib() -> float:
    """Return the most memory that this process has held at once, in MiB."""
    try:  # of this program alone: what getrusage says begins with the parent's
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        return int(status.split("VmHWM:")[1].split()[0]) / 1024
    except (OSError, IndexError, ValueError):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


def main(words: list[str]) -> None:
    """Measure the file that the words name and print it as JSON."""
    path, (*shape, threads) = Path(words[0]), map(int, words[1:])
    run = RUNTIMES[path.suffix](path, threads)
    found = latencies(run, tuple(shape))
    print(json.dumps({"latency": found, "peak_mib": peak_mib()}))


if __name__ == "__main__":
    main(sys.argv[1:])
