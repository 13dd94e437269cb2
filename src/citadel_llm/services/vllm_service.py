"""One vLLM as a service: `citadel run engine ENGINE`.

Takes the start lock of its GPUs, starts vLLM on a unix socket, is ready when a real token came, ends (to be
started again) when vLLM makes no progress, and on stop lets the requests in flight finish.
"""

import asyncio
import contextlib
import difflib
import os
import time
from collections import deque
from pathlib import Path

import psutil

from citadel_llm.config import Engine, Settings
from citadel_llm.placement.calibration import Measurement, variant_of
from citadel_llm.services.base_service import BaseService
from citadel_llm.services.engine import accepted, command, log, measured
from citadel_llm.services.engine.client import EngineClient, EngineError
from citadel_llm.services.engine.last_out import after_the_gateways, longest_wait
from citadel_llm.services.engine.process_group import ProcessGroup
from citadel_llm.services.engine.progress import ProgressWatch
from citadel_llm.services.engine.start_lock import lock_files, start_lock
from citadel_llm.services.errors import ConfigurationError, ServiceError, StartError

_POLL_SECONDS = 0.25
_STATUS_SECONDS = 2.0
_PROBE_SECONDS = 5.0
# What vLLM may take beyond its drain timeout to end.
_EXIT_SECONDS = 20.0
_LAST_LINES = 200
# From the socket's removal to SIGTERM: by then no gateway sends anything new.
_LEAVE_SECONDS = 1.0
_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth")


class VllmService(BaseService):
    """Supervises one engine of a model.

    Args:
        engine_id: The model's name in the catalogue; `name.2` is its second engine.
        settings: The host's settings.
        config_directory: Where they were read.
    """

    def __init__(self, engine_id: str, settings: Settings, config_directory: Path | None = None) -> None:
        self.name = f"engine@{engine_id}"
        super().__init__(settings, config_directory)
        self._engine = _find_engine(settings, engine_id)
        self._model = self._engine.model
        self._socket = self._engine.socket
        # Starting has its own limit, which says more when it is over; this one is for the rest of the step.
        self.start_timeout = self._model.engine.start_timeout + _EXIT_SECONDS
        self.drain_timeout = self._model.engine.drain_timeout + _EXIT_SECONDS + longest_wait(settings)
        self.configure_timeout = _longest_wait(settings, self._engine)
        self._locks = contextlib.AsyncExitStack()
        self._lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._phase = "loading vLLM"
        self._told = measured.StartLog()
        self._processes: ProcessGroup | None = None
        self._watch: ProgressWatch | None = None

    async def configure(self) -> None:
        """Check what can be checked without vLLM, and wait for the turn to start."""
        self._check_settings()
        locks = self.settings.run_dir / "locks"
        for folder in (locks, self._socket.parent, command.cache_directory(self.settings, self._engine.id)):
            folder.mkdir(parents=True, exist_ok=True)
        files = lock_files(locks, self._model.gpus)
        await self._locks.enter_async_context(start_lock(files, self._engine.id, self._say_waiting))

    async def start(self) -> None:
        """Start vLLM and wait for its first token."""
        self._socket.unlink(missing_ok=True)
        arguments = command.arguments(self.settings, self._model, self._engine.id)
        self.log.info("starting vLLM", command=" ".join(arguments))
        try:
            self._processes = await ProcessGroup.start(
                arguments,
                command.environment(self.settings, self._model, engine_id=self._engine.id),
                self._take_line,
            )
        except OSError as error:
            raise StartError(f"vLLM cannot be started: {error}") from error
        await self._until_it_answers(self._processes)
        await self._locks.aclose()
        self._watch = ProgressWatch(self._model.engine.stall_timeout, time.monotonic())
        self.spawn(self._guard(self._processes), "vLLM")
        self.spawn(self._observe_progress(self._watch), "the watch over vLLM's progress")
        await self._keep_measurement(self._processes)

    async def healthy(self) -> bool:
        """Whether vLLM made progress, or had nothing to do, within the model's stall timeout.

        A hanging vLLM ends the service anyway; this is for a service that hangs itself while it should do so.
        """
        return self._watch is not None and not self._watch.stalled(time.monotonic())

    async def drain(self) -> None:
        """Let vLLM finish what it has begun."""
        if self._processes is None:
            return
        await after_the_gateways(self.settings)
        # While vLLM drains it answers new requests with an error, so no new ones may reach it.
        self._socket.unlink(missing_ok=True)
        # The gateway looks for the socket four times a second; connections that it has kept still work.
        await asyncio.sleep(_LEAVE_SECONDS)
        self._processes.terminate()
        await self._processes.wait()

    async def stop(self) -> None:
        """End all of vLLM's processes."""
        if self._processes is not None:
            await self._processes.kill()
        self._socket.unlink(missing_ok=True)
        await self._locks.aclose()

    async def _keep_measurement(self, processes: ProcessGroup) -> None:
        """Write down what this start took, for the next plan; without a state folder nothing is kept."""
        folder, plan = _state_folder(), self._model.plan
        family = _family(processes)
        if folder is None or plan is None or not family:
            return
        if self.settings.engine.build == "cpu":
            device, total = "cpu", measured.in_host_memory(family)
        else:
            device, total = await measured.on_gpus({process.pid for process in family}) or ("", None)
        if not device:
            return
        measurement = Measurement(
            model=self._model.name,
            variant=variant_of(self._model),
            device=device,
            tensor_parallel_size=plan.tensor_parallel_size,
            pipeline_parallel_size=plan.pipeline_parallel_size,
            vllm=self._told.version,
            weights=self._told.weights,
            cuda_graphs=self._told.cuda_graphs,
            kv_cache=plan.kv_cache_bytes,
            kv_cache_tokens=self._told.kv_cache_tokens,
            total=total,
        )
        file = folder / "measured.json"
        draft = file.with_suffix(".new")
        try:
            draft.write_text(measurement.dump(), encoding="utf-8")
            # For everyone on the host, whatever the service's umask: `citadel plan` shows it.
            draft.chmod(0o644)
            draft.replace(file)
        except OSError as error:
            self.log.warning("what this start took could not be written down", error=str(error))

    def _check_settings(self) -> None:
        folder = self._model.folder(self.settings.models_root)
        if not (folder / "config.json").is_file():
            raise ConfigurationError(f"no model in {folder} (no config.json): deploy it with --tags models")
        if not any(next(folder.glob(pattern), None) for pattern in _WEIGHTS):
            raise ConfigurationError(f"there are no weights in {folder}: deploy them with --tags models")
        if not self.settings.engine.python.is_file():
            raise ConfigurationError(f"there is no engine at {self.settings.engine.python} (engine.python)")

    def _say_waiting(self, holder: str) -> None:
        self.status(f"waiting while {holder} starts on the same device")

    def _take_line(self, line: str) -> None:
        self._lines.append(line)
        entry = log.parse(line)
        self._phase = log.phase(entry.text) or self._phase
        self._told.take(entry.text)
        fields = {"process": entry.process} if entry.process else {}
        self.log.log(entry.level, entry.text, child="vllm", **fields)

    async def _until_it_answers(self, processes: ProcessGroup) -> None:
        """Return at the first token.

        Raises:
            StartError: vLLM ended before, or its time was over.
        """
        limit = self._model.engine.start_timeout
        tasks = (
            asyncio.create_task(self._first_token(limit)),
            asyncio.create_task(processes.wait()),
            asyncio.create_task(self._show_phase()),
        )
        first_token, ended, _ = tasks
        try:
            done, _ = await asyncio.wait(tasks, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
            if ended in done:
                raise StartError(log.explain_exit(ended.result(), self._lines))
            if not done:
                raise StartError(f"no answer after {limit:.0f} s, while {self._phase} (start_timeout)")
            await first_token
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _first_token(self, limit: float) -> None:
        async with EngineClient(self._socket) as client:
            while not await self._is_up(client):  # noqa: ASYNC110 - another process makes it true
                await asyncio.sleep(_POLL_SECONDS)
            try:
                await client.ask_for_one_token(self._model, limit)
            except EngineError as error:
                raise StartError(f"vLLM is up but gives no answer: {error}") from error
            if self._model.engine.acceptance:
                await self._hold_to_what_it_said(client)
            # Now clients may come: until here the socket was this account's alone.
            self._socket.chmod(0o660)

    async def _hold_to_what_it_said(self, client: EngineClient) -> None:
        self._phase = "comparing its answers with those that were accepted"
        origin = accepted.made_from(self.settings, self._model, self._told.version)
        try:
            await accepted.hold(client, self._model, _state_folder(), origin, self.log)
        except EngineError as error:
            raise StartError(f"vLLM does not take the questions of engine.acceptance: {error}") from error

    async def _is_up(self, client: EngineClient) -> bool:
        return self._socket.exists() and await client.answers(_PROBE_SECONDS)

    async def _show_phase(self) -> None:
        began = time.monotonic()
        while True:
            self.status(f"{self._phase} ({time.monotonic() - began:.0f} s)")
            await asyncio.sleep(_STATUS_SECONDS)

    async def _guard(self, processes: ProcessGroup) -> None:
        code = await processes.wait()
        if not self.stopping:
            raise ServiceError(log.explain_exit(code, self._lines))

    async def _observe_progress(self, watch: ProgressWatch) -> None:
        interval = min(10.0, self._model.engine.stall_timeout / 4)
        async with EngineClient(self._socket) as client:
            while not self.stopping:
                await asyncio.sleep(interval)
                metrics = await self._look(client, watch)
                if watch.stalled(time.monotonic()) and not self.stopping:
                    self._report_stall(watch, metrics)
                    seconds = watch.seconds_without(time.monotonic())
                    raise ServiceError(f"the engine hung: no progress for {seconds:.0f} s")

    async def _look(self, client: EngineClient, watch: ProgressWatch) -> dict[str, float]:
        """Have the watch see the engine's metrics. An engine that gives none makes no progress."""
        try:
            metrics = await client.metrics(_PROBE_SECONDS)
            in_flight = await client.requests_in_flight(_PROBE_SECONDS)
        except EngineError as error:
            self.log.warning("the engine does not tell how it is", error=str(error))
            return {}
        watch.observe(metrics, in_flight, time.monotonic())
        return metrics

    def _report_stall(self, watch: ProgressWatch, metrics: dict[str, float]) -> None:
        """Log what can be seen of an engine that hangs, before it is ended."""
        self.log.error(
            "the engine hangs: requests in hand and no progress",
            seconds=round(watch.seconds_without(time.monotonic())),
            metrics={name: value for name, value in metrics.items() if name in _TELLING},
            processes=_describe_processes(self._processes),
            last_lines=list(self._lines)[-20:],
        )


_TELLING = {
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:kv_cache_usage_perc",
    "vllm:num_preemptions_total",
    "vllm:generation_tokens_total",
    "vllm:prompt_tokens_total",
}


def _find_engine(settings: Settings, name: str) -> Engine:
    found = next((engine for engine in settings.engines if engine.id == name), None)
    if found is not None:
        return found
    model = next((model for model in settings.models if model.name == name), None)
    if model is not None:
        raise ConfigurationError(f"{name} wants the engine {model.runtime}, and there is none yet (runtime)")
    known = [engine.id for engine in settings.engines]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known) or 'none'}"
    raise ConfigurationError(f"there is no model {name!r} in the catalogue; {hint}")


def _state_folder() -> Path | None:
    """Where the service keeps what outlives it, as systemd says; none outside of it."""
    folder = os.environ.get("STATE_DIRECTORY")
    return Path(folder) if folder else None


def _longest_wait(settings: Settings, engine: Engine) -> float:
    """How long waiting for one's turn may take, in seconds: all the others on the same device go first."""
    others = (other.model for other in settings.engines if other.id != engine.id)
    ahead = [
        other.engine.start_timeout
        for other in others
        if settings.engine.build == "cpu" or set(other.gpus) & set(engine.model.gpus)
    ]
    return 30.0 + sum(ahead)


def _family(processes: ProcessGroup) -> list[psutil.Process]:
    """All processes of a vLLM; none when they cannot be seen."""
    try:
        first = psutil.Process(processes.pid)
        return [first, *first.children(recursive=True)]
    except psutil.Error:
        return []


def _describe_processes(processes: ProcessGroup | None) -> list[dict[str, object]]:
    """State, memory and threads of vLLM's processes, as far as they can be seen."""
    if processes is None:
        return []
    try:
        return [
            {
                "pid": one.pid,
                "name": one.name(),
                "state": one.status(),
                "memory_mib": one.memory_info().rss // 2**20,
                "threads": one.num_threads(),
                "cpu_seconds": round(sum(one.cpu_times()[:2]), 1),
            }
            for one in _family(processes)
        ]
    except psutil.Error:
        return []
