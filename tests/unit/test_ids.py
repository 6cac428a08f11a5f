"""Keys and epochs that a device mints by itself."""

from uuid import UUID

from tillsync_agent.ids import KeyMint, mint_epoch


def test_keys_ascend_when_the_clock_is_set_back():
    """Sales keep their order in every index although the till's clock jumps back by a day."""
    times = iter([86_400_000, 86_400_000, 0, 5, 86_400_001])
    mint = KeyMint(clock_ms=lambda: next(times))

    keys = [mint() for _ in range(5)]

    assert keys == sorted(set(keys))


def test_key_is_a_uuid_of_version_7_that_says_when():
    """Head office's index stays small and local: keys are UUIDv7 with the time in front."""
    key = UUID(KeyMint(clock_ms=lambda: 1_795_305_600_123)())

    assert key.version == 7
    assert key.variant == "specified in RFC 4122"
    assert key.int >> 80 == 1_795_305_600_123


def test_two_processes_do_not_mint_the_same_key_in_one_millisecond():
    """Two tills that sell in the same instant make two sales and not a conflict."""
    keys = {KeyMint(clock_ms=lambda: 7)() for _ in range(1000)}

    assert len(keys) == 1000


def test_key_can_be_minted_by_a_clock_before_1970():
    """A till whose battery died sells on, with a key like any other."""
    assert UUID(KeyMint(clock_ms=lambda: -5)()).int >> 80 == 0


def test_epochs_are_positive_and_differ():
    """No two outboxes number their sales alike, so that a clone is noticed."""
    epochs = {mint_epoch() for _ in range(1000)}

    assert len(epochs) == 1000
    assert all(0 < epoch < 2**63 for epoch in epochs)
