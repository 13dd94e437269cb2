"""`citadel usage` and the API's answers, as people ask for them."""

import csv
import io
import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner, Result

from citadel_llm.cli.usage import app
from citadel_llm.store import KeyStore
from citadel_llm.store.database import Database

from .test_usage_store import deliver, record

NOW = datetime.now(UTC)
TODAY, YESTERDAY = NOW.date(), NOW.date() - timedelta(days=1)


@pytest.fixture
def site(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config" / "global").mkdir(parents=True)
    content = {"environment": "development", "gateway": {"database": database_url}}
    (tmp_path / "config" / "global" / "citadel.yml").write_text(json.dumps(content))
    monkeypatch.setenv("CITADEL_CONFIG", str(tmp_path / "config"))


@pytest.fixture
def key_id(site: None, database: Database) -> str:
    """Some use: of a key that was revoked since, and of one that nobody knows."""
    keys = KeyStore(database)
    key, _ = keys.create("laptop", owner="ada", team="red")
    keys.revoke(key.id)
    now = NOW.timestamp()
    deliver(
        database,
        record(1, began=now, key_id=key.id, tokens_in=1_200_000),
        record(2, began=now - 86400, key_id=key.id, model="large", estimated=True, status=0),
        record(3, began=now, key_id="=cmd", team="<b>", tokens_out=2000),
    )
    return key.id


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize("options", [(), ("--json",), ("--csv",), ("--plot",), ("--by", "key,day")])
def test_an_empty_database_is_no_failure(site: None, options: tuple[str, ...], tmp_path: Path) -> None:
    result = run(*options, "--svg", tmp_path / "empty.svg")
    assert result.exit_code == 0, result.output
    if "--json" in options:
        assert json.loads(result.stdout) == []
    elif "--csv" in options:
        assert result.stdout.startswith("model,requests,failed,")
        assert result.stdout.count("\n") == 1
    else:
        assert result.stdout.startswith("no use from ")
    ElementTree.parse(tmp_path / "empty.svg")  # noqa: S314 - our own


def test_the_table_names_keys_and_marks_estimates(key_id: str) -> None:
    lines = run("--by", "key", "--by", "model").stdout.splitlines()
    headings = ("KEY", "MODEL", "OWNER", "REQUESTS", "FAILED", "IN", "CACHED", "OUT", "FIRST BYTE")
    assert tuple(re.split(r" {2,}", lines[0])) == headings
    assert lines[1].split() == f"laptop ({key_id}) small ada 1 - 1.20M 4 5 0.50 s".split()
    assert lines[2].split() == ["=cmd", "small", "-", "1", "-", "10", "4", "2000", "0.50", "s"]
    assert lines[3].split() == f"laptop ({key_id}) large ada 1 1 ~10 4 ~5 0.50 s".split()
    assert lines[4].split() == ["all", "3", "1", "~1.20M", "12", "~2010", "0.50", "s"]


def test_days_are_drawn_as_bars(key_id: str) -> None:
    first, second, whole = run("--plot").stdout.splitlines()[1:]
    assert first.startswith(str(YESTERDAY))
    assert first.endswith("▏"), "too little for a bar is still something"
    assert second.startswith(str(TODAY))
    assert second.endswith("█" * 30)
    assert whole.startswith("all")


def test_scripts_get_numbers(key_id: str) -> None:
    rows = json.loads(run("--by", "team,day", "--json").stdout)
    assert [(row["day"], row["team"], row["tokens"]) for row in rows] == [
        (str(YESTERDAY), "red", 15),
        (str(TODAY), "red", 1_200_005),
        (str(TODAY), "<b>", 2010),
    ]
    assert rows[0]["tokens_estimated"] == 15
    table = list(csv.DictReader(io.StringIO(run("--by", "key", "--csv").stdout)))
    assert [row["key_name"] for row in table] == ["laptop", "'=cmd"], "no cell is a formula"
    assert table[0]["tokens_in"] == "1200010"


def test_filters_and_spans(key_id: str) -> None:
    def requests(*options: object) -> int:
        return sum(row["requests"] for row in json.loads(run("--json", *options).stdout))

    assert requests("--key", "laptop") == requests("--key", key_id) == requests("--team", "red") == 2
    assert requests("--model", "large", "--last", "2d") == 1
    assert requests("--last", "1d") == requests("--since", TODAY) == requests("--since", "today") == 2
    assert requests("--until", YESTERDAY) == requests("--until", "yesterday", "--last", "1d") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--by", "colour"), "key, team, model, day"),
        (("--since", "monday"), "2030-01-31"),
        (("--last", "0d"), "7d"),
        (("--last", "7d", "--since", "today"), "give one"),
        (("--since", "2030-01-02", "--until", "2030-01-01"), "later"),
        (("--json", "--csv"), "ask for one"),
    ],
)
def test_wrong_usage_says_what_would_be_right(site: None, options: tuple[str, ...], message: str) -> None:
    result = run(*options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr


def test_a_database_out_of_reach_says_what_to_do(site: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CITADEL__GATEWAY__DATABASE", "sqlite:////nonexistent/citadel.db")
    result = run()
    assert result.exit_code == 4
    assert "sudo -u citadel-gateway citadel" in result.stderr


def test_the_picture_stacks_the_largest_and_names_them(key_id: str, tmp_path: Path) -> None:
    file = tmp_path / "usage.svg"
    assert run("--by", "team", "--svg", file).exit_code == 0
    root = ElementTree.parse(file).getroot()  # noqa: S314 - our own
    said = [element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}title")]
    assert said == [
        "Tokens a day, by team",
        f"{YESTERDAY}, red: 15 tokens",
        f"{TODAY}, red: 1,200,005 tokens",
        f"{TODAY}, <b>: 2,010 tokens",
    ]
    assert run("--svg", tmp_path / "nowhere" / "x.svg").exit_code == 1
