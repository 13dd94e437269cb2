#!/usr/bin/env python3
"""Write each role's README from its argument spec: the part between the markers, or a new file.

    render_role_readmes.py            write
    render_role_readmes.py --check    exit 1, and name the files, when one is not as it would be written

What stands outside the markers is left alone.
"""

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from citadel_llm.config.inventory import GROUPS, VARIABLES
from citadel_llm.config.reference import group_at

BEGIN = "<!-- variables: written by scripts/render_role_readmes.py from meta/argument_specs.yml -->"
END = "<!-- end of variables -->"
ROLES = Path(__file__).resolve().parent.parent / "roles"
# A list of thirty folders is better read in defaults/main.yml.
LONGEST_DEFAULT = 100

Spec = dict[str, Any]


def markdown(text: str | list[str]) -> str:
    """Return a description as Markdown on one line: Ansible's C(), V(), O() and M() become code."""
    joined = " ".join(text) if isinstance(text, list) else text
    coded = re.sub(r"\b[CVOM]\(([^)]*)\)", r"`\1`", " ".join(joined.split()))
    return coded.replace("|", "\\|")


def show_default(option: Spec) -> str:
    """Return what a variable is when it is not set."""
    if option.get("required"):
        return "required"
    if "default" not in option:
        return ""
    text = (
        yaml.safe_dump(option["default"], default_flow_style=True, width=10**6).removesuffix("...\n").strip()
    )
    coded = text.replace("|", "\\|")
    return f"`{coded}`" if len(text) <= LONGEST_DEFAULT else "see `defaults/main.yml`"


def rows(options: dict[str, Spec], prefix: str = "") -> Iterator[str]:
    """Yield a table row for each variable, and for each key of what it holds."""
    for name, option in options.items():
        kind = option.get("type", "str")
        kind += f" of {option['elements']}" if "elements" in option else ""
        choices = (
            f" One of {', '.join(f'`{choice}`' for choice in option['choices'])}."
            if "choices" in option
            else ""
        )
        text = markdown(option["description"]) + choices + settings_of(prefix + name)
        yield f"| `{prefix}{name}` | {kind} | {show_default(option)} | {text} |"
        if "options" in option:
            yield from rows(option["options"], f"{prefix}{name}{'[]' if kind.startswith('list') else ''}.")


def settings_of(variable: str) -> str:
    """Return a link to the settings that a variable holds, where it does: they are described there alone."""
    paths = [path for path, name in {**VARIABLES, **GROUPS}.items() if name == variable]
    group = group_at(paths[0]) if paths else {"config_environments": "Settings"}.get(variable)
    return f" Its settings: [{group}](../../docs/configuration.md#{group.lower()})." if group else ""


def tables(spec: Spec) -> str:
    """Return the tables of all entry points."""
    parts = []
    for name, entry_point in spec.items():
        options = entry_point.get("options") or {}
        if not options:
            continue
        heading = "Variables" if name == "main" else f"Variables of `{name}`"
        parts += [f"## {heading}", ""]
        if name != "main":
            parts += [f"{markdown(entry_point['short_description'])}.", ""]
        parts += ["| variable | type | default | what it is |", "|---|---|---|---|", *rows(options), ""]
    return "\n".join(parts or ["It has no variables of its own.", ""])


def render(role: Path, current: str) -> str:
    """Return a role's README: the current one with new tables, or a new one."""
    spec = yaml.safe_load((role / "meta/argument_specs.yml").read_text(encoding="utf-8"))["argument_specs"]
    block = f"{BEGIN}\n\n{tables(spec)}\n{END}"
    if BEGIN in current and END in current:
        before, rest = current.split(BEGIN, 1)
        return before + block + rest.split(END, 1)[1]
    main = spec["main"]
    description = main.get("description", [])
    lines = [description] if isinstance(description, str) else description
    paragraphs = "\n".join(f"- {markdown(line)}" for line in lines)
    heading = f"# {role.name}\n\n{markdown(main['short_description'])}.\n"
    return "\n".join([heading, *([f"{paragraphs}\n"] if paragraphs else []), f"{block}\n"])


def main() -> int:
    """Write or check the READMEs of all roles."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 when something would change"
    )
    check = parser.parse_args().check
    stale = []
    for file in sorted(ROLES.glob("*/meta/argument_specs.yml")):
        readme = file.parent.parent / "README.md"
        current = readme.read_text(encoding="utf-8") if readme.exists() else ""
        wanted = render(readme.parent, current)
        if wanted == current:
            continue
        stale.append(readme)
        if not check:
            readme.write_text(wanted, encoding="utf-8")
    for readme in stale:
        sys.stdout.write(f"{readme.relative_to(ROLES.parent)} {'is not current' if check else 'written'}\n")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
