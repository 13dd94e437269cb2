"""Usage as a picture: bars in the terminal, and the days as stacked columns in SVG, light and dark."""

from collections.abc import Iterator, Sequence
from datetime import date, timedelta

from citadel_llm.placement.svg import COLOURS, SMALL, class_of, cut, document, rect, text
from citadel_llm.store.usage import Group, UsageSum

_WIDTH, _HEIGHT = 960, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 84, 28, 84, 330
_LEGEND_TOP = 372
_TITLE = 17
_MOST_SERIES = 6
_OTHERS = "others"
_STEPS = (1, 2, 3, 4, 6, 8, 10)
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def bar(value: int, most: int, width: int) -> str:
    """A bar of at most so many characters, exact to an eighth of one; something for everything above 0."""
    if not value or not most:
        return ""
    eighths = max(round(8 * width * value / most), 1)
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def plot(rows: Sequence[UsageSum], by: Group, since: date, until: date) -> str:
    """Tokens of each day, stacked by keys, teams or models, as an SVG document.

    Args:
        rows: Split by day, and by `by`.
        by: What the stacks are made of; the largest six, and the others together.
        since: The first day drawn.
        until: The last one.
    """
    if rows:
        # A long span of which most is empty shows nothing: begin where the use does.
        since = max(since, min(row.day for row in rows if row.day))
    days = [since + timedelta(days=number) for number in range((until - since).days + 1)]
    series = _series(rows, by)
    columns = {day: [values.get(day, 0) for values in series.values()] for day in days}
    scale = _ceiling(max((sum(column) for column in columns.values()), default=0))
    whole = sum(row.tokens for row in rows)
    title = f"Tokens a day, by {by}"
    said = f"{since} to {until} (UTC); {whole:,} tokens read and written"
    if any(row.tokens_estimated for row in rows):
        said += f", {sum(row.tokens_estimated for row in rows):,} of them estimated"
    body = [text(title, 28, 36, "h", _TITLE), text(said, 28, 58, "s")]
    body += _grid(scale)
    body += _columns(columns, list(series), scale)
    body += _dates(days)
    body += _legend(series)
    described = [f"{name}: {sum(values.values()):,} tokens." for name, values in series.items()]
    return document(title, " ".join([f"{said}.", *described]), _WIDTH, _HEIGHT, body)


def _series(rows: Sequence[UsageSum], by: Group) -> dict[str, dict[date, int]]:
    """For each name its tokens by day, the largest first; those beyond the first few under one name."""
    known: dict[str, dict[date, int]] = {}
    for row in rows:
        name = {"key": row.key_name, "team": row.team or "no team", "model": row.model}.get(by) or "-"
        days = known.setdefault(name, {})
        if row.day:
            days[row.day] = days.get(row.day, 0) + row.tokens
    ordered = sorted(known, key=lambda name: (-sum(known[name].values()), name))
    shown = {name: known[name] for name in ordered[:_MOST_SERIES]}
    rest = ordered[_MOST_SERIES:]
    if rest:
        others: dict[date, int] = {}
        for name in rest:
            for day, tokens in known[name].items():
                others[day] = others.get(day, 0) + tokens
        shown[f"{len(rest)} {_OTHERS if len(rest) > 1 else 'other'}"] = others
    return shown


def _ceiling(most: int) -> int:
    """A round number that is no smaller."""
    power: int = 10 ** (len(str(max(most, 1))) - 1)
    return next(step * power for step in _STEPS if step * power >= most)


def _grid(scale: int) -> Iterator[str]:
    for quarter in range(5):
        y = _BOTTOM - (_BOTTOM - _TOP) * quarter / 4
        yield f'  <path class="line" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}" stroke-width="1"/>'
        yield text(_short(scale * quarter / 4), 28, y + 4, "s", SMALL)


def _columns(columns: dict[date, list[int]], names: Sequence[str], scale: int) -> Iterator[str]:
    step = (_WIDTH - _LEFT - _RIGHT) / max(len(columns), 1)
    width = max(min(step * 0.8, 48), 0.5)
    colours = list(COLOURS)
    for number, (day, values) in enumerate(columns.items()):
        x, y = _LEFT + step * number + (step - width) / 2, float(_BOTTOM)
        for place, (name, value) in enumerate(zip(names, values, strict=True)):
            if value:
                height = (_BOTTOM - _TOP) * value / scale
                y -= height
                said = f"{day}, {name}: {value:,} tokens"
                yield rect(class_of(colours[place]), (x, y, width, height), title=said)


def _dates(days: Sequence[date]) -> Iterator[str]:
    step = (_WIDTH - _LEFT - _RIGHT) / max(len(days), 1)
    every = -(-len(days) // 8)
    for number in range(0, len(days), every):
        yield text(f"{days[number]:%d %b}", _LEFT + step * number, _BOTTOM + 20, "s", SMALL)


def _legend(series: dict[str, dict[date, int]]) -> Iterator[str]:
    width = (_WIDTH - 56) / 4
    for place, name in enumerate(series):
        x, y = 28 + width * (place % 4), _LEGEND_TOP + 22 * (place // 4)
        yield rect(class_of(list(COLOURS)[place]), (x, y, 16, 16), radius=3)
        yield text(cut(name, SMALL, width - 34), x + 23, y + 12, "s", SMALL)


def _short(count: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:g}{unit}"
    return f"{count:g}"
