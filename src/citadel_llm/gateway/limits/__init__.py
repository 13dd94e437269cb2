"""What keys may ask for: requests and tokens a minute, requests at once, tokens a day and a month.

`Limiter.admit` decides from memory, without waiting. Where several gateways count together, in Valkey, that
is asked in the background: `windows.py` has the arithmetic and its bound, docs/limits.md the rest.
"""

from citadel_llm.gateway.limits.grant import Grant
from citadel_llm.gateway.limits.limiter import Limiter

__all__ = ["Grant", "Limiter"]
