"""/v1/admin/audit: who did what, when, and from where."""

import asyncio
from typing import Annotated

from fastapi import Query

from citadel_llm.gateway.admin.access import KEY_ID_PATTERN, AdminAccess, admin_router
from citadel_llm.gateway.admin.schemas import Entry, EntryPage
from citadel_llm.store import AuditLog

router = admin_router("/audit")


@router.get("", summary="Read the audit log")
async def list_audit(
    admin: AdminAccess,
    limit: Annotated[int, Query(ge=1, le=1000, description="How many at most.")] = 100,
    before: Annotated[
        int | None, Query(ge=0, le=2**53, description="Go on before this id: the last page's `last_id`.")
    ] = None,
    actor: Annotated[
        str | None,
        Query(
            description="Only this one's acts: `key:ID` or `unix:NAME`.",
            pattern=r"^(key|unix):[A-Za-z0-9._@-]{1,120}$",
        ),
    ] = None,
    key: Annotated[
        str | None, Query(description="Only what was done to this key.", pattern=KEY_ID_PATTERN)
    ] = None,
) -> EntryPage:
    """What admins did with keys, through the API and on the host; the newest first."""
    log = AuditLog(admin.state["keys"].store.database)
    entries = await asyncio.to_thread(log.list, limit=limit + 1, before=before, actor=actor, target=key)
    page = [Entry.of(entry) for entry in entries[:limit]]
    return EntryPage(
        data=page,
        has_more=len(entries) > limit,
        first_id=page[0].id if page else None,
        last_id=page[-1].id if page else None,
    )
