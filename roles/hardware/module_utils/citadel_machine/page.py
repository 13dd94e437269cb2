"""One HTML page of a machine, which needs nothing from elsewhere and prints on A4."""

from . import canvas, picture
from .compare import ecc_shown
from .details import sections
from .terms import Facts, Finding

escaped = canvas.escaped

_STYLE = """
:root{color-scheme:light dark;--paper:#fff;--ink:#17202e;--soft:#586375;--edge:#dbe1e9;--box:#f5f7fa;
--ok:#167546;--ok-box:#e9f6ef;--bad:#b92319;--bad-box:#fdeceb}
@media (prefers-color-scheme:dark){:root{--paper:#12161d;--ink:#e8ecf2;--soft:#9aa6b8;--edge:#2c3542;
--box:#1a202a;--ok:#56c98d;--ok-box:#132b20;--bad:#ff8478;--bad-box:#3a1a1a}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",
Roboto,"DejaVu Sans",sans-serif}
main{max-width:1060px;margin:0 auto;padding:32px 24px 48px}
h1{font-size:27px;line-height:1.2;margin:0}h2{font-size:18px;margin:34px 0 10px}
.soft{color:var(--soft)}
.verdict{display:flex;gap:14px;align-items:center;margin:20px 0;padding:14px 18px;border-radius:10px;
border:1.5px solid;font-size:17px;font-weight:600}
.verdict b{font-size:24px;line-height:1}.verdict small{display:block;font-size:13px;font-weight:400}
.met{color:var(--ok);border-color:var(--ok);background:var(--ok-box)}
.missed{color:var(--bad);border-color:var(--bad);background:var(--bad-box)}
.plain{color:var(--soft);border-color:var(--edge);background:var(--box)}
svg{display:block;width:100%;height:auto;margin:8px 0}
table{border-collapse:collapse;width:100%;font-size:13.5px}
th{text-align:left;font-weight:600;color:var(--soft);border-bottom:1.5px solid var(--edge)}
td{border-bottom:1px solid var(--edge);vertical-align:top;overflow-wrap:anywhere}
th,td{padding:6px 10px 6px 0}
table.failed tbody tr{background:var(--bad-box)}
table.failed :is(td,th):first-child{padding-left:8px}
table.failed td:nth-child(5){width:34%}table.kept td:nth-child(2){width:24%}
table.kept td:nth-child(3){width:27%}
td:first-child{width:92px}td.state{white-space:nowrap;font-weight:650}
td.yes{color:var(--ok)}td.no{color:var(--bad)}
table.facts td:first-child{width:200px;color:var(--soft)}
footer{margin-top:34px;font-size:12.5px;color:var(--soft)}
@page{size:A4;margin:13mm}
@media print{:root{color-scheme:light;--paper:#fff;--ink:#17202e;--soft:#586375;--edge:#dbe1e9;--box:#f5f7fa;
--ok:#167546;--ok-box:#e9f6ef;--bad:#b92319;--bad-box:#fdeceb}
*{-webkit-print-color-adjust:exact;print-color-adjust:exact}
body{font-size:11px}main{max-width:none;padding:0}h1{font-size:20px}h2{font-size:14px;margin:18px 0 6px}
table{font-size:10px}th,td{padding:4px 8px 4px 0}.verdict{margin:12px 0;padding:9px 14px;font-size:13px}
svg,tr,li,.verdict{break-inside:avoid}h2{break-after:avoid}thead{display:table-header-group}}
"""


def render(host: str, facts: Facts, findings: list[Finding], time: str = "", now: Facts | None = None) -> str:
    """Return the page.

    Args:
        host: The host's name.
        facts: What lasts.
        findings: Each requirement.
        time: When it was looked; "" where the page must not vary.
        now: What was so at that moment; None where the page must not vary.
    """
    failed = [finding for finding in findings if not finding.met]
    parts = [
        f"<h1>{escaped(host)}</h1>",
        f'<div class="soft">{escaped(_subtitle(facts, time))}</div>',
        _verdict(len(findings), len(failed)),
        picture.draw(host, facts, findings),
        _failed(failed, with_now=now is not None),
        _met([finding for finding in findings if finding.met], with_now=now is not None),
        *(_section(title, rows) for title, rows in sections(facts, now)),
        "<footer>Written by Citadel's role hardware. Sizes are in GiB and TiB (1024). A sign and a word "
        "stand with each colour.</footer>",
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Hardware of {escaped(host)}</title><style>{_STYLE}</style></head>"
        f"<body><main>\n{chr(10).join(part for part in parts if part)}\n</main></body></html>\n"
    )


def _subtitle(facts: Facts, time: str) -> str:
    gpus: dict[str, int] = {}
    for gpu in facts["gpus"]:
        gpus[gpu["name"]] = gpus.get(gpu["name"], 0) + 1
    parts = [
        facts["os"]["name"],
        facts["cpu"]["model"],
        f"{facts['memory_gib']:g} GiB, ECC {ecc_shown(facts['memory']).split(':')[0].split(' (')[0]}",
        *(f"{count} x {name}" for name, count in gpus.items()),
        f"seen {time}" if time else "",
    ]
    return " \u00b7 ".join(part for part in parts if part)


def _verdict(count: int, failed: int) -> str:
    if not count:
        return (
            '<div class="verdict plain"><b>\u2013</b><div>Nothing is asked of this machine'
            "<small>hardware_profile names no requirement</small></div></div>"
        )
    if failed:
        return (
            f'<div class="verdict missed"><b>\u2717</b><div>{failed} of {count} requirements not met'
            "<small>what would do stands below</small></div></div>"
        )
    return (
        f'<div class="verdict met"><b>\u2713</b><div>All {count} requirements met'
        "<small>the machine is what its profile asks for</small></div></div>"
    )


def _failed(findings: list[Finding], *, with_now: bool) -> str:
    rows = [
        f'<tr><td class="state no">\u2717 not met</td><td>{escaped(finding.requirement)}</td>'
        f"<td>{escaped(finding.wanted)}</td><td>{_found(finding, with_now)}</td>"
        f"<td>{escaped(finding.remedy)}</td></tr>"
        for finding in findings
    ]
    return _table("Not met", "failed", ["verdict", "requirement", "wanted", "found", "what would do"], rows)


def _met(findings: list[Finding], *, with_now: bool) -> str:
    rows = [
        f'<tr><td class="state yes">\u2713 met</td><td>{escaped(finding.requirement)}</td>'
        f"<td>{escaped(finding.wanted)}</td><td>{_found(finding, with_now)}</td></tr>"
        for finding in findings
    ]
    return _table("Met", "kept", ["verdict", "requirement", "wanted", "found"], rows)


def _found(finding: Finding, with_now: bool) -> str:
    now = f' <span class="soft">({escaped(finding.now)})</span>' if with_now and finding.now else ""
    return f"{escaped(finding.found)}{now}"


def _table(title: str, kind: str, heads: list[str], rows: list[str]) -> str:
    if not rows:
        return ""
    head = "".join(f"<th>{name}</th>" for name in heads)
    return (
        f'<h2>{title} ({len(rows)})</h2><table class="{kind}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _section(title: str, rows: list[tuple[str, str]]) -> str:
    if not rows:
        return ""
    lines = "".join(f"<tr><td>{escaped(key)}</td><td>{escaped(value)}</td></tr>" for key, value in rows)
    return f'<h2>{escaped(title)}</h2><table class="facts"><tbody>{lines}</tbody></table>'
