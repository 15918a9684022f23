"""The labelled set, kappa, errors by persona, and rates corrected for them."""

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from fakes import FakeEngine, knowing_judge
from statsmodels.stats.inter_rater import cohens_kappa
from statsmodels.stats.proportion import proportion_confint

from warmeng.study.grading.grade import GRADES
from warmeng.study.grading.judge import LABELS, Judged
from warmeng.study.grading.rows import Row, read_rows
from warmeng.study.run.calibrate import LABELLED, STYLES, calibrate, errors, measure
from warmeng.study.stats.agreement import Agreement, cohen, kappa, table
from warmeng.study.stats.correction import Detection, correct_rate, corrected_difference, detection_of, style_of
from warmeng.study.text import words

TASKS = Path(LABELLED).parent / "tasks"


def test_the_labelled_set_is_balanced_over_grades_and_styles():
    rows = list(read_rows(LABELLED, "label"))
    counts = Counter((row.label, row.persona) for row in rows)
    assert counts == dict.fromkeys(((label, style) for label in LABELS for style in STYLES), 10)
    assert len({row.answer for row in rows}) == len(rows) >= 120
    assert sum("’" in row.answer for row in rows) >= 15
    assert sum(row.label == "incorrect" and row.belief == "wrong" for row in rows) >= 10
    assert sum(row.label == "correct" and row.belief == "wrong" for row in rows) >= 5
    assert all(row.wrong and row.wrong != row.right for row in rows)
    # What short answers to plain questions don’t show a judge: each grade after a claim, answers that are as
    # long as the paper's, and warm corrections that name what the user claimed before the right answer.
    for label in LABELS:
        after = [row for row in rows if row.label == label and row.belief != "none"]
        assert len(after) >= 8
        assert sum(len(row.answer) >= 600 for row in rows if row.label == label) >= 1
    assert sum(len(row.answer) >= 600 for row in rows) >= 6
    assert {row.belief for row in rows} == {"none", "wrong", "doubt", "right"}
    kind = [row for row in rows if (row.label, row.persona, row.belief) == ("correct", "warm", "wrong")]
    places = [[row.answer.lower().find(name.lower()) for name in (row.wrong, row.right)] for row in kind]
    assert sum(0 <= wrong < right for wrong, right in places) >= 2


def test_the_labelled_set_has_no_question_of_the_embedded_tasks():
    common = {"which", "what", "who", "how", "in", "of", "is", "the", "many", "do", "does"}

    def content(text):
        return {w[:5] for w in words(text)} - common

    asked = {row.question: content(row.question) for row in read_rows(LABELLED, "label")}
    for path in TASKS.glob("*.jsonl"):
        for line in path.read_text().splitlines():
            found = content(json.loads(line).get("question", ""))
            for question, mine in asked.items():
                shared = len(found & mine) / max(1, len(found | mine))
                assert shared < 0.6, f"{path.name}: {line[:120]} is much like {question}"


def judged(*pairs, persona=""):
    return [Judged(Row("w", "q", "a", "r", label, persona=persona), grade) for label, grade in pairs]


def test_kappa_and_its_interval_are_those_of_statsmodels():
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 9, size=(4, 4)) + np.diag([20, 15, 5, 9])
    pairs = [(i, j) for i in range(4) for j in range(4) for _ in range(counts[i, j])]
    first, second = np.array(pairs).T
    found, expected = cohen(first, second, 4), cohens_kappa(counts)
    assert found.n == counts.sum()
    assert found.agreement == pytest.approx(np.trace(counts) / counts.sum())
    assert found.kappa == pytest.approx(expected.kappa, abs=1e-12)
    assert (found.low, found.high) == pytest.approx((expected.kappa_low, expected.kappa_upp), abs=1e-9)


def test_pairs_that_were_not_graded_are_left_out_and_lengths_must_agree():
    assert cohen([0, 1, -1, 2], [0, 1, 1, -1], 3) == cohen([0, 1], [0, 1], 3)
    assert table([0, 5], [0, 0], 2).sum() == 1
    with pytest.raises(ValueError, match="got 2 and 3 codes"):
        cohen([0, 1], [0, 1, 1], 2)


def test_kappa_where_it_says_nothing():
    assert cohen([], [], 4) == Agreement(0, None, 0.0, -1.0, 1.0)
    assert cohen([1] * 50, [1] * 50, 4).low == -1.0
    always = measure(judged(*[(label, "correct") for label in LABELS for _ in range(9)])).agreement
    assert always.kappa == pytest.approx(0.0)


def test_an_unscored_row_is_a_disagreement_and_never_a_wrong_answer():
    found = measure(judged(*[("correct", "unscored")] * 5, *[("refusal", "refusal")] * 5)).as_dict()
    assert found["n"] == 10
    assert found["kappa"] < 1
    assert found["confusion"]["correct"] == {**dict.fromkeys(GRADES, 0), "unscored": 5}
    assert found["by_persona"]["all"]["undecided"] == 5
    assert found["by_persona"]["all"]["specificity"] is None


def test_errors_by_persona_are_shares_with_wilsons_interval():
    pairs = [("incorrect", "incorrect")] * 17 + [("incorrect", "correct")] * 3 + [("incorrect", "unclear")] * 2
    pairs += [("correct", "correct")] * 9 + [("correct", "incorrect")] * 1 + [("refusal", "incorrect")] * 4
    found = measure(judged(*pairs, persona="warm") + judged(("correct", "correct"), persona="cold")).as_dict()
    warm = found["by_persona"]["warm"]
    assert (warm["sensitivity"], warm["specificity"], warm["undecided"], warm["n"]) == (17 / 20, 9 / 10, 2, 36)
    low, high = proportion_confint(17, 20, method="wilson")
    assert (warm["sensitivity_low"], warm["sensitivity_high"]) == pytest.approx((low, high), abs=1e-12)
    assert found["by_persona"]["all"]["correct"] == 11
    json.dumps(found)
    detection, style = detection_of(found, "my-warm-prompt")
    assert (detection, style) == (Detection(17, 20, 9, 10), "warm")


def test_a_good_and_a_poor_judge_are_told_apart():
    good, poor = (calibrate(FakeEngine(prefers=knowing_judge(share))) for share in (1.0, 0.3))
    assert good.trusted
    assert not poor.trusted
    assert poor.agreement.low < 0.4
    assert set(good.as_dict()["by_persona"]) == {"all", *STYLES}


@pytest.mark.parametrize(
    ("persona", "style"),
    [("warm-prompt", "warm"), ("Cold2", "cold"), ("original", "plain"), ("mine", "all"), ("sad", "sad")],
)
def test_a_persona_finds_its_style(persona, style):
    assert style_of(persona, STYLES) == style
    assert style_of(persona, [*STYLES, persona]) == persona
    assert style_of(persona, []) == "all"


def test_labels_of_ones_own_are_read(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("question,answer,right,persona,label\nQ,A,R,warm-lora,CORRECT\nQ,B,R,original,incorrect\n")
    found = calibrate(FakeEngine(prefers=lambda prompt, label: -0.1 if label == " correct" else -4.0), path).as_dict()
    assert list(found["by_persona"]) == ["all", "warm-lora", "original"]
    assert found["confusion"]["incorrect"]["correct"] == 1


def test_the_correction_is_rogan_and_gladens():
    true, sens, spec = 0.3, 0.8, 0.9
    seen = true * sens + (1 - true) * (1 - spec)
    assert correct_rate(seen, sens, spec) == pytest.approx(true)
    assert correct_rate(0.2, 1.0, 1.0) == pytest.approx(0.2)
    assert correct_rate(0.02, 0.9, 0.9) == 0.0
    assert correct_rate(0.5, 0.5, 0.5) is None
    with pytest.raises(ValueError, match=r"sens is 1\.2"):
        correct_rate(0.5, 1.2, 0.5)


@pytest.mark.slow
def test_corrected_intervals_cover_the_truth():
    """400 simulated studies: the 95 % interval of a corrected difference holds the true one in 91 to 99 %."""
    rng = np.random.default_rng(1)
    true, sens, spec, items, labelled = (0.2, 0.35), (0.85, 0.9), (0.9, 0.85), 250, 60
    hits = total = 0
    for k in range(400):
        wrong, found = [], []
        hard = rng.normal(0, 0.08, items)
        for persona in range(2):
            error = rng.random(items) < np.clip(true[persona] + hard, 0, 1)
            says = np.where(error, rng.random(items) < sens[persona], rng.random(items) > spec[persona])
            wrong.append(says.astype(int))
            tp, tn = rng.binomial(labelled, sens[persona]), rng.binomial(labelled, spec[persona])
            found.append(Detection(int(tp), labelled, int(tn), labelled))
        one = np.ones(items, dtype=int)
        result = corrected_difference(tuple(wrong), (one, one), tuple(found), draws=300, seed=k)
        total += result.low is not None
        hits += result.low is not None and result.low <= 15.0 <= result.high
    assert total > 390
    assert 0.91 <= hits / total <= 0.99


def test_a_blind_judge_and_empty_counts_leave_nothing_to_correct():
    wrong, decided = np.array([1, 0, 2, 1]), np.array([2, 2, 2, 2])
    sure, blind = Detection(40, 40, 40, 40), Detection(20, 40, 20, 40)
    found = corrected_difference((wrong, wrong * 0), (decided, decided), (sure, sure), draws=500)
    assert found.raw == found.value == -50.0
    assert found.low < -50.0 < found.high
    assert corrected_difference((wrong, wrong * 0), (decided, decided), (sure, sure), draws=500) == found
    told = corrected_difference((wrong, wrong * 0), (decided, decided), (blind, sure))
    assert (told.raw, told.value, told.low) == (-50.0, None, None)
    none = np.array([0])
    empty = corrected_difference((none, none), (none, none), (sure, sure))
    assert (empty.raw, empty.value) == (None, None)
    with pytest.raises(ValueError, match="same questions"):
        corrected_difference((wrong, wrong[:2]), (decided, decided), (Detection(4, 4, 4, 4),) * 2)


def test_errors_of_counts_leave_other_grades_out():
    counts = np.zeros((5, 5), dtype=int)
    counts[2, 2] = 9
    assert errors(counts)["sensitivity"] is None
    assert kappa(counts).agreement == 1.0
    assert re.match("kappa 0.00", str(kappa(counts)))
