"""Packaging: ``face`` installs as ``warmeng`` itself, the other folders at the top as ``warmeng.<folder>``.

The folders are never installed under their bare names: a distribution named ``kernels`` exists, and ``transformers``
imports it.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

FOLDERS = ("kernels", "engine", "finetune", "study", "bench", "cli")
HERE = Path(__file__).parent

version = re.search(r'^__version__ = "([^"]+)"', (HERE / "face" / "__init__.py").read_text(encoding="utf-8"), re.M)[1]
packages = ["warmeng"] + [
    f"warmeng.{name}" for folder in FOLDERS for name in find_packages(where=str(HERE), include=[folder, f"{folder}.*"])
]

setup(
    name="warmeng",
    version=version,
    description="Measure how warm and cold personas change a language model's accuracy and sycophancy, on one box",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    python_requires=">=3.11",
    packages=packages,
    package_dir={"warmeng": "face"} | {f"warmeng.{folder}": folder for folder in FOLDERS},
    package_data={
        "warmeng": ["py.typed"],
        "warmeng.study": ["data/**/*", "data/*"],
        "warmeng.study.report": ["assets/*"],
        "warmeng.study.warmth": ["*.html"],
        "warmeng.finetune": ["data/*"],
        "warmeng.finetune.prepare": ["data/*"],
        "warmeng.bench": ["data/*"],
    },
    install_requires=[
        "torch>=2.11,<2.15",
        "transformers>=5.0,<6",
        "tokenizers>=0.21",
        "huggingface_hub>=1.0",
        "safetensors>=0.5",
        "numpy>=1.26",
        "scipy>=1.12",
        "statsmodels>=0.14",
        "click>=8.1",
        "orjson>=3.9",
        "pyyaml>=6.0",
        "rich>=13.7",
        "llguidance>=1.0",
        "gguf>=0.17",
        "jinja2>=3.1.5",
        "matplotlib>=3.8",
    ],
    extras_require={
        "gpu": ["triton>=3.6"],
        "hub": ["datasets>=3.0"],
        "parquet": ["pyarrow>=15"],
        "dev": [
            "pytest>=8.0",
            "pytest-xdist>=3.6",
            "hypothesis>=6.100",
            "ruff>=0.9",
            "mypy>=1.14",
            "peft>=0.18",
            "pyarrow>=15",
            "trl>=1.0",
            "triton>=3.6",
            "types-PyYAML",
        ],
    },
    entry_points={"console_scripts": ["warmeng=warmeng.cli.main:main"]},
)
