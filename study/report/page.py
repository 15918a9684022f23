"""``report.html``: one file that opens offline and tells a run whole.

``write_report`` makes it, the figures, and ``methods.md``.
"""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from warmeng.common.errors import InputError
from warmeng.common.files import make_folder, read_bytes, write_atomic
from warmeng.study.personas import baseline_of
from warmeng.study.report import methods
from warmeng.study.report.browser import MOST_BYTES, MOST_RECORDS, Survey, choose, columns, pack, survey
from warmeng.study.report.cells import shown
from warmeng.study.report.dose_chart import dose_figure
from warmeng.study.report.draw import Figure, figures, number_words
from warmeng.study.report.figure_data import BELIEFS, CONTEXTS, effects, manipulation, ordered, rates, table, warmth
from warmeng.study.report.headline import claim_line, headline
from warmeng.study.report.outcome import costs, file_gates, gates, headlines, lead, primary_headlines
from warmeng.study.report.settings_text import Fact, asked, deviations, persona_names
from warmeng.study.results.answering import answering, answering_words
from warmeng.study.results.items import read_items
from warmeng.study.results.manifest import Manifest, refuse_other_runs, require_manifest
from warmeng.study.results.margins import read_margins
from warmeng.study.results.responses import read_responses
from warmeng.study.results.sessions import read_sessions
from warmeng.study.results.tied import refuse_untied
from warmeng.study.results.trust import Trust
from warmeng.study.stats.fidelity import read_fidelity
from warmeng.study.stats.tables import FORMAT
from warmeng.study.stats.warmer import warmth_shown

FILE = "report.html"
ANALYSIS = "analysis.json"
MOST_SIZE = 24_000_000  # bytes of a page
ASSETS = Path(__file__).parent / "assets"


@dataclass(frozen=True)
class Run:
    """What a report is made from."""

    folder: Path
    manifest: Manifest
    analysis: Mapping[str, Any] | None
    survey: Survey
    trust: Trust
    baseline: str
    personas: list[str]
    # The comparison with a run in full precision.
    beside: Mapping[str, Any] | None = None

    @property
    def judges(self) -> list[str]:
        """The judges, those of its records too."""
        return ordered([*self.manifest.facts.judges, *self.survey.judged])

    @property
    def rule(self) -> str | None:
        """The rule of its analysis."""
        return str(self.analysis["rule"]) if self.analysis and self.analysis.get("rule") else None

    @property
    def facts(self) -> list[Fact]:
        """What was asked, in words."""
        return asked(self.manifest, self.survey.items, self.judges, self.rule, self.beside)

    @property
    def questions(self) -> int:
        """How many questions were asked."""
        return sum(self.survey.items.values())


def load_run(folder: Path, analysed: Path | None = None) -> Run:
    """Read a run folder, and its analysis there or in ``analysed``.

    Raises ``InputError`` where it is none, a file in it is damaged, or its files are not of one run.
    """
    manifest = require_manifest(folder)
    refuse_untied(folder, manifest)
    analysis = read_analysis(analysed or folder)
    trust = Trust.of(manifest.facts.judges)
    found = _with_margins(survey(folder / "records.jsonl", trust), folder, manifest)
    first = ordered([*(task for task, _ in read_items(folder)), *map(str, manifest.setting.get("tasks") or ())])
    tasks = sorted(found.items, key=lambda name: first.index(name) if name in first else len(first))
    found = replace(found, items={name: found.items[name] for name in tasks})
    names = persona_names(manifest.setting) or ordered(p for c in found.places.values() for p in c.grades)
    baseline = str((analysis or {}).get("baseline") or baseline_of(names or ["original"]))
    return Run(folder, manifest, analysis, found, trust, baseline, names, read_fidelity(folder))


def _with_margins(found: Survey, folder: Path, manifest: Manifest) -> Survey:
    """Count a run's scores that are no answers, and the questions that were asked by them alone."""
    if not manifest.margins:
        return found
    margins = read_margins(folder)
    asked = Counter(name.partition("/")[0] for name in margins.item.names)
    return replace(found, items={**asked, **found.items}, beside=margins.beside)


def read_analysis(folder: Path) -> dict[str, Any] | None:
    """Return a run's ``analysis.json``, nothing where it was not analysed."""
    path = folder / ANALYSIS
    if not path.exists():
        return None
    try:
        found = orjson.loads(read_bytes(path))
        if found["format"] == FORMAT and isinstance(found["tables"], dict):
            return dict(found)
    except (ValueError, KeyError, TypeError):
        pass
    raise InputError(f"{path}: is not an analysis of this version: make it again with: warmeng analyze {folder}")


def write_report(folder: Path, out: Path | None = None) -> Path:
    """Write ``report.html``, ``methods.md`` and ``figures/`` of a run; return the page's path.

    They go into the run's folder, or into ``out``. The analysis is the one in ``out``, else the run's; a run that was
    not analysed yet is analysed first. The same folder gives the same bytes. Raises ``InputError`` for a folder that is
    no run, ``UsageError`` where ``out`` is another run's, ``OSError`` of the disk.
    """
    from warmeng.study.report.figures import write_figures

    require_manifest(folder)
    target = out or folder
    refuse_other_runs(target, folder)
    make_folder(target)
    analysed = target if (target / ANALYSIS).exists() else folder
    if not (analysed / ANALYSIS).exists():
        from warmeng.study.stats.analyze import analyze_sources

        analysed = target
        analyze_sources((folder,), target)
    run = load_run(folder, analysed)
    path = target / FILE
    write_atomic(path, render(run).encode())
    write_atomic(target / methods.FILE, methods.document(run.manifest, run.facts, run.questions).encode())
    write_figures(target, run.manifest, run.analysis, run.baseline, run.personas)
    return path


def render(run: Run, most: int = MOST_RECORDS, most_bytes: int = MOST_BYTES) -> str:
    """Return the page. Where it gets larger than ``MOST_SIZE`` bytes it is made again with half the text."""
    page = _render(run, most, most_bytes)
    while len(page.encode()) > MOST_SIZE and most > 1000:
        most, most_bytes = most // 2, most_bytes // 2
        page = _render(run, most, most_bytes)
    return page


def _render(run: Run, most: int, most_bytes: int) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    found, analysis = run.survey, run.analysis
    s = run.manifest.setting
    judges, rule = run.judges, run.rule
    seed = int(s.get("seed") or 0)
    places = choose(found, run.baseline, seed, most, most_bytes)
    orders = {
        "persona": run.personas,
        "task": list(found.items),
        "context": [c for c in CONTEXTS if c in {p[2] for p in places}],
        "belief": [b for b in BELIEFS if b in {p[3] for p in places}],
    }
    items = read_items(run.folder)
    data = columns(run.folder / "records.jsonl", found, places, run.trust, items, orders)
    data["baseline"] = run.baseline
    data["labels"] = {**CONTEXTS, **BELIEFS}
    carried = len(data["rows"]["group"])
    found_effects = effects(analysis)
    primary, found_tables = run.manifest.facts.primary, (analysis or {}).get("tables") or {}
    beside = run.beside["tables"] if run.beside else {}
    heads = primary_headlines(primary, found_tables, run.baseline) or headlines(
        found_effects, rates(analysis, "context"), run.baseline, rule, found_tables
    )
    measured = bool(manipulation(run.manifest) or warmth(run.manifest, analysis))
    sessions = read_sessions(run.folder)
    behind = answering(run.folder)
    answered = [Fact("Answered by", answering_words(behind))] if behind else []
    script, css = ((ASSETS / name).read_text(encoding="utf-8") for name in ("report.js", "report.css"))
    environment = Environment(
        loader=FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(
        policy=policy(script, css),
        script=Markup(script),
        css=Markup(css),
        title=_title(run),
        claim=claim_line(found_tables),
        lead=lead(found, run.baseline, run.personas),
        headlines=heads,
        found=_found(run) if analysis else [],
        facts=[*run.facts, *answered],
        methods=methods.paragraph(run.manifest, run.facts, run.questions),
        works=methods.works(run.manifest),
        gates=[*file_gates(run.analysis, run.folder), *gates(run.manifest, found)],
        responses=read_responses(run.folder),
        limits=ordered(f"{number_words(e)}, {e.variant}: {e.limits}" for e in found_effects if e.limits),
        figures=_figures(run),
        has_items=bool(items),
        carried=carried,
        total=found.answers,
        seed=seed,
        costs=costs(sessions, found),
        deviations=deviations(run.manifest, found.items, judges, measured),
        tables=[shown(name, rows) for name, rows in (found_tables | beside).items()],
        notes=[str(note) for note in (analysis or {}).get("notes") or ()],
        analysed=analysis is not None,
        data=Markup(pack(data)),
    )


def _found(run: Run) -> list[str]:
    """Return what was found, and whether the personas were as warm as expected."""
    tables = (run.analysis or {}).get("tables") or {}
    found = headline(run.manifest.facts.primary, tables, run.baseline)
    return [*found, warmth_shown(run.manifest.setting, manipulation(run.manifest))[1]] if found else []


def _figures(run: Run) -> list[Figure]:
    """Return the page's figures; that of warmth is absent for another reason where warmth was measured.

    That of doses is there where a persona is a dose of another.
    """
    found = figures(run.manifest, run.analysis, run.baseline, run.personas)
    doses = dose_figure(run.analysis, run.baseline)
    found += [doses] if doses else []
    measured = manipulation(run.manifest) or table(run.analysis, "warmth")
    why = "Warmth was measured, but there are no error rates without a belief to set it against."
    return [replace(f, absent=why) if f.id == "figure-warmth" and f.absent and measured else f for f in found]


def _title(run: Run) -> str:
    model = str(run.manifest.setting.get("model") or "a model")
    return f"Warmth and accuracy: {model.rstrip('/').rpartition('/')[2] or model}"


def policy(script: str, css: str) -> str:
    """Return the page's security policy: nothing may load, and only these texts may run or style."""

    def digest(content: str) -> str:
        return base64.b64encode(hashlib.sha256(content.encode()).digest()).decode("ascii")

    return (
        f"default-src 'none'; script-src 'sha256-{digest(script)}'; style-src 'sha256-{digest(css)}'; "
        "img-src data:; base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )


__all__ = ["Figure", "load_run", "read_analysis", "render", "write_report"]
