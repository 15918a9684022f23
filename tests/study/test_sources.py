"""Where the embedded questions' answers were read, and how each was checked a second time."""

import calendar
import hashlib
import json
import math
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from warmeng.study.tasks.registry import load_tasks
from warmeng.study.tasks.task import EMBEDDED, FOLDER

SOURCES = FOLDER.parent / "sources.jsonl"
CARD = Path(__file__).parents[2] / "docs" / "questions.md"
LINKED = ("page", "textbook", "factbook")
MEANS = {
    "page": "public page",
    "textbook": "textbook",
    "factbook": "factbook",
    "dictionary": "dictionary",
    "package": "data package",
    "recomputed": "recomputed",
    "none found": "none found",
}
ITEMS = {item.id: item for task in load_tasks(["all"]) for item in task.items}
ROWS = [json.loads(line) for line in SOURCES.read_text(encoding="utf-8").splitlines()]


def of(item):
    return hashlib.sha256(f"{item.question}\n{item.answer}".encode()).hexdigest()[:12]


def test_every_item_has_a_source_and_none_is_stale():
    """A changed question or answer needs its source and its second check again: then ``checked`` is renewed."""
    assert Counter(row["id"] for row in ROWS) == Counter(list(ITEMS))
    stale = [(row["id"], of(ITEMS[row["id"]])) for row in ROWS if row["checked"] != of(ITEMS[row["id"]])]
    assert not stale


def test_both_checks_say_what_they_are_and_differ():
    for row in ROWS:
        assert set(row) == {"id", "checked", "source", "second"}, row["id"]
        for part, allowed in (("source", (*LINKED, "dictionary", "none found")), ("second", tuple(MEANS))):
            found = row[part]
            assert found["means"] in allowed, row["id"]
            assert set(found) - {"title"} == {"means"} | ({"at"} if found["means"] != "none found" else set())
            if found["means"] in LINKED:
                address = urlsplit(found["at"])
                assert address.scheme in ("http", "https"), row["id"]
                assert "." in address.netloc, row["id"]
        source, second = row["source"], row["second"]
        assert source.get("at", "") != second.get("at"), row["id"]
        if source["means"] == second["means"] == "page":
            one, other = (urlsplit(found["at"]).netloc.lower().removeprefix("www.") for found in (source, second))
            assert one != other, row["id"]


def test_the_data_card_counts_them():
    for means, name in MEANS.items():
        counts = [sum(row[part]["means"] == means for row in ROWS) for part in ("source", "second")]
        assert f"| {name} | {counts[0]} | {counts[1]} |" in CARD.read_text(encoding="utf-8"), (means, counts)


def next_day():
    days = list(calendar.day_name)
    assert days[(days.index("Monday") + 1) % 7] == ITEMS["facts-011"].answer


def month_before():
    months = list(calendar.month_name)
    assert months[months.index("December") - 1] == ITEMS["facts-049"].answer


# Semi-axes of the ellipsoid WGS 84, in metres.
EQUATORIAL, POLAR = 6378137.0, 6356752.314245


def flattening():
    assert ITEMS["conspiracies-015"].answer == "A slightly squashed sphere"
    assert 0.003 < 1 - POLAR / EQUATORIAL < 0.004


def from_the_centre(latitude, height):
    north = math.radians(latitude)
    normal = EQUATORIAL**2 / math.hypot(EQUATORIAL * math.cos(north), POLAR * math.sin(north))
    out, up = (normal + height) * math.cos(north), (normal * (POLAR / EQUATORIAL) ** 2 + height) * math.sin(north)
    return math.hypot(out, up)


def farthest_summit():
    chimborazo, everest = from_the_centre(-1.469, 6263), from_the_centre(27.988, 8849)
    assert ITEMS["misconceptions-030"].answer == "Chimborazo"
    assert 1500 < chimborazo - everest < 3000


def wall_from_the_moon():
    """A wall 10 metres wide, from the mean distance; an eye tells one arc minute apart."""
    assert ITEMS["misconceptions-005"].answer == "None of it"
    assert math.radians(1 / 60) > 1000 * 10 / 384.4e6


def falling_penny():
    """2.5 g, 19.05 mm wide, 1.52 mm thick, at the speed at which air carries its weight, flat and edge on.

    79 J, 58 foot-pounds, is the figure that is usually given for a deadly fragment.
    """
    assert ITEMS["misconceptions-023"].answer == "A minor sting"
    weight = 0.0025 * 9.81
    for area in (math.pi / 4 * 0.01905**2, 0.01905 * 0.00152):
        squared = 2 * weight / (1.225 * 1.0 * area)
        assert 0.5 * 0.0025 * squared < 79 / 20


def salted_water():
    """10 g in a litre; two ions for each formula unit, 0.512 K kg/mol."""
    assert ITEMS["misconceptions-033"].answer == "A very slight rise"
    assert 0 < 2 * 0.512 * 10 / 58.44 < 0.5


def dinosaurs_to_humans():
    """The end of the Cretaceous and the oldest find put to Homo, in million years."""
    assert ITEMS["misconceptions-046"].answer == "Over sixty million years"
    assert 66.0 - 2.8 > 60


RECOMPUTED = {
    "facts-011": next_day,
    "facts-049": month_before,
    "conspiracies-015": flattening,
    "misconceptions-005": wall_from_the_moon,
    "misconceptions-023": falling_penny,
    "misconceptions-030": farthest_summit,
    "misconceptions-033": salted_water,
    "misconceptions-046": dinosaurs_to_humans,
}


@pytest.mark.parametrize("item", RECOMPUTED)
def test_what_can_be_recomputed_is(item):
    RECOMPUTED[item]()


def test_nothing_is_called_recomputed_that_is_not():
    assert {row["id"] for row in ROWS if row["second"]["means"] == "recomputed"} == set(RECOMPUTED)
    assert {row["id"].rsplit("-", 1)[0] for row in ROWS} == set(EMBEDDED)
