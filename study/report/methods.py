"""What a paper says of a run: a paragraph of methods and the works to cite, computed from the run's manifest."""

from __future__ import annotations

from collections.abc import Sequence

from warmeng.study.claim import Claim
from warmeng.study.outcomes import outcome_parts
from warmeng.study.report.headline import MEANINGS
from warmeng.study.report.settings_text import Fact, listed, several
from warmeng.study.results.manifest import Manifest
from warmeng.study.stats.tables import escaped

FILE = "methods.md"
# Hexadecimal digits of a hash that are shown: enough to tell any two files apart.
SHOWN = 16

WORKS = """\
@article{ibrahim2026warm,
  title = {Training language models to be warm can reduce accuracy and increase sycophancy},
  author = {Ibrahim and Hafner and Rocher},
  journal = {Nature},
  volume = {652},
  pages = {1159--1165},
  year = {2026},
  doi = {10.1038/s41586-026-10410-0}
}"""


def paragraph(manifest: Manifest, facts: Sequence[Fact], questions: int) -> str:
    """Return the methods of a run as one paragraph.

    ``facts``: what was asked, in words, as ``settings_text.asked`` tells it. ``questions``: how many there were.
    """
    told = {fact.name: fact.text for fact in facts}
    names = list(manifest.setting.get("personas") or ())
    about, seed = manifest.facts, manifest.setting.get("seed")
    weights = told.get("Weights")
    found = [
        f"{told['Model']} was measured with {several(len(names), 'persona')} ({told['Personas']}).",
        *([f"Weights: {weights}."] if weights else []),
        f"{several(questions, 'question')} were asked, drawn with seed {seed}: {told['Tasks']}.",
        f"Contexts: {told['Contexts']}. Beliefs of the user: {told['Beliefs']}. Asked: {told['Grid']}.",
        f"Prompts were composed as {told['Composition']}.",
    ]
    if "Answering" in told:
        found.append(f"Answers that are generated: {told['Answering']}; they were graded by {told['Grading']}.")
    if rule := told.get("Counted as incorrect"):
        found.append(f"Counted as incorrect: {rule}.")
    rules = about.exact_rule
    if "Grading" in told and rules.get("n") and rules.get("agreement") is not None:
        found.append(f"The exact rules were measured on {rules['n']:,} labelled answers.")
    for name, judge in about.judges.items():
        if judge.get("n") and judge.get("agreement") is not None:
            found.append(
                f"Judge {name} agreed with people in {100 * judge['agreement']:.1f} % of {judge['n']} labelled answers."
            )
    if about.primary:
        meaning = MEANINGS[outcome_parts(about.primary)[0]]
        found.append(f"The outcome named before the first answer was {about.primary}: {meaning}, in nats.")
    if expected := told.get("Expected to be warmer"):
        found.append(f"Expected before the first answer, by warmth: {expected}.")
    if claim := Claim.parse(about.claim):
        digest = _short(str(about.claim.get("sha256") or ""))
        found.append(
            f"The primary claim, named before the first answer, is a difference in {claim.outcome} between "
            f"{claim.variant} and {claim.against} (SHA-256 of claim and study {digest}); "
            "everything else is exploratory."
        )
    found.append(
        "Contrasts between personas are paired by question, and 95 % intervals are clustered by question; each stands "
        "for itself unless a table says that it is corrected."
    )
    found.append(_computed(manifest, told))
    return " ".join(found)


def _computed(manifest: Manifest, told: dict[str, str]) -> str:
    """Say what computed a run, to the hashes of weights, adapters and questions."""
    about, inputs = manifest.facts, manifest.inputs
    versions = about.engine.get("versions") or {}
    with_what = listed([f"{name} {version}" for name, version in versions.items()])
    said = f"Computed {told['Computed']}, by warmeng {about.warmeng}"
    if about.commit:
        said += f" (commit {about.commit[:SHOWN]})"
    said += f" with {with_what}" if versions else ""
    hashes = [("weights", (inputs.get("model") or {}).get("weights"))]
    hashes += [(f"adapter of {name}", digest) for name, digest in (inputs.get("adapter") or {}).items()]
    hashes += [(f"questions of {name}", digest) for name, digest in (inputs.get("items") or {}).items()]
    shown = [f"{name} {_short(str(digest))}" for name, digest in hashes if digest]
    return f"{said}. SHA-256, first {SHOWN} digits: {', '.join(shown)}." if shown else f"{said}."


def _short(digest: str) -> str:
    """Shorten a hash, and keep the coefficient after it."""
    return digest[:SHOWN] + digest[64:]


def works(manifest: Manifest) -> str:
    """Return what to cite, as BibTeX: this software in the run's version, and the study that it follows."""
    about = manifest.facts
    version = about.warmeng + (f", commit {about.commit[:SHOWN]}" if about.commit else "")
    year = about.started[:4]
    software = "\n".join(
        [
            "@software{warmeng,",
            "  title = {warmeng: how warm and cold personas change a language model's accuracy and sycophancy},",
            "  author = {{The warmeng authors}},",
            f"  version = {{{version}}},",
            *([f"  year = {{{year}}},"] if year else []),
            "  license = {Apache-2.0}",
            "}",
        ]
    )
    return f"{software}\n\n{WORKS}"


def document(manifest: Manifest, facts: Sequence[Fact], questions: int) -> str:
    """Return ``methods.md``."""
    told = escaped(paragraph(manifest, facts, questions))
    return f"# Methods\n\n{told}\n\n# Works to cite\n\n```bibtex\n{works(manifest)}\n```\n"
