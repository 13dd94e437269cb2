"""What a real vLLM's start tells: that its model is the one that was accepted, or why it came to nothing."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from citadel_llm.services.engine import accepted

from .node import Node, wait_until

pytestmark = pytest.mark.lab

WITHIN = 600


class Starts:
    """An engine of one model, which is started again and again."""

    def __init__(self, folder: Path, python: Path, models: Path) -> None:
        self._folder, self._python, self._number = folder, python, 0
        self.root = folder / "models"
        self.model = self.root / "chat"
        self.state = folder / "state"
        self.state.mkdir()
        shutil.copytree(models / "chat", self.model)
        # What a deploy writes. It stays as it is when the weights are damaged.
        (self.model / ".citadel-weights.json").write_text("{}")

    def start(self, **engine: Any) -> tuple[int | None, dict[str, Any]]:
        """Start it; return its exit code when it ended, and its last line of its own."""
        self._number += 1
        options = {"enforce_eager": True, "start_timeout": WITHIN, "drain_timeout": 1, **engine}
        tree = {
            "models_root": str(self.root),
            "engine": {
                "build": "cpu",
                "python": str(self._python),
                "cache_dir": str(self._folder / "cache"),
            },
            "models": [
                {"name": "chat", "source": {"kind": "folder", "path": str(self.model)}, "engine": options}
            ],
        }
        node = Node(self._folder / f"node-{self._number}", tree)
        process = node.run("engine", "chat")

        def over() -> bool:
            return process.poll() is not None or any(line["event"] == "ready" for line in node.log("chat"))

        try:
            wait_until(over, WITHIN, node.last_lines)
            code, lines = process.poll(), node.log("chat")
        finally:
            node.close()
        own = [line for line in lines if "child" not in line]
        told = [line for line in own if "why" in line or "apart" in line or "reason" in line]
        return code, told[-1]


@pytest.fixture
def starts(tmp_path: Path, engine_python: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> Starts:
    made = Starts(tmp_path, engine_python, models)
    monkeypatch.setenv("STATE_DIRECTORY", str(made.state))
    return made


def damage(file: Path) -> None:
    """Overwrite the last fifth of the weights with tens, in bfloat16."""
    content = bytearray(file.read_bytes())
    header = 8 + struct.unpack("<Q", content[:8])[0]
    count = (len(content) - header) // 10
    content[-2 * count :] = b"\x20\x41" * count
    file.write_bytes(content)


def test_a_model_with_damaged_weights_is_not_let_near_clients(starts: Starts) -> None:
    code, line = starts.start()
    assert (code, line.get("why")) == (None, "nothing was accepted before"), line
    first = accepted.Accepted.read(starts.state)
    assert first is not None
    assert [len(row) > 5 for row in first.sample.values] == [True] * 4
    # The same model started again says the same, to the digit; without a tolerance that is seen.
    code, line = starts.start(acceptance_tolerance=1e-6)
    assert (code, "differ by 0 on average" in line.get("apart", "")) == (None, True), line
    damage(starts.model / "model.safetensors")
    code, line = starts.start()
    assert code == 2
    assert "does not answer as it did when it was accepted" in line["reason"]
    assert accepted.Accepted.read(starts.state) == first


def cut(model: Path) -> None:
    with (model / "model.safetensors").open("r+b") as file:
        file.truncate(1000)


def of_unknown_make(model: Path) -> None:
    file = model / "config.json"
    config = json.loads(file.read_text()) | {"architectures": ["NoSuchForCausalLM"], "model_type": "nosuch"}
    file.write_text(json.dumps(config))


def unchanged(_model: Path) -> None:
    """The model is as it should be; its settings are not."""


@pytest.mark.parametrize(
    ("spoil", "engine", "reason"),
    [
        (cut, {}, "the weights are missing or damaged ("),
        (of_unknown_make, {}, "this build of vLLM does not know the model's architecture ("),
        (unchanged, {"max_model_len": 4096}, "max_model_len is more than the model's own ("),
        (unchanged, {"kv_cache_gib": 100_000}, "out of memory: the KV cache does not fit"),
    ],
    ids=["weights", "architecture", "context", "cache"],
)
def test_a_start_that_comes_to_nothing_says_why(
    starts: Starts, spoil: Callable[[Path], None], engine: dict[str, Any], reason: str
) -> None:
    spoil(starts.model)
    code, line = starts.start(**engine)
    assert code == 3
    assert line["reason"].startswith(reason)
