"""Which tokens open the door, and which do not."""

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import OctKey, OKPKey, RSAKey

from tillsync.v1.error_reason_pb2 import ErrorReason
from tillsync_service.fleet import tokens
from tillsync_service.fleet.keys import KeyFile, add_key, create_key_file
from tillsync_service.fleet.standing import Verdict
from tillsync_service.fleet.tokens import LEEWAY_SECONDS, TokenIssuer, TokenVerifier
from tillsync_service.foundation import limits
from tillsync_service.foundation.errors import PermissionDenied, Unauthenticated
from tillsync_service.foundation.identity import Device, Integrator, Operator

DEVICE = Device(tenant_id=uuid4(), store_id=uuid4(), device_id=uuid4())


class Clock:
    def __init__(self):
        self.now = datetime(2026, 3, 7, 9, 30, tzinfo=UTC)

    def __call__(self):
        return self.now

    def passes(self, seconds):
        self.now += timedelta(seconds=seconds)


class StandingOf:
    """Holds against a device what the test says."""

    def __init__(self):
        self.held = {}

    def of(self, device_id):
        return self.held.get(device_id, Verdict.GOOD)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def standing():
    return StandingOf()


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "keys.json"
    create_key_file(path)
    return path


@pytest.fixture
def keys(path):
    return KeyFile(path)


@pytest.fixture
def issuer(keys, clock):
    return TokenIssuer(keys, clock)


@pytest.fixture
def verifier(keys, standing, clock):
    return TokenVerifier(keys, standing, clock)


def encoded(content):
    return base64.urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=")


def good_claims(clock, **changes):
    now = int(clock().timestamp())
    claims = {
        "iss": "tillsync",
        "aud": "device",
        "sub": str(DEVICE.device_id),
        "ten": str(DEVICE.tenant_id),
        "sto": str(DEVICE.store_id),
        "sus": False,
        "iat": now,
        "exp": now + 900,
    }
    claims.update(changes)
    return {name: value for name, value in claims.items() if value is not ...}


def signed(keys, claims, *, algorithm="Ed25519", key=None, **header):
    header = {"alg": algorithm, "kid": keys.keys().signing_kid, **header}
    return jwt.encode(header, claims, key or keys.keys().signing, algorithms=[algorithm])


def assert_refused(verifier, token, reason="TOKEN_INVALID"):
    with pytest.raises(Unauthenticated) as refusal:
        verifier.authenticate(token)
    assert ErrorReason.Name(refusal.value.reason) == f"ERROR_REASON_{reason}"
    return str(refusal.value)


def test_a_till_is_let_in_with_its_token(issuer, verifier):
    """A till's calls are known to come from it, its store and its tenant, for a quarter hour."""
    token, seconds = issuer.device_token(DEVICE)

    assert verifier.authenticate(token) == DEVICE
    assert seconds == limits.ACCESS_TOKEN_SECONDS


def test_a_suspect_till_stays_suspect_by_its_token_alone(issuer, verifier):
    """A cloned till gets nothing but its sales through, also on a replica that has not heard."""
    suspect = Device(DEVICE.tenant_id, DEVICE.store_id, DEVICE.device_id, suspect=True)

    token, _ = issuer.device_token(suspect)

    assert verifier.authenticate(token) == suspect


@pytest.mark.parametrize("tenant_id", [None, uuid4()])
def test_an_operator_is_let_in_as_far_as_the_token_goes(issuer, verifier, tenant_id):
    """An operator manages one tenant, or all of them: as the token was made."""
    token = issuer.operator_token("night shift", tenant_id, 3600)

    assert verifier.authenticate(token) == Operator(tenant_id, "night shift")


def test_an_integrator_is_let_in_for_its_tenant_only(keys, issuer, verifier, clock):
    """The ERP's token is for one tenant's feed: one without a tenant is none."""
    tenant_id = uuid4()

    token = issuer.integrator_token("erp", tenant_id, 3600)

    assert verifier.authenticate(token) == Integrator(tenant_id, "erp")
    for wrong in (..., "", None, "all"):
        claims = good_claims(clock, aud="integrator", sub="erp", ten=wrong)
        assert_refused(verifier, signed(keys, claims))
    clock.passes(3600 + LEEWAY_SECONDS)
    assert_refused(verifier, token, "TOKEN_EXPIRED")


def test_a_token_ends_with_its_time_although_its_signature_was_remembered(issuer, verifier, clock):
    """A till that slept hears TOKEN_EXPIRED and fetches a new token; a stream ends in time."""
    token, seconds = issuer.device_token(DEVICE)
    verifier.authenticate(token)

    clock.passes(seconds + LEEWAY_SECONDS - 1)
    assert verifier.authenticate(token) == DEVICE

    clock.passes(1)
    assert_refused(verifier, token, "TOKEN_EXPIRED")


def test_what_an_operator_decides_works_on_tokens_that_are_known(issuer, verifier, standing):
    """A stolen till is out although its token runs on; a cloned one is down to its sales."""
    token, _ = issuer.device_token(DEVICE)
    verifier.authenticate(token)

    standing.held[DEVICE.device_id] = Verdict.SUSPECT
    assert verifier.authenticate(token).suspect

    standing.held[DEVICE.device_id] = Verdict.REVOKED
    with pytest.raises(PermissionDenied) as refusal:
        verifier.authenticate(token)
    assert refusal.value.reason == ErrorReason.ERROR_REASON_DEVICE_REVOKED


def test_an_operator_is_let_in_while_nobody_knows_who_was_revoked(issuer, keys, clock):
    """An operator can look around while the database is away: standing is about devices."""
    verifier = TokenVerifier(keys, None, clock)

    assert verifier.authenticate(issuer.operator_token("x", None, 60)) == Operator(None, "x")


def test_a_signature_is_checked_once(issuer, verifier, monkeypatch):
    """Two thousand tills with good tokens do not cost two thousand signature checks a second."""
    token, _ = issuer.device_token(DEVICE)
    verifier.authenticate(token)

    monkeypatch.setattr(tokens.jwt, "decode", None)

    assert verifier.authenticate(token) == DEVICE


def test_remembered_tokens_are_bounded_and_the_busy_ones_stay(issuer, verifier, monkeypatch):
    """A flood of logins does not fill the service's memory, nor push out who is busy."""
    monkeypatch.setattr(limits, "MAX_CACHED_TOKENS", 2)
    busy, idle, third = (issuer.device_token(DEVICE)[0] for _ in range(3))

    for token in (busy, idle, busy, third):
        verifier.authenticate(token)

    assert set(verifier._checked) == {busy, third}


def test_rotating_keys_keeps_the_tokens_of_the_old_one(path, issuer, verifier, keys):
    """An operator rotates the key on a Saturday, and no till notices."""
    old, _ = issuer.device_token(DEVICE)

    add_key(path)
    new, _ = issuer.device_token(DEVICE)

    assert verifier.authenticate(old) == verifier.authenticate(new) == DEVICE
    assert jwt.decode(new, keys.keys().signing, algorithms=["Ed25519"]).header["kid"] == (
        keys.keys().signing_kid
    )


def test_taking_a_key_away_ends_the_tokens_that_were_remembered(path, issuer, verifier):
    """A key that leaked is taken out of the file, and what it signed is worth nothing at once."""
    token, _ = issuer.device_token(DEVICE)
    verifier.authenticate(token)

    path.unlink()
    create_key_file(path)

    assert_refused(verifier, token)


def test_a_token_without_signature_is_refused(keys, verifier, clock):
    """Nobody gets in by saying that no signature is needed (alg none)."""
    for algorithm in ("none", "None", "nOnE"):
        header = encoded({"alg": algorithm, "kid": keys.keys().signing_kid})
        claims = encoded(good_claims(clock))
        assert_refused(verifier, (header + b"." + claims + b".").decode())


def test_a_token_signed_with_the_public_key_as_a_password_is_refused(keys, verifier, clock):
    """Nobody gets in by signing with what everybody may know (HS256 with the public key)."""
    public = keys.keys().signing.as_dict(private=False)
    for password in (
        public["x"].encode(),
        json.dumps(public).encode(),
        base64.urlsafe_b64decode(public["x"] + "="),
        keys.keys().signing.as_pem(private=False),
    ):
        header = encoded({"alg": "HS256", "kid": keys.keys().signing_kid})
        signing_input = header + b"." + encoded(good_claims(clock))
        digest = hmac.digest(password, signing_input, hashlib.sha256)
        signature = base64.urlsafe_b64encode(digest).rstrip(b"=")
        assert_refused(verifier, (signing_input + b"." + signature).decode())


@pytest.mark.filterwarnings("ignore::joserfc.errors.SecurityWarning")
def test_no_other_algorithm_is_accepted(keys, verifier, clock):
    """One algorithm and no choice: EdDSA (its older name), Ed448, RSA and HMAC are refused."""
    claims = good_claims(clock)
    others = [
        ("EdDSA", keys.keys().signing),
        ("Ed448", OKPKey.generate_key("Ed448")),
        ("RS256", RSAKey.generate_key(2048)),
        ("HS256", OctKey.generate_key(256)),
    ]
    for algorithm, key in others:
        assert_refused(verifier, signed(keys, claims, algorithm=algorithm, key=key))


def test_a_token_of_another_service_is_refused(verifier, keys, clock):
    """A token of the staging service, or of an attacker's own key, opens nothing."""
    foreign = OKPKey.generate_key("Ed25519", auto_kid=True)
    claims = good_claims(clock)

    assert_refused(verifier, signed(keys, claims, key=foreign))
    assert_refused(verifier, signed(keys, claims, key=foreign, kid=foreign.kid))
    assert_refused(verifier, signed(keys, claims, key=foreign, jwk=foreign.as_dict(private=False)))


def test_a_token_without_a_known_key_id_is_refused(verifier, keys, clock):
    """A key is named by its id; none, or one that is no text, does not mean "try them all"."""
    assert_refused(verifier, signed(keys, good_claims(clock), kid="other"))
    for kid in (..., None, ["x"], {"x": 1}):
        header = {"alg": "Ed25519"} if kid is ... else {"alg": "Ed25519", "kid": kid}
        signing_input = encoded(header) + b"." + encoded(good_claims(clock))
        signature = keys.keys().signing.get_op_key("sign").sign(signing_input)
        tail = base64.urlsafe_b64encode(signature).rstrip(b"=")
        assert_refused(verifier, (signing_input + b"." + tail).decode())


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "other"},
        {"iss": ...},
        {"aud": "admin"},
        {"aud": ...},
        {"aud": ["device"]},
        {"sub": "till 3"},
        {"sub": 7},
        {"ten": ...},
        {"ten": None},
        {"sto": ...},
        {"sus": ...},
        {"exp": ...},
        {"exp": None},
        {"exp": "never"},
        {"exp": float("inf")},
        {"aud": "operator", "ten": None},
        {"aud": "operator", "ten": ""},
        {"aud": "operator", "ten": "all"},
    ],
    ids=str,
)
def test_claims_that_this_service_does_not_make_are_refused(keys, verifier, clock, changes):
    """A token that lacks something opens nothing; least of all every tenant."""
    assert_refused(verifier, signed(keys, good_claims(clock, **changes)))


@given(text=st.text(max_size=300) | st.lists(st.text(), min_size=3, max_size=3).map(".".join))
@settings(max_examples=300)
def test_garbage_is_an_invalid_token_and_nothing_else(tmp_path_factory, text):
    """A proxy's garbage in the header makes a till fetch a new token and nothing worse."""
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    create_key_file(path)
    verifier = TokenVerifier(KeyFile(path), None, Clock())

    assert_refused(verifier, text)


def test_a_refusal_says_nothing_about_why(issuer, keys, verifier, clock):
    """Whoever tries doors hears the same every time, and nothing of the library's own words."""
    token, _ = issuer.device_token(DEVICE)
    texts = {
        assert_refused(verifier, token[:-4] + "AAAA"),
        assert_refused(verifier, "x"),
        assert_refused(verifier, signed(keys, good_claims(clock, iss="other"))),
        assert_refused(verifier, signed(keys, good_claims(clock), kid="other")),
    }

    assert texts == {"The access token is not one of this service's."}


@given(cut=st.integers(0, 500), byte=st.sampled_from("Ab9-_."))
@settings(max_examples=200)
def test_a_token_with_one_character_changed_is_refused(tmp_path_factory, cut, byte):
    """Nobody lifts a limit by editing a token."""
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    create_key_file(path)
    clock = Clock()
    keys = KeyFile(path)
    token, _ = TokenIssuer(keys, clock, new_id=lambda: UUID(int=7)).device_token(DEVICE)
    at = cut % (len(token) - 2)  # the last character of a signature has bits that say nothing
    changed = token[:at] + byte + token[at + 1 :]

    if changed != token:
        assert_refused(TokenVerifier(keys, StandingOf(), clock), changed)
