"""A model by the name that clients ask for: its engines here and elsewhere, and those who wait for them."""

from collections.abc import Callable, Collection, Sequence
from typing import Literal, cast, get_args

from citadel_llm.config.gateway import Admission, Routing
from citadel_llm.gateway.errors import EngineDownError, EngineError
from citadel_llm.gateway.routing.choice import choose
from citadel_llm.gateway.routing.engine import Engine, State
from citadel_llm.gateway.routing.metrics import QueueMetrics
from citadel_llm.gateway.routing.queue import AdmissionQueue
from citadel_llm.gateway.routing.residence import Residence

Task = Literal["generate", "embed", "score", "transcribe"]

DOWN_RETRY_SECONDS = 2.0
"""After how long a client may ask again for a model that is down: about two health checks."""


class ServedModel:
    """A model and all its engines.

    Attributes:
        name: Its real name.
        task: What it does.
        max_model_len: Its longest context in tokens, where that is known.
        aliases: Other names for it.
        engines: Those of this host first, then those behind peers.
        queue: Those who wait for one of them.
        residence: Where it is, if it runs on demand here.
        local: The same model by the engines of this host alone: for requests that a peer has sent, which must
            not go on to another node. Itself when there are no others.
    """

    def __init__(
        self,
        name: str,
        engines: Sequence[Engine],
        *,
        routing: Routing,
        admission: Admission,
        clock: Callable[[], float],
        metrics: QueueMetrics,
        task: Task = "generate",
        max_model_len: int | None = None,
        aliases: tuple[str, ...] = (),
        residence: Residence | None = None,
    ) -> None:
        self.name = name
        self.task: Task = task
        self.max_model_len = max_model_len
        self.aliases = aliases
        self.engines = list(engines)
        self.residence = residence
        self.queue = AdmissionQueue(name, admission, clock, metrics, self._all_full, residence=residence)
        self.local = self
        self._load_factor = routing.load_factor
        self._clock = clock
        here = [engine for engine in engines if not engine.remote]
        if len(here) < len(self.engines):
            self.local = ServedModel(
                name,
                here,
                routing=routing,
                admission=admission,
                clock=clock,
                metrics=metrics,
                task=task,
                max_model_len=max_model_len,
                aliases=aliases,
                residence=residence,
            )
        for engine in self.engines:
            engine.queues.append(self.queue)

    @property
    def model(self) -> "ServedModel":
        """Itself: what describes it."""
        return self

    @property
    def state(self) -> State:
        """`up` while an engine of it is, `down` when all are."""
        states = [engine.state for engine in self.engines]
        return "up" if "up" in states else "unknown" if "unknown" in states else "down"

    @property
    def asleep(self) -> bool:
        """Whether it comes when it is asked for: no engine of it is up, and one can be."""
        return self.residence is not None and self.residence.asleep and not self._any_usable()

    @property
    def shown_state(self) -> Literal["up", "down", "unknown", "asleep"]:
        """Its state for clients and people: one that comes when it is asked for is asleep, not down."""
        return "asleep" if self.asleep else self.state

    @property
    def reason(self) -> str:
        """Why it is down; empty when it is not."""
        if self.state != "down":
            return ""
        if self.residence is not None and self.residence.reason:
            return self.residence.reason
        return next((engine.reason for engine in self.engines if engine.reason), "")

    @property
    def since(self) -> float:
        """When it came into this state, in Unix time."""
        times = [engine.since for engine in self.engines if engine.state == self.state]
        return (min if self.state == "up" else max)(times, default=0.0)

    @property
    def waiting(self) -> int:
        """How many requests wait for it."""
        return self.queue.waiting + (self.local.queue.waiting if self.local is not self else 0)

    def choose(self, affinity: bytes, tried: Collection[Engine] = ()) -> Engine | None:
        """The engine that a request goes to, or None; see `choice.choose`."""
        return choose(self.engines, affinity, tried, self._clock(), self._load_factor)

    def refusal(self) -> EngineError:
        """Why there is no engine for a request, for the client."""
        if self.residence is not None and not self._any_usable():
            message, seconds = self.residence.failure(self.name)
            return EngineDownError(message, retry_after=seconds)
        message = f"The model '{self.name}' is not available just now; try again soon."
        return EngineDownError(message, retry_after=self._ready_in())

    def takes_too_long(self, now: float) -> bool:
        """Whether it would have to be brought up, and that would take longer than a request may wait."""
        return (
            self.residence is not None and self.residence.too_long(now) is not None and not self._any_usable()
        )

    def take_over(self, task: str, max_model_len: int | None, aliases: tuple[str, ...]) -> bool:
        """Describe it as a peer does; whether that is new."""
        if task not in get_args(Task) or (self.task, self.max_model_len, self.aliases) == (
            task,
            max_model_len,
            aliases,
        ):
            return False
        self.task = cast("Task", task)
        self.max_model_len, self.aliases = max_model_len, aliases
        return True

    def sweep(self, now: float) -> None:
        """Look after those who wait."""
        self.queue.sweep(now)
        if self.local is not self:
            self.local.queue.sweep(now)

    def pump(self) -> None:
        """An engine has changed: see whether somebody's turn has come."""
        self.queue.pump()
        if self.local is not self:
            self.local.queue.pump()

    def _ready_in(self) -> float:
        """Seconds until there may be an engine: of those that are down nobody knows, so two health checks."""
        now = self._clock()
        waits = [engine.ready_at - now for engine in self.engines if engine.ready_at < now + 60]
        return max(1.0, min(waits, default=DOWN_RETRY_SECONDS))

    def _all_full(self, now: float) -> bool:
        """Whether every engine is full that `choose` would take for a request that was tried nowhere yet."""
        ready = False
        for engine in self.engines:
            if engine.ready_at <= now:
                if engine.outstanding < engine.limit:
                    return False
                ready = True
        if ready:
            return True
        others = [engine for engine in self.engines if engine.usable]
        if not others and self.residence is not None:
            return self.residence.comes(now)
        return bool(others) and all(engine.outstanding >= engine.limit for engine in others)

    def _any_usable(self) -> bool:
        return any(engine.usable for engine in self.engines)
