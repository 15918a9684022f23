"""Blinded sheets and what the ratings say."""

from __future__ import annotations

import csv
import hashlib
import json

import pytest
from statsmodels.stats.inter_rater import cohens_kappa

from warmeng.common.errors import InputError
from warmeng.study.warmth.rating import (
    describe,
    make_pairs,
    read_key,
    read_ratings,
    summarise_ratings,
    write_sheet,
)

N = 60
PROMPTS = [(f"p{k}", f"Prompt {k}?") for k in range(N)]
PLAIN = [f"plain {k}" for k in range(N)]
WARM = [f"warm {k} </script><script>alert(1)</script>" for k in range(N)]


@pytest.fixture
def sheet(tmp_path):
    pairs = make_pairs(PROMPTS, PLAIN, WARM, [0.1 if k % 3 else -0.1 for k in range(N)], seed=1)
    write_sheet(tmp_path, pairs)
    return tmp_path, pairs


def test_the_sheet_is_blind_and_balanced(sheet) -> None:
    folder, pairs = sheet
    rows = list(csv.DictReader((folder / "rating.csv").open(newline="")))
    assert len(rows) == N == len(pairs)
    first = [row["A"].startswith("warm") for row in rows]
    assert 0.3 < sum(first) / N < 0.7
    assert [row["prompt"] for row in rows] != [text for _, text in PROMPTS]  # not in the order of the prompts
    key = json.loads((folder / "rating-key.json").read_text())
    assert all((key[row["id"]]["variant"] == "A") is is_a for row, is_a in zip(rows, first, strict=True))
    for name in ("rating.csv", "rating.html"):
        text = (folder / name).read_text()
        assert "variant" not in text
        assert "metric" not in text
    assert "<script>alert" not in (folder / "rating.html").read_text()


def test_pairs_that_nobody_could_rate_are_left_out() -> None:
    pairs = make_pairs(PROMPTS[:4], ["a", "", "c", "d"], ["a", "b", " ", "e"], [None] * 4, seed=0)
    assert [(p.baseline, p.variant) for p in pairs] == [("d", "e")]


def test_an_id_tells_what_is_shown_and_nothing_else(sheet) -> None:
    folder, pairs = sheet
    for row in csv.DictReader((folder / "rating.csv").open(newline="")):
        shown = json.dumps([row["prompt"], row["A"], row["B"]], separators=(",", ":"))
        assert row["id"] == f"pair-{hashlib.sha256(shown.encode()).hexdigest()[:10]}"
    assert len({p.id for p in pairs}) == N
    same = make_pairs(PROMPTS, PLAIN, WARM, [None] * N, seed=1)
    assert [p.id for p in same] == [p.id for p in pairs]
    changed = make_pairs(PROMPTS, PLAIN, [f"{text}!" for text in WARM], [None] * N, seed=1)
    assert not {p.id for p in changed} & {p.id for p in pairs}
    turned = {p.prompt: p for p in make_pairs(PROMPTS, PLAIN, WARM, [None] * N, seed=2)}
    for pair in pairs:
        assert (turned[pair.prompt].id == pair.id) is (turned[pair.prompt].variant_is_a == pair.variant_is_a)


def test_a_pair_that_is_there_twice_is_rated_once() -> None:
    pairs = make_pairs([("p", "Why?"), ("p", "Why?")], ["a", "a"], ["b", "b"], [0.1, 0.1], seed=0)
    assert len(pairs) == 1


def test_ratings_of_another_sheet_are_refused_by_name(sheet, tmp_path) -> None:
    folder, pairs = sheet
    other = make_pairs(PROMPTS[:5], PLAIN[:5], [f"other {k}" for k in range(5)], [None] * 5, seed=1)
    write_sheet(tmp_path / "new", other)
    lines = "".join(json.dumps({"id": p.id, "choice": "A"}) + "\n" for p in pairs)
    (folder / "anna.jsonl").write_text(lines)
    ids = ", ".join(f"'{p.id}'" for p in pairs[:3])
    with pytest.raises(InputError, match=f"not in the key: {ids} and 57 more: give the rating-key.json"):
        read_ratings(folder / "anna.jsonl", read_key(tmp_path / "new" / "rating-key.json"))


def test_a_sheet_is_csv_whatever_the_case_of_its_suffix(sheet) -> None:
    folder, pairs = sheet
    (folder / "ANNA.CSV").write_text(f"id,choice\n{pairs[0].id},a\n")
    assert read_ratings(folder / "ANNA.CSV", read_key(folder / "rating-key.json")) == {pairs[0].id: "A"}


def test_ratings_are_counted(sheet) -> None:
    folder, pairs = sheet
    key = read_key(folder / "rating-key.json")
    truth = {p.id: "A" if p.variant_is_a else "B" for p in pairs}
    other = {"A": "B", "B": "A"}
    ids = list(truth)
    anna = {i: truth[i] if k % 4 else other[truth[i]] for k, i in enumerate(ids)}  # three quarters the variant
    ben = {i: truth[i] if k % 5 else "tie" for k, i in enumerate(ids)}
    rows = [{"id": i, "prompt": "", "A": "", "B": "", "choice": c.lower()} for i, c in anna.items()]
    with (folder / "anna.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    (folder / "ben.jsonl").write_text("".join(json.dumps({"id": i, "choice": c}) + "\n" for i, c in ben.items()))
    raters = {name: read_ratings(folder / name, key) for name in ("anna.csv", "ben.jsonl")}
    assert raters["anna.csv"] == anna
    alone = summarise_ratings(key, {"anna": anna})
    assert (alone["preferred"]["k"], alone["preferred"]["n"]) == (45, 60)
    metric = {p.id: p.metric for p in pairs}
    agrees = sum((metric[i] > 0) == (anna[i] == truth[i]) for i in ids)
    assert (alone["metric_agrees"]["k"], alone["metric_agrees"]["n"]) == (agrees, 60)
    both = summarise_ratings(key, raters)
    meaning = {True: 0, False: 1}
    counts = [[0] * 3 for _ in range(3)]
    for i in ids:
        counts[meaning[anna[i] == truth[i]]][2 if ben[i] == "tie" else meaning[ben[i] == truth[i]]] += 1
    assert both["kappa"][0]["kappa"] == pytest.approx(cohens_kappa(counts).kappa, abs=1e-9)
    split = sum((anna[i] != truth[i]) and ben[i] == truth[i] for i in ids)
    assert both["ties"] == split
    assert any("paper 75 %" in line for line in describe(both))


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"id": "pair-999", "choice": "A"}', "not in the key"),
        ('{"id": "PAIR", "choice": "left"}', "expected A, B or tie"),
        ('{"id": "PAIR", "choice": "A"}\n{"id": "PAIR", "choice": "B"}', "twice"),
        ('{"id": "PAIR", "choice": ""}', "has no choices"),
    ],
)
def test_unsound_ratings_are_refused(sheet, line, says) -> None:
    folder, pairs = sheet
    (folder / "r.jsonl").write_text(line.replace("PAIR", pairs[0].id) + "\n")
    with pytest.raises(InputError, match=says):
        read_ratings(folder / "r.jsonl", read_key(folder / "rating-key.json"))
    (folder / "k.json").write_text("{}")
    with pytest.raises(InputError, match="rating-key"):
        read_key(folder / "k.json")
