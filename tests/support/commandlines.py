"""Every `tillsync-service …` and `tillsync-agent …` that a document, a script or a workflow says,
held against the commands that there are.

    trouble_of(argv)          what is wrong with one command line, in words
    said_in_shell(text)       the command lines in a shell script
    said_in_markdown(text)    those in a document's code: blocks in full, `spans` as mentions
    said_in_yaml(document)    those in a parsed workflow, compose file or manifest
    said_in_dockerfile(text)  what an image runs
"""

import json
import re
import shlex
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import click

from tillsync_agent.cli import main as agent
from tillsync_service.cli import main as service

PROGRAMS: dict[str, click.Command] = {"tillsync-service": service, "tillsync-agent": agent}

_PROGRAM = re.compile(r"(?<![\w-])(tillsync-(?:service|agent))(?:\.exe)?[\"']?(?=[\s`)\"']|$)")
# What may stand before a program that is run: its path, and before that what runs what follows.
_RUNS_WHAT_FOLLOWS = re.compile(
    r"""^\s*
    (?:(?:sudo(?:\s-u\s\S+)?|exec|env|time|if|while|until|!|then|do|else|\$|&|timeout\s\S+
        |docker\scompose(?:\s-f\s\S+|\s--\S+\s\S+)*\s(?:exec|run)(?:\s-\S+)*\s\w+
        |(?:kubectl|docker)\s.*\s--|\w+=\S*)\s+)*
    (?:["'][^"']*|[^\s"']*)$""",
    re.VERBOSE,
)
_SEPARATOR = re.compile(r"\|\|?|&&|;|\$\(|`")
_EXPRESSION = re.compile(r"\$\{\{.*?\}\}")  # a workflow's
_FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
_INDENTED = re.compile(r"(?:^(?: {4}.*)?\n)+", re.MULTILINE)
_SPAN = re.compile(r"`([^`]+)`")
_SHELLS = {"", "sh", "bash", "console", "powershell"}
_HELP = {"-h", "--help", "--version"}
# A value that stands for another one.
_PLACEHOLDER = re.compile(r"[$…<%{]|^[A-Z][A-Z_-]+$")


class Said(NamedTuple):
    """A command line somewhere. A mention need not name everything that the command wants."""

    argv: tuple[str, ...]
    is_mention: bool = False

    @property
    def trouble(self) -> str:
        """What is wrong with it; empty if nothing is."""
        found = trouble_of(self.argv, is_mention=self.is_mention)
        return f"{shlex.join(self.argv)}: {found}" if found else ""


def trouble_of(argv: Sequence[str], *, is_mention: bool = False) -> str:
    """What is wrong with a command line, its program first; empty if nothing is."""
    context = _context(PROGRAMS[argv[0]], None, argv[0])
    words = list(argv[1:])
    if words[:1] in (["…"], ["..."]):
        return ""
    try:
        while True:
            command = context.command
            given, words, _ = command.make_parser(context).parse_args(words)
            if any(given.get(name) for name in ("help", "version")):
                return ""
            _must_fit(command, given, context, is_mention=is_mention)
            if not isinstance(command, click.Group):
                return f"{words[0]!r} is one word too many" if words else ""
            if not words:
                return "" if is_mention else "a command is missing"
            below = command.get_command(context, words[0])
            if below is None:
                return f"there is no command {words[0]!r}"
            context = _context(below, context, words.pop(0))
    except click.UsageError as error:
        return error.format_message()


def _must_fit(
    command: click.Command, given: dict[str, object], context: click.Context, *, is_mention: bool
) -> None:
    for parameter in command.get_params(context):
        value = given.get(parameter.name)
        if (
            not is_mention
            and parameter.required
            and not (value and isinstance(value, str | list | tuple))
        ):
            raise click.UsageError(f"{parameter.human_readable_name} is missing")
        if isinstance(parameter.type, click.Choice | click.types.IntParamType | click.FloatRange):
            for one in value if isinstance(value, list | tuple) else [value]:
                if isinstance(one, str) and not _PLACEHOLDER.search(one):
                    parameter.type.convert(one, parameter, context)


def said_in_shell(text: str, *, is_mention: bool = False) -> Iterator[Said]:
    """The command lines in a script: where one of our programs is run, and not merely named."""
    joined = re.sub(r"[\\`]\n\s*", " ", _EXPRESSION.sub("$EXPRESSION", text))
    for line in joined.splitlines():
        for found in _PROGRAM.finditer(line):
            before = _SEPARATOR.split(line[: found.start()])[-1]
            if _RUNS_WHAT_FOLLOWS.match(before):
                words = _words(line[found.end() :])
                yield Said((found[1], *words), is_mention)


def said_in_markdown(text: str) -> Iterator[Said]:
    """The command lines in a document's code: a block's are to be typed, a span's are mentions."""
    for language, block in _FENCED.findall(text):
        if language in _SHELLS:
            yield from said_in_shell(block)
    rest = _FENCED.sub("\n", text)
    for block in _INDENTED.findall(rest):
        yield from said_in_shell(block)
    for span in _SPAN.findall(_INDENTED.sub("\n", rest).replace("\n", " ")):
        yield from said_in_shell(span, is_mention=True)


def said_in_yaml(node: object) -> Iterator[Said]:
    """The command lines in a parsed document: in its texts, and in lists that begin with one."""
    if isinstance(node, str):
        yield from said_in_shell(node)
    elif isinstance(node, dict):
        for below in node.values():
            yield from said_in_yaml(below)
    elif isinstance(node, list):
        words = [str(word) for word in node if not isinstance(word, dict | list)]
        words = words[1:] if words[:1] == ["CMD"] else words
        if words and words[0] in PROGRAMS and len(words) > 1:
            yield Said(tuple(words))
        else:
            for below in node:
                yield from said_in_yaml(below)


def said_in_dockerfile(text: str) -> Iterator[Said]:
    """What the last stage of a Dockerfile runs: its entry point with its command, and its check."""
    joined = re.sub(r"\\\n\s*", " ", text)
    forms = dict(re.findall(r"^(ENTRYPOINT|CMD) (\[.*\])$", joined, re.MULTILINE))
    yield Said((*json.loads(forms["ENTRYPOINT"]), *json.loads(forms["CMD"])))
    for check in re.findall(r"^HEALTHCHECK .*?CMD (.*)$", joined, re.MULTILINE):
        if check.startswith("["):
            yield Said(tuple(json.loads(check)))
        else:
            yield from said_in_shell(check)


def _words(rest: str) -> list[str]:
    """The words up to where the command ends."""
    quote, end = "", len(rest)
    for at, character in enumerate(rest):
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            if character not in rest[at + 1 :]:
                end = at  # it closes one that began before the program
                break
            quote = character
        elif character in "|;&)<>`" or (character == "#" and rest[at - 1 : at] == " "):
            end = at
            break
    words = shlex.split(rest[:end].replace("\\", "\\\\"))
    is_redirected = rest[end : end + 1] == ">" and rest[end - 1 : end].isdigit()
    return words[:-1] if is_redirected else words


def _context(command: click.Command, parent: click.Context | None, name: str) -> click.Context:
    """As click itself makes it: a command keeps the names of its help option from the first."""
    settings = command.context_settings
    return click.Context(command, parent=parent, info_name=name, **settings)
