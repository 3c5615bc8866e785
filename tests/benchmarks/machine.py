"""What computes here, and how fast it can be at best: the ground under every other benchmark.

    python -m tests.benchmarks.machine --precision bf16 --json FILE

measures two rates of this machine in this precision: reading memory (a sum over 256 MiB, on a GPU
over 4 GiB, so that waiting for its end counts for nothing) and multiplying matrices (square ones, as large as 20 ms allow). Both are the best of many tries, as
other work on the machine can only slow them down. `rar_nb.runs.cost` does the measuring.
"""

import argparse
import os
import platform
import re
import shlex
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

from rar_nb.gpu_kernels import triton
from rar_nb.runs.cost import best_rate, known_device, product_rate, read_rate
from rar_nb.runs.run_folders import commit, processor
from rar_nb.support import float32_products, write_json

ROOT = Path(__file__).resolve().parent.parent.parent
PRECISIONS = ("no", "tf32", "bf16")
STATUS = Path("/proc/self/status")
SETTINGS = ("OMP_NUM_THREADS", "THP_MEM_ALLOC_ENABLE", "GOMP_SPINCOUNT", "OMP_WAIT_POLICY",
            "KMP_BLOCKTIME", "GLIBC_TUNABLES", "PYTORCH_CUDA_ALLOC_CONF")  # fmt: skip


def command() -> str:
    """How this process was started."""
    name = getattr(sys.modules["__main__"].__spec__, "name", None)
    program = ["python", "-m", name] if name else ["python", sys.argv[0]]
    return shlex.join(program + sys.argv[1:])


def fast_instructions() -> list[str]:
    """Those instructions of the processor on which the speed of products depends."""
    flags = torch.backends.cpu.get_cpu_capability()
    has_bf16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return [flags] + (["mkldnn bf16"] if has_bf16 else [])


def huge_pages() -> str:
    """How Linux gives out huge pages: 'always', 'madvise' (if a program asks) or 'never'."""
    path = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    found = re.search(r"\[(\w+)\]", path.read_text(encoding="ascii")) if path.exists() else None
    return found[1] if found else "unknown"


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def machine(device: torch.device) -> dict:
    """Everything a reader needs to judge a time: the device, its settings, the versions, the
    commit, the command and how busy the machine was."""
    facts = {
        "processor": processor(),
        "instructions": fast_instructions(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "huge_pages": huge_pages(),
        "load": [round(x, 2) for x in os.getloadavg()],
        "settings": {name: os.environ[name] for name in SETTINGS if name in os.environ},
        "torch": torch.__version__,
        **({} if triton is None else {"triton": triton.__version__}),
        "accelerate": version("accelerate"),
        "python": platform.python_version(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "command": command(),
        "device": device.type,
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts["gpu"] = properties.name
        facts["gpu_bytes"] = properties.total_memory
        facts["cuda"] = torch.version.cuda
        facts["data_sheet"] = data_sheet(properties.name)
    return facts


def data_sheet(card: str) -> dict | None:
    """Peak rates of a card by its maker: products by precision, and reading; None: unknown."""
    found = known_device(card)
    if found is None:
        return None
    return {"bf16": found.bf16, "tf32": found.tf32, "no": found.float32, "read": found.bandwidth}


def rates(precision: str, device: torch.device) -> dict:
    """Bytes a second from memory, and FLOPs a second in products of this precision."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    with float32_products(tf32=precision == "tf32"):
        products = product_rate(dtype, device)
    return {"read": reading(device), "products": products}


def reading(device: torch.device) -> float:
    """Bytes a second from memory."""
    if device.type != "cuda":
        return read_rate(device)
    block = torch.ones(2**30, device=device)
    return best_rate(block.sum, block.nbytes, device)


def best_rates(*measured: dict) -> dict:
    """The best of several measurements: other work on the machine can only lower them."""
    return {name: max(found[name] for found in measured) for name in measured[0]}


def reset_peak(device: torch.device):
    """Begin to measure the peak of memory anew."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    else:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def memory(device: torch.device, name: str = "VmRSS") -> int:
    """Bytes in use now; `VmHWM` gives the peak since `reset_peak`."""
    if device.type == "cuda":
        peak = name == "VmHWM"
        return (torch.cuda.max_memory_allocated if peak else torch.cuda.memory_allocated)(device)
    return 1024 * int(re.search(rf"{name}:\s*(\d+)", STATUS.read_text(encoding="ascii"))[1])


def finish(device: torch.device):
    """Wait until the device has done all it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def chosen_device(name: str) -> torch.device:
    """The device called `name`; '' is a GPU where there is one."""
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))


def output(path: Path | None, values: dict):
    """Write one result, beside and then renamed."""
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(values, path)


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--precision", choices=PRECISIONS, default="no")
    parser.add_argument("--device", default="", help="cpu or cuda; otherwise a GPU if there is one")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(arguments)
    device = chosen_device(args.device)
    found = rates(args.precision, device)
    print(f"{found['read'] / 1e9:.1f} GB/s read, {found['products'] / 1e9:,.0f} GFLOP/s "
          f"({args.precision}, {torch.get_num_threads()} threads)")  # fmt: skip
    values = {"what": "machine", "precision": args.precision, "rates": found}
    output(args.json, values | {"machine": machine(device)})


if __name__ == "__main__":
    main()
