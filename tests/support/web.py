"""Asking a service over HTTP, from beside its loop."""

import asyncio
import re
import urllib.error
import urllib.request
from collections.abc import Iterator


async def get(port: int, path: str) -> tuple[int, str]:
    """Status and text of what is at the path."""
    return await asyncio.to_thread(_get, f"http://127.0.0.1:{port}{path}")


def _get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


async def scraped(port: int) -> "Series":
    status, text = await get(port, "/metrics")
    assert status == 200
    return Series(text)


class Series:
    """What a scrape said."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._values = dict(_lines(text))

    @property
    def names(self) -> set[str]:
        """The families' names, as a person would type them."""
        return set(re.findall(r"^# TYPE (\S+) ", self.text, re.MULTILINE))

    def value(self, name: str, **labels: str) -> float:
        """The sum of the series that have these labels."""
        found = [
            value
            for (each, theirs), value in self._values.items()
            if each == name and labels.items() <= dict(theirs).items()
        ]
        assert found, f"no {name} with {labels}"
        return sum(found)

    def labels(self, name: str) -> list[dict[str, str]]:
        return [dict(labels) for each, labels in self._values if each == name]


def _lines(text: str) -> Iterator[tuple[tuple[str, tuple[tuple[str, str], ...]], float]]:
    for name, labels, value in re.findall(r"^(\w+)(?:\{(.*)\})? (\S+)$", text, re.MULTILINE):
        yield (name, tuple(re.findall(r'(\w+)="([^"]*)"', labels))), float(value)
