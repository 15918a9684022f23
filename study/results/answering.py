"""What an API said that answered: each model's name and system_fingerprint, as the records have them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from warmeng.study.results.records import FILE, read_records


def answering(folder: Path) -> list[tuple[str, str | None, int]]:
    """Return each model that answered or judged behind an API, its fingerprint where it told one, and how often."""
    found = Counter[tuple[str, str | None]]()
    for record in read_records(folder / FILE):
        if record.get("answered_by"):
            found[record["answered_by"], record.get("fingerprint")] += 1
    return [(model, fingerprint, count) for (model, fingerprint), count in found.most_common()]


def answering_words(found: list[tuple[str, str | None, int]]) -> str:
    """Return it in words."""
    told = ((model, fingerprint or "no fingerprint", count) for model, fingerprint, count in found)
    return "; ".join(f"{model} ({fingerprint}) {count:,} times" for model, fingerprint, count in told)
