"""Run folders that hold just records and a manifest, for what reads them."""

from __future__ import annotations

from warmeng.common.journal import encode
from warmeng.study.results.manifest import Manifest, RunFacts, write_manifest


def answer(key, persona, item, grade, *, which=None, text="Paris.", task="facts", belief="none", **more):
    return {
        "key": f"{key:032x}", "persona": persona, "task": task, "context": "unmodified", "belief": belief,
        "framing": "plain", "item": item, "sample": 0, "status": "ok", "grade": grade, "which": which, "reason": "",
        "kind": "answer", "text": text, "finish": "stop", "tokens": 3, "prompt_tokens": 9, **more,
    }  # fmt: skip


def judged(key, of, judge, grade, shares=None, **more):
    return {
        **answer(of, "original", "i", grade), "key": f"{key:032x}", "of": f"{of:032x}", "kind": "judged",
        "judge": judge, "shares": shares or {}, "mass": 0.9, **more,
    }  # fmt: skip


def run_folder(folder, records, planned=None, judges=None, model="tiny", personas=("original", "warm=adapters/w")):
    folder.mkdir(parents=True, exist_ok=True)
    setting = {"model": model, "personas": list(personas)}
    write_manifest(folder, Manifest({"setting": setting}, RunFacts(judges=judges or {}), planned or len(records)))
    (folder / "records.jsonl").write_bytes(b"".join(encode(r) for r in records))
    return folder
