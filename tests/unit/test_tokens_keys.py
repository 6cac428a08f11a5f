"""The file with the signing keys."""

import json
import os
import stat

import pytest
from joserfc.jwk import OKPKey
from structlog.testing import capture_logs

from tillsync_service.fleet import keys as keys_module
from tillsync_service.fleet.keys import KeyFile, KeyFileError, add_key, create_key_file


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "keys.json"
    create_key_file(path)
    return path


def kids(path):
    return [key["kid"] for key in json.loads(path.read_text())["keys"]]


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_file_is_the_owners_alone(path):
    """Whoever else has an account on the server cannot make tokens."""
    assert mode(path) == 0o600
    assert len(kids(path)) == 1


def test_a_file_that_is_there_is_not_written_over(path):
    """An operator who asks for keys twice does not lock out every till."""
    before = path.read_bytes()

    with pytest.raises(
        KeyFileError, match=r"exists and stays as it is; .* `tillsync-service keys rotate "
    ):
        create_key_file(path)

    assert path.read_bytes() == before


def test_an_added_key_signs_and_the_older_ones_stay(path):
    """An operator rotates: the new key signs, tokens of the old one stay good, and the file is as
    private as before."""
    old = kids(path)

    add_key(path)

    assert kids(path)[1:] == old
    assert KeyFile(path).keys().signing_kid == kids(path)[0]
    assert mode(path) == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_keys_are_read_again_when_the_file_changes_and_only_then(path, monkeypatch):
    """Keys rotate without a restart, and a quiet file costs no reading."""
    file = KeyFile(path)
    first = file.keys()

    add_key(path)
    second = file.keys()

    assert second.signing_kid == kids(path)[0] != first.signing_kid
    monkeypatch.setattr(keys_module, "_read", None)
    assert file.keys() is second


@pytest.mark.parametrize("spoil", ["unlink", "garbage", "chmod"])
def test_a_slip_while_rotating_leaves_the_keys_as_they_were(path, spoil):
    """An operator's typing error in the key file stops no till; the log says it, once."""
    file = KeyFile(path)
    before = file.keys()

    if spoil == "unlink":
        path.unlink()
    elif spoil == "garbage":
        path.write_text('{"keys": [')
    else:
        path.chmod(0o644)
        os.utime(path, (1, 1))
    with capture_logs() as logs:
        assert file.keys() is before
        assert file.keys() is before

    assert [line["event"] for line in logs] == ["signing_keys_not_reloaded"]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root gives files away")
def test_rotating_as_root_does_not_take_the_file_from_the_service(path, tmp_path):
    """An operator rotates with sudo, through a link: the service's account reads the file still,
    and the link stays one."""
    os.chown(path, 1234, 4321)
    path.chmod(0o640)
    link = tmp_path / "link"
    link.symlink_to(path)

    add_key(link)

    assert (path.stat().st_uid, path.stat().st_gid, mode(path)) == (1234, 4321, 0o640)
    assert link.is_symlink()
    assert len(kids(path)) == 2


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX's")
@pytest.mark.parametrize("readable_by", [0o640, 0o604, 0o660, 0o644])
def test_a_file_that_others_can_read_is_refused(path, readable_by):
    """The service does not start with keys that anybody on the machine can copy."""
    path.chmod(readable_by)

    with pytest.raises(KeyFileError, match="chmod 600"):
        KeyFile(path)


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX's")
def test_a_file_of_another_owner_may_be_read_by_its_group(path, monkeypatch):
    """A secret that a container gets (root's, readable by its group) is good enough."""
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)

    path.chmod(0o640)
    KeyFile(path)
    path.chmod(0o644)
    with pytest.raises(KeyFileError, match="chmod 600"):
        KeyFile(path)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"keys": []}',
        '{"keys": [7]}',
        '{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}',
        json.dumps({"keys": [OKPKey.generate_key("Ed448").as_dict(private=True)]}),
        json.dumps({"keys": [OKPKey.generate_key("Ed25519").as_dict(private=False)]}),
        "\x80",
    ],
    ids=range(9),
)
def test_a_file_without_usable_keys_is_refused_in_one_line(path, content):
    """An operator who names the wrong file reads which file and what it lacks, and no key of it
    stands in the message."""
    path.write_text(content, encoding="latin-1")

    with pytest.raises(KeyFileError) as refusal:
        KeyFile(path)

    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert "c2VjcmV0" not in str(refusal.value)


def test_a_missing_file_is_named(tmp_path):
    """An operator who mistypes the path reads the path, not a traceback."""
    with pytest.raises(KeyFileError, match="nowhere"):
        KeyFile(tmp_path / "nowhere")
    with pytest.raises(KeyFileError, match="nowhere"):
        add_key(tmp_path / "nowhere")
    with pytest.raises(KeyFileError, match="cannot be written"):
        create_key_file(tmp_path / "no" / "folder")
