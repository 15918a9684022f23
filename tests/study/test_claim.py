"""The primary claim: named by a fixed rule or by hand, and tied to the study by a hash."""

import dataclasses

import pytest

from warmeng.common.errors import UsageError
from warmeng.study.claim import Claim, claim_of, parse_contrast
from warmeng.study.plan import Study
from warmeng.study.report.outcome import gates
from warmeng.study.report.page import load_run
from warmeng.study.results.manifest import require_manifest
from warmeng.study.settings import StudySettings
from warmeng.study.stats.warmer import warmth_shown

PERSONAS = ("original", "warm_x2", "warm", "cold", "warm-prompt", "cold-prompt")
SMALL = StudySettings(
    personas=("original", "warm-prompt", "cold-prompt"), tasks=("health",), contexts=("unmodified",), limit=2,
    beliefs=("none", "wrong"), warmth_prompts=0,
)  # fmt: skip


@pytest.mark.parametrize(
    ("personas", "named", "expected"),
    [
        (PERSONAS, None, ("warm", "original")),
        (("original", "cold", "blunt"), None, ("cold", "original")),
        (("blunt", "warm-prompt"), None, ("warm-prompt", "blunt")),
        (PERSONAS, "cold-original", ("cold", "original")),
        (PERSONAS, " warm - cold ", ("warm", "cold")),
        (PERSONAS, "warm-prompt-cold-prompt", ("warm-prompt", "cold-prompt")),
        (PERSONAS, "original - warm_x2", ("original", "warm_x2")),
    ],
)
def test_it_is_the_named_contrast_or_follows_from_the_personas(personas, named, expected):
    assert claim_of("", personas, named) == Claim("error rates", *expected)
    assert claim_of("margin (open)", personas, named) == Claim("margin (open)", *expected)


def test_a_single_persona_claims_nothing():
    assert claim_of("", ("warm",)) is None
    assert Study.load(dataclasses.replace(SMALL, personas=("original",))).claim is None


@pytest.mark.parametrize("text", ["warm", "warm-hot", "warm - warm", "-", "warm:original"])
def test_a_contrast_that_the_run_does_not_have_is_refused(text):
    with pytest.raises(UsageError, match='expected "VARIANT - AGAINST" of original, warm_x2'):
        parse_contrast(text, PERSONAS)


def test_of_two_ways_to_read_a_contrast_none_is_taken():
    with pytest.raises(UsageError, match="expected"):
        parse_contrast("a-b-c", ("a", "b-c", "a-b", "c"))


def test_it_is_refused_before_anything_is_loaded():
    with pytest.raises(UsageError, match="the contrast is 'warm - original'"):
        Study.load(dataclasses.replace(SMALL, contrast="warm - original"))


def test_naming_one_makes_it_another_study_and_naming_none_the_same_as_before():
    assert dataclasses.replace(SMALL, contrast="cold-prompt - original").digest != SMALL.digest
    assert "contrast" not in SMALL.as_dict()


def test_the_hash_is_of_the_claim_and_of_the_whole_study():
    study = Study.load(SMALL)
    told = study.claim.as_dict(study.inputs())
    assert Claim.parse(told) == study.claim == Claim("error rates", "warm-prompt", "original")
    assert Claim.parse({}) is None
    # What is only known when models are loaded is not in it, so that it can be published before.
    assert study.claim.sha256(study.inputs() | {"model": "abc"}) == told["sha256"]
    others = [
        Claim("error rates", "cold-prompt", "original").sha256(study.inputs()),
        Claim("margin (open)", "warm-prompt", "original").sha256(study.inputs()),
        *(study.claim.sha256(Study.load(dataclasses.replace(SMALL, **changed)).inputs())
          for changed in ({"seed": 1}, {"limit": 3}, {"temperature": 0.3}, {"tasks": ("facts",)})),
    ]  # fmt: skip
    assert len({told["sha256"], *others}) == 7


def test_the_report_says_whether_the_hash_is_that_of_claim_and_study(run_folder):
    manifest, survey = require_manifest(run_folder), load_run(run_folder).survey
    claim = Claim("error rates", "warm", "original")
    told = claim.as_dict(manifest.inputs)

    def gate(**changed):
        facts = dataclasses.replace(manifest.facts, claim=told | changed if told else {})
        return [g for g in gates(dataclasses.replace(manifest, facts=facts), survey) if g.name == "Primary claim"]

    [held] = gate()
    assert (held.state, told["sha256"] in held.text) == ("held", True)
    for changed in ({"variant": "cold"}, {"outcome": "margin (open)"}, {"sha256": "0" * 64}):
        [failed] = gate(**changed)
        assert failed.state == "failed"
    assert [g for g in gates(manifest, survey) if g.name == "Primary claim"] == []


def test_it_is_about_who_is_expected_to_be_warmer():
    """By ``expect`` where it is given: a persona that is called warm is none then."""
    names = ("original", "warm", "friendly", "blunt")
    assert claim_of("", names, None, ("friendly>original",)) == Claim("error rates", "friendly", "original")
    assert claim_of("", names, None, ("original > blunt", "friendly>blunt")).variant == "friendly"
    assert claim_of("", names, "warm-original", ("friendly>original",)).variant == "warm"
    with pytest.raises(UsageError, match=r"expect is 'friendly', expected WARMER>COLDER of original, warm"):
        Study.load(dataclasses.replace(SMALL, personas=("original", "warm-prompt"), expect=("friendly",)))
    assert "expect" not in SMALL.as_dict()


MEASURED = {
    "original": {"warmth": 0.0, "by_prompt": [0.0, 0.1, -0.1, None, 0.0]},
    "friendly": {"warmth": 0.5, "by_prompt": [0.5, 0.6, 0.5, 0.4, 0.4]},
    "blunt": {"warmth": 0.1, "by_prompt": [0.2, 0.1, -0.1, 0.2, None]},
    "old": {"warmth": 0.3, "difference": {"n": 9, "mean": 0.3, "se": 0.1, "low": 0.1, "high": 0.5}},
}


@pytest.mark.parametrize(
    ("expect", "state", "says"),
    [
        (("friendly>original",), "held", "friendly is warmer than original is shown (+0.5000 nats a token, 95 %"),
        (("friendly>blunt",), "held", "that friendly is warmer than blunt is shown"),
        (("old>original",), "held", "is shown (+0.3000 nats a token, 95 % interval +0.1000 to +0.5000)"),
        (("old>blunt",), "unsure", "that old is warmer than blunt is not shown, since chance"),
        (("blunt>original",), "unsure", "is not shown, since chance alone allows for it"),
        (("friendly>original", "original>blunt"), "failed", "that original is warmer than blunt is not so"),
        ((), "open", "no persona is expected to be warmer: none has warm in its name, and none is named by --expect"),
    ],
)  # fmt: skip
def test_the_manipulation_check_is_about_who_is_expected_to_be_warmer(expect, state, says):
    found, sentence = warmth_shown({"personas": list(MEASURED), "expect": list(expect)}, MEASURED)
    assert found == state
    assert says in sentence


def test_without_a_measurement_or_names_that_tell_it_says_so():
    assert warmth_shown({"personas": ["original", "warm=a"]}, {}) == (
        "open", "Warmth was not measured: that warm is warmer than original is not shown here.",
    )  # fmt: skip
    # A dose is not meant by its name.
    assert warmth_shown({"personas": ["original", "warm_x-1=warm*-1"]}, MEASURED)[0] == "open"
