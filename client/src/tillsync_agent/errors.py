"""What can go wrong on a device, split by what the caller must do.

AgentError
├── EventNotRecordable      correct the event; `field` names what is wrong with it
├── OutboxUnavailable       nothing was recorded: tell a person, then record the same event again
│   ├── OutboxFull          free disk space
│   ├── OutboxBusy          another program held the outbox too long: again in a moment
│   ├── ReplicaReplaced     pull anew: the copy was set aside and begun again
│   ├── OutboxTooNew        update this program; the outbox was written by a later release
│   └── JoinRefused         correct how the point of sale opens its database or its transaction
├── EditRefused             correct the edit; `field` names what is wrong with it
├── CollectionUnknown       correct the name, or wait for the first load
├── RecordMissing           put or add it: there is nothing to patch or delete
├── OutboxInUse             stop the other agent; one outbox has one sender
├── SettingInvalid          correct the setting; the message is one line that names it
├── AddressUnusable         correct the address of the service
├── NotEnrolled             enrol this device (again)
└── EnrolmentRefused        ask the operator for a new code; `reason` is the service's own word
"""

from collections.abc import Sequence
from pathlib import Path


class AgentError(Exception):
    """The root: whatever this distribution raises on purpose."""


class EventNotRecordable(AgentError, ValueError):
    """The event can never be stored as it is. Nothing was recorded."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        """key, body, business_day, amounts or occurred_at."""


class EditRefused(AgentError, ValueError):
    """The edit can never be applied, or the question never answered. Nothing was written."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


class CollectionUnknown(AgentError, LookupError):
    """The copy has no such collection. Nothing was written."""

    def __init__(self, collection: str, names: Sequence[str]) -> None:
        known = f"there are {', '.join(names)}" if names else "nothing was loaded here yet"
        super().__init__(f"collection: there is no {collection!r}; {known}")


class RecordMissing(AgentError, LookupError):
    """There is no such record to patch or delete. Nothing was written."""

    def __init__(self, collection: str, record_id: str) -> None:
        super().__init__(f"record_id: there is no {record_id!r} in {collection}")


class OutboxUnavailable(AgentError):
    """Nothing was recorded, and what was recorded before is still there."""


class OutboxFull(OutboxUnavailable):
    """The disk is full."""


class OutboxBusy(OutboxUnavailable):
    """Another program held the outbox for longer than we are willing to wait."""


class ReplicaReplaced(OutboxUnavailable):
    """The copy that a stream belonged to was torn, and another one was begun."""


class OutboxTooNew(OutboxUnavailable):
    """The outbox has a layout that only a later release knows."""


class JoinRefused(OutboxUnavailable):
    """The point of sale's own database cannot make a sale durable the way it is being used."""


class OutboxInUse(AgentError):
    """Another agent is sending from this outbox."""

    def __init__(self, path: Path, pid: int | None) -> None:
        whom = f"process {pid}" if pid else "another process"
        super().__init__(
            f"{path} is already being sent by {whom}; stop it, or let it do the sending"
        )
        self.path = path
        self.pid = pid


class SettingInvalid(AgentError):
    """A setting is missing, misspelt or out of its range."""


class AddressUnusable(AgentError):
    """No connection can ever be made with this address."""


class NotEnrolled(AgentError):
    """The device has no identity that the service could know."""


class EnrolmentRefused(AgentError):
    """The service did not enrol this device."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        """The name of an ErrorReason, or of a gRPC status, for example "CODE_USED"."""
