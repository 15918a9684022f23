"""No pickle, no code of a checkpoint, no shell: the syntax trees of all that is installed are walked for them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("face", "common", "kernels", "engine", "remote", "finetune", "study", "bench", "cli")
FILES = [*sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")), ROOT / "setup.py"]
MODULES = frozenset(
    ["pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "pickletools", "jsonpickle"]
)
CALLS = frozenset(["eval", "exec", "compile", "__import__", "input"])
ATTRIBUTES = {  # written out as they are called
    "torch.load", "torch.hub.load", "torch.jit.load", "torch.package", "os.system", "os.popen", "os.execv", "os.spawnv",
    "pty.spawn", "commands.getoutput", "subprocess.getoutput", "subprocess.getstatusoutput", "yaml.unsafe_load",
    "yaml.full_load", "yaml.load_all", "yaml.UnsafeLoader", "yaml.FullLoader", "yaml.Loader", "numpy.load", "np.load",
    "pandas.read_pickle", "imp.load_source", "runpy.run_path", "importlib.util.spec_from_file_location",
    "tarfile.open", "shutil.unpack_archive", "extractall",
}  # fmt: skip
FLAGS = {"trust_remote_code": (False,), "allow_pickle": (False,), "shell": (False,), "weights_only": (True,)}


def loads_by_name(call: ast.Call) -> bool:
    """Whether a call has ``transformers`` find out by a configuration which class to load."""
    *owners, name = ast.unparse(call.func).split(".")
    by_class = name in ("from_pretrained", "from_config") and any(owner.startswith("Auto") for owner in owners)
    return by_class or name in ("pipeline", "get_class_from_dynamic_module")


def offences(tree: ast.AST, opponent: bool = False) -> Iterator[str]:
    """Yield what a module must not do, with the line.

    An ``opponent`` of the benchmarks may load by other software's defaults what the engine has loaded before.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            roots = {
                name.partition(".")[0] for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else names)
            }
            for name in roots & MODULES:
                yield f"{node.lineno}: imports {name}"
            if isinstance(node, ast.ImportFrom):
                for name in names:
                    if f"{node.module}.{name}" in ATTRIBUTES:
                        yield f"{node.lineno}: imports {node.module}.{name}"
        elif isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name) and node.func.id in CALLS:
                yield f"{node.lineno}: calls {node.func.id}"
            for keyword in node.keywords:
                if keyword.arg in FLAGS:
                    value = keyword.value.value if isinstance(keyword.value, ast.Constant) else "something computed"
                    if value not in FLAGS[keyword.arg]:
                        yield f"{node.lineno}: {keyword.arg}={value}"
            called, given = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
            if loads_by_name(node) and given.get("trust_remote_code") != "False":
                # Left out, transformers asks: an answer on stdin would then run a checkpoint's code.
                yield f"{node.lineno}: {called} without trust_remote_code=False"
            if called.startswith("AutoModel") and called.endswith("from_pretrained"):
                if (
                    not opponent and given.get("use_safetensors") != "True"
                ):  # else it would take a pickle where there is one
                    yield f"{node.lineno}: {called} without use_safetensors=True"
            elif called == "yaml.load" and given.get("Loader") != "Loader":
                yield f"{node.lineno}: yaml.load without the strict loader"
        elif isinstance(node, ast.Attribute):
            whole = ast.unparse(node)
            if whole in ATTRIBUTES or node.attr in ATTRIBUTES:
                yield f"{node.lineno}: {whole}"
        elif isinstance(node, ast.ClassDef) and node.name == "Loader":
            bases = [ast.unparse(base) for base in node.bases]
            if bases != ["yaml.SafeLoader"]:
                yield f"{node.lineno}: a loader that is not safe"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_unpickles_runs_code_of_files_or_starts_a_shell(path: Path) -> None:
    opponent = path.is_relative_to(ROOT / "bench")
    assert list(offences(ast.parse(path.read_text(encoding="utf-8")), opponent)) == []


def test_auto_map_is_only_ever_refused() -> None:
    """The key that names a checkpoint's code is read in two places, and both raise."""
    found = set()
    for path in FILES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if any(isinstance(node, ast.Constant) and node.value == "auto_map" for node in ast.walk(tree)):
            found.add(str(path.relative_to(ROOT)))
    assert found == {"engine/config.py", "engine/tokenizer_files.py"}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "from pickle import loads", "import torch\ntorch.load('x')", "from torch import load",
        "eval('1')", "exec('1')", "f(trust_remote_code=True)", "f(trust_remote_code=x)", "run('ls', shell=True)",
        "import os\nos.system('x')", "yaml.load(x)", "yaml.load(x, Loader=yaml.Loader)",
        "np.load('x', allow_pickle=True)",
        "AutoModel.from_pretrained('x')", "AutoTokenizer.from_pretrained('x')",
        "AutoConfig.from_pretrained('x', trust_remote_code=None)", "AutoModel.from_config(c, use_safetensors=True)",
        "transformers.pipeline('text-generation', 'x')", "class Loader(yaml.Loader): pass",
        "archive.extractall()", "__import__('x')",
    ],
)  # fmt: skip
def test_the_walk_sees_each_of_them(source: str) -> None:
    assert list(offences(ast.parse(source)))
