"""Does a model still say what it said when it was accepted on this host?

Models have been seen that talk nonsense after a start or after they were woken, while all that watches them
is content. So an engine is asked a few fixed questions before clients are let in, and what it answers is
compared with what it answered the first time. Compared are log-probabilities, not texts: greedy texts flip
with rounding. Nothing is sampled, and vLLM computes prompts anew whose log-probabilities are asked for (it
does not read them from its prefix cache), so the answers of one build on one kind of hardware differ by
nothing but rounding.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from citadel_llm.config import Model
from citadel_llm.services.engine.client import EngineClient, EngineError

Kind = Literal["log-probabilities", "vectors", "scores", "answer"]

TEXTS = (
    "The capital of France is Paris. Water boils at 100 degrees Celsius, and ice melts at zero.",
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return fibonacci(n - 1) + fibonacci(n - 2)\n",
    "Der Zug nach München fährt um acht Uhr morgens von Gleis drei ab.",
)
"""What every model is asked about: prose, code, and another language."""

_WITHIN = 120.0
# How many tokens the model must write: another way through it than reading (other kernels, its KV cache).
_WRITTEN = 8
# vLLM writes this number in place of minus infinity, which JSON does not have.
_ENDLESS = -9999.0
# How much further off than the mean a single number may be.
_OUTLIER = 10.0
# As cosine distance of a vector, and as difference of a score (from 0 to 1).
_VECTOR_TOLERANCE = 0.01
_SCORE_TOLERANCE = 0.05


class NonsenseError(EngineError):
    """The model answers with something that no sound model answers with."""


@dataclass(frozen=True)
class Sample:
    """What a model answered.

    Attributes:
        kind: What the numbers are; an `answer` has none: that it came is all there is.
        values: The numbers of each question. Log-probabilities are natural logarithms.
    """

    kind: Kind
    values: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True)
class Verdict:
    """How far two samples are apart.

    Attributes:
        same: Whether that is within the tolerance.
        words: How far, for people.
        mean: The mean difference: of log-probabilities in nats, of vectors as cosine distance.
        largest: The largest one.
    """

    same: bool
    words: str
    mean: float = math.inf
    largest: float = math.inf


async def take(client: EngineClient, model: Model) -> Sample:
    """Ask a model the fixed questions.

    Raises:
        NonsenseError: Its answers are no numbers.
        EngineError: It does not answer them.
    """
    match model.task:
        case "generate":
            return await _log_probabilities(client, model)
        case "embed":
            body = {"model": model.name, "input": list(TEXTS)}
            answer = await client.post("/v1/embeddings", body, _WITHIN)
            return _sample("vectors", (each["embedding"] for each in answer["data"]))
        case "score":
            body = {"model": model.name, "queries": TEXTS[0], "documents": list(TEXTS)}
            answer = await client.post("/score", body, _WITHIN)
            return _sample("scores", [[each["score"] for each in answer["data"]]])
        case "transcribe":
            await client.ask_for_one_token(model, _WITHIN)
            return Sample("answer")


def compare(accepted: Sample, now: Sample, tolerance: float) -> Verdict:
    """Tell whether a model answers as it did.

    Args:
        accepted: What it answered when it was accepted.
        now: What it answers now.
        tolerance: By how much the log-probabilities may differ on average, in nats.
    """
    if _shape(accepted) != _shape(now):
        return Verdict(False, "another number of answers, or of another kind")
    if now.kind == "answer":
        return Verdict(True, "it answers", 0.0, 0.0)
    if now.kind == "vectors":
        apart = [_cosine_distance(*pair) for pair in zip(accepted.values, now.values, strict=True)]
        allowed = (_VECTOR_TOLERANCE, _VECTOR_TOLERANCE)
    else:
        pairs = zip(_flat(accepted), _flat(now), strict=True)
        apart = [abs(before - after) for before, after in pairs]
        allowed = (tolerance, _OUTLIER * tolerance)
        if now.kind == "scores":
            allowed = (_SCORE_TOLERANCE, _SCORE_TOLERANCE)
    mean, largest = sum(apart) / len(apart), max(apart)
    words = f"its {now.kind} differ by {mean:.2g} on average and {largest:.2g} at most, allowed are "
    words += f"{allowed[0]:.2g} and {allowed[1]:.2g}"
    return Verdict(mean <= allowed[0] and largest <= allowed[1], words, mean, largest)


async def _log_probabilities(client: EngineClient, model: Model) -> Sample:
    """What the model thinks of each token of the texts, and of tokens that it is made to write."""
    values, token = [], 0
    for text in TEXTS:
        body = {"prompt": text, "max_tokens": 1, "prompt_logprobs": 0}
        choice = await _complete(client, model, body)
        # Nothing precedes the first token, so nothing is told of it.
        told = [next(iter(each.items())) for each in choice["prompt_logprobs"][1:]]
        token = token or int(told[-1][0])
        values.append([each["logprob"] for _, each in told])
    # One token is allowed, so it writes the same whatever rounding does; what it thought of it is told as it
    # was before that. Not in one request with the texts: a batch would round in another way.
    body = {"prompt": TEXTS[0], "max_tokens": _WRITTEN, "logprobs": 0}
    body |= {"allowed_token_ids": [token], "ignore_eos": True}
    values.append((await _complete(client, model, body))["logprobs"]["token_logprobs"])
    return _sample("log-probabilities", values)


async def _complete(client: EngineClient, model: Model, body: dict[str, Any]) -> Any:
    body = {"model": model.name, "temperature": 0, **body}
    return (await client.post("/v1/completions", body, _WITHIN))["choices"][0]


def _sample(kind: Kind, values: Iterable[Sequence[float | None]]) -> Sample:
    rows = []
    for row in values:
        numbers = tuple(round(float(each), 6) for each in row if each is not None and math.isfinite(each))
        nothing = kind == "vectors" and not any(numbers)
        if nothing or len(numbers) < max(1, len(row)) or min(numbers) <= _ENDLESS:
            raise NonsenseError(f"the model gives {kind} that are no numbers, endless, or nothing but zeros")
        rows.append(numbers)
    return Sample(kind, tuple(rows))


def _shape(sample: Sample) -> tuple[str, list[int]]:
    return sample.kind, [len(row) for row in sample.values]


def _flat(sample: Sample) -> list[float]:
    return [each for row in sample.values for each in row]


def _cosine_distance(one: Sequence[float], other: Sequence[float]) -> float:
    product = sum(a * b for a, b in zip(one, other, strict=True))
    return max(0.0, 1.0 - product / (math.hypot(*one) * math.hypot(*other)))
