"""What an adapter's or a merged checkpoint's folder says of its training, beside its weights: template and base.

Trainers save the tokenizer that they trained with beside an adapter. An adapter answers with its base's here, and its
configuration's name of a base is a name only: where either is another one, it is told and recorded, and not refused.
"""

from __future__ import annotations

import hashlib
import re
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path

from warmeng.common.errors import one_line
from warmeng.common.files import read_json, read_text
from warmeng.engine.config import inside


@dataclass(frozen=True)
class Provenance:
    """How a folder compares with the base that it is applied to."""

    # Whether its own chat template is the base's; None where it has none.
    same_template: bool | None = None
    # The base that its configuration names, where that is another one.
    other_base: str | None = None
    # The kind of the base's weights, where it was not trained on weights of that kind as far as its manifest tells.
    other_precision: str | None = None

    def lines(self) -> list[str]:
        """Return a line for each thing in which it is not like the base."""
        told = "a difference may come from there"
        found = []
        if self.same_template is False:
            found.append(f"it has a chat template of its own and the base's is used: {told}")
        if self.other_base is not None:
            found.append(f"it names another base ({one_line(self.other_base, 80)}): {told}")
        if self.other_precision is not None:
            what = (
                f"the base's weights are {one_line(self.other_precision, 40)}, and nothing says that it was trained on"
            )
            found.append(f"{what} such ones: {told}")
        return found


# The facts of a ``Provenance``, in their order.
PROVENANCE = tuple(field.name for field in fields(Provenance))


def provenance(folder: Path, model: str, template_hash: str | None, precision: str | None = None) -> Provenance:
    """Compare a folder with its base: ``model`` is the base's name or folder, ``template_hash`` its chat template's.

    ``precision``: the kind of the base's weights where they are quantised. Such a base's hash is not its original's, so
    that it is told of an adapter what others are refused for.

    Of names only what follows the last slash is compared: the same base lies in other places. Where the folder has a
    manifest of ours with the base's hash, which loading compares, its name says nothing. Raises InputError for a file
    that can't be read.
    """
    own = chat_template(folder)
    same = None if own is None else template_hash in {_sha256(form) for form in (own, f"{own}\n", own.rstrip("\n"))}
    config, manifest = inside(folder, "adapter_config.json"), inside(folder, "warmeng.json")
    named = read_json(config).get("base_model_name_or_path") if config.is_file() else None
    about = read_json(manifest) if manifest.is_file() else {}
    proved = about.get("base_hash") is not None and precision is None
    if proved or not isinstance(named, str) or not named or _last(named) == _last(model):
        named = None
    trained = about.get("weights")
    return Provenance(same, named, None if trained == precision else precision or "in full precision")


def template_hash(folder: Path) -> str | None:
    """SHA-256 (hex) of a folder's chat template as ``Tokenizer.template_hash`` has it; None where it has none."""
    text = chat_template(folder)
    return None if text is None else _sha256(text)


def chat_template(folder: Path) -> str | None:
    """The text of a folder's chat template, None where it has none. Raises InputError for a file that can't be read."""
    path = inside(folder, "chat_template.jinja")
    if path.is_file():
        return read_text(path)
    path = inside(folder, "tokenizer_config.json")
    template = read_json(path).get("chat_template") if path.is_file() else None
    if isinstance(template, list):  # several by name
        template = next((t.get("template") for t in template if isinstance(t, dict) and t.get("name") == "default"), "")
    return template if isinstance(template, str) and template else None


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _last(name: str) -> str:
    """A model's name without its owner or place, also of a folder in the hub's cache."""
    with suppress(OSError, ValueError):  # a name that no folder can have
        name = str(Path(name).resolve()) if Path(name).is_dir() else name
    parts = [part for part in re.split(r"[/\\]", name) if part] or [name]
    cached = next((part for part in parts if part.startswith("models--")), "")
    return (cached.rpartition("--")[2] or parts[-1]).casefold()
