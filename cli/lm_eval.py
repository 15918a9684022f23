"""``warmeng lm-eval``: lm-evaluation-harness, with this engine among its models."""

from __future__ import annotations

import click


@click.command(
    name="lm-eval",
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    epilog="""\b
Examples:
  warmeng lm-eval --model warmeng --model_args pretrained=smollm2-135m-instruct,persona=warm --tasks arc_easy
  warmeng lm-eval --model warmeng --model_args pretrained=smollm2-135m-instruct --tasks gsm8k --apply_chat_template
""",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def lm_eval(arguments: tuple[str, ...]) -> None:
    """Run lm-evaluation-harness with the model `warmeng`: a base or one of its personas, on the engine in this process.

    ARGUMENTS are those of `lm_eval`; see `warmeng lm-eval --help`. Of `--model_args`: pretrained (as --model of
    `warmeng run`), persona (as its --persona), revision, device, max_length, max_gen_toks, add_bos_token, seed, dtype,
    weights, fast.
    """
    from warmeng.common.errors import UsageError

    try:
        from warmeng.plugins.lm_eval import run
    except ImportError as error:
        raise UsageError(f"a package is missing ({error}): pip install 'warmeng[lm-eval]'") from None
    run(arguments)
