"""/v1/admin/usage: who used which models, and how much."""

from typing import Annotated

from fastapi import Query

from citadel_llm.gateway.admin.access import AdminAccess, admin_router
from citadel_llm.gateway.usage import TEXT_PATTERN, OfModel, Since, Until, UsageList, days_of, read_usage
from citadel_llm.store.usage import Group, UsageFilter

router = admin_router("/usage")


@router.get("", summary="Show the use of models")
async def list_usage(
    admin: AdminAccess,
    *,
    by: Annotated[
        list[Group] | None,
        Query(description="What to split by: key, team, model, day; give it again for several."),
    ] = None,
    since: Since = None,
    until: Until = None,
    key: Annotated[
        str | None,
        Query(description="Only this key: its id or its name.", max_length=64, pattern=TEXT_PATTERN),
    ] = None,
    team: Annotated[
        str | None, Query(description="Only this team.", max_length=64, pattern=TEXT_PATTERN)
    ] = None,
    model: OfModel = None,
) -> UsageList:
    """Requests and tokens by key, team, model and day; the last seconds may be missing."""
    only = UsageFilter(*days_of(since, until), key=key, team=team, model=model)
    return await read_usage(admin.state, tuple(by or ("model",)), only)
