"""Personas as sums of adapters, doses of one, and checkpoints of a training run."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes import FakeEngine

from warmeng.common.errors import InputError, UsageError
from warmeng.study.adapters import apply_adapters
from warmeng.study.algebra import Term, expand, is_dose, parse_sum, recipes_of
from warmeng.study.personas import ADAPTERS, BUILT_IN_MODEL, Change, Persona, doses_of, load_personas
from warmeng.study.report.settings_text import persona_words
from warmeng.study.settings import StudySettings, load_settings
from warmeng.study.stats.published import EFFECTS, effect_of


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("warm", [("warm", 1)]),
        ("warm*0.5", [("warm", 0.5)]),
        ("warm*-1", [("warm", -1)]),
        ("warm*0.5-cold*0.3", [("warm", 0.5), ("cold", -0.3)]),
        ("warm*.5+cold", [("warm", 0.5), ("cold", 1)]),
        ("a*1--cold*2", [("a", 1), ("-cold", -2)]),
        # Names hold signs: only a coefficient ends a term.
        ("my-runs/warm+v2", [("my-runs/warm+v2", 1)]),
        ("my-runs/warm-v2*2-b-c*1.5+d", [("my-runs/warm-v2", 2), ("b-c", -1.5), ("d", 1)]),
        ("a*2x*3", [("a*2x", 3)]),
        ("a*", [("a*", 1)]),
        ("-warm", [("-warm", 1)]),
        ("", []),
    ],
)
def test_sums(text: str, terms: list[tuple[str, float]]) -> None:
    assert parse_sum(text) == [Term(name, value) for name, value in terms]


def test_brackets_hold_a_folder_as_it_stands() -> None:
    assert parse_sum("[runs/a*2-b]") == [Term("runs/a*2-b", 1, True)]
    assert parse_sum("[a*2]*0.5-[b-c]") == [Term("a*2", 0.5, True), Term("b-c", -1, True)]


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Folders with adapters' weights, in the current one."""
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "b*2", "warm-v2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_model.safetensors").write_bytes(name.encode())
    return tmp_path


def changes(*specs: str) -> dict[str, dict[str, float]]:
    return {p.name: {str(c.source): c.coefficient for c in p.changes} for p in load_personas(specs)}


def test_terms_are_personas_folders_or_the_packages_own(folders) -> None:
    warm, cold = str(ADAPTERS / "warm"), str(ADAPTERS / "cold")
    assert changes("half=warm*0.5") == {"half": {warm: 0.5}}
    assert changes("x=warm*0.5-cold*0.3") == {"x": {warm: 0.5, cold: -0.3}}
    assert changes("x=a*2-warm-v2*1", "y=[b*2]*3+[b*2]*1") == {"x": {"a": 2, "warm-v2": -1}, "y": {"b*2": 4}}
    # Another persona's adapters, whatever the order, without its prompt.
    found = load_personas(["more=mix*2", "mix=warm*0.5-b*1@warm", "warm=a"])
    assert found[0] == Persona("more", (Change(Path("a"), 1.0), Change(Path("b"), -2.0)))
    assert changes("warm=warm*2", "x=warm*2")["x"] == {warm: 4}
    (folders / "cold").mkdir()
    assert changes("cold", "x=cold*1", "y=./cold*1") == {"cold": {cold: 1}, "x": {cold: 1}, "y": {"cold": 1}}
    assert changes("x=cold*1") == {"x": {"cold": 1}}


def test_adapters_of_the_hub_are_fetched_by_name_and_revision(folders, monkeypatch) -> None:
    asked = []

    def snapshot(name, revision, **patterns):
        asked.append((name, revision))
        assert not any(wanted.endswith((".bin", ".py", ".pt")) for wanted in patterns["allow_patterns"])
        if name == "owner/gone":
            raise OSError("no such repository")
        return str(folders / name.partition("/")[2])

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    (folders / "hub-a").mkdir()
    fetched = folders / "hub-a"
    assert load_personas(["x=hub:owner/hub-a"]) == (Persona("x", (Change(fetched),)),)
    half = load_personas(["x=hub:owner/hub-a@v1*0.5-a*1@"])
    assert half == (Persona("x", (Change(fetched, 0.5), Change(Path("a"), -1.0))),)
    assert asked == [("owner/hub-a", None), ("owner/hub-a", "v1")]
    with pytest.raises(InputError, match="no such adapter 'owner/gone' here or on the hub"):
        load_personas(["x=hub:owner/gone"])
    for spec in ("x=hub:gone", "x=hub:", "x=hub:../../etc", "x=hub:a/b/c"):
        with pytest.raises(InputError, match="expected owner/name on the Hugging Face hub"):
            load_personas([spec])


def test_what_is_no_sum_is_refused(folders) -> None:
    for spec in ("x=gone*2", "x=a*2-gone*1", "x=[warm]*2", "x=a-b", "x=[a"):
        with pytest.raises(InputError, match="is not a folder: expected the folder of a PEFT LoRA adapter"):
            load_personas([spec])
    for specs in (["x=original*2", "original"], ["p=@warm", "x=p*1"], ["m=full:a/b", "x=m*2"]):
        with pytest.raises(UsageError, match="has no adapter or vector that could be a part of it"):
            load_personas(specs)
    with pytest.raises(UsageError, match="each made of the other"):
        load_personas(["x=y*2", "y=x*2"])


def test_doses_are_personas_with_readable_names() -> None:
    assert expand(["original", "warm"], ["warm=-1,0,0.5,1,1.50,2"]) == (
        "original", "warm", "warm_x-1=warm*-1", "warm_x0=warm*0", "warm_x0.5=warm*0.5", "warm_x1.5=warm*1.5",
        "warm_x2=warm*2",
    )  # fmt: skip
    assert expand(["w=f@cold"], ["w=2"])[1] == "w_x2=w*2@cold"
    assert [is_dose(name) for name in ("warm_x-1", "warm_x0.5", "warm", "warm_xl", "box2")] == [
        True,
        True,
        False,
        False,
        False,
    ]
    assert [effect_of(1, "all", "all", name) for name in ("warm", "warm_x-1")] == [EFFECTS[1, "all"], None]
    for doses in ("warm", "warm=", "warm=a", "warm=1,,2", "warm=nan"):
        with pytest.raises(UsageError, match="is not NAME=DOSE,DOSE"):
            expand(["warm"], [doses])
    with pytest.raises(UsageError, match="give it with --persona as well"):
        expand(["original"], ["warm=1"])


def test_checkpoints_are_personas(tmp_path) -> None:
    run = tmp_path / "adapters@2" / "warm"
    for epoch in ("epoch-10", "epoch-0.5", "epoch-2", "epoch-x"):
        (run / epoch).mkdir(parents=True)
        (run / epoch / "adapter_config.json").write_text("{}")
    (run / "epoch-3").mkdir()
    found = expand(["original"], ["w_epoch-2=0.5"], [f"w={run}"])
    names = ["original", "w_epoch-0.5", "w_epoch-2", "w_epoch-10", "w_epoch-2_x0.5"]
    assert [spec.partition("=")[0] for spec in found] == names
    assert [str(p.changes[0].source) for p in load_personas(found)[1:]] == [
        str(run / name) for name in ("epoch-0.5", "epoch-2", "epoch-10", "epoch-2")
    ]
    with pytest.raises(InputError, match="has no checkpoints"):
        expand([], (), [f"w={tmp_path}"])
    with pytest.raises(UsageError, match="is not NAME=FOLDER"):
        expand([], (), ["w"])


def test_training_seeds_are_personas_of_a_recipe(tmp_path) -> None:
    for folder in ("seed-10/w/epoch-1", "seed-2/w/epoch-1", "seed-2/w/epoch-10", "seed-2/other/epoch-2", "seed-3"):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / "adapter_config.json").write_text("{}")
    (tmp_path / "seed-4").mkdir()
    found = expand(["original"], seeds=[f"w={tmp_path}"])
    assert found == (
        "original", f"w_seed-2={tmp_path}/seed-2/w/epoch-10", f"w_seed-3={tmp_path}/seed-3",
        f"w_seed-10={tmp_path}/seed-10/w/epoch-1",
    )  # fmt: skip
    assert recipes_of(found) == {"w": ("w_seed-2", "w_seed-3", "w_seed-10")}
    assert recipes_of(["w_seed-2=a", "v_seed-x=b", "w"]) == {}
    alone = tmp_path / "alone"
    (alone / "seed-1/other").mkdir(parents=True)
    (tmp_path / "seed-2/other/epoch-2").rename(alone / "seed-1/other/epoch-2")
    with pytest.raises(InputError, match="has 1 seeds of 'other', expected two or more"):
        expand([], seeds=[f"other={alone}"])
    with pytest.raises(UsageError, match="seeds 'w' is not NAME=FOLDER"):
        expand([], seeds=["w"])
    with pytest.raises(UsageError, match="seeds"):
        StudySettings(seeds=(1,))  # type: ignore[arg-type]


def test_bounds_are_terms_without_a_strength(tmp_path) -> None:
    bounded = load_personas(["v=vector:a:b:12^-1.5", "x=v*1+vector:a:b:12*2-v*0+warm*0.5", "off=v*0"])
    bound = Change(Path("a:b"), 1.0, 12, -1.5)
    assert bounded[0].changes == (bound,)
    assert bounded[1].changes == (bound, Change(Path("a:b"), 2.0, 12), Change(ADAPTERS / "warm", 0.5))
    assert bounded[2].changes == (bound._replace(coefficient=0.0),)
    plain = load_personas(["original", "a=warm", "b=warm*2"])
    assert set(doses_of([*bounded, *plain])) == {"original", "a", "b"}
    assert (
        persona_words("v=vector:runs/f.safetensors:12^3")
        == "v: the base with a projection of at most 3 on the vector f.safetensors after layer 12"
    )
    for spec in ("v=vector:f:3^", "v=vector:f:3^x", "v=vector:f:3^1e5", "v=vector:f:3^inf", "v=vector:f:3^1^2"):
        with pytest.raises(UsageError, match=r"is not vector:FILE:LAYER or vector:FILE:LAYER\^BOUND"):
            load_personas([spec])
    for spec in ("v=vector:f:3^1*0.5", "v=vector:f:3^1*1+vector:f:3^1"):
        with pytest.raises(UsageError, match=r"has the bound 1 on f .* give it once"):
            load_personas([spec])


def test_a_system_prompt_may_be_written_out():
    [blunt] = load_personas(["blunt=@text:Say what you think, to me@home = you."])
    assert (blunt.changes, blunt.system) == ((), "Say what you think, to me@home = you.")
    [both] = load_personas(["both=warm*0.5@text: Be brief. "])
    assert (both.changes, both.system) == ((Change(ADAPTERS / "warm", 0.5),), "Be brief.")
    assert persona_words("blunt=@text:Say it.") == "blunt: the base with a system prompt of its own"
    with pytest.raises(InputError, match="@text:: is empty"):
        load_personas(["none=@text: "])
    settings = StudySettings(personas=("original", "p=warm@text:Be brief."), doses=("p=2",))
    assert settings.personas[-1] == "p_x2=p*2@text:Be brief."
    assert load_personas(settings.personas)[-1].system == "Be brief."


def test_coefficients_have_a_limit_before_anything_is_loaded():
    load_personas(["v=warm*1000"])
    for spec in ("v=warm*1000.5", "v=warm*600+warm*600", "v=cold*-2000"):
        with pytest.raises(UsageError, match=r"persona v: has .* times, expected at most 1000 in size"):
            load_personas([spec])


def test_an_adapter_by_two_paths_is_one_family(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    personas = load_personas(["original", f"one={tmp_path / 'a'}", "two=./a*2"])
    assert doses_of(personas) == {"original": ("", 0.0), "one": ("one", 1.0), "two": ("one", 2.0)}


def test_a_bound_that_the_probe_does_not_reach_is_no_fault(folders) -> None:
    Path("f").write_bytes(b"vector")
    still = FakeEngine(moves=0.0)
    assert apply_adapters(still, load_personas(["v=vector:f:3^1"]))["v"].probe == 0.0
    assert sorted(still.adapters) == ["vector/f:3^1.0"]
    for spec in ("v=vector:f:3^1*1+a", "v=vector:f:3"):
        with pytest.raises(InputError, match="is not applied"):
            apply_adapters(FakeEngine(moves=0.0), load_personas([spec]))
    with pytest.raises(InputError, match="is not applied"):
        apply_adapters(FakeEngine(moves=float("nan")), load_personas(["v=vector:f:3^1"]))


def test_settings_write_doses_out_among_the_personas(tmp_path) -> None:
    settings = StudySettings(personas=("original", "warm"), doses=("warm=0,2",))
    assert settings.personas == ("original", "warm", "warm_x0=warm*0", "warm_x2=warm*2")
    written = StudySettings(personas=settings.personas)
    assert settings == written
    assert settings.digest == written.digest
    path = tmp_path / "s.yaml"
    path.write_text("personas: [original, warm]\ndoses: warm=0\n")
    assert load_settings(path, {}).personas[-1] == "warm_x0=warm*0"


def test_every_adapter_is_loaded_once_and_shown_to_be_applied(folders) -> None:
    fake_engine = FakeEngine()
    personas = load_personas(["original", "w=a", "half=a*0.5", "none=a*0", "sum=a*0.5-b*0.3"])
    found = apply_adapters(fake_engine, personas)
    assert sorted(fake_engine.adapters) == ["adapter/a", "adapter/b"]
    a, b = fake_engine.adapters["adapter/a"], fake_engine.adapters["adapter/b"]
    assert {name: applied.hash for name, applied in found.items()} == {
        "w": a, "half": f"{a}*0.5", "none": "", "sum": f"{a}*0.5+{b}*-0.3",
    }  # fmt: skip
    assert {name: applied.probe for name, applied in found.items()} == {"w": 1, "half": 1, "none": 0, "sum": 1}


def test_a_sum_without_effect_is_refused_and_dose_zero_is_not(folders) -> None:
    fake_engine = FakeEngine(moves=0.0)
    with pytest.raises(InputError, match=r"persona x: the adapter a and b is not applied .* another coefficient"):
        apply_adapters(fake_engine, load_personas(["x=a*1-b*1"]))
    assert apply_adapters(fake_engine, load_personas(["y=a*0"]))["y"].hash == ""


def test_personas_in_words() -> None:
    assert persona_words("half=warm*0.5") == "half: the base with 0.5 times the adapter warm"
    assert persona_words("x=runs/a*0.5-cold*0.3@warm") == (
        "x: the base with 0.5 times the adapter a minus 0.3 times the adapter cold and the warm system prompt"
    )
    assert persona_words("x=[runs/a*2]") == "x: the base with the adapter a*2"


def test_vectors_are_terms(tmp_path) -> None:
    vector = Change(Path("f.safetensors"), 2.0, 12)
    assert load_personas(["v=vector:f.safetensors:12*2"])[0].changes == (vector,)
    both = load_personas(["v=vector:f.safetensors:12*2", "x=warm*0.5-v*0.5@warm", "y=vector:a:b:3"])
    assert both[1].changes == (Change(ADAPTERS / "warm", 0.5), vector._replace(coefficient=-1.0))
    assert both[1].system
    assert both[2].changes == (Change(Path("a:b"), 1.0, 3),)
    assert expand(["v=vector:f:12"], ["v=0.5"])[1] == "v_x0.5=v*0.5"
    for spec in ("v=vector:f", "v=vector:f:x", "v=vector::1", "v=vector:f:-1"):
        with pytest.raises(UsageError, match="is not vector:FILE:LAYER"):
            load_personas([spec])
    assert (
        persona_words("v=vector:runs/f.safetensors:12*2")
        == "v: the base with 2 times the vector f.safetensors after layer 12"
    )


def test_doses_are_those_of_one_change_of_the_plain_base():
    a, b = Change(Path("a")), Change(Path("b"))
    personas = [
        Persona("original"),
        Persona("more", (a._replace(coefficient=2.0),)),
        Persona("warm", (a,)),
        Persona("again", (a,)),
        Persona("both", (a, b)),
        Persona("prompted", (a,), "Be kind."),
        Persona("kind", (), "Be kind."),
    ]
    expected = {"original": ("", 0.0), "more": ("warm", 2.0), "warm": ("warm", 1.0), "kind": ("kind", 1.0)}
    assert doses_of(personas) == expected
    assert doses_of(personas[1:]) == {}, "without the base nothing is dose 0"
    assert doses_of([personas[0], *personas[2:]]) == {}, "one dose is no dose-response"


@pytest.mark.real_defaults
def test_asking_for_doses_leaves_the_default_ones_out():
    settings = StudySettings(model=BUILT_IN_MODEL, doses=("warm=0.5,2",))
    assert [spec.partition("=")[0] for spec in settings.personas] == [
        "original",
        "warm",
        "cold",
        "warm_x0.5",
        "warm_x2",
    ]
