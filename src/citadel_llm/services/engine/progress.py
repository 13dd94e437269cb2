"""Tell an engine that works from one that hangs. Pure: observations in, a verdict out.

vLLM's `/health` stays green while its core hangs. What does not lie is work: with requests in hand, something
in the metrics must move.
"""

from collections.abc import Mapping

# Any of these that moves is progress: tokens in and out, and the steps and cache blocks of a long prompt.
_MOVING = (
    "vllm:prompt_tokens_total",
    "vllm:generation_tokens_total",
    "vllm:iteration_tokens_total_count",
    "vllm:kv_cache_usage_perc",
    "vllm:request_success_total",
)
_IN_HAND = ("vllm:num_requests_running", "vllm:num_requests_waiting")


class ProgressWatch:
    """Notes when an engine last made progress.

    Args:
        stall_timeout: Seconds without progress, with requests in hand, that count as hanging.
        now: The clock's time in seconds; any clock that only goes forward.
    """

    def __init__(self, stall_timeout: float, now: float) -> None:
        self._stall_timeout = stall_timeout
        self._last_progress = now
        self._seen: tuple[float, ...] = ()

    def observe(self, metrics: Mapping[str, float], in_flight: int, now: float) -> None:
        """Take in what the engine says of itself; when it says nothing, there is nothing to take in.

        Args:
            metrics: Its metrics by name.
            in_flight: Requests that its API server has in hand. A core that hangs no longer counts its own.
            now: The clock's time in seconds.
        """
        seen = tuple(metrics.get(name, 0.0) for name in _MOVING)
        idle = in_flight == 0 and not any(metrics.get(name, 0.0) for name in _IN_HAND)
        if idle or seen != self._seen:
            self._last_progress = now
        self._seen = seen

    def seconds_without(self, now: float) -> float:
        """How long ago the last progress was, or the engine had nothing to do."""
        return now - self._last_progress

    def stalled(self, now: float) -> bool:
        """Whether the engine hangs."""
        return self.seconds_without(now) > self._stall_timeout
