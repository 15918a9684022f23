"""The labelling page in a browser: keys, saving, going on with a saved file, and nothing that runs."""

from __future__ import annotations

import json
from urllib.parse import unquote

import pytest
from chrome import Page, find_chrome

from warmeng.study.labelling.sheet import Shown, read_sheet, write_sheet

EVIL = "</script><img src=x onerror=\"document.title='ran'\">"
ROWS = [
    Shown("Who wrote it?", "Ann (also: A.)", "", "Ann did."),
    Shown(f"What? {EVIL}", "A", "The user claimed: the answer is B", f"It's B. {EVIL}"),
    Shown("Which?", "C", "", "  "),
]
# What a link that saves a file would save, by the file's name.
CATCH = "window.saved = {}; HTMLAnchorElement.prototype.click = function () { saved[this.download] = this.href; }; true"
TAKE = """(async () => {
  const files = new DataTransfer();
  files.items.add(new File([%s], "labels.jsonl"));
  const input = document.getElementById("load");
  input.files = files.files;
  input.dispatchEvent(new Event("change"));
  await new Promise((done) => setTimeout(done, 100));
  return document.getElementById("told").textContent;
})()"""


@pytest.mark.skipif(find_chrome() is None, reason="needs chromium")
def test_answers_are_labelled_saved_and_taken_up_again(tmp_path) -> None:
    write_sheet(tmp_path, ROWS)
    with Page(tmp_path / "profile") as page:
        page.open(tmp_path / "labels.html", wait="document.getElementById('place')?.textContent.startsWith('Answer')")

        def shown(name):
            return page.run(f"document.getElementById('{name}').textContent")

        page.run(CATCH)
        assert shown("place") == "Answer 1 of 3, 0 labelled"
        assert page.run("document.getElementById('claim').hidden") is True
        page.key("c", 67, "c")
        # The next one, as text and no more than that.
        assert shown("question") == ROWS[1].question
        assert shown("answer") == ROWS[1].answer
        assert shown("claim") == "The user claimed: the answer is B"
        page.key("i", 73, "i")
        assert shown("answer") == "(nothing)"
        assert shown("place") == "Answer 3 of 3, 2 labelled"
        page.key("ArrowLeft", 37)
        assert page.run("document.querySelector('[data-label=incorrect]').getAttribute('aria-pressed')") == "true"
        for button in ("save-jsonl", "save-csv"):
            page.run(f"document.getElementById('{button}').dispatchEvent(new MouseEvent('click'))")
        saved = page.run("saved")
        given = {ROWS[0].id: "correct", ROWS[1].id: "incorrect"}
        for name in ("labels.jsonl", "labels.csv"):
            (tmp_path / f"read {name}").write_text(unquote(saved[name].partition(",")[2]))
            assert read_sheet(tmp_path / f"read {name}", [row.id for row in ROWS]) == given
        lines = [json.dumps({"id": ROWS[2].id, "label": "unclear"}), json.dumps({"id": "x", "label": "correct"}), "no"]
        assert page.run(TAKE % json.dumps("\n".join(lines))) == "1 labels taken."
        assert shown("place").endswith("3 labelled")
        assert page.run("document.title") == "Is the answer right?"
        assert page.complaints() == []
        assert [url for url in page.requests() if not url.startswith(("file:", "data:"))] == []
