"""Access tokens: short-lived JWTs signed with Ed25519.

Claims: iss "tillsync"; aud "device", "operator" or "integrator"; sub, the device's id or what the
other is called; ten, the tenant (an operator without it may act on every tenant); sto, the store;
sus, true for a device whose secret is in two hands; iat, exp, jti.

A signature is checked once per token and remembered. Validity is not: time and standing are asked
at every call and every message of a stream.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import GuestProtocol, OKPKey

from tillsync.v1.error_reason_pb2 import ErrorReason
from tillsync_service.fleet import refusals
from tillsync_service.fleet.keys import KeyFile, Keys
from tillsync_service.fleet.standing import Standing, Verdict
from tillsync_service.foundation import limits
from tillsync_service.foundation.errors import Unauthenticated
from tillsync_service.foundation.identity import Caller, Device, Integrator, Operator

# Replicas' clocks differ a little; a token may be this much over its time.
LEEWAY_SECONDS = 5

_ALGORITHM = "Ed25519"
_ISSUER = "tillsync"
_DEVICE = "device"
_OPERATOR = "operator"
_INTEGRATOR = "integrator"


class TokenIssuer:
    """Signs tokens with the first key. `clock` gives the service's time, aware, in UTC."""

    def __init__(
        self, keys: KeyFile, clock: Callable[[], datetime], *, new_id: Callable[[], UUID] = uuid4
    ) -> None:
        self._keys = keys
        self._clock = clock
        self._new_id = new_id

    def device_token(self, device: Device) -> tuple[str, int]:
        """A token for `device`, and how many seconds it is good."""
        claims = {
            "aud": _DEVICE,
            "sub": str(device.device_id),
            "ten": str(device.tenant_id),
            "sto": str(device.store_id),
            "sus": device.suspect,
        }
        return self._signed(claims, limits.ACCESS_TOKEN_SECONDS), limits.ACCESS_TOKEN_SECONDS

    def operator_token(self, label: str, tenant_id: UUID | None, valid_seconds: int) -> str:
        """A token for an operator's person or tool. `tenant_id` None: every tenant. Nothing ends
        it before its time but taking its key away, so keep `valid_seconds` short."""
        tenant = {} if tenant_id is None else {"ten": str(tenant_id)}
        return self._signed({"aud": _OPERATOR, "sub": label, **tenant}, valid_seconds)

    def integrator_token(self, name: str, tenant_id: UUID, valid_seconds: int) -> str:
        """A token for a program that reads the tenant's feed. It ends as an operator's does."""
        claims = {"aud": _INTEGRATOR, "sub": name, "ten": str(tenant_id)}
        return self._signed(claims, valid_seconds)

    def _signed(self, claims: dict[str, Any], valid_seconds: int) -> str:
        keys = self._keys.keys()
        now = int(self._clock().timestamp())
        times = {"iat": now, "exp": now + valid_seconds, "jti": self._new_id().hex}
        return jwt.encode(
            {"alg": _ALGORITHM, "kid": keys.signing_kid},
            {"iss": _ISSUER, **claims, **times},
            keys.signing,
            algorithms=[_ALGORITHM],
        )


@dataclass(frozen=True, slots=True)
class _Token:
    """What a token with a good signature says."""

    caller: Caller
    expires_at: int


class TokenVerifier:
    """The doorkeeper's Authenticator."""

    def __init__(self, keys: KeyFile, standing: Standing, clock: Callable[[], datetime]) -> None:
        self._keys = keys
        self._standing = standing
        self._clock = clock
        self._checked_with: Keys | None = None
        self._checked: OrderedDict[str, _Token] = OrderedDict()

    def authenticate(self, token: str) -> Caller:
        """The caller behind `token`, as of now.

        Raises Unauthenticated (TOKEN_INVALID, TOKEN_EXPIRED), PermissionDenied (DEVICE_REVOKED),
        Unavailable (who was revoked is not known now)."""
        known = self._known(token)
        if self._clock().timestamp() >= known.expires_at + LEEWAY_SECONDS:
            raise Unauthenticated(
                "The access token's time is over; call IssueToken.",
                reason=ErrorReason.ERROR_REASON_TOKEN_EXPIRED,
            )
        if isinstance(known.caller, Device):
            return self._in_standing(known.caller)
        return known.caller

    def _in_standing(self, device: Device) -> Device:
        verdict = self._standing.of(device.device_id)
        if verdict is Verdict.REVOKED:
            raise refusals.device_revoked()
        # A token that says suspect stays so: it may be newer than what we know of standing.
        if verdict is Verdict.SUSPECT and not device.suspect:
            return replace(device, suspect=True)
        return device

    def _known(self, token: str) -> _Token:
        """The token, its signature checked now or before with the same keys."""
        keys = self._keys.keys()
        if keys is not self._checked_with:
            self._checked.clear()
            self._checked_with = keys
        known = self._checked.get(token)
        if known is None:
            known = self._checked[token] = _check(token, keys)
            if len(self._checked) > limits.MAX_CACHED_TOKENS:
                self._checked.popitem(last=False)
        else:
            self._checked.move_to_end(token)
        return known


def _check(token: str, keys: Keys) -> _Token:
    def key_of(guest: GuestProtocol) -> OKPKey:
        # By its id only: without one, the library would try whichever key there is.
        return keys.by_kid[guest.headers()["kid"]]

    try:
        claims = jwt.decode(token, key_of, algorithms=[_ALGORITHM]).claims
        return _Token(_caller(claims), _expiry(claims))
    except (JoseError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise Unauthenticated("The access token is not one of this service's.") from error


def _caller(claims: dict[str, Any]) -> Caller:
    """Raises KeyError or ValueError for claims that this service does not make."""
    if claims["iss"] != _ISSUER:
        raise ValueError("iss")
    if claims["aud"] == _DEVICE:
        return Device(
            tenant_id=UUID(claims["ten"]),
            store_id=UUID(claims["sto"]),
            device_id=UUID(claims["sub"]),
            suspect=claims["sus"] is True,
        )
    if claims["aud"] == _OPERATOR:
        # A claim that is there and wrong must not open every tenant.
        return Operator(UUID(claims["ten"]) if "ten" in claims else None, claims["sub"])
    if claims["aud"] == _INTEGRATOR:
        return Integrator(UUID(claims["ten"]), claims["sub"])
    raise ValueError("aud")


def _expiry(claims: dict[str, Any]) -> int:
    expires_at = claims["exp"]
    if not isinstance(expires_at, int):
        raise TypeError("exp")
    return expires_at
