"""The admin API: keys, the audit log, and what else only a key of the scope `admin` may see or do."""

from fastapi import APIRouter

from citadel_llm.gateway.admin import audit, keys, usage

router = APIRouter()
for part in (keys, audit, usage):
    router.include_router(part.router)

__all__ = ["router"]
