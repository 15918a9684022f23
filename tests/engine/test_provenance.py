"""What an adapter's folder says of its training: its own chat template, and the base that it names."""

import json
from pathlib import Path

import pytest

from warmeng.common.errors import InputError
from warmeng.engine.provenance import Provenance, chat_template, provenance, template_hash

BASE = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
OTHER = "### {{ messages[0]['content'] }}"


def folder(at: Path, **files: object) -> Path:
    at.mkdir(exist_ok=True)
    for name, content in files.items():
        name = {"jinja": "chat_template.jinja", "tokenizer": "tokenizer_config.json"}.get(name, f"{name}.json")
        (at / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return at


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return folder(tmp_path / "base", tokenizer={"chat_template": BASE})


@pytest.mark.parametrize(
    ("files", "same"),
    [
        ({}, None),
        ({"tokenizer": {}}, None),
        ({"tokenizer": {"chat_template": None}}, None),
        ({"tokenizer": {"chat_template": BASE}}, True),
        ({"jinja": BASE}, True),
        ({"jinja": BASE + "\n"}, True),  # an editor's last line end, which is not rendered
        ({"jinja": OTHER}, False),
        ({"jinja": OTHER, "tokenizer": {"chat_template": BASE}}, False),  # the file of its own comes first
        ({"tokenizer": {"chat_template": OTHER}}, False),
        ({"tokenizer": {"chat_template": [{"name": "tools", "template": OTHER}]}}, None),
        (
            {"tokenizer": {"chat_template": [{"name": "default", "template": BASE}, {"name": "t", "template": OTHER}]}},
            True,
        ),
    ],
)
def test_a_template_of_its_own_is_compared(base, tmp_path, files, same):
    found = provenance(folder(tmp_path / "adapter", **files), str(base), template_hash(base))
    assert found == Provenance(same, None)
    assert [line for line in found.lines() if "chat template of its own" in line] == (
        ["it has a chat template of its own and the base's is used: a difference may come from there"]
        if same is False
        else []
    )


@pytest.mark.parametrize(
    ("named", "model", "other"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-8B-Instruct", False),
        ("meta-llama/Llama-3.1-8B-Instruct", "/models/llama-3.1-8b-instruct/", False),
        ("/home/you/.cache/hub/models--Qwen--Qwen2.5-7B/snapshots/abc123", "Qwen/Qwen2.5-7B", False),
        ("C:\\models\\base", "./base", False),
        ("Qwen/Qwen2.5-7B", "Qwen/Qwen2.5-7B-Instruct", True),
        ("unsloth/llama-3-8b-bnb-4bit", "meta-llama/Meta-Llama-3-8B", True),
        ("a\nb", "base", True),
    ],
)
def test_the_base_that_it_names_is_compared(tmp_path, named, model, other):
    at = folder(tmp_path / "adapter", adapter_config={"base_model_name_or_path": named})
    found = provenance(at, model, None)
    assert found.other_base == (named if other else None)
    assert all("\n" not in line for line in found.lines())
    assert len(found.lines()) == other


def test_a_folder_is_the_same_base_by_any_path(tmp_path, base, monkeypatch):
    at = folder(tmp_path / "adapter", adapter_config={"base_model_name_or_path": str(base)})
    monkeypatch.chdir(base)
    assert provenance(at, ".", None).other_base is None
    assert provenance(at, str(tmp_path / "adapter" / ".." / "base"), None).other_base is None


def test_a_hash_of_the_base_is_worth_more_than_its_name(tmp_path):
    at = folder(tmp_path / "a", adapter_config={"base_model_name_or_path": "x"}, warmeng={"base_hash": "0" * 64})
    assert provenance(at, "y", None).other_base is None
    assert provenance(folder(at, warmeng={"kind": "else"}), "y", None).other_base == "x"


@pytest.mark.parametrize("value", [None, "", 3])
def test_a_configuration_that_names_no_base_is_no_other(tmp_path, value):
    at = folder(tmp_path / "adapter", adapter_config={"base_model_name_or_path": value})
    assert provenance(at, "base", None).lines() == []


def test_a_damaged_file_is_refused_by_name(tmp_path):
    with pytest.raises(InputError, match=r"tokenizer_config\.json"):
        chat_template(folder(tmp_path / "adapter", tokenizer="{"))
