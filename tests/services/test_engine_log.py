"""Against lines that vLLM 0.32 wrote (CPU), and for GPUs against those of its sources."""

import logging

import pytest

from citadel_llm.services.engine.log import LogLine, explain_exit, parse, phase

NEUTRAL = [
    "(APIServer pid=1) INFO 11-23 12:53:04 [model.py:733] Resolved architecture: LlamaForCausalLM",
    "(APIServer pid=1) INFO 11-23 12:53:04 [model.py:2152] Using max model len 2048",
]


@pytest.mark.parametrize(
    ("line", "parsed"),
    [
        (
            "(APIServer pid=1) INFO 11-23 12:53:04 [model.py:733] Resolved architecture: X",
            LogLine(logging.INFO, "APIServer", "Resolved architecture: X"),
        ),
        (
            "(EngineCore pid=12) ERROR 11-23 12:53:04 [core.py:1155] ValueError: no",
            LogLine(logging.ERROR, "EngineCore", "ValueError: no"),
        ),
        ("WARNING 11-23 12:53:04 [a.py:1] careful", LogLine(logging.WARNING, "", "careful")),
        (
            "INFO:     Application startup complete.",
            LogLine(logging.INFO, "", "Application startup complete."),
        ),
        ("(Worker pid=5) said by a library", LogLine(logging.INFO, "Worker", "said by a library")),
        (
            "(APIServer pid=1) INFO 11-23 12:53:32 [launcher.py:195] Route: /load, Methods: GET",
            LogLine(logging.DEBUG, "APIServer", "Route: /load, Methods: GET"),
        ),
        ("Information for nobody", LogLine(logging.INFO, "", "Information for nobody")),
    ],
)
def test_lines_are_taken_apart(line: str, parsed: LogLine) -> None:
    assert parse(line) == parsed


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Starting to load model /srv/models/x...", "loading the weights"),
        (
            "Loading safetensors checkpoint shards:  50% Completed | 1/2 [00:01<00:01]",
            "loading the weights, 50%",
        ),
        ("Dynamo bytecode transform time: 3.2 s", "compiling"),
        ("Warming up model for the compilation...", "compiling"),
        ("Capturing CUDA graphs (mixed prefill-decode, PIECEWISE)", "capturing CUDA graphs"),
        ("CPU KV cache size: 46,592 tokens, Maximum concurrency for 2,048", "sizing the KV cache"),
        ("Starting vLLM server on unix:/run/citadel/engines/a.sock", "asking for a first answer"),
        ("Enforce eager set, disabling torch.compile, CUDAGraphs, and JIT kernel warmup.", None),
        ("Using max model len 2048", None),
    ],
)
def test_phases_are_seen(text: str, expected: str | None) -> None:
    assert phase(text) == expected


@pytest.mark.parametrize(
    ("code", "line", "reason"),
    [
        (1, "ImportError: libnuma.so.1: cannot open shared object file: No such file", "libnuma is missing"),
        (1, "RuntimeError: Failed to infer device type, please set", "no usable GPU"),
        (
            1,
            "RuntimeError: The NVIDIA driver on your system is too old (found version 11040).",
            "driver does not",
        ),
        (
            1,
            "(EngineCore pid=2) ERROR 11-23 12:00:00 [core.py:1] ValueError: Free memory on device cuda:0 "
            "(3.1/15.9 GiB) on startup is less than desired GPU memory utilization (0.92, 14.6 GiB).",
            "another process holds GPU memory",
        ),
        (
            1,
            "ValueError: To serve at least one request with the model's max seq len (8192), 4.0 GiB KV cache "
            "is needed, which is larger than the available KV cache memory (1.0 GiB).",
            "the KV cache does not fit; lower max_model_len",
        ),
        (
            1,
            "ValueError: Available memory on node 0 (13.66/22.96 GiB) on kv cache allocation is less than "
            "requested memory for kv (4000.0 GiB). Decrease --kv-cache-memory-bytes, VLLM_CPU_KVCACHE_SPACE.",
            "the KV cache does not fit; lower max_model_len",
        ),
        (
            1,
            "ValueError: Available memory on node 0 (3.66/22.96 GiB) on startup is less than desired CPU "
            "memory utilization (0.92, 21.1 GiB).",
            "another process holds the host's memory",
        ),
        (
            1,
            "ValueError: Following weights were not initialized from checkpoint: {'a'}",
            "missing or damaged",
        ),
        (1, "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.", "out of memory ("),
        (
            1,
            "  Value error, Model architectures ['ImpForCausalLM'] are not supported for now.",
            "does not know the model's architecture",
        ),
        (
            1,
            "  Value error, User-specified max_model_len (9000) is greater than the derived max_model_len",
            "max_model_len is more than the model's own",
        ),
        (1, "RuntimeError: Cannot find any model weights with `/srv/models/x`", "missing or damaged"),
        (1, "safetensors_rust.SafetensorError: Error while deserializing header", "missing or damaged"),
        (2, "api_server.py: error: unrecognized arguments: --nonsense", "does not take one of its arguments"),
        (1, "ModuleNotFoundError: No module named 'vllm'", "the engine's environment is incomplete"),
        (1, "OSError: [Errno 28] No space left on device", "the disk is full"),
        (-9, "", "killed from outside: out of memory, most likely"),
        (-11, "", "vLLM ended by SIGSEGV (Using max model len 2048)"),
        (
            1,
            "ZeroDivisionError: division by zero",
            "vLLM ended with code 1 (ZeroDivisionError: division by zero)",
        ),
    ],
)
def test_an_end_is_explained_in_one_line(code: int, line: str, reason: str) -> None:
    after = [
        "(EngineCore pid=2) ERROR 11-23 12:00:01 [core.py:1] Traceback (most recent call last):",
        "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}",
    ]
    said = [*NEUTRAL, line, *after] if line else NEUTRAL
    explained = explain_exit(code, said)
    assert reason in explained
    assert "\n" not in explained
    assert line.rsplit("] ", maxsplit=1)[-1].strip()[:60] in explained


def test_silence_is_said_so() -> None:
    assert explain_exit(3, []) == "vLLM ended with code 3 without a word"


def test_long_words_are_cut() -> None:
    assert len(explain_exit(1, ["MemoryError: " + "x" * 5000])) < 350
