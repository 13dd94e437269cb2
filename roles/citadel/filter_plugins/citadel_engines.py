"""Name the units of the gateway's workers."""

from collections.abc import Callable
from typing import Any


def gateway_units(workers: int) -> list[str]:
    """Return the units of so many workers of a gateway, as `services_of` has them."""
    further = (f"citadel-gateway@{number}.service" for number in range(2, workers + 1))
    return ["citadel-gateway.service", *further]


class FilterModule:
    """The filters, by the names under which templates know them."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters."""
        return {"citadel_gateway_units": gateway_units}
