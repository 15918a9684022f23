"""Where an answer ends and begins: every end token counts, and templates that name none or open none are refused."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from making import BRACKETS, CHATML, CONTROL, KINDS, following_model, plain_bytes, random_model, sentencepiece
from tiers import slow

from warmeng.common.errors import InputError
from warmeng.engine.engine import Engine, EngineSettings
from warmeng.engine.folder import read_folder
from warmeng.engine.request import GenerateRequest, SamplingParams, ScoreRequest
from warmeng.engine.tokenizer import Tokenizer
from warmeng.finetune.job import prepare_job
from warmeng.finetune.settings import TrainSettings
from warmeng.study.plan import end_token

SMALL = EngineSettings(kv_bytes=8 * 2**20, max_num_seqs=8, max_batched_tokens=256)
HELLO = [{"role": "user", "content": "Which city?"}]
SHARED = Path(__file__).parents[3] / "shared" / "data" / "tokenizers"
TURNS = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
OPENS = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"


def towns(folder: Path, config_end: int | list[int] | None, generation_end: object = None, **changes: object) -> Path:
    """Write a model that answers " Lyon.", ends its turn, and goes on with " Paris" for ever where nobody stops it."""
    vocab = plain_bytes(folder, ("ĠLyon", "ĠParis"), **changes)
    over, end = vocab["<|endoftext|>"], vocab["<|im_end|>"]
    lyon, paris, line, stop, colon = (vocab[c] for c in ("ĠLyon", "ĠParis", "Ċ", ".", ":"))
    follows = {
        (line, lyon): 20.0, (lyon, stop): 20.0, (stop, end): 20.0, (end, paris): 20.0, (paris, paris): 19.0,
        (paris, stop): 18.0, (colon, lyon): 12.0, (colon, paris): 10.0, (stop, over): -5.0,
    }  # fmt: skip
    following_model(folder, follows, len(vocab), eos_token_id=config_end)
    path = folder / "generation_config.json"
    path.unlink(missing_ok=True)
    if generation_end is not None:
        path.write_text(json.dumps({"eos_token_id": generation_end}))
    return folder


WHO_NAMES_IT = {
    "the configuration": {"config_end": 2},
    "the generation configuration": {"config_end": 0, "generation_end": [2, 0]},
    "the tokenizer and the template": {"config_end": 0},
    "the template alone": {"config_end": 0, "eos_token": "<|endoftext|>"},
    "only the tokenizer and the template": {"config_end": None},
    "a token that is no control token": {"config_end": 0, "eos_token": "<|endoftext|>", "plain": True},
}


@pytest.mark.parametrize("who", WHO_NAMES_IT)
def test_an_answer_ends_with_the_turn_whoever_names_its_end(who: str, tmp_path: Path) -> None:
    changes = dict(WHO_NAMES_IT[who])
    plain = changes.pop("plain", False)
    folder = towns(tmp_path / "model", **changes)
    if plain:
        path = folder / "tokenizer.json"
        data = json.loads(path.read_text())
        data["added_tokens"][2]["special"] = False
        path.write_text(json.dumps(data))
    engine = Engine.load(str(folder), device="cpu", settings=SMALL)
    assert engine.tokenizer.end_of_turn == 2
    assert 2 in engine.config.stop_token_ids
    assert end_token(engine.tokenizer, engine.config.stop_token_ids) == 2
    prompt = tuple(engine.tokenizer.chat(HELLO))
    [result] = engine.generate([GenerateRequest("a", prompt, SamplingParams(max_new_tokens=30))])
    assert (result.text, result.finish_reason, len(result.token_ids)) == (" Lyon.", "stop", 2)
    prompt, labels = engine.tokenizer.continuations(HELLO, "The answer is:", [" Lyon.", " Paris Paris Paris Paris."])
    [scored] = engine.score([ScoreRequest("b", tuple(prompt), tuple((*label, 2) for label in labels))])
    assert scored.logprobs[0] / 6 > scored.logprobs[1] / 25  # as likelihoods are compared: for each byte


def test_all_ends_of_two_files_and_a_tokenizer_are_kept(tmp_path: Path) -> None:
    folder = towns(tmp_path, [7], [9, 11], eos_token="<|endoftext|>")
    config, tokenizer = read_folder(folder)
    assert config.stop_token_ids == (0, 2, 7, 9, 11)
    assert tokenizer.eos_id == 0


def test_training_learns_a_response_up_to_the_end_of_its_turn(tmp_path: Path) -> None:
    folder = towns(tmp_path / "model", 0, eos_token="<|endoftext|>")
    data = tmp_path / "data.jsonl"
    data.write_text(json.dumps({"prompt": "Which?", "response": "Lyon."}) + "\n")
    job = prepare_job(TrainSettings(), str(folder), {"warm": str(data)})
    [sample] = job.datasets["warm"].samples
    learned = sample.tokens[sample.learn].tolist()
    assert Tokenizer.load(folder).decode(learned, skip_special=False) == "Lyon.<|im_end|>"


ENDS = {
    "chatml": (CHATML, "<|im_end|>"),
    "no line break": (CHATML.replace("<|im_end|>\n", "<|im_end|>"), "<|im_end|>"),
    "a blank before it": (CHATML.replace("<|im_end|>", " <|im_end|>"), "<|im_end|>"),
    "another one behind it": (
        TURNS + "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}" + OPENS,
        "<|im_end|>",
    ),
    "the next turn's beginning": (CHATML.replace("<|im_end|>\n", "\n"), "<|im_start|>"),
    "brackets": (BRACKETS, "<|im_end|>"),
    "refuses to end with an answer": (
        "{% if messages[-1].role == 'assistant' %}{{ raise_exception('who asks?') }}{% endif %}" + CHATML,
        "<|im_end|>",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ENDS)
def test_the_end_of_turn_is_found_in_what_a_template_writes(name: str, tmp_path: Path) -> None:
    template, end = ENDS[name]
    plain_bytes(tmp_path, chat_template=template)
    assert Tokenizer.load(tmp_path).end_of_turn == CONTROL.index(end)


PUBLISHED = {
    "llama3_1": "<|eot_id|>", "qwen3": "<|im_end|>", "phi3": "<|end|>", "gemma": "<end_of_turn>",
    "deepseekv3": "<｜end▁of▁sentence｜>", "glm4moe": "<|user|>", "cohere": "<|END_OF_TURN_TOKEN|>",
    "qwen3_instruct_2507": "<|im_end|>", "lfm2": "<|im_end|>",
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_templates(name: str, tmp_path: Path) -> None:
    spec = find_spec("trl")
    folders = spec.submodule_search_locations if spec is not None else None
    path = Path(folders[0]) / "chat_templates" / f"{name}.jinja" if folders else Path("none")
    if not path.is_file():
        pytest.skip(f"no template of {name} here")
    plain_bytes(tmp_path, additional_special_tokens=[PUBLISHED[name], "<BOS>"], bos_token="<BOS>")
    (tmp_path / "chat_template.jinja").write_text(path.read_text())
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.decode([tokenizer.end_of_turn], skip_special=False) == PUBLISHED[name]


@pytest.mark.parametrize(
    ("family", "end"), [("qwen2.5", "<|im_end|>"), *slow(("llama-3.1", "<|eot_id|>"), ("mistral-nemo", "</s>"))]
)
def test_published_tokenizers(family: str, end: str) -> None:
    if not (SHARED / family).is_dir():
        pytest.skip(f"no tokenizer of {family} here")
    tokenizer = Tokenizer.load(SHARED / family)
    assert tokenizer.decode([tokenizer.end_of_turn], skip_special=False) == end
    assert tokenizer.eos_id == tokenizer.end_of_turn or family == "llama-3.1"


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_tokenizer_ends_its_turns(kind: str, tmp_path: Path) -> None:
    KINDS[kind](tmp_path)
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.end_of_turn == tokenizer.eos_id


REFUSED = {
    "no generation prompt": (TURNS, "writes '<|im_start|>assistant\\n' before an answer, but not when asked"),
    "a generation prompt of blanks": (
        TURNS + "{% if add_generation_prompt %}\n{% endif %}",
        "before an answer, but not",
    ),
    "a header of words": (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}",
        "writes 'assistant: ' before an answer",
    ),
    "an end that is no token": (
        CHATML.replace("<|im_end|>", "<|eot|>"), "writes '<|eot|>\\n' after an answer, expected a token",
    ),
    "an end that is no token before one that is": (
        CHATML.replace("<|im_end|>", "<|eot|><|im_end|>"), "writes '<|eot|><|im_end|>\\n' after an answer",
    ),
    "no end": (
        "{% for m in messages %}Q: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}A: {% endif %}",
        "writes '\\n' after an answer, expected a token",
    ),
    "nothing after an answer": ("{% for m in messages %}{{ m.content }}{% endfor %}", "writes '' after an answer"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_templates_whose_answers_begin_or_end_nowhere_are_refused(name: str, tmp_path: Path) -> None:
    template, said = REFUSED[name]
    folder = towns(tmp_path / "model", 2, chat_template=template)
    for load in (lambda: Engine.load(str(folder), device="cpu"), lambda: Tokenizer.load(folder)):
        with pytest.raises(InputError) as caught:
            load()
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)
    data = tmp_path / "data.jsonl"
    data.write_text(json.dumps({"prompt": "Which?", "response": "Lyon."}) + "\n")
    with pytest.raises(InputError, match="chat template"):
        prepare_job(TrainSettings(), str(folder), {"warm": str(data)})


OPENED = {
    "unasked": TURNS + "<|im_start|>assistant\n",
    "where the user speaks last": TURNS + "{% if messages[-1].role == 'user' %}<|im_start|>assistant\n{% endif %}",
    "no header": BRACKETS,
    "thoughts behind it": TURNS
    + "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n\n</think>\n{% endif %}",
}


@pytest.mark.parametrize("name", OPENED)
def test_answers_that_are_open_are_not_refused(name: str, tmp_path: Path) -> None:
    plain_bytes(tmp_path, chat_template=OPENED[name])
    assert Tokenizer.load(tmp_path).chat(HELLO)


@pytest.mark.parametrize("lost", ["<|im_end|>", "<|im_start|>", "eos alone"])
def test_control_tokens_without_rows_are_refused_before_anything_is_made(lost: str, tmp_path: Path) -> None:
    """Their embedding would be looked up beyond its end."""
    from tokenizers import AddedToken, Tokenizer

    folder = tmp_path / "model"
    vocab = plain_bytes(folder)
    made = Tokenizer.from_file(str(folder / "tokenizer.json"))
    made.add_special_tokens([AddedToken("<|late|>", special=True)])
    made.save(str(folder / "tokenizer.json"))
    template = CHATML if lost == "eos alone" else CHATML.replace(lost, "<|late|>")
    named = json.loads((folder / "tokenizer_config.json").read_text())
    named |= {"chat_template": template, "eos_token": "<|late|>" if lost == "eos alone" else "<|im_end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(named))
    random_model(folder, len(vocab), eos_token_id=2)
    if lost == "eos alone":  # the template doesn't write it, so nobody needs it
        engine = Engine.load(str(folder), device="cpu", settings=SMALL)
        assert engine.config.stop_token_ids == (2,)
        assert engine.tokenizer.eos_id is None
        return
    data = tmp_path / "data.jsonl"
    data.write_text(json.dumps({"prompt": "Which?", "response": "Lyon."}) + "\n")
    for load in (
        lambda: Engine.load(str(folder), device="cpu"),
        lambda: prepare_job(TrainSettings(), str(folder), {"warm": str(data)}),
    ):
        with pytest.raises(
            InputError, match=r"needs the token '<\|late\|>' with id 259, but the embedding has 259 rows"
        ):
            load()


def test_text_that_needs_a_token_without_a_row_is_named(tmp_path: Path) -> None:
    vocab = plain_bytes(tmp_path, ("ĠLyon",))
    random_model(tmp_path, len(vocab) - 1, eos_token_id=2)  # " Lyon" has the last id
    engine = Engine.load(str(tmp_path), device="cpu", settings=SMALL)
    said = r"the text '.*Lyon.*' needs the token 'ĠLyon' with id 262, but the embedding has 262 rows"
    for ask in (
        lambda: engine.tokenizer.encode("To Lyon"),
        lambda: engine.tokenizer.chat([{"role": "user", "content": "To Lyon"}]),
        lambda: engine.tokenizer.continuations(HELLO, "It is:", [" Paris", " Lyon"]),
    ):
        with pytest.raises(InputError, match=said):
            ask()
    [result] = engine.generate([GenerateRequest("a", tuple(engine.tokenizer.chat(HELLO)), SamplingParams(20))])
    assert result.status == "ok"
    assert max(result.token_ids) < 262


def elsewhere(folder: Path, where: str, first: int) -> None:
    """Name the control tokens, whose ids begin at ``first``, in another file than tokenizer.json."""
    path = folder / "tokenizer_config.json"
    named = json.loads(path.read_text())
    flags = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False) | {"special": True}
    if where == "special_tokens_map.json":
        del named["eos_token"], named["bos_token"]
        found = {"additional_special_tokens": list(CONTROL), "eos_token": CONTROL[2], "bos_token": CONTROL[1]}
        (folder / where).write_text(json.dumps(found))
    elif where == "added_tokens_decoder":
        named[where] = {str(first + i): {"content": text, **flags} for i, text in enumerate(CONTROL)}
    elif where == "extra_special_tokens":
        named[where] = {f"t{i}": text for i, text in enumerate(CONTROL)}
    else:
        named[where] = list(CONTROL)
    path.write_text(json.dumps(named))


@pytest.mark.parametrize(
    "where", ["added_tokens_decoder", "additional_special_tokens", "extra_special_tokens", "special_tokens_map.json"]
)
@pytest.mark.parametrize("in_vocabulary", [False, True])
def test_control_tokens_that_only_another_file_names(where: str, in_vocabulary: bool, tmp_path: Path) -> None:
    """They are control tokens in transformers, whether or not the vocabulary has their text as an ordinary token."""
    from transformers import AutoTokenizer

    plain_bytes(tmp_path)
    path = tmp_path / "tokenizer.json"
    data = json.loads(path.read_text())
    data["added_tokens"] = []
    if not in_vocabulary:
        ordinary = [text for text in data["model"]["vocab"] if text not in CONTROL]
        data["model"]["vocab"] = {text: i for i, text in enumerate(ordinary)}
    path.write_text(json.dumps(data))
    elsewhere(tmp_path, where, 0 if in_vocabulary else 256)
    ours, theirs = Tokenizer.load(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    expected = theirs.apply_chat_template(HELLO, add_generation_prompt=True, tokenize=True, return_dict=False)
    assert ours.chat(HELLO) == expected
    assert set(CONTROL) <= set(ours.special_tokens)
    assert ours.end_of_turn == theirs.convert_tokens_to_ids("<|im_end|>")


def test_files_that_lack_their_other_half_say_which(tmp_path: Path) -> None:
    sentencepiece(tmp_path, "plain")
    (tmp_path / "tokenizer.json").unlink()
    for there, missing in (("vocab.json", "merges.txt"), ("merges.txt", "vocab.json")):
        (tmp_path / there).write_text("{}")
        with pytest.raises(InputError, match=f"has {there} without {missing} and no tokenizer.json"):
            Tokenizer.load(tmp_path)
        (tmp_path / there).unlink()
    with pytest.raises(InputError, match=r"has no tokenizer.json"):
        Tokenizer.load(tmp_path)
