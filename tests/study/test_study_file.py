"""The study file to begin with: taken whole it is the default study, and each of its settings can be changed."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest
from click.testing import CliRunner

from warmeng.cli.main import warmeng
from warmeng.study.settings import StudySettings, load_settings

pytestmark = pytest.mark.real_defaults
SETTING = re.compile(r"^#(?=\S)", re.MULTILINE)


def written() -> str:
    result = CliRunner().invoke(warmeng, ["new"])
    assert result.exit_code == 0
    return result.output


def test_as_it_is_and_without_its_comment_signs_it_is_the_default_study(tmp_path: Path) -> None:
    text = written()
    assert max(map(len, text.splitlines())) <= 120
    path = tmp_path / "study.yaml"
    path.write_text(SETTING.sub("", text))
    assert load_settings(path, {}) == StudySettings()
    # With a setting or two uncommented, these alone are other than the defaults.
    path.write_text(text.replace("#seed: 0", "seed: 7").replace("#limit: 6", "limit: 2"))
    assert load_settings(path, {}) == StudySettings(seed=7, limit=2)


def test_every_setting_is_there_with_words(tmp_path: Path) -> None:
    text = written()
    for field in fields(StudySettings):
        assert re.search(rf"^# \S.*\n#{field.name}:", text, re.MULTILINE), field.name
    assert "[default:" not in text


def test_a_file_is_written_once(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    first = CliRunner().invoke(warmeng, ["new", str(path)])
    assert (first.exit_code, path.read_text()) == (0, written())
    again = CliRunner().invoke(warmeng, ["new", str(path)])
    assert again.exit_code != 0
    assert path.read_text() == written()
    (tmp_path / "link.yaml").symlink_to(tmp_path / "nothing")
    assert CliRunner().invoke(warmeng, ["new", str(tmp_path / "link.yaml")]).exit_code != 0
    assert not (tmp_path / "nothing").exists()


def test_the_schema_takes_what_the_settings_take(tmp_path: Path) -> None:
    found = json.loads(CliRunner().invoke(warmeng, ["new", "--schema"]).output)
    assert list(found["properties"]) == [field.name for field in fields(StudySettings)]
    types = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "null": type(None), "array": list}
    for name, rule in found["properties"].items():
        value = getattr(StudySettings(), name)
        value = list(value) if isinstance(value, tuple) else value
        rules = rule.get("anyOf", [rule])
        kinds = [kind for r in rules for kind in ([r["type"]] if isinstance(r["type"], str) else r["type"])]
        assert any(isinstance(value, types[kind]) for kind in kinds), name
        allowed = rules[-1].get("items", rules[-1]).get("enum")
        assert allowed is None or set(value if isinstance(value, list) else [value]) <= set(allowed), name
        for choice in allowed or ():
            path = tmp_path / "one.yaml"
            wanted = [choice] if isinstance(value, list) else choice
            wanted = ["open", *wanted] if name == "asking" and choice != "open" else wanted
            extra = {"beliefs": ["none"]} if name == "composition" else {}
            path.write_text(json.dumps({name: wanted, **extra}))
            load_settings(path, {})
