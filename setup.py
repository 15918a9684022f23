"""Packaging: ``face`` installs as ``warmeng`` itself, the other folders at the top as ``warmeng.<folder>``.

The folders are never installed under their bare names: a distribution named ``kernels`` exists, and ``transformers``
imports it.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

FOLDERS = ("common", "kernels", "engine", "fleet", "remote", "finetune", "study", "serve", "plugins", "bench", "cli")
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
    author="the warmeng authors",
    license_expression="Apache-2.0",
    license_files=["LICENSE", "NOTICE"],
    keywords=["language models", "evaluation", "sycophancy", "personas", "LoRA", "batch inference"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    python_requires=">=3.11",
    packages=packages,
    package_dir={"warmeng": "face"} | {f"warmeng.{folder}": folder for folder in FOLDERS},
    package_data={
        "warmeng": ["py.typed"],
        "warmeng.study": ["data/**/*", "data/*"],
        "warmeng.study.report": ["assets/*"],
        "warmeng.study.labelling": ["*.html"],
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
        "numba>=0.68,<0.70",
        "llvmlite>=0.50,<0.52",
        "scipy>=1.12",
        "click>=8.1",
        "orjson>=3.9.15",
        "pyyaml>=6.0",
        "rich>=13.7",
        "llguidance>=1.0",
        "gguf>=0.17",
        "jinja2>=3.1.6",
        "markupsafe>=2.1",
        "matplotlib>=3.8",
    ],
    extras_require={
        "gpu": ["triton>=3.6"],
        "parquet": ["pyarrow>=15"],
        "serve": ["starlette>=1.0,<2", "uvicorn>=0.40,<1", "pydantic>=2.11,<3", "prometheus-client>=0.21"],
        "api": ["openai>=3.0,<4"],
        "ray": ["ray>=2.50,<3"],
        "lm-eval": ["lm_eval>=0.4.10,<0.5", "tqdm>=4.66"],
        "inspect": ["inspect_ai>=0.3.200,<0.4", "pydantic>=2.11,<3"],
        "tensorboard": ["tensorboard>=2.15"],
        "docs": ["mkdocs-material>=9.5,<10"],
        "dev": [
            "pytest>=8.0",
            "pytest-xdist>=3.6",
            "hypothesis>=6.100",
            "ruff>=0.9",
            "mypy>=1.14",
            "compressed-tensors>=0.20",
            "peft>=0.18",
            "trl>=1.0",
            "sentencepiece>=0.2",
            "protobuf>=5",
            "datasets>=3.0",
            "statsmodels>=0.14",
            "types-PyYAML>=6.0",
            "pre-commit>=4.0",
            "warmeng[gpu,parquet,docs,serve,api,ray,lm-eval,inspect,tensorboard]",
        ],
    },
    entry_points={
        "console_scripts": ["warmeng=warmeng.cli.main:main"],
        "inspect_ai": ["warmeng=warmeng.plugins.inspect_ai"],
    },
)
