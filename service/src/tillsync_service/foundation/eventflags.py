"""What was noticed about an event: a set of bits in the database, a list in the contract. Pure."""

from functools import lru_cache

from tillsync.v1 import event_pb2


@lru_cache(maxsize=256)
def flags_of(bits: int) -> "tuple[event_pb2.EventFlag.ValueType, ...]":
    """The flags in a set of bits, 1 << flag each."""
    return tuple(flag for flag in event_pb2.EventFlag.values() if flag and bits & 1 << flag)
