"""The little of SVG that a plan's picture needs: texts that fit, colours for light and dark."""

from collections.abc import Iterator
from xml.sax.saxutils import escape

# The width of a letter of the sans-serif fonts in use, as a share of their size: measured on DejaVu Sans, the
# widest of them, so that what fits here fits with the others.
LETTER = 0.62
SMALL, PLAIN = 12, 13

# Okabe and Ito's colours, which people with any colour vision tell apart (jfly.uni-koeln.de/color), softened.
COLOURS = {
    "weights": ("#4a7fc1", "#6c9fdd"),
    "KV cache": ("#3fa387", "#52bd9f"),
    "activation": ("#e0a43a", "#e5b45c"),
    "CUDA graphs": ("#c97bab", "#d694bd"),
    "communication": ("#d9773d", "#e58d58"),
    "runtime": ("#8a94a3", "#99a4b3"),
    "asleep": ("#b9a7e0", "#8f7cc0"),
}
_STYLE = """
      .ground{fill:#ffffff}.track{fill:#eef2f7}.reserve{fill:#dfe5ed}.frame{fill:none;stroke:#aab7c7}
      .h{font-weight:650;fill:#1c2b3d}.t{fill:#1c2b3d}.s{fill:#51637a}.on{fill:#ffffff}.line{stroke:#d5dde7}
      .stripe{stroke:#ffffff;stroke-opacity:.55;stroke-width:3}.gap{stroke:#ffffff;stroke-width:1.5}
      %s
      @media (prefers-color-scheme:dark){
      .ground{fill:#141b24}.track{fill:#222d3a}.reserve{fill:#33404f}.frame{stroke:#55667a}
      .h,.t{fill:#e8eef6}.s{fill:#a5b4c6}.on{fill:#10161e}.line{stroke:#2f3c4b}
      .stripe{stroke:#141b24;stroke-opacity:.5}.gap{stroke:#141b24}
      %s
      }
"""


def document(title: str, description: str, width: int, height: int, body: list[str]) -> str:
    """A whole picture with its title and description for those who do not see it."""
    fonts = "ui-sans-serif, system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img"'
    return "\n".join(
        [
            f'{head} aria-labelledby="t d" font-family="{fonts}" font-size="{PLAIN}">',
            f'  <title id="t">{escape(title)}</title>',
            f'  <desc id="d">{escape(description)}</desc>',
            f"  <defs>{_pattern()}<style>{_style()}</style></defs>",
            f'  <rect class="ground" width="{width}" height="{height}" rx="14"/>',
            *body,
            "</svg>",
            "",
        ]
    )


def rect(kind: str, box: tuple[float, float, float, float], radius: int = 0, title: str = "") -> str:
    """A box (x, y, width, height) of a class of colours, or hatched; its title shows under a mouse."""
    x, y, width, height = box
    fill = 'fill="url(#hatch)" pointer-events="none"' if kind == "hatch" else f'class="{kind}"'
    start = f'  <rect {fill} x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    round_ = f' rx="{radius}"' if radius else ""
    return f"{start}{round_}><title>{escape(title)}</title></rect>" if title else f"{start}{round_}/>"


def label(
    words: str, left: float, right: float, y: float, kind: str, *, whole: bool = False
) -> Iterator[str]:
    """A small text in the middle between two places, shortened to fit; whole or not at all, if wished."""
    fitting = cut(words, SMALL, right - left - 6)
    if fitting and (fitting == words or not whole):
        yield (
            f'  <text class="{kind}" x="{(left + right) / 2:.1f}" y="{y:.1f}" font-size="{SMALL}" '
            f'text-anchor="middle" pointer-events="none">{escape(fitting)}</text>'
        )


def text(words: str, x: float, y: float, kind: str, size: int = PLAIN) -> str:
    """A text that begins at a place."""
    return f'  <text class="{kind}" x="{x:.1f}" y="{y:.1f}" font-size="{size}">{escape(words)}</text>'


def line(kind: str, x: float, top: int, bottom: int) -> str:
    """A line downwards."""
    return f'  <path class="{kind}" d="M{x:.1f} {top}V{bottom}"/>'


def class_of(name: str) -> str:
    """The class that gives a term its colour."""
    return "reserve" if name == "reserve" else f"c-{name.lower().replace(' ', '-')}"


def cut(words: str, size: int, width: float) -> str:
    """A text that is no wider than so many units: shortened, or nothing when only a stump would stay."""
    most = int(width / (size * LETTER))
    if len(words) <= most:
        return words
    return f"{words[: most - 1]}…" if most > 3 else ""  # noqa: PLR2004 - two letters say nothing


def _style() -> str:
    def rules(which: int) -> str:
        return "".join(f".{class_of(name)}{{fill:{both[which]}}}" for name, both in COLOURS.items())

    return _STYLE % (rules(0), rules(1))


def _pattern() -> str:
    return (
        '<pattern id="hatch" width="8" height="8" patternUnits="userSpaceOnUse" '
        'patternTransform="rotate(45)"><path class="stripe" d="M0 0V8"/></pattern>'
    )
