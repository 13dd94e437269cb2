"""What the tests know of the deployed site."""

from dataclasses import dataclass
from pathlib import Path

from openai import OpenAI

PROJECT = Path(__file__).parents[3]
INVENTORY = PROJECT / "molecule" / "inventory"
MODEL = "smollm2-135m-instruct"
# It runs only when somebody starts it.
EMBEDDING_MODEL = "all-minilm-l6-v2"


@dataclass(frozen=True)
class Site:
    """Where the deployed API answers, and the key that the first deploy made."""

    base_url: str
    key: str

    def client(self, key: str | None = None) -> OpenAI:
        """Return the official client, without the retries that would hide a refusal."""
        return OpenAI(base_url=f"{self.base_url}/v1", api_key=key or self.key, max_retries=0, timeout=120)
