"""Ask vLLM's own classes what requests take of the KV cache, and write it down or check what was written.

    python scripts/measure_kv_cache.py            # writes tests/placement/published/kv_cache.json
    python scripts/measure_kv_cache.py --check    # ends with 1 where this environment's vLLM differs

Needs vllm (0.32 or 0.33, any build) and transformers, which engines' environments have, and nothing of
Citadel. The layers are those of published shapes; their specifications, groups and blocks are vLLM's
(v1/kv_cache_interface.py and the grouping in v1/core), with the settings that a server has by default.
"""

import argparse
import importlib
import json
import sys
import warnings
from math import ceil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch  # type: ignore[import-not-found]
import transformers  # type: ignore[import-not-found]
import vllm  # type: ignore[import-not-found]
from vllm.distributed.utils import get_pp_indices  # type: ignore[import-not-found]
from vllm.model_executor.layers.mamba.mamba_utils import (  # type: ignore[import-not-found]
    MambaStateShapeCalculator,
)
from vllm.v1 import kv_cache_interface as specs  # type: ignore[import-not-found]
from vllm.v1.kv_cache_layout import KVCacheLayout  # type: ignore[import-not-found]

PUBLISHED = Path(__file__).resolve().parents[1] / "tests" / "placement" / "published"
MODELS = (
    "llama-3.1-8b",
    "mistral-7b-v0.1",
    "gemma-2-9b",
    "gemma-3-12b",
    "gpt-oss-20b",
    "deepseek-v2-lite",
    "jamba-v0.1",
    "bamba-9b",
    "granite-4.0-h-tiny",
    "nemotron-h-8b",
    "qwen3-next-80b-a3b",
)
LAYOUTS = ((1, 1), (2, 1), (1, 2))
CONTEXTS = (1, 100, 2048, 4096, 30000)
BLOCK_TOKENS = 16
BATCHED_TOKENS = 2048


def main() -> int:
    """Ask for all models; the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--check", action="store_true", help="compare with what was written")
    parser.add_argument(
        "--published", type=Path, default=PUBLISHED, help="folder of shapes/ and kv_cache.json"
    )
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    answers = [
        {
            "model": name,
            "tensor_parallel": tp,
            "pipeline_parallel": pp,
            "stages": stages(options, name, tp, pp),
        }
        for name in MODELS
        for tp, pp in LAYOUTS
    ]
    file = options.published / "kv_cache.json"
    if not options.check:
        content = {
            "made by": f"vllm {vllm.__version__}",
            "block_tokens": BLOCK_TOKENS,
            "batched_tokens": BATCHED_TOKENS,
            "answers": answers,
        }
        file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        return 0
    written = json.loads(file.read_text(encoding="utf-8"))["answers"]
    wrong = [(new, old) for new, old in zip(answers, written, strict=True) if new != old]
    for new, old in wrong:
        print(f"written {old}, vLLM {vllm.__version__} says {new}", file=sys.stderr)  # noqa: T201
    print(f"{len(answers) - len(wrong)} of {len(answers)} layouts of published models are as written")  # noqa: T201
    return 1 if wrong else 0


def stages(options: Any, name: str, tp: int, pp: int) -> list[dict[str, Any]]:
    """What one request of each context takes on each stage, with the block that stays empty."""
    shape = json.loads((options.published / "shapes" / f"{name}.json").read_text(encoding="utf-8"))["config"]
    described = {
        key: value for key, value in shape.items() if key not in {"quantization_config", "model_type"}
    }
    config = transformers.AutoConfig.for_model(shape["model_type"], **described).get_text_config()
    layers = layer_specs(config, tp)
    planning = planning_module()
    answers = []
    for rank in range(pp):
        first, after = get_pp_indices(config.num_hidden_layers, rank, pp)
        mine = {key: spec for key, spec in layers.items() if first <= int(key) < after}
        taken = {}
        for context in CONTEXTS:
            settings = settings_for(context, pp)
            groups = planning.get_kv_cache_groups(settings, dict(layers))
            here = planning._project_kv_cache_groups_to_worker(groups, mine)
            block = planning._pool_bytes_per_block(settings, here)
            taken[str(context)] = (
                sum(blocks_of(group.kv_cache_spec, settings) for group in here) + 1
            ) * block
        answers.append(taken)
    return answers


def blocks_of(spec: Any, settings: Any) -> int:
    """Blocks that a request takes from one group, as _max_memory_usage_bytes_from_groups counts them."""
    if isinstance(spec, specs.UniformTypeKVCacheSpecs):
        return int(spec.max_memory_usage_pages(settings))
    return ceil(int(spec.max_memory_usage_bytes(settings)) / int(spec.page_size_bytes))


def layer_specs(config: Any, tp: int) -> dict[str, Any]:
    """The specification of each layer that keeps anything, by its number."""
    states = state_shapes(config, tp)
    heads = max(1, config.num_key_value_heads // tp)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    block = BLOCK_TOKENS
    state = None
    if states:
        state = sum(torch.Size(shape).numel() for shape in states) * 2
        # platforms/interface.py, _align_hybrid_block_size
        token = 2 * heads * head_dim * 2
        block = BLOCK_TOKENS * ceil(state / (BLOCK_TOKENS * token))
    found: dict[str, Any] = {}
    for index, kind in enumerate(kinds(config)):
        common = {"block_size": block, "dtype": torch.bfloat16}
        if kind == "latent":
            width = config.kv_lora_rank + config.qk_rope_head_dim
            found[str(index)] = specs.MLAAttentionSpec(num_kv_heads=1, head_size=width, **common)
        elif kind == "sliding_attention":
            found[str(index)] = specs.SlidingWindowSpec(
                num_kv_heads=heads,
                head_size=head_dim,
                sliding_window=config.sliding_window,
                **common,
            )
        elif kind == "full_attention":
            found[str(index)] = specs.FullAttentionSpec(num_kv_heads=heads, head_size=head_dim, **common)
        elif kind == "state":
            found[str(index)] = specs.MambaSpec(
                block_size=block,
                shapes=states,
                dtypes=(torch.bfloat16,) * len(states),
                page_size_padded=block * token,
                mamba_cache_mode="align",
            )
    return found


def kinds(config: Any) -> list[str]:
    """What each layer keeps; `nothing` for those that are feed-forward alone."""
    if hasattr(config, "kv_lora_rank"):
        return ["latent"] * config.num_hidden_layers
    names = {"mamba": "state", "mamba2": "state", "linear_attention": "state", "attention": "full_attention"}
    types = getattr(config, "layer_types", None)
    if types is None:
        types = ["sliding_attention" if getattr(config, "sliding_window", None) else "full_attention"]
        types *= config.num_hidden_layers
    return [names.get(kind, kind if kind.endswith("_attention") else "nothing") for kind in types]


def state_shapes(config: Any, tp: int) -> tuple[tuple[int, ...], ...]:
    """Shapes of one sequence's state, by vLLM's calculator; empty without states."""
    shapes = MambaStateShapeCalculator
    if hasattr(config, "linear_num_value_heads"):
        return tuple(
            shapes.gated_delta_net_state_shape(
                tp,
                config.linear_num_key_heads,
                config.linear_num_value_heads,
                config.linear_key_head_dim,
                config.linear_value_head_dim,
                config.linear_conv_kernel_dim,
            )
        )
    if hasattr(config, "ssm_state_size"):
        return tuple(
            shapes.mamba2_state_shape(
                tp_world_size=tp,
                intermediate_size=config.mamba_num_heads * config.mamba_head_dim,
                n_groups=config.n_groups,
                num_heads=config.mamba_num_heads,
                head_dim=config.mamba_head_dim,
                state_size=config.ssm_state_size,
                conv_kernel=config.conv_kernel,
            )
        )
    if hasattr(config, "mamba_n_heads"):
        return tuple(
            shapes.mamba2_state_shape(
                tp_world_size=tp,
                intermediate_size=config.mamba_expand * config.hidden_size,
                n_groups=config.mamba_n_groups,
                num_heads=config.mamba_n_heads,
                head_dim=config.mamba_d_head,
                state_size=config.mamba_d_state,
                conv_kernel=config.mamba_d_conv,
            )
        )
    if hasattr(config, "mamba_d_state"):
        inner = config.mamba_expand * config.hidden_size
        return tuple(shapes.mamba1_state_shape(tp, inner, config.mamba_d_state, config.mamba_d_conv))
    return ()


def settings_for(context: int, pp: int) -> Any:
    """The few of vLLM's settings that its classes look at, as a server has them by default."""
    return SimpleNamespace(
        scheduler_config=SimpleNamespace(disable_hybrid_kv_cache_manager=False),
        attention_config=SimpleNamespace(hisparse_config=None),
        speculative_config=None,
        parallel_config=SimpleNamespace(decode_context_parallel_size=1, prefill_context_parallel_size=1),
        model_config=SimpleNamespace(max_model_len=context),
        cache_config=SimpleNamespace(
            mamba_cache_mode="align",
            num_gpu_blocks_override=None,
            get_resolved_kv_cache_layout=lambda: KVCacheLayout.LBNHC,
        ),
        # A batch for each stage, and one more: asynchronous scheduling.
        max_in_flight_tokens=(pp + 1) * BATCHED_TOKENS,
    )


def planning_module() -> Any:
    """Where the grouping stands: a module of its own since 0.33."""
    try:
        return importlib.import_module("vllm.v1.core.kv_cache_planning")
    except ImportError:
        return importlib.import_module("vllm.v1.core.kv_cache_utils")


if __name__ == "__main__":
    sys.exit(main())
