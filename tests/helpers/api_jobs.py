"""Files, batches and fine-tuning jobs of the scripted server, with what can go wrong with each."""

from __future__ import annotations

import email
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    from api_server import ApiServer, Fault

# Of a batch's line in place of an answer: no line at all, one that was not begun, one that is no JSON.
MISSING, EXPIRED, GARBAGE = "missing", "expired", "garbage"
TRAINED_TOKENS = 4200


class Jobs:
    """What the server keeps. Scripts say what happens; each call and each line is counted from 0."""

    def __init__(self, server: ApiServer) -> None:
        self.server = server
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.tuning: dict[str, dict[str, Any]] = {}
        self.calls: list[tuple[str, str]] = []
        self.bodies: list[tuple[str, Mapping[str, Any]]] = []
        # A fault instead of the response; with ``after`` what was asked is done all the same.
        self.script: Callable[[int, str, str], Fault | None] = lambda n, method, path: None
        # Of a batch's line: a fault with a status, one of the words above, or none.
        self.line: Callable[[int, Mapping[str, Any]], Any] = lambda n, body: None
        # Of a batch: how it ends (completed, expired, cancelled, or the code with which it fails).
        self.ending: Callable[[int], str] = lambda n: "completed"
        self.stages = ["validating", "in_progress", "finalizing"]
        # How the n-th fine-tuning job ends.
        self.tuned: Callable[[int], str] = lambda n: "succeeded"
        # Whether listing tells of jobs.
        self.lists = True
        self.lines = 0
        # Conversations that a batch answered: these are paid for.
        self.paid: Counter[str] = Counter()

    def handle(self, method: str, target: str, raw: bytes, kind: str) -> tuple[int, bytes]:
        """Do what a request asks and return status and body."""
        parts = urlsplit(target)
        path, query = parts.path, parse_qs(parts.query)
        if method == "POST":
            body = _form(raw, kind) if kind.startswith("multipart/") else json.loads(raw or b"{}")
            self.bodies.append((path, body))
        names = path.removeprefix("/v1/").split("/")
        match [method, *names]:
            case ["POST", "files"]:
                return _found(self.new_file(body["file"][1], body["purpose"]))
            case ["GET", "files", name, "content"]:
                return (200, self.files[name]) if name in self.files else _missing(f"No such file: {name}")
            case ["POST", "batches"]:
                return self.new_batch(body)
            case ["GET", "batches"]:
                return _found(_page(self.batches.values() if self.lists else (), query))
            case ["GET", "batches", name]:
                return _found(self.look(self.batches[name])) if name in self.batches else _missing(f"No batch {name}")
            case ["POST", "fine_tuning", "jobs"]:
                return self.new_tuning(body)
            case ["GET", "fine_tuning", "jobs"]:
                return _found(_page(self.tuning.values() if self.lists else (), query))
            case ["GET", "fine_tuning", "jobs", name]:
                return _found(self.train(self.tuning[name])) if name in self.tuning else _missing(f"No job {name}")
            case ["GET", "fine_tuning", "jobs", name, "events"]:
                return _found(_page(self.events(self.tuning[name]), query))
        return _missing(f"no {method} {path}")

    def new_file(self, content: bytes, purpose: str) -> dict[str, Any]:
        """Keep a file."""
        name = f"file-{len(self.calls)}-{len(self.files)}"
        self.files[name] = content
        return {"id": name, "object": "file", "bytes": len(content), "created_at": 1, "filename": "x.jsonl",
                "purpose": purpose, "status": "processed"}  # fmt: skip

    def new_batch(self, body: Mapping[str, Any]) -> tuple[int, bytes]:
        """Answer a file's lines, in no order, as the scripts say."""
        if body["input_file_id"] not in self.files:
            return _missing(f"Input file {body['input_file_id']} is gone")
        n, name = len(self.batches), f"batch_{len(self.batches)}"
        ending = self.ending(n)
        batch = {"id": name, "object": "batch", "created_at": n, "endpoint": body["endpoint"],
                 "completion_window": body["completion_window"], "input_file_id": body["input_file_id"],
                 "status": self.stages[0], "request_counts": {"total": 0, "completed": 0, "failed": 0}}  # fmt: skip
        self.batches[name] = batch
        if ending not in ("completed", "expired", "cancelled"):
            batch["ends"] = {"status": "failed", "errors": {"object": "list", "data": [
                {"code": ending, "message": "Enqueued too much" if "limit" in ending else "No good", "line": 1}
            ]}}  # fmt: skip
            return _found(self._shown(batch))
        lines = [json.loads(line) for line in self.files[body["input_file_id"]].splitlines()]
        good, bad = [], []
        for line in lines:
            assert (line["method"], line["url"]) == ("POST", body["endpoint"])
            self.server.asked_in_batches.append(line["body"])
            said = self.line(self.lines, line["body"])
            self.lines += 1
            answer, errors = self._answered(line, said)
            good += answer
            bad += errors
        ends: dict[str, Any] = {"status": ending, "request_counts": {
            "total": len(lines), "completed": len(good), "failed": len(bad)}}  # fmt: skip
        for key, found in (("output_file_id", good), ("error_file_id", bad)):
            if found:
                # Those of the second half first, and backwards.
                found = found[: len(found) // 2] + found[: len(found) // 2 - 1 if len(found) > 1 else None : -1]
                ends[key] = self.new_file(b"\n".join(found[::-1]) + b"\n", "batch_output")["id"]
        batch["ends"] = ends
        return _found(self._shown(batch))

    def _answered(self, line: Mapping[str, Any], said: Any) -> tuple[list[bytes], list[bytes]]:
        from api_server import written

        about = {"id": f"batch_req_{self.lines}", "custom_id": line["custom_id"], "error": None, "response": None}
        if said is None:
            self.paid[written(line["body"])] += 1
            body = self.server.completion(line["body"])
            about["response"] = {"status_code": 200, "request_id": "r", "body": body}
            return [json.dumps(about).encode()], []
        if said == MISSING:
            return [], []
        if said == GARBAGE:
            return [json.dumps(about).encode()[:-20]], []
        if said == EXPIRED:
            about["error"] = {"code": "batch_expired", "message": "This request could not be executed in time."}
        elif said.kind == "body":
            about["response"] = {"status_code": 200, "request_id": "r", "body": said.body}
            return [json.dumps(about).encode()], []
        else:
            about["response"] = {"status_code": said.status, "request_id": "r", "body": said.body}
        return [], [json.dumps(about).encode()]

    def look(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Go one stage on, and return what a client sees."""
        at = self.stages.index(batch["status"]) if batch["status"] in self.stages else len(self.stages)
        if at + 1 < len(self.stages):
            batch["status"] = self.stages[at + 1]
        else:
            batch.update(batch["ends"])
        return self._shown(batch)

    @staticmethod
    def _shown(batch: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in batch.items() if key != "ends"}

    def new_tuning(self, body: Mapping[str, Any]) -> tuple[int, bytes]:
        """Begin a fine-tuning job."""
        if body["training_file"] not in self.files:
            return _missing(f"Training file {body['training_file']} is gone")
        n = len(self.tuning)
        given = body.get("method", {}).get("supervised", {}).get("hyperparameters", {})
        job = {"id": f"ftjob-{n}", "object": "fine_tuning.job", "created_at": n, "model": body["model"],
               "organization_id": "org", "result_files": [], "seed": body.get("seed", 99), "status": "validating_files",
               "training_file": body["training_file"], "hyperparameters": {"n_epochs": "auto", **given},
               "fine_tuned_model": None, "trained_tokens": None, "error": None,
               "suffix": body.get("suffix", ""), "n": n}  # fmt: skip
        self.tuning[job["id"]] = job
        return _found(job)

    def train(self, job: dict[str, Any]) -> dict[str, Any]:
        """Go one stage on."""
        stages = ["validating_files", "queued", "running"]
        if job["status"] in stages[:-1]:
            job["status"] = stages[stages.index(job["status"]) + 1]
        elif job["status"] == "running":
            job["status"] = self.tuned(job["n"])
            if job["status"] == "succeeded":
                job |= {"fine_tuned_model": f"ft:{job['model']}:lab:{job['suffix']}:{job['n']}",
                        "trained_tokens": TRAINED_TOKENS, "finished_at": 9}  # fmt: skip
                job["hyperparameters"]["n_epochs"] = 3
            elif job["status"] == "failed":
                job["error"] = {"code": "invalid_training_file", "message": "Line 3 is no good", "param": "x"}
        return job

    def events(self, job: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the events until now, the latest first as the API has them."""
        said = ["Validating training file", "Fine-tuning job started", "Step 1/2: training loss=1.5"]
        if job["status"] == "succeeded":
            said += ["Step 2/2: training loss=1.2", "New fine-tuned model created"]
        at = 1 if job["status"] == "validating_files" else 2 if job["status"] == "queued" else len(said)
        return [
            {"id": f"ftevent-{job['n']}-{k}", "object": "fine_tuning.job.event", "created_at": int(time.time()),
             "level": "info", "message": text, "type": "message"}
            for k, text in enumerate(said[:at])
        ][::-1]  # fmt: skip


def _form(raw: bytes, kind: str) -> dict[str, Any]:
    """Return a form's fields; a file as its name and content."""
    form = email.message_from_bytes(b"Content-Type: " + kind.encode() + b"\r\n\r\n" + raw)
    found: dict[str, Any] = {}
    for part in form.get_payload():
        name = part.get_param("name", header="content-disposition")
        content = part.get_payload(decode=True)
        found[str(name)] = (part.get_filename(), content) if part.get_filename() else content.decode()
    return found


def _page(things: Any, query: Mapping[str, list[str]]) -> dict[str, Any]:
    """Return a page of what is listed, the latest first, two at a time so that there are several."""
    listed = sorted(things, key=lambda one: (one["created_at"], one["id"]), reverse=True)
    after = query.get("after", [""])[0]
    start = next((k + 1 for k, one in enumerate(listed) if one["id"] == after), 0)
    page = [{key: value for key, value in one.items() if key != "ends"} for one in listed[start : start + 2]]
    return {"object": "list", "data": page, "has_more": start + 2 < len(listed)}


def _found(body: Any) -> tuple[int, bytes]:
    return 200, json.dumps(body).encode()


def _missing(said: str) -> tuple[int, bytes]:
    return 404, json.dumps({"error": {"message": said, "type": "invalid_request_error", "code": None}}).encode()
