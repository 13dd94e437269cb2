from pathlib import Path

import pytest
import yaml

from citadel_llm.services.engine import accepted
from citadel_llm.services.engine.acceptance import Sample

from .machine import Run


def test_a_model_is_accepted_anew(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = {"name": "small", "source": {"kind": "folder", "path": "/x"}, "engine": {"replicas": 2}}
    file = tmp_path / "config/global/a.yml"
    file.parent.mkdir(parents=True)
    file.write_text(yaml.safe_dump({"environment": "staging", "models": [model]}))
    monkeypatch.setattr(accepted, "STATES", tmp_path / "states")
    for engine in ("small", "small.2"):
        folder = tmp_path / "states" / engine
        folder.mkdir(parents=True)
        accepted.Accepted({}, "2026-11-24", Sample("answer")).write(folder)
    assert "citadel restart small" in run("models", "accept", "small").output
    assert not list(tmp_path.glob("states/*/accepted.json"))
    assert "nothing was accepted yet" in run("models", "accept", "small").output
    unknown = run("models", "accept", "smal")
    assert unknown.exit_code == 2
    assert "smal is no model of this host; there are: small" in unknown.output
