"""Read vLLM's log: what it is doing while it starts, and why it ended. Pure: text in, text out.

The patterns are of vLLM 0.32 and 0.33.
"""

import logging
import re
import signal
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_LEVELS = logging.getLevelNamesMapping()

_LINE = re.compile(
    r"^(?:\((?P<process>\S+) pid=\d+\) )?(?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL)"
    r"(?: \d\d-\d\d \d\d:\d\d:\d\d \[(?P<where>[^\]]+)\]|:)\s*(?P<text>.*)$"
)

_PREFIXED = re.compile(r"^\((?P<process>\S+) pid=\d+\) (?P<text>.*)$")
_ROUTES = re.compile(r"Route: /|Available routes are:")

_PHASES = (
    (
        re.compile(r"Starting to load model|Loading \w+ checkpoint shards:\s+(?P<share>\d+%)"),
        "loading the weights",
    ),
    (re.compile(r"Dynamo bytecode transform|Compiling a graph|for the compilation"), "compiling"),
    (re.compile(r"Capturing (CUDA )?graphs?"), "capturing CUDA graphs"),
    (re.compile(r"KV cache size|GPU KV cache|profil"), "sizing the KV cache"),
    (re.compile(r"Starting vLLM server|Application startup complete"), "asking for a first answer"),
    (re.compile(r"Initializing a V1 LLM engine"), "starting the engine's core"),
)

# The first that fits counts: the more particular ones stand first.
_REASONS = (
    (r"libnuma", "the library libnuma is missing (package libnuma1)"),
    (r"No (supported )?CUDA GPUs?|Failed to infer device type", "no usable GPU: see the driver"),
    (
        r"NVIDIA driver|CUDA driver version|cudaGetDeviceCount|CUDA initialization",
        "the NVIDIA driver does not fit",
    ),
    (
        r"Free memory on device|less than desired GPU memory utilization",
        "out of memory: another process holds GPU memory (nvidia-smi shows whose it is); free it",
    ),
    (
        r"is less than desired CPU memory utilization",
        "out of memory: another process holds the host's memory; free it, or lower kv_cache_gib",
    ),
    (
        r"No available memory for the cache blocks|on kv cache allocation is less than requested memory"
        r"|larger than the (available KV cache|maximum number of tokens)",
        "out of memory: the KV cache does not fit; lower max_model_len or give it more memory",
    ),
    (
        r"out of memory|OutOfMemoryError|Cannot allocate memory|MemoryError|std::bad_alloc",
        "out of memory",
    ),
    (
        r"architectures? .*(not supported|failed to be inspected)|does not recognize this architecture"
        r"|not supported (for now|by vLLM)",
        "this build of vLLM does not know the model's architecture",
    ),
    (
        r"User-specified max_model_len|greater than the derived max_model_len",
        "max_model_len is more than the model's own",
    ),
    (
        r"Cannot find any model weights|weights were not initialized from checkpoint"
        r"|does not appear to have a file named|SafetensorError"
        r"|No such file or directory: .*\.safetensors|Invalid repository ID",
        "the weights are missing or damaged",
    ),
    (r"Address already in use", "its socket is in use by another process"),
    (r"unrecognized arguments|error: argument", "vLLM does not take one of its arguments: see extra_args"),
    (r"ModuleNotFoundError|ImportError", "the engine's environment is incomplete"),
    (r"PermissionError|Permission denied", "it may not read or write something it needs"),
    (r"No space left on device", "the disk is full"),
)
_COMPILED_REASONS = tuple((re.compile(pattern, re.IGNORECASE), reason) for pattern, reason in _REASONS)

# Lines that say that something went wrong before, but not what.
_EMPTY_WORDS = re.compile(
    r"Engine core initialization failed|See root cause above|^Traceback|^\s*(File|raise|return|await) "
    r"|died unexpectedly|resource_tracker|^\s*\^+\s*$|WorkerProc (failed|initialization)"
)
_ERROR_WORDS = re.compile(r"\b\w*(Error|Exception)\b: |\berror: ")


@dataclass(frozen=True)
class LogLine:
    """One line of vLLM's log.

    Attributes:
        level: The level's number, as in `logging`.
        process: Which of vLLM's processes wrote it, empty when it does not say.
        text: What it says.
    """

    level: int
    process: str
    text: str


def parse(line: str) -> LogLine:
    """Take a line apart; what is not in vLLM's form is of level info, its list of routes of level debug."""
    match = _LINE.match(line) or _PREFIXED.match(line)
    fields = match.groupdict() if match else {"text": line}
    text = fields["text"]
    level = logging.DEBUG if _ROUTES.match(text) else _LEVELS[fields.get("level") or "INFO"]
    return LogLine(level, fields.get("process") or "", text)


def phase(text: str) -> str | None:
    """What vLLM is doing, when a line tells it."""
    for pattern, name in _PHASES:
        if match := pattern.search(text):
            share = match.groupdict().get("share")
            return f"{name}, {share}" if share else name
    return None


def explain_exit(code: int, lines: Sequence[str]) -> str:
    """One line for people: why vLLM ended, with its log's own words.

    Args:
        code: Its exit code; below zero the signal that ended it.
        lines: The last lines of its log, oldest first.
    """
    texts = [parse(line).text for line in lines]
    for pattern, reason in _COMPILED_REASONS:
        # The first line that fits: those after it tell of its consequences.
        if match := next((text for text in texts if pattern.search(text)), None):
            return f"{reason} ({_quote(match)})"
    if code == -signal.SIGKILL:
        return "killed from outside: out of memory, most likely (see the kernel's log)"
    ended = f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    words = _last_words(texts)
    return f"vLLM {ended} ({_quote(words)})" if words else f"vLLM {ended} without a word"


def _last_words(texts: Iterable[str]) -> str:
    telling = [text for text in texts if text.strip() and not _EMPTY_WORDS.search(text)]
    errors = [text for text in telling if _ERROR_WORDS.search(text)]
    return next(reversed(errors or telling), "")


def _quote(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 300 else f"{text[:297]}..."  # noqa: PLR2004
