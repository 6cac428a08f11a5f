"""What the documents tell people to type exists."""

from pathlib import Path

import pytest

from support.commandlines import said_in_markdown, said_in_shell, trouble_of

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "protos/*.md", "deploy/**/*.md", "docker/**/*.md")
    for path in ROOT.glob(pattern)
)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_document_says_to_type_is_understood(document):
    """At three in the morning an operator copies a line: its command and each of its options are
    there."""
    troubles = [said.trouble for said in said_in_markdown(document.read_text())]

    assert list(filter(None, troubles)) == []


def test_the_readme_has_command_lines():
    """The check above sees something: the README's blocks and its spans."""
    said = list(said_in_markdown((ROOT / "README.md").read_text()))

    assert ("tillsync-service", "migrate", "up") in [line.argv for line in said]
    assert ("tillsync-agent", "run", "--gateway-port", "7411") in [line.argv for line in said]
    assert ("tillsync-service", "operator-token") in [line.argv for line in said]


@pytest.mark.parametrize(
    ("line", "trouble"),
    [
        ("tillsync-service migrate sideways", "there is no command 'sideways'"),
        ("tillsync-service migrate", "a command is missing"),
        ("tillsync-service migrate down", "REVISION is missing"),
        ("tillsync-service smoke --jsonn", "No such option"),
        ("tillsync-service loadtest --total many", "'many' is not a valid integer"),
        ("tillsync-service smoke now", "'now' is one word too many"),
        ("tillsync-agent run --log-level LOUD1", "'LOUD1' is not one of"),
        ("tillsync-agent enroll --service $HOST --code X", "name is missing"),
    ],
)
def test_a_wrong_command_line_is_noticed(line, trouble):
    """A slip in a document does not get past: a command, an option, a value or a word."""
    (said,) = said_in_shell(line)

    assert trouble in said.trouble


def test_programs_are_told_from_names():
    """Only what is run is held against the commands, not an image or a unit of the same name."""
    script = """
        docker build -t tillsync-agent .
        systemctl restart tillsync-agent
        A=1 sudo -u till /opt/tillsync/bin/tillsync-agent drain --timeout 5 2> errors
        export T="$(tillsync-service operator-token --hours 1)"
        kubectl exec deploy/tillsync-service -- tillsync-service settings | grep LISTEN
        docker compose -f a.yaml --env-file .env exec service tillsync-service migrate \\
          status && echo done
    """

    assert [said.argv[:3] for said in said_in_shell(script)] == [
        ("tillsync-agent", "drain", "--timeout"),
        ("tillsync-service", "operator-token", "--hours"),
        ("tillsync-service", "settings"),
        ("tillsync-service", "migrate", "status"),
    ]
    assert trouble_of(["tillsync-service", "devices"], is_mention=True) == ""
