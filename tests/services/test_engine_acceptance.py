"""When two answers to the fixed questions count as the same, and what is kept of them."""

import asyncio
import math
from pathlib import Path
from typing import Any

import pytest

from citadel_llm.config import Model, Settings
from citadel_llm.services.engine import acceptance, accepted
from citadel_llm.services.engine.acceptance import Kind, NonsenseError, Sample, compare

TOLERANCE = 0.1


def sample(*rows: tuple[float, ...], kind: Kind = "log-probabilities") -> Sample:
    return Sample(kind, rows)


@pytest.mark.parametrize(
    ("before", "now", "same"),
    [
        (sample((-1.0, -2.0), (-3.0,)), sample((-1.05, -1.95), (-3.05,)), True),
        (sample((-1.0, -2.0), (-3.0,)), sample((-1.2, -1.8), (-3.2,)), False),
        # One number far off, where the others are exact.
        (sample((-1.0,) * 100), sample((*(-1.0,) * 99, -3.0)), False),
        (sample((-1.0, -2.0)), sample((-1.0,)), False),
        (sample((-1.0,)), sample((-1.0,), kind="scores"), False),
        (sample((0.5, 0.9), kind="scores"), sample((0.52, 0.9), kind="scores"), True),
        (sample((0.5, 0.9), kind="scores"), sample((0.6, 0.9), kind="scores"), False),
        # A vector's length does not matter, its direction does.
        (sample((1.0, 1.0), kind="vectors"), sample((2.0, 2.1), kind="vectors"), True),
        (sample((1.0, 1.0), kind="vectors"), sample((1.0, 0.5), kind="vectors"), False),
        (
            sample((1.0, 1.0), (0.0, 1.0), kind="vectors"),
            sample((1.0, 1.0), (1.0, 0.0), kind="vectors"),
            False,
        ),
        (Sample("answer"), Sample("answer"), True),
    ],
)
def test_what_counts_as_the_same(before: Sample, now: Sample, same: bool) -> None:
    verdict = compare(before, now, TOLERANCE)
    assert verdict.same is same
    assert compare(before, before, TOLERANCE).same


def model(task: str) -> Model:
    source = {"kind": "folder", "path": "/x"}
    return Model.model_validate({"name": "m", "source": source, "task": task})


class Answers:
    """A connection to an engine that gives one answer to everything."""

    def __init__(self, answer: dict[str, Any]) -> None:
        self._answer = answer

    async def post(self, _path: str, _body: object, _within: float) -> Any:
        return self._answer


@pytest.mark.parametrize("wrong", [None, math.nan, math.inf, -math.inf, -9999.0])
def test_an_answer_that_is_no_number_is_refused_also_the_first_time(wrong: float | None) -> None:
    told = [None, {"7": {"logprob": -1.0}}, {"8": {"logprob": wrong}}]
    writes = {"prompt_logprobs": told, "logprobs": {"token_logprobs": [-1.0]}}
    with pytest.raises(NonsenseError, match="no numbers"):
        asyncio.run(acceptance.take(Answers({"choices": [writes]}), model("generate")))  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [[], [0.0, 0.0], [1.0, None]])
def test_a_vector_that_is_none_is_refused(wrong: list[float]) -> None:
    with pytest.raises(NonsenseError, match="vectors"):
        asyncio.run(acceptance.take(Answers({"data": [{"embedding": wrong}]}), model("embed")))  # type: ignore[arg-type]


def test_what_was_accepted_is_read_as_it_was_written_and_anything_else_is_nothing(tmp_path: Path) -> None:
    kept = accepted.Accepted({"weights": "1"}, "2026-11-24", sample((-1.5, -2.25)))
    assert accepted.Accepted.read(tmp_path) is None
    kept.write(tmp_path)
    assert accepted.Accepted.read(tmp_path) == kept
    (tmp_path / accepted.FILE).write_text("{}")
    assert accepted.Accepted.read(tmp_path) is None
    assert accepted.forget(tmp_path)
    assert not accepted.forget(tmp_path)


def test_a_model_is_another_when_its_weights_settings_layout_or_engine_are(tmp_path: Path) -> None:
    tree = {"environment": "staging", "models_root": str(tmp_path), "engine": {"build": "cpu"}}
    settings, one = Settings.model_validate(tree), model("generate")
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "model.safetensors").write_text("1")
    before = accepted.made_from(settings, one, "0.32.0")
    assert accepted.made_from(settings, one, "0.32.0") == before

    def changed(then: Model, version: str = "0.32.0") -> set[str]:
        now = accepted.made_from(settings, then, version)
        return {name for name in before if before[name] != now[name]}

    assert changed(one, "0.33.0") == {"engine"}
    assert changed(one.model_copy(update={"aliases": ("n",)})) == set()
    options = one.engine.model_copy(update={"dtype": "float32"})
    assert changed(one.model_copy(update={"engine": options})) == {"settings"}
    (folder / ".citadel-weights.json").write_text("{}")
    assert changed(one) == {"weights"}
    # Where there is a manifest, that says what the weights are.
    before = accepted.made_from(settings, one, "0.32.0")
    (folder / "model.safetensors").touch()
    assert changed(one) == set()
