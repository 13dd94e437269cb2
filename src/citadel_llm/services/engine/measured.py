"""What a start of vLLM took: from its log (of 0.32 and 0.33), its processes, and the driver."""

import asyncio
import csv
import re
from collections import Counter
from collections.abc import Collection

import psutil

_GIB = 1024**3
_MIB = 1024**2
_ASK_SECONDS = 30.0
# Sizes are written with two digits behind the point: what is hidden below counts as there.
_UNSHOWN = 0.005

_VERSION = re.compile(r"Initializing a V1 LLM engine \(v(?P<version>[^)]+)\)")
_WEIGHTS = re.compile(r"Model loading took (?P<gib>[\d.]+) GiB")
_GRAPHS = re.compile(r"Graph capturing finished in \d+ secs, took (?P<gib>-?[\d.]+) GiB")
_TOKENS = re.compile(r"KV cache size: (?P<tokens>[\d,]+) tokens")


class StartLog:
    """What the lines of one start told.

    Attributes:
        version: vLLM's version.
        weights: What the weights took in bytes, of the worker that took the most; none until told.
        cuda_graphs: The same of the CUDA graphs.
        kv_cache_tokens: How many tokens the KV cache holds; none until told.
    """

    def __init__(self) -> None:
        self.version = ""
        self.weights: int | None = None
        self.cuda_graphs: int | None = None
        self.kv_cache_tokens: int | None = None

    def take(self, text: str) -> None:
        """Take in a line."""
        if match := _VERSION.search(text):
            self.version = match["version"]
        if match := _WEIGHTS.search(text):
            self.weights = max(self.weights or 0, _bytes(match["gib"]))
        if match := _GRAPHS.search(text):
            self.cuda_graphs = max(self.cuda_graphs or 0, _bytes(match["gib"]))
        if match := _TOKENS.search(text):
            tokens = int(match["tokens"].replace(",", ""))
            self.kv_cache_tokens = min(self.kv_cache_tokens or tokens, tokens)


def _bytes(gib: str) -> int:
    return max(0, round((float(gib) + _UNSHOWN) * _GIB))


async def on_gpus(pids: Collection[int]) -> tuple[str, int] | None:
    """What processes hold on the GPU that holds the most of them: its name, and bytes.

    None when the driver does not tell; some do not inside a virtual machine.
    """
    names = parse_rows(await _nvidia_smi("--query-gpu=gpu_uuid,name"))
    used = parse_rows(await _nvidia_smi("--query-compute-apps=gpu_uuid,pid,used_memory"))
    held: Counter[str] = Counter()
    for uuid, pid, mebibytes in (row for row in used if len(row) == 3):  # noqa: PLR2004 - the fields asked for
        if pid.isdigit() and int(pid) in pids and mebibytes.isdigit():
            held[uuid] += int(mebibytes) * _MIB
    if not held:
        return None
    uuid, most = held.most_common(1)[0]
    return dict(row for row in names if len(row) == 2).get(uuid, ""), most  # noqa: PLR2004 - the fields asked for


def parse_rows(text: str) -> list[list[str]]:
    """The rows of nvidia-smi's CSV without header and units."""
    return [[field.strip() for field in row] for row in csv.reader(text.splitlines()) if row]


def in_host_memory(family: Collection[psutil.Process]) -> int | None:
    """What processes hold of the host's memory in bytes, shared pages divided among those that share them."""
    try:
        return sum(process.memory_full_info().pss for process in family)
    except psutil.Error:
        return None


async def _nvidia_smi(query: str) -> str:
    """What the driver's tool answers; nothing when it is not there or fails."""
    try:
        process = await asyncio.create_subprocess_exec(
            "nvidia-smi",
            query,
            "--format=csv,noheader,nounits",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError:
        return ""
    try:
        out, _ = await asyncio.wait_for(process.communicate(), _ASK_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()
        return ""
    return out.decode(errors="replace") if process.returncode == 0 else ""
