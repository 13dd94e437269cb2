"""Build models of published shapes on the meta device, and write down what comes out, or check it.

    python scripts/measure_published_models.py            # writes tests/placement/published/reference.json
    python scripts/measure_published_models.py --check    # ends with 1 where other models come out

Needs torch, transformers and accelerate, which engines' environments have, and nothing of Citadel. No weight
is ever made: the meta device knows shapes alone. KV cache: one token goes through the model with its
feed-forward networks taken out (experts choose by value, and there are none), and the cache that transformers
itself filled is measured. Latent attention is the exception: transformers keeps the expanded keys and values,
vLLM the compressed ones, so the width of the compressing matrix counts.
"""

import argparse
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import torch  # type: ignore[import-not-found]
import transformers  # type: ignore[import-not-found]
from accelerate.utils import calculate_maximum_sizes  # type: ignore[import-not-found]

PUBLISHED = Path(__file__).resolve().parents[1] / "tests" / "placement" / "published"
_FORWARD = {"mlp", "block_sparse_moe", "feed_forward", "shared_mlp"}


def main() -> int:
    """Measure all shapes; the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--check", action="store_true", help="compare with what was written")
    parser.add_argument(
        "--published", type=Path, default=PUBLISHED, help="folder of shapes/ and reference.json"
    )
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    measured = {
        file.stem: measure(json.loads(file.read_text(encoding="utf-8")))
        for file in sorted((options.published / "shapes").glob("*.json"))
    }
    reference = options.published / "reference.json"
    if not options.check:
        content = {
            "made by": f"transformers {transformers.__version__}, torch {torch.__version__}, meta device",
            "models": measured,
        }
        reference.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        return 0
    written = json.loads(reference.read_text(encoding="utf-8"))["models"]
    wrong = [name for name in {*written, *measured} if written.get(name) != measured.get(name)]
    for name in sorted(wrong):
        print(f"{name}: written {written.get(name)}, measured {measured.get(name)}", file=sys.stderr)  # noqa: T201
    print(f"{len(measured) - len(wrong)} of {len(measured)} published models are as written")  # noqa: T201
    return 1 if wrong else 0


def measure(shape: dict[str, Any]) -> dict[str, Any]:
    """Parameters, their bytes in bf16, and what one token leaves in the cache.

    Returns:
        `parameters`, `bytes_bf16`, `accelerate_bytes` (what `accelerate estimate-memory` finds, in bf16),
        `kv_bytes_per_token` (bf16; 0 for encoders), `state_numbers` (of one sequence, for state-space
        layers), `kv_source`.
    """
    described = {key: value for key, value in shape["config"].items() if key != "quantization_config"}
    model_type = described.pop("model_type")
    config = transformers.AutoConfig.for_model(model_type, **described)
    with torch.device("meta"):
        model = _class_of(shape["config"]["architectures"][0], config)(config).to(torch.bfloat16).eval()
    # A tied head is one parameter under two names; `parameters` gives each once.
    parameters = list(model.parameters())
    answer = {
        "parameters": sum(parameter.numel() for parameter in parameters),
        "bytes_bf16": sum(parameter.numel() * 2 for parameter in parameters),
        "accelerate_bytes": int(calculate_maximum_sizes(model)[0]),
    }
    return answer | _cache_of(model, config)


def _class_of(name: str, config: Any) -> Any:
    if hasattr(transformers, name):
        return getattr(transformers, name)
    return transformers.AutoModelForCausalLM._model_mapping[type(config)]


def _cache_of(model: Any, config: Any) -> dict[str, Any]:
    latent = [
        module.out_features for name, module in model.named_modules() if name.endswith("kv_a_proj_with_mqa")
    ]
    if latent:
        return {"kv_bytes_per_token": 2 * sum(latent), "state_numbers": 0, "kv_source": "kv_a_proj_with_mqa"}
    if not hasattr(model, "lm_head"):
        return {"kv_bytes_per_token": 0, "state_numbers": 0, "kv_source": "an encoder keeps none"}
    text = config.get_text_config()
    for name, module in model.named_modules():
        if name.rsplit(".", 1)[-1] in _FORWARD:
            # gpt-oss' gives the router's scores, too.
            pair = type(module).__name__.startswith("GptOss")
            module.forward = lambda stream, *_, _pair=pair, **__: (stream, None) if _pair else stream
    cache = transformers.DynamicCache(config=text)
    with torch.no_grad(), torch.device("meta"):
        model(input_ids=torch.zeros((1, 1), dtype=torch.long), past_key_values=cache, use_cache=True)
    tokens, states = 0, 0
    for layer in cache.layers:
        for name in ("keys", "values"):
            tokens += _numbers(getattr(layer, name, None))
        for name in ("conv_states", "recurrent_states", "ssm_states"):
            states += _numbers(getattr(layer, name, None))
    return {
        "kv_bytes_per_token": 2 * tokens,
        "state_numbers": states,
        "kv_source": "transformers' DynamicCache",
    }


def _numbers(value: Any) -> int:
    if isinstance(value, dict):
        return sum(_numbers(inner) for inner in value.values())
    return value.numel() if isinstance(value, torch.Tensor) else 0


if __name__ == "__main__":
    sys.exit(main())
