import pytest

from citadel_llm.services.engine.progress import ProgressWatch

RUNNING = {"vllm:num_requests_running": 1.0}
TOKENS = "vllm:generation_tokens_total"


@pytest.mark.parametrize(
    ("observations", "stalled"),
    [
        # (seconds, metrics, in flight)
        ([(5, {}, 0), (25, {}, 0)], False),
        (
            [
                (5, {**RUNNING, TOKENS: 1.0}, 1),
                (14, {**RUNNING, TOKENS: 2.0}, 1),
                (23, {**RUNNING, TOKENS: 3.0}, 1),
            ],
            False,
        ),
        ([(5, {**RUNNING, TOKENS: 1.0}, 1), (16, {**RUNNING, TOKENS: 1.0}, 1)], True),
        # A core that hung while it was idle still says that nothing runs.
        ([(5, {TOKENS: 1.0}, 0), (10, {TOKENS: 1.0}, 1), (16, {TOKENS: 1.0}, 1)], True),
        # In a long prompt no token is counted until it is over, but cache blocks are taken.
        (
            [(5 + 8 * i, {**RUNNING, TOKENS: 1.0, "vllm:kv_cache_usage_perc": 0.1 * i}, 1) for i in range(4)],
            False,
        ),
        # Waiting without running is no progress either.
        ([(5, {"vllm:num_requests_waiting": 1.0}, 1), (16, {"vllm:num_requests_waiting": 1.0}, 1)], True),
        # It went on after all.
        (
            [
                (5, {**RUNNING, TOKENS: 1.0}, 1),
                (16, {**RUNNING, TOKENS: 1.0}, 1),
                (17, {**RUNNING, TOKENS: 2.0}, 1),
            ],
            False,
        ),
    ],
)
def test_hanging_is_told_from_working(
    observations: list[tuple[float, dict[str, float], int]], stalled: bool
) -> None:
    watch = ProgressWatch(stall_timeout=10.0, now=0.0)
    now = 0.0
    for now, metrics, in_flight in observations:
        watch.observe(metrics, in_flight, now)
    assert watch.stalled(now) is stalled


def test_an_engine_that_says_nothing_makes_no_progress() -> None:
    watch = ProgressWatch(stall_timeout=10.0, now=0.0)
    watch.observe({}, 0, 5.0)
    assert not watch.stalled(14.9)
    assert watch.stalled(15.1)
    assert watch.seconds_without(15.1) == pytest.approx(10.1)
