"""ProjectionService: parse, call, render."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from uuid import UUID

from grpc.aio import ServicerContext

from tillsync.v1 import projection_service_pb2 as pb
from tillsync.v1.projection_service_pb2_grpc import ProjectionServiceServicer
from tillsync_service.foundation import fields, identity, limits, pages
from tillsync_service.projections import wire
from tillsync_service.projections.dead_letters import DeadLetterStore
from tillsync_service.projections.rebuilding import RebuildStore


class ProjectionServicer(ProjectionServiceServicer):
    """For operators; each method first asks whether this one may manage the tenant."""

    def __init__(
        self,
        dead_letters: DeadLetterStore,
        rebuilds: RebuildStore,
        pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._dead_letters = dead_letters
        self._rebuilds = rebuilds
        self._pause = pause

    async def ListProjections(
        self,
        request: pb.ListProjectionsRequest,
        context: ServicerContext[pb.ListProjectionsRequest, pb.ListProjectionsResponse],
    ) -> pb.ListProjectionsResponse:
        tenant_id = _tenant_or_all(request.tenant_id)
        asked = pages.asked(request.page_size, request.page_token)
        page = await self._rebuilds.list_projections(tenant_id, asked)
        return wire.list_projections_response(page)

    async def ListDeadLetters(
        self,
        request: pb.ListDeadLettersRequest,
        context: ServicerContext[pb.ListDeadLettersRequest, pb.ListDeadLettersResponse],
    ) -> pb.ListDeadLettersResponse:
        tenant_id = identity.managed_tenant(request.tenant_id)
        asked = wire.asked(request, limits.MAX_PAGE_SIZE)
        state = wire.state(request.state)
        rows, more = await self._dead_letters.list_dead_letters(tenant_id, asked, state)
        return wire.list_dead_letters_response(rows, more=more)

    async def GetDeadLetter(
        self,
        request: pb.GetDeadLetterRequest,
        context: ServicerContext[pb.GetDeadLetterRequest, pb.GetDeadLetterResponse],
    ) -> pb.GetDeadLetterResponse:
        tenant_id = identity.managed_tenant(request.tenant_id)
        position = wire.position("position", request.position)
        letter, event = await self._dead_letters.dead_letter(tenant_id, position)
        return wire.get_dead_letter_response(letter, event)

    async def ReplayDeadLetters(
        self,
        request: pb.ReplayDeadLettersRequest,
        context: ServicerContext[pb.ReplayDeadLettersRequest, pb.ReplayDeadLettersResponse],
    ) -> pb.ReplayDeadLettersResponse:
        tenant_id = identity.managed_tenant(request.tenant_id)
        asked = wire.asked(request, limits.MAX_REPLAY_EVENTS, dry_run=request.dry_run)
        done = await self._dead_letters.replay(tenant_id, asked)
        return wire.replay_response(done)

    async def DiscardDeadLetters(
        self,
        request: pb.DiscardDeadLettersRequest,
        context: ServicerContext[pb.DiscardDeadLettersRequest, pb.DiscardDeadLettersResponse],
    ) -> pb.DiscardDeadLettersResponse:
        tenant_id = identity.managed_tenant(request.tenant_id)
        because = fields.text("reason", request.reason, limits.MAX_REASON_CHARACTERS)
        asked = wire.asked(request, limits.MAX_PAGE_SIZE, dry_run=request.dry_run)
        actor = identity.current_operator().label
        done = await self._dead_letters.discard(tenant_id, asked, because, actor)
        return wire.discard_response(done)

    async def Rebuild(
        self,
        request: pb.RebuildRequest,
        context: ServicerContext[pb.RebuildRequest, pb.RebuildResponse],
    ) -> AsyncIterator[pb.RebuildResponse]:
        actor = identity.current_operator().label
        only = _tenant_or_all(request.tenant_id)
        for tenant_id in [only] if only else await self._rebuilds.tenants():
            progress = await self._rebuilds.start(tenant_id, actor)
            while not progress.finished:
                yield wire.rebuild_response(tenant_id, progress)
                await self._pause(limits.REBUILD_SHOW_SECONDS)
                progress = await self._rebuilds.watch(tenant_id, progress)
            yield wire.rebuild_response(tenant_id, progress)


def _tenant_or_all(tenant_id: str) -> UUID | None:
    """None: all of them, which this operator may manage. Raises PermissionDenied."""
    if tenant_id:
        return identity.managed_tenant(tenant_id)
    identity.current_operator().must_manage(None)
    return None
