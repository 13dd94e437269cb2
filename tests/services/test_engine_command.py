from typing import Any

import pytest

from citadel_llm.config import Settings
from citadel_llm.services.engine.command import arguments, environment

SOURCE = {"kind": "folder", "path": "/x"}


PLAN = {
    "residency": "resident",
    "gpus": [1, 2],
    "pipeline_parallel_size": 2,
    "max_model_len": 4096,
    "kv_cache_bytes": 3 << 30,
    "gpu_memory_utilization": 0.61,
}


def settings(
    build: str, task: str = "generate", plan: dict[str, Any] | None = None, **engine: Any
) -> Settings:
    model = {
        "name": "m",
        "aliases": ["small"],
        "source": SOURCE,
        "task": task,
        "engine": engine,
        "plan": plan,
    }
    return Settings.model_validate(
        {"environment": "staging", "models_root": "/models", "engine": {"build": build}, "models": [model]}
    )


def line(build: str, task: str = "generate", **engine: Any) -> str:
    host = settings(build, task, **engine)
    return " ".join(arguments(host, host.models[0]))


def test_a_model_on_the_cpu() -> None:
    assert line("cpu", max_model_len=2048, enforce_eager=True, drain_timeout=30) == (
        "/opt/citadel/envs/engine/bin/python -m vllm.entrypoints.openai.api_server "
        "--uds /run/citadel/engines/m.sock --model /models/m --served-model-name m small --dtype auto "
        "--tensor-parallel-size 1 --pipeline-parallel-size 1 --max-model-len 2048 --shutdown-timeout 30 "
        "--enable-server-load-tracking --disable-uvicorn-access-log --enforce-eager "
        "--scheduling-policy priority --enable-prompt-tokens-details"
    )


@pytest.mark.parametrize(
    ("engine", "expected"),
    [
        ({"gpus": [0, 1], "tensor_parallel_size": 2}, "--tensor-parallel-size 2"),
        ({"gpus": [0, 1], "pipeline_parallel_size": 2}, "--pipeline-parallel-size 2"),
        ({"gpus": [0], "kv_cache_gib": 3}, "--kv-cache-memory-bytes 3221225472"),
        ({"gpus": [0], "kv_cache_dtype": "fp8"}, "--kv-cache-dtype fp8"),
        ({"gpus": [0], "quantization": "awq"}, "--quantization awq"),
        ({"gpus": [0], "extra_args": ["--max-num-seqs", "8"]}, "--max-num-seqs 8"),
        ({"gpus": [0], "task": "embed"}, "--runner pooling"),
        ({"gpus": [0], "task": "score"}, "--runner pooling"),
    ],
)
def test_options_reach_the_command_line(engine: dict[str, Any], expected: str) -> None:
    assert expected in line("cuda", **engine)


def test_what_the_plan_decided_goes_over_what_the_catalogue_wishes() -> None:
    host = settings("cuda", plan=PLAN, kv_cache_gib=9, tensor_parallel_size=2)
    words = " ".join(arguments(host, host.models[0]))
    assert (
        "--tensor-parallel-size 1 --pipeline-parallel-size 2 "
        "--gpu-memory-utilization 0.61 --kv-cache-memory-bytes 3221225472 --max-model-len 4096 "
    ) in words
    assert environment(host, host.models[0], {})["CUDA_VISIBLE_DEVICES"] == "1,2"


def test_a_model_that_keeps_no_cache_is_given_none() -> None:
    host = settings("cuda", plan=PLAN | {"kv_cache_bytes": 0})
    assert "--kv-cache-memory-bytes" not in arguments(host, host.models[0])


def test_an_encoder_finds_its_own_length_unless_told() -> None:
    plan = PLAN | {"kv_cache_bytes": 0}
    assert "--max-model-len" not in line("cuda", task="embed", plan=plan)
    assert "--max-model-len 300" in line("cuda", task="embed", plan=plan, max_model_len=300)
    # One that keeps a cache has only as much of it as the plan says.
    assert "--max-model-len 4096" in line("cuda", task="embed", plan=PLAN)
    on_cpu = PLAN | {"gpus": [], "pipeline_parallel_size": 1, "gpu_memory_utilization": None}
    assert "--max-model-len" not in line("cpu", task="embed", plan=on_cpu)


def test_the_plan_sizes_the_cpu_s_cache() -> None:
    host = settings(
        "cpu", plan=PLAN | {"gpus": [], "pipeline_parallel_size": 1, "gpu_memory_utilization": None}
    )
    assert "--gpu-memory-utilization" not in arguments(host, host.models[0])
    assert environment(host, host.models[0], {})["VLLM_CPU_KVCACHE_SPACE"] == "3"


def test_requests_are_not_logged() -> None:
    assert "--enable-log-requests" not in line("cpu")


def test_gpus_are_chosen_by_their_place_on_the_bus() -> None:
    host = settings("cuda", gpus=[1, 3], tensor_parallel_size=2)
    chosen = environment(host, host.models[0], {})
    assert chosen["CUDA_VISIBLE_DEVICES"] == "1,3"
    assert chosen["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert "VLLM_CPU_KVCACHE_SPACE" not in chosen


@pytest.mark.parametrize(("gib", "expected"), [(None, "1"), (4, "4")])
def test_the_cpu_s_cache_is_always_limited(gib: int | None, expected: str) -> None:
    host = settings("cpu", kv_cache_gib=gib)
    assert environment(host, host.models[0], {})["VLLM_CPU_KVCACHE_SPACE"] == expected


def test_the_supervisor_s_own_environment_stays_with_it() -> None:
    host = settings("cpu")
    given = {
        "NOTIFY_SOCKET": "/n",
        "CREDENTIALS_DIRECTORY": "/c",
        "CITADEL_CONFIG": "/f",
        "LD_PRELOAD": "/l.so",
    }
    passed = environment(host, host.models[0], given)
    assert passed["LD_PRELOAD"] == "/l.so"
    assert not {"NOTIFY_SOCKET", "CREDENTIALS_DIRECTORY", "CITADEL_CONFIG"} & set(passed)


def test_nothing_is_told_outside_and_everything_is_kept_in_the_cache() -> None:
    host = settings("cpu")
    passed = environment(host, host.models[0], {})
    for name in ("VLLM_NO_USAGE_STATS", "DO_NOT_TRACK", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        assert passed[name] == "1"
    for name in ("HOME", "XDG_CACHE_HOME", "VLLM_CACHE_ROOT", "TRITON_CACHE_DIR"):
        assert passed[name].startswith("/var/cache/citadel/engine/m")


def test_an_engine_goes_on_with_the_gateways_traces() -> None:
    host = settings("cpu")
    assert "otlp" not in " ".join(arguments(host, host.models[0]))
    collector = "http://10.0.0.5:4318/v1/traces"
    tracing = host.gateway.tracing.model_copy(update={"endpoint": collector})
    host = host.model_copy(update={"gateway": host.gateway.model_copy(update={"tracing": tracing})})
    words = arguments(host, host.models[0])
    assert words[words.index("--otlp-traces-endpoint") + 1] == collector
    assert environment(host, host.models[0], {})["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"] == "http/protobuf"


def test_only_an_engine_that_is_to_sleep_can_be_put_to_sleep() -> None:
    warm = settings("cuda", plan=PLAN | {"residency": "warm"})
    assert "--enable-sleep-mode" in arguments(warm, warm.models[0])
    assert environment(warm, warm.models[0], {})["VLLM_SERVER_DEV_MODE"] == "1"
    for host in (settings("cuda", plan=PLAN), settings("cuda", plan=PLAN | {"residency": "cold"})):
        assert "--enable-sleep-mode" not in arguments(host, host.models[0])
        assert "VLLM_SERVER_DEV_MODE" not in environment(host, host.models[0], {})
