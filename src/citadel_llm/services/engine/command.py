"""How vLLM is called for a model: the arguments and the environment. Pure: settings in, strings out."""

import os
from collections.abc import Mapping
from pathlib import Path

from citadel_llm.config import Model, Settings

_GIB = 1024**3

# What vLLM would guess of a model that can also write is not what the catalogue asks for. (Speech is written
# down by a model that generates.)
_POOLING_TASKS = ("embed", "score")

# What an engine may see of its supervisor's environment; systemd's own variables (NOTIFY_SOCKET,
# CREDENTIALS_DIRECTORY, …) are the supervisor's alone.
_PASSED_ON = ("LANG", "LC_ALL", "LD_LIBRARY_PATH", "LD_PRELOAD", "TMPDIR", "TZ")


def arguments(settings: Settings, model: Model, engine_id: str | None = None) -> list[str]:
    """The command line of vLLM's API server for a model.

    Args:
        settings: The host's settings.
        model: The model, with the plan of this engine.
        engine_id: Which of its engines; the first when absent.

    The module is called, not the `vllm` command: that looks its version up under the name `vllm`, which the
    CPU build's distribution does not have.
    """
    engine = model.engine
    command = [str(settings.engine.python), "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--uds", str(model.socket(settings.run_dir, engine_id))]
    command += ["--model", str(model.folder(settings.models_root))]
    command += ["--served-model-name", model.name, *model.aliases]
    command += ["--dtype", engine.dtype]
    command += _placed(settings, model)
    command += ["--shutdown-timeout", str(engine.drain_timeout)]
    # Requests in flight are seen at the API server too: a hung core no longer reports its own.
    command += ["--enable-server-load-tracking", "--disable-uvicorn-access-log"]
    if engine.quantization is not None:
        command += ["--quantization", engine.quantization]
    if engine.enforce_eager:
        command += ["--enforce-eager"]
    # A key's class becomes the request's priority, and the answer's usage tells what came from the cache.
    # Not --enable-force-include-usage: it writes the usage into every chunk of a stream, also where nobody
    # asked for it; the gateway asks for it instead (gateway/paths.py).
    command += ["--scheduling-policy", "priority", "--enable-prompt-tokens-details"]
    if settings.gateway.tracing.endpoint is not None:
        # Below the gateway's spans, whose `traceparent` comes with each request.
        command += ["--otlp-traces-endpoint", settings.gateway.tracing.endpoint]
    if _sleeps(settings, model):
        command += ["--enable-sleep-mode"]
    if model.task in _POOLING_TASKS:
        command += ["--runner", "pooling"]
    return [*command, *engine.extra_args]


def _sleeps(settings: Settings, model: Model) -> bool:
    """Whether the engine is put to sleep when others are wanted more. On the CPU vLLM cannot."""
    return settings.engine.build == "cuda" and model.plan is not None and model.plan.residency == "warm"


def _placed(settings: Settings, model: Model) -> list[str]:
    """What the plan decided. Without one, what the catalogue wishes, and vLLM takes the rest."""
    engine, plan = model.engine, model.plan
    tensor, pipeline = engine.tensor_parallel_size or 1, engine.pipeline_parallel_size or 1
    words = []
    if plan is not None:
        tensor, pipeline = plan.tensor_parallel_size, plan.pipeline_parallel_size
    if settings.engine.build == "cuda":
        if plan is not None and plan.gpu_memory_utilization is not None:
            # How much is the cache's is said outright; the share is what vLLM wants free before it starts.
            words += ["--gpu-memory-utilization", str(plan.gpu_memory_utilization)]
            # A model that only reads keeps no cache.
            words += ["--kv-cache-memory-bytes", str(plan.kv_cache_bytes)] if plan.kv_cache_bytes else []
        elif engine.kv_cache_gib is not None:
            words += ["--kv-cache-memory-bytes", str(engine.kv_cache_gib * _GIB)]
    length = _length(settings, model)
    if length is not None:
        words += ["--max-model-len", str(length)]
    sizes = ["--tensor-parallel-size", str(tensor), "--pipeline-parallel-size", str(pipeline)]
    if engine.kv_cache_dtype != "auto":
        words += ["--kv-cache-dtype", engine.kv_cache_dtype]
    return [*sizes, *words]


def _length(settings: Settings, model: Model) -> int | None:
    """The longest context that vLLM is told; none where it finds its own.

    Of encoders it knows better: sentence_bert_config.json may allow less than config.json (256 of 512 tokens
    for all-MiniLM-L6-v2), and more than that, said outright, is refused (vLLM 0.33, config/model.py,
    _get_and_verify_max_len). They keep no cache, so the plan's memory does not hang on it.
    """
    keeps_cache = model.plan is None or (settings.engine.build == "cuda" and model.plan.kv_cache_bytes > 0)
    return (
        model.max_model_len if model.task not in _POOLING_TASKS or keeps_cache else model.engine.max_model_len
    )


def environment(
    settings: Settings,
    model: Model,
    environ: Mapping[str, str] | None = None,
    engine_id: str | None = None,
) -> dict[str, str]:
    """The environment of a model's engine.

    Args:
        settings: The host's settings.
        model: The model.
        environ: The supervisor's environment, of which little is passed on; the process's own when absent.
        engine_id: Which of its engines; the first when absent.
    """
    environ = os.environ if environ is None else environ
    cache = cache_directory(settings, engine_id or model.name)
    passed_on = {name: environ[name] for name in _PASSED_ON if name in environ}
    ours = {
        "PATH": f"{settings.engine.python.parent}:/usr/local/bin:/usr/bin:/bin",
        "PYTHONUNBUFFERED": "1",
        "NO_COLOR": "1",
        # Nothing is told or asked outside.
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        # The processes of one engine speak to each other on this host only.
        "VLLM_HOST_IP": "127.0.0.1",
        "VLLM_DISABLE_LOG_LOGO": "1",
        # Everything an engine keeps for its next start, in the one place that it may write to.
        "HOME": str(cache),
        "XDG_CACHE_HOME": str(cache),
        "HF_HOME": str(cache / "huggingface"),
        "VLLM_CACHE_ROOT": str(cache / "vllm"),
        "TRITON_CACHE_DIR": str(cache / "triton"),
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
    }
    if _sleeps(settings, model):
        # /sleep and /wake_up are there in this mode only. What else it opens is behind the socket, to which
        # the gateway passes on only what its list of paths has.
        ours["VLLM_SERVER_DEV_MODE"] = "1"
    if settings.gateway.tracing.endpoint is not None:
        # vLLM would speak gRPC (vllm/tracing, get_span_exporter).
        ours["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"] = "http/protobuf"
        ours["OTEL_SERVICE_NAME"] = "citadel-engine"
    return passed_on | ours | (_on_cpu(model) if settings.engine.build == "cpu" else _on_gpus(model))


def cache_directory(settings: Settings, engine_id: str) -> Path:
    """The folder of an engine's caches."""
    return settings.engine.cache_dir / engine_id


def _on_cpu(model: Model) -> dict[str, str]:
    # Unset, vLLM takes 0.92 of the machine's memory. It reads whole GiB only.
    planned = model.plan.kv_cache_bytes // _GIB if model.plan else model.engine.kv_cache_gib
    return {"VLLM_CPU_KVCACHE_SPACE": str(planned or 1)}


def _on_gpus(model: Model) -> dict[str, str]:
    gpus = ",".join(str(index) for index in model.gpus)
    # In the order of the bus, so that an index means the same card as in nvidia-smi.
    return {"CUDA_VISIBLE_DEVICES": gpus, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
