"""What the agent leaves in the outbox for `status` to read, also when no agent runs. Pure."""

import json
from dataclasses import asdict, dataclass, fields

NOTE_NAME = "agent"


@dataclass(slots=True)
class AgentNote:
    """The sender's view of the link. Moments are ISO 8601 by the device's clock; empty: never."""

    link: str = "closed"
    failures_in_a_row: int = 0
    last_error: str = ""
    last_error_at: str = ""
    next_try_at: str = ""
    last_contact_at: str = ""
    last_acknowledged_at: str = ""
    history_id: str = ""
    suspect: bool = False
    gateway_port: int = 0
    edits_error: str = ""
    """Why the last push failed; empty: it did not."""
    records_error: str = ""
    """Why the last pull failed; empty: it did not."""

    @property
    def trouble(self) -> str:
        """The last error of this agent that is known, with its moment where that is; else empty."""
        when = f" (at {self.last_error_at})" if self.last_error_at else ""
        said = f"{self.last_error}{when}" if self.last_error else ""
        return said or self.edits_error or self.records_error

    def dump(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def parse(cls, text: str) -> "AgentNote":
        """The note in `text`; what cannot be read stays at its default: `status` must work."""
        try:
            held = json.loads(text or "{}")
        except ValueError:
            return cls()
        names = {f.name for f in fields(cls)}
        known = held if isinstance(held, dict) else {}
        return cls(**{name: value for name, value in known.items() if name in names})
