"""`citadel usage`: who used which models, and how much.

Exit codes: 0 done (also when there was no use), 1 it could not be done, 2 wrong usage or configuration, 4 the
database is not ours to use.
"""

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from citadel_llm.cli.common import (
    EXIT_FAILED,
    EXIT_USAGE,
    JsonOption,
    colour,
    examples,
    fail,
    print_json,
    table,
)
from citadel_llm.cli.stored import configured_database
from citadel_llm.cli.usage_plot import bar, plot
from citadel_llm.store.usage import GROUPS, Group, UsageFilter, UsageStore, UsageSum, total

app = typer.Typer()

_LAST = re.compile(r"(\d{1,5})([dwmy])")
_DAYS = {"d": 1, "w": 7, "m": 30, "y": 365}
_BAR_WIDTH = 30
_MILLION, _THOUSAND = 1_000_000, 10_000


@app.command(
    epilog=examples(
        "citadel usage",
        "citadel usage --by key --by model --last 30d",
        "citadel usage --by day --team physics --plot",
        "citadel usage --by day --by model --since 2030-01-01 --csv > january.csv",
        "citadel usage --by day --by team --svg usage.svg",
    )
)
def usage(
    *,
    by: Annotated[
        list[str] | None,
        typer.Option(help="What to split by: key, team, model or day; give it again for several."),
    ] = None,
    since: Annotated[str | None, typer.Option(metavar="DAY", help="First day (UTC): 2030-01-31.")] = None,
    until: Annotated[str | None, typer.Option(metavar="DAY", help="Last day (UTC), itself included.")] = None,
    last: Annotated[
        str | None, typer.Option(help="The last days, today included: 7d, 4w, 3m, 1y (default: 30d).")
    ] = None,
    key: Annotated[str | None, typer.Option(help="Only this key: its id or name.")] = None,
    team: Annotated[str | None, typer.Option(help="Only this team.")] = None,
    model: Annotated[str | None, typer.Option(help="Only this model.")] = None,
    as_json: JsonOption = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="For spreadsheets: CSV instead of a table.")] = False,
    with_bars: Annotated[
        bool, typer.Option("--plot", help="Draw a bar of the tokens beside each row; of each day by itself.")
    ] = False,
    svg: Annotated[
        Path | None, typer.Option(help="Write a picture of the days into this file, too (SVG).")
    ] = None,
) -> None:
    """Show the use of models: requests and tokens, by key, team, model and day.

    A ~ before a number says that part of it is estimated: those requests were cut off before anybody counted
    their tokens.
    """
    if as_json and as_csv:
        fail("--json and --csv are two answers: ask for one", EXIT_USAGE)
    groups = _groups(by) or (("day",) if with_bars else ("model",))
    only = UsageFilter(*_days(since, until, last), key, team, model)
    split: tuple[Group, ...] = next(((group,) for group in groups if group != "day"), ("model",))
    rows, drawn = _read(only, groups, (*split, "day") if svg else None)
    if svg:
        _write(svg, plot(drawn, split[0], cast("date", only.since), cast("date", only.until)))
    if as_json:
        print_json([_as_json(row, groups) for row in rows])
    elif as_csv:
        typer.echo(_csv(rows, groups), nl=False)
    elif rows:
        typer.echo(_table(rows, groups, with_bars=with_bars))
    else:
        typer.echo(f"no use from {only.since} to {only.until}")


def _groups(by: Sequence[str] | None) -> tuple[Group, ...]:
    """What to split by, each once; `--by key,model` does as well as two options."""
    words = [word for words in by or () for word in words.split(",")]
    for word in words:
        if word not in GROUPS:
            fail(f"--by {word}: usage is split by {', '.join(GROUPS)}", EXIT_USAGE)
    return cast("tuple[Group, ...]", tuple(dict.fromkeys(words)))


def _days(since: str | None, until: str | None, last: str | None) -> tuple[date, date]:
    today = datetime.now(UTC).date()
    end = _day("--until", until) if until else today
    if since and last:
        fail("--since and --last both say where to begin: give one", EXIT_USAGE)
    if since:
        begin = _day("--since", since)
    else:
        match = _LAST.fullmatch(last or "30d")
        if match is None or not int(match[1]):
            fail(f"--last {last}: expected a span such as 7d, 4w, 3m or 1y", EXIT_USAGE)
        days = int(match[1]) * _DAYS[match[2]]
        begin = date.fromordinal(max(end.toordinal() - days + 1, 1))
    if begin > end:
        fail(f"the first day, {begin}, is later than the last, {end}", EXIT_USAGE)
    return begin, end


def _day(option: str, text: str) -> date:
    if text in ("today", "yesterday"):
        return datetime.now(UTC).date() - timedelta(days=text == "yesterday")
    try:
        return date.fromisoformat(text)
    except ValueError:
        fail(f"{option} {text}: expected a day such as 2030-01-31", EXIT_USAGE)


def _read(
    only: UsageFilter, groups: tuple[Group, ...], drawn: tuple[Group, ...] | None
) -> tuple[list[UsageSum], list[UsageSum]]:
    with configured_database() as (database, _):
        store = UsageStore(database)
        return store.sums(groups, only), store.sums(drawn, only) if drawn else []


def _write(path: Path, picture: str) -> None:
    try:
        path.write_text(picture, encoding="utf-8")
    except OSError as error:
        fail(f"{path}: cannot write: {error.strerror}", EXIT_FAILED)
    typer.echo(f"picture written to {path}", err=True)


def _table(rows: Sequence[UsageSum], groups: tuple[Group, ...], *, with_bars: bool) -> str:
    headings = [group.upper() for group in groups]
    headings += ["OWNER"] if "key" in groups else []
    headings += ["REQUESTS", "FAILED", "IN", "CACHED", "OUT", "FIRST BYTE"]
    headings += [""] if with_bars else []
    most = max(row.tokens for row in rows)
    lines = [[*_names(row, groups), *_numbers(row)] for row in rows]
    if with_bars:
        lines = [
            [*line, colour(bar(row.tokens, most, _BAR_WIDTH), "green")]
            for line, row in zip(lines, rows, strict=True)
        ]
    if len(rows) > 1:
        blank = [""] * (len(headings) - len(_numbers(rows[0])) - 1 - with_bars)
        sums = [colour("all", "bold"), *blank, *_numbers(total(rows))]
        lines.append([*sums, ""] if with_bars else sums)
    return table(headings, lines)


def _names(row: UsageSum, groups: tuple[Group, ...]) -> list[str]:
    names = {
        "key": row.key_name if row.key_name == row.key_id else f"{row.key_name} ({row.key_id})",
        "team": row.team or "-",
        "model": row.model,
        "day": str(row.day),
    }
    owner = [row.owner or "-"] if "key" in groups else []
    return [str(names[group]) for group in groups] + owner


def _numbers(row: UsageSum) -> list[str]:
    # A cached token is never an estimate: nobody but an engine speaks of them.
    mark = "~" if row.estimated else ""
    first = "-" if row.first_byte is None else f"{row.first_byte:.2f} s"
    return [
        f"{row.requests:,}",
        f"{row.failed:,}" if row.failed else "-",
        f"{mark}{_tokens(row.tokens_in)}",
        _tokens(row.tokens_cached) if row.tokens_cached else "-",
        f"{mark}{_tokens(row.tokens_out)}",
        first,
    ]


def _tokens(count: int) -> str:
    """Tokens as people say them: `950`, `12.3k`, `4.56M`."""
    if count >= _MILLION:
        return f"{count / _MILLION:.2f}M"
    return f"{count / 1000:.1f}k" if count >= _THOUSAND else str(count)


def _as_json(row: UsageSum, groups: tuple[Group, ...]) -> dict[str, Any]:
    """The fields that were asked for, and all sums."""
    wanted = {"day": ("day",), "key": ("key_id", "key_name", "owner"), "team": ("team",), "model": ("model",)}
    shown = [name for group in groups for name in wanted[group]]
    fields = asdict(row)
    hidden = {"day", "key_id", "key_name", "owner", "team", "model"}
    return {
        **{name: fields[name] for name in shown},
        **{name: value for name, value in fields.items() if name not in hidden},
        "tokens": row.tokens,
    }


def _csv(rows: Sequence[UsageSum], groups: tuple[Group, ...]) -> str:
    lines = [_as_json(row, groups) for row in rows]
    file = io.StringIO()
    writer = csv.DictWriter(file, list(_as_json(UsageSum(), groups)))
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in line.items()} for line in lines)
    return file.getvalue()


def _cell(value: Any) -> Any:
    """A cell that no spreadsheet takes for a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@") else value
