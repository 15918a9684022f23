"""``warmeng serve`` itself: load, listen, serve."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from warmeng.common.errors import UsageError


def start(
    *,
    model: str,
    revision: str | None,
    personas: Sequence[str],
    doses: Sequence[str],
    checkpoints: Sequence[str],
    name: str | None,
    host: str,
    port: int,
    device: str,
    dtype: str | None,
    weights: str | None,
    kv_dtype: str | None,
    fast: bool,
    max_seq_len: int,
    max_open: int,
    drain_seconds: int,
    say: Callable[[str], None],
) -> None:
    """Serve until a signal; ``say`` tells what happens. Raises UsageError and InputError as loading does."""
    try:
        from warmeng.common.hosts import is_loopback
        from warmeng.serve.app import Service
        from warmeng.serve.server import Server, key_for, listen, serve_until_interrupted
    except ImportError as error:
        raise UsageError(f"a package is missing ({error}): pip install 'warmeng[serve]'") from None
    from warmeng.engine.settings import AUTO, EngineSettings
    from warmeng.serve.catalog import load
    from warmeng.serve.limits import Limits
    from warmeng.study.personas import load_personas
    from warmeng.study.settings import StudySettings

    settings = StudySettings(
        model=model, revision=revision, personas=personas, doses=doses, checkpoints=checkpoints, device=device
    )  # fmt: skip
    key = key_for(host)
    bound = listen(host, port)
    say(f"loading {model}")
    engine, catalog = load(
        model,
        load_personas(settings.personas),
        EngineSettings(
            dtype=dtype or AUTO, weights=weights or AUTO, kv_dtype=kv_dtype or AUTO, fast=fast, max_seq_len=max_seq_len
        ),
        revision=revision,
        device=device,
        name=name,
        say=say,
    )
    limits = Limits(max_open=max_open, drain_seconds=drain_seconds)
    server = Server(Service(engine, catalog, limits), bound, key, is_loopback(host))
    say(f"serving {', '.join(catalog.models)} on {server.address}/v1 (Ctrl-C ends)")
    serve_until_interrupted(server)
