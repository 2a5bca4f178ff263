"""A page of a report, taken apart: its pictures, its numbers, and what it refers to."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from xml.etree import ElementTree

VOID = {"meta", "br", "link", "img"}
DRAWN = {"path", "use", "text", "rect"}


class Page(HTMLParser):
    """
    :param html: the page
    :raises AssertionError: if an element is closed that is not open
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []  # tag, name, value
        self.numbers: list[tuple[float, str]] = []  # the exact value, and what is shown
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag == "data":
            self.numbers.append((float(dict(attrs)["value"]), ""))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._open and self._open[-1] == "data":
            self.numbers[-1] = (self.numbers[-1][0], data)

    def pictures(self) -> dict[str, ElementTree.Element]:
        """The pictures by name, read as XML."""
        found = [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", self.html, re.DOTALL)]
        return {picture.get("id"): picture for picture in found}
