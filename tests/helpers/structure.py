"""What a report page is made of: its headings, the ids of its sections and figures, its tables' columns."""

from __future__ import annotations

from html.parser import HTMLParser


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.inside: str | None = None
        self.text = ""
        self.head = False
        self.columns: list[str] = []
        self.table = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag in ("section", "figure", "header"):
            self.lines.append(f"{tag} #{found.get('id')}")
        elif tag == "table":
            self.table, self.columns = str(found.get("id")), []
        elif tag == "thead":
            self.head = True
        elif tag in ("h1", "h2", "h3", "dt") or (tag == "th" and self.head):
            self.inside, self.text = tag, ""

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.text += data

    def handle_endtag(self, tag: str) -> None:
        if tag == "thead":
            self.head = False
            self.lines.append(f"table #{self.table}: {', '.join(self.columns)}")
        elif tag == self.inside:
            self.inside = None
            if tag == "th":
                self.columns.append(self.text)
            else:
                self.lines.append(f"{tag} {self.text}")


def structure(html: str) -> list[str]:
    """Return a page's headings, sections, figures, names of facts and tables with their columns, in order."""
    reader = _Reader()
    reader.feed(html)
    return reader.lines
