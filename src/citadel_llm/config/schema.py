"""The one description of all settings. Units stand in names or descriptions; unknown keys are refused.

No secret is a setting: where one is needed, a setting refers to it (`SecretReference`).
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, JsonValue, field_validator, model_validator

from citadel_llm.config.features import Feature, FeatureName
from citadel_llm.config.gateway import Gateway
from citadel_llm.config.health import Health
from citadel_llm.config.parts import (
    HostPath,
    MisfitError,
    ModelName,
    Part,
    Seconds,
    Tokens,
    WholeSeconds,
    Word,
)
from citadel_llm.config.residency import OnDemandBudget, OnDevice, Residency

# struct sockaddr_un holds 108 bytes, the closing zero among them.
_SOCKET_PATH_LIMIT = 107

# What must not be in an engine's extra arguments, and why. vLLM takes abbreviations too.
_CITADEL_SETS_IT = "Citadel sets it itself; see the other engine settings"
_LOGS_PROMPTS = "it writes clients' text into the log"
_BLINDS = "without it nothing tells whether the engine hangs"
_REFUSED_ARGUMENTS = {
    "--api-key": "the socket is the guard, and a key would show in the list of processes",
    "--config": _CITADEL_SETS_IT,
    "--disable-log-stats": _BLINDS,
    "--dtype": _CITADEL_SETS_IT,
    "--enable-force-include-usage": "it puts the usage into every chunk; the gateway asks for it at the end",
    "--enable-log-deltas": _LOGS_PROMPTS,
    "--enable-log-outputs": _LOGS_PROMPTS,
    "--enable-log-requests": _LOGS_PROMPTS,
    "--enforce-eager": _CITADEL_SETS_IT,
    "--gpu-memory-utilization": "the plan sets it; see kv_cache_gib, and placement.gpu_memory_share",
    "--hf-token": "a secret would show in the list of processes; the weights are fetched by the role models",
    "--host": "engines listen on their socket only",
    "--kv-cache-memory-bytes": "use kv_cache_gib",
    "--kv-cache-dtype": "use kv_cache_dtype",
    "--max-model-len": _CITADEL_SETS_IT,
    "--model": _CITADEL_SETS_IT,
    "--no-enable-server-load-tracking": _BLINDS,
    "--pipeline-parallel-size": _CITADEL_SETS_IT,
    "--port": "engines listen on their socket only",
    "--quantization": _CITADEL_SETS_IT,
    "--scheduling-policy": "the keys' priorities want Citadel's own",
    "--served-model-name": "use name and aliases",
    "--shutdown-timeout": "use drain_timeout",
    "--tensor-parallel-size": _CITADEL_SETS_IT,
    "--uds": "engines listen on their socket only",
    "-pp": "use pipeline_parallel_size",
    "-q": "use quantization",
    "-tp": "use tensor_parallel_size",
}


class Logging(Part):
    """How services write their logs."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least severe level that is written."""
    format: Literal["json", "console", "auto"] = "auto"
    """`json` for machines, `console` for people, `auto`: console on a terminal, json elsewhere."""


class EngineDefaults(Part):
    """What all engines of this host share."""

    build: Literal["cuda", "cpu"] = "cuda"
    """The build of vLLM that is installed."""
    python: HostPath = Path("/opt/citadel/envs/engine/bin/python")
    """The interpreter of the engine's environment."""
    cache_dir: HostPath = Path("/var/cache/citadel/engine")
    """Folder of the engines' caches (compiled kernels, for instance), kept across restarts."""


class PackageSource(Part):
    """Weights that a Python package carries."""

    kind: Literal["package"]
    package: Word
    """Name of the package."""
    version: Word
    """Exact version of the package."""
    path: Word
    """The weights' path inside the package; a .gguf file is converted."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Checksum of that file."""


class FolderSource(Part):
    """Weights in a folder of the host."""

    kind: Literal["folder"]
    path: HostPath
    """The folder, in Hugging Face's layout."""


class HubSource(Part):
    """Weights in a repository of the Hugging Face hub."""

    kind: Literal["hub"]
    repository: Annotated[str, Field(pattern=r"^[^/\s]+/[^/\s]+$")]
    """The repository, `organisation/name`."""
    revision: Word
    """A commit, a tag or a branch; a commit is the only one that cannot move."""


class EngineOptions(Part):
    """How one model's engine runs. What is absent, the plan decides."""

    max_model_len: Tokens | None = None
    """Longest context in tokens. When absent, the longest that the model was made for and that fits."""
    min_model_len: Tokens = 4096
    """Longest context that must fit in any case, in tokens, when max_model_len is absent."""
    concurrent_requests: Annotated[int, Field(ge=1)] = 1
    """How many requests of the longest context the KV cache must hold at once."""
    dtype: Literal["auto", "float16", "bfloat16", "float32"] = "auto"
    """Number type of weights and activations."""
    replicas: Annotated[int, Field(ge=1, le=64)] = 1
    """How many engines serve it on this host, each with its own copy of the weights."""
    gpus: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Indices of the GPUs it is to run on, dealt out to its replicas in this order; when empty, the plan
    chooses. None on the CPU build."""
    tensor_parallel_size: Annotated[int, Field(ge=1)] | None = None
    """Into how many GPUs each layer is split; when absent, the plan chooses."""
    pipeline_parallel_size: Annotated[int, Field(ge=1)] | None = None
    """Over how many GPUs the layers are laid out in sequence; when absent, the plan chooses."""
    kv_cache_gib: Annotated[int, Field(ge=1)] | None = None
    """KV cache on each of its GPUs in GiB; when absent, the plan gives it what is left."""
    kv_cache_dtype: Literal["auto", "fp8"] = "auto"
    """Number type of the KV cache; fp8 halves it."""
    quantization: Word | None = None
    """Quantization method; what the model's own configuration says when absent."""
    enforce_eager: bool = False
    """Run without compiling: starts sooner, answers slower."""
    extra_args: tuple[str, ...] = ()
    """More arguments for vLLM's API server."""
    acceptance: bool = True
    """Before clients are let in, a few fixed questions must give what they gave when it was accepted."""
    acceptance_tolerance: Annotated[float, Field(gt=0)] = 0.1
    """By how much the log-probabilities of its tokens may differ from those on average, in nats."""
    start_timeout: Seconds = 900.0
    """Seconds from start to the first answer."""
    drain_timeout: WholeSeconds = 60
    """Seconds that requests in flight may take to finish when the engine stops."""
    stall_timeout: Seconds = 120.0
    """Seconds without any progress, with requests in hand, after which the engine counts as hung."""

    @field_validator("extra_args")
    @classmethod
    def _leaves_ours_alone(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for argument in value:
            flag = argument.split("=", 1)[0].replace("_", "-")
            for refused, reason in _REFUSED_ARGUMENTS.items():
                if flag.startswith("-") and flag.strip("-") and refused.startswith(flag):
                    raise ValueError(f"must not hold {refused}: {reason}")
        return value

    @field_validator("gpus")
    @classmethod
    def _names_each_once(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(value)) != len(value):
            raise ValueError(f"must name each GPU once, not {list(value)}")
        return value


class ReplicaPlan(Part):
    """Where one more engine of a model runs. What is not here is as the first one has it."""

    gpus: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Indices of its GPUs; none on the CPU build."""
    tensor_parallel_size: Annotated[int, Field(ge=1)] = 1
    """Into how many GPUs each layer is split."""
    pipeline_parallel_size: Annotated[int, Field(ge=1)] = 1
    """Over how many GPUs the layers are laid out in sequence."""
    kv_cache_bytes: Annotated[int, Field(ge=0)]
    """KV cache on each device, in bytes."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of each GPU's memory that must be free when it starts; none on the CPU build."""


class EnginePlan(Part):
    """Where a model runs, with how much memory: what the placement found. Citadel alone writes it."""

    residency: Literal["resident", "warm", "cold"]
    """Awake always, asleep in the host's memory until asked for, or started when asked for."""
    gpus: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Indices of its GPUs; none on the CPU build."""
    tensor_parallel_size: Annotated[int, Field(ge=1)] = 1
    """Into how many GPUs each layer is split."""
    pipeline_parallel_size: Annotated[int, Field(ge=1)] = 1
    """Over how many GPUs the layers are laid out in sequence."""
    max_model_len: Tokens
    """Longest context in tokens."""
    kv_cache_bytes: Annotated[int, Field(ge=0)]
    """KV cache on each device, in bytes."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of each GPU's memory that must be free when it starts; none on the CPU build."""
    replicas: tuple[ReplicaPlan, ...] = ()
    """Where its further engines run: the second, the third, and so on."""
    memory: tuple[OnDevice, ...] = ()
    """What it holds on each of its devices, if it runs on demand."""
    asleep_host_bytes: Annotated[int, Field(ge=0)] | None = None
    """What it holds of the host's memory while it sleeps, in bytes, if it may."""

    def of_replica(self, number: int) -> "EnginePlan":
        """The plan of one of its engines, counted from 1; of one that was not planned, the first one's."""
        further = self.replicas[number - 2 : number - 1] if number > 1 else ()
        changes = further[0].model_dump() if further else {}
        return self.model_copy(update={**changes, "replicas": ()})


class Model(Part):
    """One model of the catalogue. Those that stand first go first where memory is scarce."""

    name: ModelName
    """What clients call it; also the name of its folder, its unit and its socket."""
    source: Annotated[PackageSource | FolderSource | HubSource, Field(discriminator="kind")]
    """Where its weights come from."""
    aliases: tuple[Annotated[str, Field(pattern=r"^[^\s]{1,256}$")], ...] = ()
    """Other names that clients may use."""
    task: Literal["generate", "embed", "score", "transcribe"] = "generate"
    """Whether it writes text, gives embeddings, scores pairs of texts, or writes down speech."""
    runtime: Literal["vllm", "transformers"] = "vllm"
    """Which engine is to serve it. There is none for transformers yet: such a model is not served."""
    residency: Literal["auto", "resident", "warm", "cold"] = "auto"
    """Awake always, asleep in the host's memory until asked for, started when asked for, or what fits."""
    architecture: dict[str, JsonValue] | None = None
    """What its config.json says, in the same keys: for planning before the weights are here."""
    weight_bytes: Annotated[int, Field(gt=0)] | None = None
    """Size of its weights in bytes; when absent, computed. `total_size` in its safetensors index says it."""
    engine: EngineOptions = EngineOptions()
    """How its engine runs."""
    plan: EnginePlan | None = None
    """Where it runs; written by Citadel."""

    @property
    def served(self) -> bool:
        """Whether there is an engine for it."""
        return self.runtime == "vllm"

    @property
    def on_demand(self) -> bool:
        """Whether its engine runs only when somebody wants it."""
        return self.plan is not None and self.plan.residency != "resident"

    @property
    def gpus(self) -> tuple[int, ...]:
        """Indices of the GPUs that it runs on."""
        return self.plan.gpus if self.plan else self.engine.gpus

    @property
    def max_model_len(self) -> int | None:
        """Longest context in tokens that it is served with; none where neither plan nor catalogue says."""
        return self.plan.max_model_len if self.plan else self.engine.max_model_len

    @property
    def engine_ids(self) -> tuple[str, ...]:
        """What its engines are called: its name, then, where it has several, `name.2` and so on."""
        return (self.name, *(f"{self.name}.{number}" for number in range(2, self.engine.replicas + 1)))

    def socket(self, run_dir: Path, engine_id: str | None = None) -> Path:
        """The unix socket on which one of its engines answers, the first when none is named."""
        return run_dir / "engines" / f"{engine_id or self.name}.sock"

    def folder(self, models_root: Path) -> Path:
        """The folder of its weights, in Hugging Face's layout."""
        return models_root / self.name


@dataclass(frozen=True)
class Engine:
    """One engine of a model on this host: a vLLM, its unit and its socket.

    Attributes:
        id: What it is called: the model's name, and from the second replica on `name.2`.
        number: Which of the model's engines it is, counted from 1.
        model: The model, with the plan of this very engine.
        socket: The unix socket on which it answers.
    """

    id: str
    number: int
    model: Model
    socket: Path

    @property
    def plan(self) -> EnginePlan | None:
        """Where it runs, when that was planned."""
        return self.model.plan

    @property
    def unit(self) -> str:
        """Its systemd unit."""
        return f"citadel-engine@{self.id}.service"


class Placement(Part):
    """The memory that the plan may deal out."""

    gpu_memory_share: Annotated[float, Field(gt=0, le=1)] = 0.92
    """Share of each GPU's memory that all its engines together may take."""
    host_memory_share: Annotated[float, Field(gt=0, le=1)] = 0.75
    """Share of the host's memory that engines on the CPU build, or sleeping models, may take together."""
    made_from: str | None = None
    """Checksum of what the plan was made from; written by Citadel."""
    on_demand: OnDemandBudget = OnDemandBudget()
    """The memory in which models on demand take turns; written by Citadel."""


class Settings(Part):
    """All settings of a host."""

    environment: Literal["development", "staging", "production"]
    """The kind of site; names the file under environments/ that is read."""
    root: HostPath = Path("/opt/citadel")
    """Where Citadel is installed."""
    models_root: HostPath = Path("/mnt/nvme0n1/models")
    """Where the models' weights are; a folder for each model."""
    run_dir: HostPath = Path("/run/citadel")
    """Sockets and locks; emptied at boot."""
    logging: Logging = Logging()
    """The services' log."""
    gateway: Gateway = Gateway()
    """The API that clients talk to."""
    engine: EngineDefaults = EngineDefaults()
    """What all engines share."""
    placement: Placement = Placement()
    """What the models may take of the host."""
    models: tuple[Model, ...] = ()
    """The catalogue: the models that this host serves."""
    residency: Residency = Residency()
    """Models on demand."""
    health: Health = Health()
    """Health checks."""
    features: dict[FeatureName, Feature] = {}  # noqa: RUF012 - the model is frozen
    """Feature flags by name."""

    @model_validator(mode="after")
    def _names_are_unique(self) -> "Settings":
        seen: dict[str, str] = {}
        for index, model in enumerate(self.models):
            for key, name in (("name", model.name), *(("aliases", alias) for alias in model.aliases)):
                if name in seen:
                    message = (
                        f"{name!r} is already a name of {seen[name]}; every name and alias must be unique"
                    )
                    raise MisfitError(("models", index, key), message)
                seen[name] = model.name
        return self

    @model_validator(mode="after")
    def _engines_are_told_apart(self) -> "Settings":
        ids = {each: model.name for model in self.models for each in model.engine_ids[1:]}
        for index, model in enumerate(self.models):
            for key, name in (("name", model.name), *(("aliases", alias) for alias in model.aliases)):
                if name in ids:
                    owner = ids[name]
                    message = f"{name!r} is what an engine of {owner} is called, which has several (replicas)"
                    raise MisfitError(("models", index, key), message)
            if model.engine.replicas > 1 and model.residency not in {"auto", "resident"}:
                message = f"must be auto or resident, not {model.residency}: several engines are awake always"
                raise MisfitError(("models", index, "residency"), message)
        return self

    @model_validator(mode="after")
    def _aliases_lead_to_models(self) -> "Settings":
        names = {name for model in self.models for name in (model.name, *model.aliases)}
        for index, alias in enumerate(self.gateway.aliases):
            if alias.name in names:
                message = f"{alias.name!r} is already the name of a model or alias"
                raise MisfitError(("gateway", "aliases", index, "name"), message)
            names.add(alias.name)
        real = {model.name for model in self.models} | set(self.gateway.remote_models)
        for index, alias in enumerate(self.gateway.aliases):
            for place, target in enumerate(alias.models):
                if target.model not in real:
                    path = ("gateway", "aliases", index, "models", place, "model")
                    raise MisfitError(path, f"{target.model!r} is no model of the catalogue")
        for name, fallbacks in self.gateway.fallbacks.items():
            for each in (name, *fallbacks):
                if each not in real:
                    raise MisfitError(
                        ("gateway", "fallbacks", name), f"{each!r} is no model of the catalogue"
                    )
        return self

    @model_validator(mode="after")
    def _sockets_fit(self) -> "Settings":
        for index, model in enumerate(self.models):
            path = str(model.socket(self.run_dir, model.engine_ids[-1]))
            if len(path.encode()) > _SOCKET_PATH_LIMIT:
                message = (
                    f"its socket {path} is longer than {_SOCKET_PATH_LIMIT} bytes; shorten it or run_dir"
                )
                raise MisfitError(("models", index, "name"), message)
        return self

    @model_validator(mode="after")
    def _gpus_fit_the_build(self) -> "Settings":
        for index, model in enumerate(self.models):
            engine, where = model.engine, ("models", index, "engine", "gpus")
            if self.engine.build == "cpu" and engine.gpus:
                message = f"must be [] where engine.build is cpu, not {list(engine.gpus)}"
                raise MisfitError(where, message)
            sizes = (engine.tensor_parallel_size, engine.pipeline_parallel_size)
            needed = math.prod(size or 1 for size in sizes)
            exactly = None not in sizes
            each = "tensor_parallel_size x pipeline_parallel_size"
            if engine.replicas > 1:
                needed, each = needed * engine.replicas, f"replicas x {each}"
            fits = len(engine.gpus) == needed if exactly else len(engine.gpus) % needed == 0
            if engine.gpus and not fits:
                message = f"must name {needed} GPU(s), {each} of"
                raise MisfitError(where, f"{message} {model.name}, or none, not {len(engine.gpus)}")
        return self

    @model_validator(mode="after")
    def _recoveries_act_on_services(self) -> "Settings":
        services = {"gateway", *(engine.id for engine in self.engines)}
        for path, recovery in self.health.recoveries:
            if recovery.service is not None and recovery.service not in services:
                message = f"{recovery.service!r} is neither gateway nor an engine of this host"
                raise MisfitError(("health", *path, "service"), message)
        return self

    @property
    def served_models(self) -> tuple[Model, ...]:
        """The models that engines here serve."""
        return tuple(model for model in self.models if model.served)

    @property
    def models_on_demand(self) -> tuple[Model, ...]:
        """The models whose engines run only when somebody wants them."""
        return tuple(model for model in self.served_models if model.on_demand)

    @property
    def engines(self) -> tuple[Engine, ...]:
        """The engines of this host, in the catalogue's order, a model's replicas one after the other."""
        return tuple(
            Engine(
                engine_id,
                number,
                model.model_copy(update={"plan": model.plan and model.plan.of_replica(number)}),
                model.socket(self.run_dir, engine_id),
            )
            for model in self.served_models
            for number, engine_id in enumerate(model.engine_ids, 1)
        )

    def feature(self, name: str) -> bool:
        """Whether a feature flag is on; one that the site does not name is off."""
        return name in self.features and self.features[name].enabled

    def model(self, name: str) -> Model | None:
        """The model with this name or alias, if there is one."""
        return next((m for m in self.models if name in (m.name, *m.aliases)), None)
