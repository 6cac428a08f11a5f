"""A PushRequest, checked and in plain values. Pure."""

import hashlib

from tillsync.v1 import sync_service_pb2 as pb
from tillsync.v1.error_reason_pb2 import ErrorReason
from tillsync_service.foundation import fields, limits
from tillsync_service.foundation.errors import InvalidRequest
from tillsync_service.sync import scopes
from tillsync_service.sync.edits import Edit

KINDS = {
    pb.MUTATION_KIND_PUT: "put",
    pb.MUTATION_KIND_PATCH: "patch",
    pb.MUTATION_KIND_ADD: "add",
    pb.MUTATION_KIND_DELETE: "delete",
}
_MOST = 2**63 - 1
_DIGEST_BYTES = 16


def edits_of(request: pb.PushRequest) -> list[Edit]:
    """The edits of a request. What no agent sends is raised, as InvalidRequest; what is wrong with
    an edit that somebody made becomes its outcome."""
    if request.epoch <= 0:
        raise InvalidRequest("epoch", "A positive number.")
    if not 1 <= len(request.mutations) <= limits.MAX_MUTATIONS:
        raise InvalidRequest("mutations", f"1 to {limits.MAX_MUTATIONS} edits.")
    first = request.mutations[0].sequence
    if not 1 <= first <= _MOST - limits.MAX_MUTATIONS:
        raise InvalidRequest("mutations[0].sequence", "Numbers begin at 1.")
    return [_edit(place, first, m) for place, m in enumerate(request.mutations)]


def _edit(place: int, first: int, mutation: pb.Mutation) -> Edit:
    at = f"mutations[{place}]"
    if mutation.sequence != first + place:
        raise InvalidRequest(
            f"{at}.sequence",
            f"{first + place} comes here, not {mutation.sequence}.",
            reason=ErrorReason.ERROR_REASON_MUTATION_GAP,
        )
    if mutation.kind not in KINDS:
        raise InvalidRequest(f"{at}.kind", "One of PUT, PATCH, ADD and DELETE.")
    if mutation.base_version < 0:
        raise InvalidRequest(f"{at}.base_version", "A version, or 0 for none.")
    if len(mutation.body) > limits.MAX_RECORD_BYTES or "\0" in mutation.body:
        raise InvalidRequest(
            f"{at}.body", f"At most {limits.MAX_RECORD_BYTES:,} bytes of JSON, no NUL."
        )
    fields.text(f"{at}.mutation_id", mutation.mutation_id, limits.MAX_MUTATION_ID_CHARACTERS)
    scope = scopes.of_wire(f"{at}.store_id", mutation.store_id)
    key = (
        fields.text(f"{at}.collection", mutation.collection, limits.MAX_COLLECTION_CHARACTERS),
        scope,
        fields.text(f"{at}.record_id", mutation.record_id, limits.MAX_RECORD_ID_CHARACTERS),
    )
    digest = hashlib.sha256(mutation.SerializeToString(deterministic=True)).digest()
    return Edit(
        mutation.sequence,
        key,
        KINDS[mutation.kind],
        mutation.base_version,
        mutation.body,
        digest[:_DIGEST_BYTES],
    )
