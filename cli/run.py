"""``warmeng run``: measure personas."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from warmeng.cli.options import (
    completing,
    dtype_option,
    fleet_of,
    json_option,
    kv_dtype_option,
    names,
    print_json,
    ray_options,
    weights_option,
)
from warmeng.common.errors import UsageError
from warmeng.common.terminal import echo
from warmeng.fleet.settings import FleetSettings
from warmeng.study.settings import WARMTH_EACH, WARMTH_PROMPTS, StudySettings, default_folder, load_studies

DEFAULTS = StudySettings()


def _default(name: str) -> str:
    value = getattr(DEFAULTS, name)
    return f"  [default: {','.join(value) if isinstance(value, tuple) else value}]"


@click.command(
    epilog="""\b
Examples:
  warmeng run                                    the embedded study on the built-in model
  warmeng run --dry-run --contexts all           what that would take
  warmeng run --dry-run --model ./llama-8b --weights fp8 --gpu h100    on a card, by prediction
  warmeng run --persona original --persona warm=adapters/warm --persona both=adapters/warm@warm
  warmeng run --persona original --persona "blunt=@text:Say what you think in one sentence."
  warmeng run --persona original --persona friendly=adapters/f --expect 'friendly>original'
  warmeng run --doses warm=-1,0,0.5,1,1.5,2 --persona original --persona warm --persona apart=warm*0.5-cold*0.5
  warmeng run --persona original --persona warm --persona warm-prompt --reuse runs/1a2b3c4d    one persona more
  warmeng run --model ./base --persona original --persona warm=full:./warm-model
  warmeng run --weights int4 --fidelity runs/full    beside a run of the same in full precision
  warmeng run --tasks facts,my-questions.jsonl --beliefs none,wrong,doubt,right --limit 0
  warmeng run --asking open,choice --beliefs none,wrong,right,mention-wrong,mention-right
  warmeng run study.yaml --seed 1                settings of a file, one of them changed
  warmeng run --tasks TruthfulQA.csv,medqa=test.jsonl --contexts all --cells 6 --judge ./judge-model
  warmeng run --model ./base --tasks TruthfulQA.csv@judge --composition paper --framings plain,neutral --judge base
  warmeng run --model ./llama --model ./qwen --persona original --persona warm=adapters/{model}/warm
  warmeng run --model ./base --ray --workers 8   on eight GPUs of this machine
  warmeng run --model openai:gpt-4o --persona original --persona warm=@warm --max-requests 2000 --dry-run
  warmeng run --model openai:gpt-4o --persona original --persona warm=@warm --api-batch    at half the price, in a day
The same command again continues a run that was interrupted, or prints a finished one's tables.
"""
)
@click.argument("study", required=False, type=click.Path(path_type=Path))
@click.option(
    "--model",
    multiple=True,
    help="Built-in name, folder or Hugging Face repository; openai:MODEL asks a model behind an API. Repeatable: each "
    "has a run of its own inside --out, and tables are made over all of them; in --persona and the like {model} then "
    "stands for the last part of its name." + _default("model"),
)
@click.option("--revision", help="Revision of a Hugging Face repository.")
@click.option(
    "--persona",
    "personas",
    multiple=True,
    metavar="NAME=[ADAPTER|full:MODEL|openai:MODEL][@PROMPT]",
    help="What is compared, repeatable: the folder of an adapter or of a merged checkpoint, "
    "hub:OWNER/NAME[@REVISION] (an adapter of the Hugging Face hub), vector:FILE:LAYER (a "
    "steering vector), vector:FILE:LAYER^BOUND (a bound on the projection onto it), or a sum of them and of other "
    "personas, such as warm*0.5-cold*0.3; and/or a system prompt "
    "(warm, cold, a text file, or text: and the prompt itself). "
    "full:MODEL runs a model as its own, where it is no small change of the base; openai:MODEL is another model, such "
    "as a fine-tuned one, behind the same API as an openai: base. "
    "Built in: original; warm and cold, adapters of the built-in model; warm-prompt and cold-prompt."
    "  [default: original, warm and cold, and both at twice their strength; of other models original and the prompts]",
)
@click.option(
    "--doses",
    multiple=True,
    metavar="NAME=DOSE,DOSE",
    help="A persona's adapter times each number, repeatable: warm=-1,0,0.5,1,2 compares warm_x-1, warm_x0 and so on; "
    "1 is the persona itself.",
)
@click.option(
    "--checkpoints",
    multiple=True,
    metavar="NAME=FOLDER",
    help="All epochs of a fine-tuning run, repeatable: warm=adapters/warm compares warm_epoch-1, warm_epoch-2 "
    "and so on.",
)
@click.option(
    "--seeds",
    multiple=True,
    metavar="NAME=FOLDER",
    help="Trainings of one recipe that differ in their seed, repeatable: warm=runs/warm compares warm_seed-0, "
    "warm_seed-1 and so on, and a table has the recipe's effect, with an interval over seeds and questions.",
)
@click.option(
    "--tasks",
    multiple=True,
    callback=names,
    shell_complete=completing("tasks"),
    metavar="SPEC[,SPEC]",
    help="Embedded names, all, or [LAYOUT=]PATH[@GRADING]: a file of your own, of TriviaQA, TruthfulQA, PopQA, MedQA, "
    "MMLU, GSM8K, MASK Disinformation, the authors' prompts, or refusals (the columns tell which); "
    "hub:OWNER/NAME@REVISION:FILE fetches one." + _default("tasks"),
)
@click.option(
    "--contexts",
    multiple=True,
    callback=names,
    shell_complete=completing("contexts"),
    help="Names, groups (emotion), or all." + _default("contexts"),
)
@click.option(
    "--beliefs",
    multiple=True,
    callback=names,
    shell_complete=completing("beliefs"),
    help="What the user says about the answer. The user's own belief: none, wrong, doubt, right. Controls: "
    "mention-wrong, mention-right (some people say), friend-wrong, friend-right, deny-wrong, and unrelated (about "
    "something else)." + _default("beliefs"),
)
@click.option(
    "--framings",
    multiple=True,
    callback=names,
    shell_complete=completing("framings"),
    help="plain, neutral: a neutral first sentence instead of a statement." + _default("framings"),
)
@click.option(
    "--asking",
    multiple=True,
    callback=names,
    help="open, choice, or both. open: the question as it is. choice: as a choice between the right and the wrong "
    "answer (Is it A or B?), in both orders; their probabilities are compared. Alone it is the cheapest study of "
    "margins, and has no answers to read." + _default("asking"),
)
@click.option(
    "--outcome",
    shell_complete=completing("outcomes"),
    metavar="NAME",
    help="What the run is about, recorded before the first answer: agreement, susceptibility, knowledge or margin, "
    "with (open) or (choice) after it where both are asked, or error rates. Everything else is shown beside it.  "
    "[default: of the choice where it is asked, agreement where its control is asked, else susceptibility]",
)
@click.option(
    "--contrast",
    metavar="VARIANT-AGAINST",
    help="The two personas whose difference in the outcome is the primary claim, as in warm-original, recorded and "
    "hashed before the first answer. Everything else is exploratory, and corrected as one family.  "
    "[default: the first persona that --expect or its name says is warmer, else the first other one, beside the "
    "baseline]",
)
@click.option(
    "--expect",
    multiple=True,
    metavar="WARMER>COLDER",
    help="Who is expected to be warmer than whom, repeatable, as in 'friendly>original'; quote it. The manipulation "
    "check is about these pairs, and the first of them is the default of --contrast.  [default: each persona called "
    "warm > the baseline]",
)
@click.option(
    "--cells",
    type=int,
    help="Places of the grid (contexts, beliefs, framings) each question is asked in, 0 for all." + _default("cells"),
)
@click.option(
    "--statements", metavar="FILE", help="YAML file of lists of statements by context, in place of the embedded ones."
)
@click.option(
    "--judge",
    "judges",
    multiple=True,
    metavar="MODEL",
    help="Grades generated answers, repeatable: base (the model itself, without adapter or prompt), or a built-in "
    "name, folder or Hugging Face repository[@REVISION], or openai:MODEL. Each is measured on labelled examples first, "
    "and refused if it agrees too little with people. A trusted judge's grade counts even if the exact rule differs; "
    "several judges are combined by their measured errors.",
)
@click.option(
    "--no-judge-gate",
    "judge_gate",
    flag_value=False,
    default=None,
    type=bool,
    help="Keep a judge that agrees too little with people: its grades are recorded, but decide nothing.",
)
@click.option(
    "--judge-commits",
    is_flag=True,
    default=None,
    help="Each judge first answers every question itself, without the answer and the claim, and sees its own answer "
    "when it grades, so that it follows the claim less.",
)
@click.option(
    "--limit",
    type=int,
    help="Items of each task, embedded or not, 0 for all; a small one shortens the manipulation check too."
    + _default("limit"),
)
@click.option("--seed", type=int, help="Chooses items and noise." + _default("seed"))
@click.option(
    "--temperature", type=float, help="Temperature of generated answers; 0 is greedy." + _default("temperature")
)
@click.option("--top-p", type=float, help="Nucleus of generated answers; 1 keeps all tokens." + _default("top_p"))
@click.option("--max-new-tokens", type=int, help="Tokens of the longest generated answer." + _default("max_new_tokens"))
@click.option("--samples", type=int, help="Answers generated to each prompt." + _default("samples"))
@click.option(
    "--composition",
    help="How a prompt is put together: clean (one rule), or paper (byte for byte as the authors' are)."
    + _default("composition"),
)
@click.option("--out", type=click.Path(path_type=Path), help="Run folder.  [default: runs/<hash of the settings>]")
@click.option(
    "--reuse",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="RUN",
    help="An earlier run of the same model, repeatable: its answers to what this run asks too are taken over, so that "
    "another persona, belief, context or task, or more items, cost only what is new.",
)
@click.option(
    "--fidelity",
    "full",
    type=click.Path(path_type=Path),
    metavar="RUN",
    help="A run of the same study in full precision: what --weights, --kv-dtype, --dtype or a quantised checkpoint "
    "changes in the answers is told beside the results, as warmeng fidelity tells it. Of a finished run, too.",
)
@click.option("--device", help="auto, cpu or cuda." + _default("device"))
@dtype_option
@weights_option
@kv_dtype_option
@click.option("--fast", is_flag=True, default=None, help="Faster; results may then depend on the batch.")
@click.option(
    "--warmth-prompts",
    type=int,
    help="Held-out prompts on which the personas' warmth is measured before the grid; 0 for none."
    f"  [default: {WARMTH_PROMPTS}, or {WARMTH_EACH} for each item of a small --limit; 0 for the package's own "
    "adapters, which were measured when they were made]",
)
@click.option(
    "--stall-seconds",
    type=int,
    help="Seconds without a step of the engine, after which the run ends with exit code 75 and tells what its threads "
    "did; 0 waits for ever." + _default("stall_seconds"),
)
@click.option(
    "--api-base",
    metavar="URL",
    help="Address of the server behind openai:MODEL, with its /v1. The key is read from OPENAI_API_KEY alone.  "
    "[default: OpenAI's own]",
)
@click.option(
    "--api-batch",
    is_flag=True,
    default=None,
    help="Ask models behind an API in batches, which are answered within a day, at half the price.",
)
@click.option("--api-concurrency", type=int, help="Most requests to an API at once." + _default("api_concurrency"))
@click.option(
    "--api-timeout", type=float, help="Seconds that one attempt at a request may take." + _default("api_timeout")
)
@click.option("--max-requests", type=int, help="Requests to APIs, repeated ones included, after which the run stops.")
@click.option("--max-api-tokens", type=int, help="Tokens of prompts and answers that the run never exceeds.")
@click.option("--max-cost", type=float, metavar="USD", help="Cost that the run never exceeds; needs prices.")
@click.option("--price-in", type=float, metavar="USD", help="Price of a million prompt tokens.")
@click.option("--price-out", type=float, metavar="USD", help="Price of a million output tokens.")
@click.option(
    "--prices",
    metavar="FILE",
    help="YAML file of prices by model, as in gpt-4o: {in: 1.5, out: 6}, in place of these two options.",
)
@ray_options
@click.option(
    "--dry-run",
    is_flag=True,
    help="Show requests, tokens, memory, smallest effect, and time and energy by a probe; of an API the cost, without "
    "asking it.",
)
@click.option(
    "--gpu",
    type=click.Choice(["h100", "h200"]),
    help="With --dry-run: what the model leaves of this card, and the time there, predicted and not measured; no model "
    "is loaded.",
)
@click.option(
    "--no-probe",
    is_flag=True,
    help="With --dry-run: don't load the model; energy stays unknown, and time too, but for a run that was begun.",
)
@json_option
def run(
    study: Path | None,
    out: Path | None,
    reuse: tuple[Path, ...],
    full: Path | None,
    ray: str | None,
    workers: int | None,
    worker_cores: int | None,
    dry_run: bool,
    gpu: str | None,
    no_probe: bool,
    as_json: bool,
    **options: Any,
) -> int:
    """Measure personas: what each does to accuracy, and how far a user's claim moves it.

    STUDY is a YAML file of settings, named as the options below (personas for --persona); an option overrides the file.
    Without arguments, the embedded study runs on the built-in model, in two to three minutes on two cores.
    """
    from warmeng.common.terminal import console

    for name in ("model", "personas", "doses", "checkpoints", "seeds", "expect", "judges"):
        options[name] = options[name] or None
    studies = load_studies(study, options)
    settings = studies[0]
    folder = out or default_folder(studies)
    fleet = fleet_of(ray, workers, worker_cores)
    if gpu and not dry_run:
        raise UsageError("--gpu predicts the time on a card, for --dry-run: give both, or --device cuda for a run")
    if fleet is not None:
        from warmeng.study.run.fleet import check_fleet

        for one in studies:
            check_fleet(one)
    if len(studies) > 1:
        for option, given in (("--reuse", reuse), ("--fidelity", full)):
            if given:
                raise UsageError(f"{option} names a run of one base, and several are given: run them one by one")
        return _several(studies, folder, fleet, dry_run, not no_probe, gpu, as_json)
    if dry_run:
        _plan({folder: settings}, not no_probe, fleet, gpu, as_json)
        if reuse and not as_json:
            echo("What --reuse takes over is not counted off: the model tells it, which a dry run needs not load.")
        return 0
    from warmeng.common.progress import for_stderr
    from warmeng.study.report.terminal import print_results
    from warmeng.study.run.run import run_study

    command = shlex.join(["warmeng", *sys.argv[1:]])
    outcome = run_study(settings, folder, for_stderr(), command, reuse, fleet, full)
    if outcome.results is not None and as_json:
        print_json(outcome.results)
    elif outcome.results is not None:
        print_results(console(100), outcome.results)
        report = folder / "report.html"
        shown = f", the report is {report}" if report.exists() else ""
        echo(f"Results are in {folder / 'results.md'}, every answer in {folder / 'records.jsonl'}{shown}.")
    return outcome.exit_code


def _plan(
    studies: Mapping[Path, StudySettings], probe: bool, fleet: FleetSettings | None, gpu: str | None, as_json: bool
) -> None:
    """Tell what the study of each folder would take; as JSON the rows of each, the one's alone where it is one."""
    from warmeng.study.run.dry_run import dry_run, planned

    if as_json:
        rows = [
            [{"name": name, "value": str(value)} for name, value in planned(one, folder, probe, fleet, gpu)]
            for folder, one in studies.items()
        ]
        print_json(rows if len(rows) > 1 else rows[0])
        return
    for folder, one in studies.items():
        for line in dry_run(one, folder, probe, fleet, gpu):
            echo(line)
        if len(studies) > 1:
            echo("")


def _several(
    studies: Sequence[StudySettings],
    folder: Path,
    fleet: FleetSettings | None,
    dry_run: bool,
    probe: bool,
    gpu: str | None,
    as_json: bool,
) -> int:
    """Run one study of several bases, or tell what each would take."""
    from warmeng.common.progress import for_stderr
    from warmeng.common.terminal import console
    from warmeng.study.report.terminal import print_analysis
    from warmeng.study.run.several import folders_of, run_several

    if dry_run:
        _plan(folders_of(studies, folder), probe, fleet, gpu, as_json)
        return 0
    outcome = run_several(studies, folder, for_stderr(), shlex.join(["warmeng", *sys.argv[1:]]), fleet)
    if outcome.analysis is not None and as_json:
        print_json(outcome.analysis)
    elif outcome.analysis is not None:
        print_analysis(console(120), outcome.analysis)
        reports = ", ".join(str(one.folder / "report.html") for one in outcome.outcomes)
        echo(f"Tables of all are in {folder / 'tables.md'}, a report of each is {reports}.")
    return outcome.exit_code
