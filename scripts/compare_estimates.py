"""Set the arithmetic of the placement beside the formulas of others and beside what was measured.

    python scripts/compare_estimates.py             # prints the tables
    python scripts/compare_estimates.py --write     # puts them into docs/placement-arithmetic.md

All inputs are recorded under tests/placement/published: shapes, what transformers and accelerate made of them
on the meta device, and what vLLM reported on GPUs that others had.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from citadel_llm.config.schema import Model
from citadel_llm.placement.memory import memory_of
from citadel_llm.placement.numbers import numbers_of_catalogue
from citadel_llm.placement.terms import GIB, Device, Layout, ModelMemory, RankNeed

ROOT = Path(__file__).resolve().parents[1]
PUBLISHED = ROOT / "tests" / "placement" / "published"
PAGE = ROOT / "docs" / "placement-arithmetic.md"
H100 = Device("cuda", 0, "NVIDIA H100 80GB HBM3", int(79.18 * GIB), (9, 0))
SMALL = Device("cuda", 0, "NVIDIA GeForce RTX 5060 Ti", int(15.9 * GIB), (12, 0))
MODELS = (
    "smollm2-135m",
    "phi-3-mini-4k",
    "mistral-7b-v0.1",
    "llama-3.1-8b",
    "gemma-3-12b",
    "qwen2.5-14b",
    "deepseek-v2-lite",
    "gpt-oss-20b",
    "qwen3-30b-a3b",
    "mixtral-8x7b",
    "deepseek-v3",
)
HOST = Device("cpu", 0, "a host", 24 * GIB)
# One request of a chat, and sixteen of a document.
CHAT, DOCUMENT, REQUESTS = 4096, 16384, 16


def main() -> int:
    """Print or write the tables; the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--write", action="store_true", help=f"put them into {PAGE.name}")
    options = parser.parse_args()
    tables = {"formulas": formulas(), "measured": measured()}
    if not options.write:
        print("\n\n".join(tables.values()))  # noqa: T201
        return 0
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8"), tables), encoding="utf-8")
    return 0


def with_tables(page: str, tables: dict[str, str]) -> str:
    """The page with each table between its marks."""
    for name, table in tables.items():
        before, begin, rest = page.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- end of {name} -->")
        page = f"{before}{begin}\n{table}\n\n{end}{after}"
    return page


def formulas() -> str:
    """What the formulas give for the same models."""
    built = recorded("reference")["models"]
    rows = []
    for name in MODELS:
        config = shape(name)
        whole = memory(config)
        plain = memory(
            {key: value for key, value in config.items() if key != "quantization_config"}, "bfloat16"
        )
        rows.append(
            (
                name,
                gib(built[name]["bytes_bf16"]),
                gib(plain.weight_bytes),
                gib(built[name]["accelerate_bytes"]),
                f"{gib(whole.weight_bytes)} {whole.quantization}",
                gib(gpustack(whole.weight_bytes)),
                gib(served(whole, SMALL, CHAT, 1)),
                gib(served(whole, H100, CHAT, 1)),
                gib(served(whole, H100, min(DOCUMENT, whole.max_context), REQUESTS)),
            )
        )
    return table(
        (
            "model",
            "bf16, meta device",
            "bf16, Citadel",
            "bf16, accelerate",
            "as published",
            "GPUStack",
            "Citadel: 1 x 4,096 on RTX 5060 Ti",
            "1 x 4,096 on H100",
            "16 x 16,384 on H100",
        ),
        rows,
    )


def measured() -> str:
    """What was measured of single terms, and what the arithmetic gives for them."""
    rows = []
    for row in recorded("measured"):
        whole = memory(shape(row["shape"]) | row["changes"])
        need = whole.on(Layout(row["tensor_parallel"]), HOST if "CPU" in row["term"] else H100)[0]
        whole_need = {"asleep": need.asleep_bytes, "engine on a CPU": need.fixed_bytes + GIB}
        planned = whole_need.get(row["term"], term(need, row["term"]))
        numbers = (str(row["tensor_parallel"]), f"{row['gib']:.2f}", gib(planned))
        rows.append((row["term"], *numbers, row["name"], row["source"]))
    return table(("term", "GPUs", "measured", "planned", "model or architecture", "source"), rows, left=2)


def gpustack(weight_bytes: int) -> int:
    """GPUStack's estimate for a language model: gpustack/policies/utils.py, estimate_model_vram."""
    return int(weight_bytes * 1.2) + 2 * GIB


def served(whole: ModelMemory, device: Device, context: int, requests: int) -> int:
    """All that an engine takes on one device for so many requests."""
    (need,) = whole.on(Layout(), device)
    return need.fixed_bytes + need.kv.bytes_for(context, requests)


def term(need: RankNeed, name: str) -> int:
    """The bytes of one term."""
    return sum(each.bytes for each in need.fixed if each.name == name)


def memory(config: dict[str, Any], dtype: str = "auto") -> ModelMemory:
    """What a config.json needs."""
    tree = {
        "name": "m",
        "source": {"kind": "folder", "path": "/m"},
        "architecture": config,
        "engine": {"dtype": dtype},
    }
    model = Model.model_validate(tree)
    return memory_of(model, numbers_of_catalogue(model, "models[0]"), "cuda", "models[0]")


def shape(name: str) -> dict[str, Any]:
    """The config.json of a published shape."""
    text = (PUBLISHED / "shapes" / f"{name}.json").read_text(encoding="utf-8")
    return dict(json.loads(text)["config"])


def recorded(name: str) -> Any:
    """One of the recordings beside the shapes."""
    return json.loads((PUBLISHED / f"{name}.json").read_text(encoding="utf-8"))


def gib(size: int) -> str:
    """Bytes in GiB."""
    return f"{size / GIB:.2f}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], left: int = 0) -> str:
    """A table in Markdown: its first column and the last so many to the left, numbers to the right."""
    words = {0, *range(len(head) - left, len(head))}
    kinds = ["---" if index in words else "--:" for index in range(len(head))]
    lines = [head, kinds, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
