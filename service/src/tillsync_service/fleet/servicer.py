"""DeviceService: parse, call, render."""

import hashlib

from grpc.aio import ServicerContext

from tillsync.v1 import device_service_pb2 as pb
from tillsync.v1.device_service_pb2_grpc import DeviceServiceServicer
from tillsync_service.fleet.store import FleetStore
from tillsync_service.fleet.tokens import TokenIssuer
from tillsync_service.foundation import fields, limits
from tillsync_service.foundation.codes import code_hash


class DeviceServicer(DeviceServiceServicer):
    """Open to everybody: a request carries its own proof."""

    def __init__(self, store: FleetStore, issuer: TokenIssuer) -> None:
        self._store = store
        self._issuer = issuer

    async def Enroll(
        self,
        request: pb.EnrollRequest,
        context: ServicerContext[pb.EnrollRequest, pb.EnrollResponse],
    ) -> pb.EnrollResponse:
        code = fields.text("code", request.code, limits.MAX_NAME_CHARACTERS)
        secret_hash = fields.exactly_32_bytes("refresh_secret_hash", request.refresh_secret_hash)
        name = fields.text("device_name", request.device_name, limits.MAX_DEVICE_NAME_CHARACTERS)

        enrolled = await self._store.enrol(code_hash(code), secret_hash, name)

        return pb.EnrollResponse(
            device_id=str(enrolled.device_id),
            store_id=str(enrolled.store_id),
            tenant_id=str(enrolled.tenant_id),
            store_name=enrolled.store_name,
        )

    async def IssueToken(
        self,
        request: pb.IssueTokenRequest,
        context: ServicerContext[pb.IssueTokenRequest, pb.IssueTokenResponse],
    ) -> pb.IssueTokenResponse:
        secret = fields.exactly_32_bytes("refresh_secret", request.refresh_secret)
        proposal = request.next_refresh_secret_hash or None
        if proposal is not None:
            fields.exactly_32_bytes("next_refresh_secret_hash", proposal)

        device = await self._store.present_secret(hashlib.sha256(secret).digest(), proposal)

        token, seconds = self._issuer.device_token(device)
        response = pb.IssueTokenResponse(access_token=token, suspect=device.suspect)
        response.expires_in.FromSeconds(seconds)
        return response
