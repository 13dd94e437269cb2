"""What is counted of every request, in plain numbers: prometheus_client's own cost more than the limits do.

The event loop counts, and nobody else, so that no lock is needed; /metrics reads from another thread, each
dictionary as a copy.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

_FIRST_BYTE = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_DURATION = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)
_PER_TOKEN = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5)

_UNMATCHED = "unmatched"

# Teams are made by administrators, not by clients; still, whoever makes one for each of ten thousand people
# must not fill Prometheus with them.
_TEAMS_SHOWN = 200
_OTHER_TEAMS = "other"


class Distribution:
    """A histogram.

    Args:
        bounds: Upper bounds of its buckets, rising.
    """

    __slots__ = ("_bounds", "_counts", "_total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0

    def observe(self, value: float) -> None:
        """Count a value in the first bucket whose bound is not below it."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._total += value

    def add_to(self, family: HistogramMetricFamily, labels: Sequence[str]) -> None:
        """Show it under these labels."""
        buckets, below = [], 0
        # As prometheus_client writes them: 1.0, not 1.
        names = [*(str(float(bound)) for bound in self._bounds), "+Inf"]
        for name, count in zip(names, self._counts, strict=True):
            below += count
            buckets.append((name, below))
        family.add_metric(labels, buckets, self._total)


class _OfRoute:
    """Requests of one model by one path."""

    __slots__ = ("by_status", "duration", "first_byte")

    def __init__(self) -> None:
        self.by_status: dict[int, int] = {}
        self.first_byte = Distribution(_FIRST_BYTE)
        self.duration = Distribution(_DURATION)


class _OfModel:
    """Tokens of one model."""

    __slots__ = ("cached", "per_token", "read", "written")

    def __init__(self) -> None:
        self.read = self.cached = self.written = 0
        self.per_token = Distribution(_PER_TOKEN)


class _OfTeam:
    """What one team asked for."""

    __slots__ = ("requests", "tokens")

    def __init__(self) -> None:
        self.requests = self.tokens = 0


class Tallies(Collector):
    """All requests that have ended.

    Args:
        registry: Where they are shown.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._routes: dict[tuple[str, str], _OfRoute] = {}
        self._models: dict[str, _OfModel] = {}
        self._teams: dict[str, _OfTeam] = {}
        registry.register(self)

    def count(
        self, model: str, route: str, status: int, *, first_byte: float | None, duration: float
    ) -> None:
        """Count a request; times in seconds.

        Args:
            model: The model's real name; empty for a request that was for none.
            route: The path's template; empty for a path that there is not.
            status: HTTP's.
            first_byte: From its arrival to the answer's first byte; None when there was none.
            duration: From its arrival to the end of the answer.
        """
        of_route = self._routes.get((model, route))
        if of_route is None:
            of_route = self._routes[model, route] = _OfRoute()
        of_route.by_status[status] = of_route.by_status.get(status, 0) + 1
        of_route.duration.observe(duration)
        if first_byte is not None:
            of_route.first_byte.observe(first_byte)

    def count_tokens(self, model: str, read: int, cached: int, written: int) -> None:
        """Count an answer's tokens; the cached ones are among those read."""
        of_model = self._models.get(model)
        if of_model is None:
            of_model = self._models[model] = _OfModel()
        of_model.read += read
        of_model.cached += cached
        of_model.written += written

    def count_pace(self, model: str, seconds: float) -> None:
        """Count the mean time between the tokens of a streamed answer, whose tokens were counted before."""
        self._models[model].per_token.observe(seconds)

    def count_team(self, team: str, tokens: int) -> None:
        """Count a request, and its tokens, for a key's team."""
        of_team = self._teams.get(team)
        if of_team is None:
            if len(self._teams) >= _TEAMS_SHOWN:
                team = _OTHER_TEAMS
            of_team = self._teams.setdefault(team, _OfTeam())
        of_team.requests += 1
        of_team.tokens += tokens

    def collect(self) -> Iterator[Metric]:
        """Show everything."""
        requests = CounterMetricFamily(
            "citadel_gateway_requests",
            "Requests answered; status 499 is a client that hung up first.",
            labels=("model", "route", "status"),
        )
        first_byte = HistogramMetricFamily(
            "citadel_gateway_first_byte_seconds",
            "From the request's arrival to the first byte of the answer's body.",
            labels=("model", "route"),
        )
        duration = HistogramMetricFamily(
            "citadel_gateway_request_duration_seconds",
            "From the request's arrival to the end of the answer.",
            labels=("model", "route"),
        )
        for (model, route), of_route in list(self._routes.items()):
            labels = (model, route or _UNMATCHED)
            for status, count in list(of_route.by_status.items()):
                requests.add_metric((*labels, str(status)), count)
            of_route.first_byte.add_to(first_byte, labels)
            of_route.duration.add_to(duration, labels)
        yield from (requests, first_byte, duration)
        yield from self._of_models()
        yield from self._of_teams()

    def _of_models(self) -> Iterator[Metric]:
        tokens = CounterMetricFamily(
            "citadel_gateway_tokens",
            "Tokens by kind: input (all that were read), cached (those of them from the cache), output.",
            labels=("model", "kind"),
        )
        pace = HistogramMetricFamily(
            "citadel_gateway_time_per_output_token_seconds",
            "Mean time between the tokens of a streamed answer, one value for each answer.",
            labels=("model",),
        )
        for model, of_model in list(self._models.items()):
            tokens.add_metric((model, "input"), of_model.read)
            tokens.add_metric((model, "cached"), of_model.cached)
            tokens.add_metric((model, "output"), of_model.written)
            of_model.per_token.add_to(pace, (model,))
        yield from (tokens, pace)

    def _of_teams(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "citadel_gateway_team_requests",
            "Requests for models, by the key's team; teams beyond the first 200 count as 'other'.",
            labels=("team",),
        )
        tokens = CounterMetricFamily(
            "citadel_gateway_team_tokens",
            "Tokens read and written, by the key's team; teams beyond the first 200 count as 'other'.",
            labels=("team",),
        )
        for team, of_team in list(self._teams.items()):
            requests.add_metric((team,), of_team.requests)
            tokens.add_metric((team,), of_team.tokens)
        yield from (requests, tokens)
