"""Servers on loopback for tests, and answers held to the ``openai`` package's own models."""

from __future__ import annotations

import faulthandler
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx2
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

from warmeng.engine.engine import Engine, EngineSettings
from warmeng.serve.app import Service
from warmeng.serve.catalog import Catalog
from warmeng.serve.limits import Limits
from warmeng.serve.server import Server, listen
from warmeng.study.personas import Change, Persona

M = TypeVar("M", bound=BaseModel)
BASE = "tiny"
SYSTEM = "Be kind."
SETTINGS = EngineSettings(kv_bytes=2**21, max_num_seqs=24, max_batched_tokens=96)
NO_RETRY = {"api_key": "not needed", "max_retries": 0, "timeout": 60.0}


def engine_with_personas(folder: Path, adapters: list[Path], settings: EngineSettings = SETTINGS) -> Engine:
    """Load the model with two adapters and a dose and a sum of them."""
    engine = Engine.load(str(folder), settings=settings)
    for name, path in zip(("warm", "cold"), adapters, strict=False):
        engine.add_adapter(name, path)
    engine.add_mixture("warm_x2", {"warm": 2.0})
    engine.add_mixture("apart", {"warm": 0.5, "cold": -1.0})
    return engine


def catalog() -> Catalog:
    """Return the models of such an engine: personas without a change, by adapter, by system prompt and by both."""
    change = (Change(Path("somewhere")),)
    changed = [Persona(name, change) for name in ("warm", "cold", "warm_x2", "apart")]
    return Catalog(BASE, [Persona("original"), *changed, Persona("kind", system=SYSTEM)])


@dataclass(frozen=True)
class Running:
    """A server that answers."""

    server: Server
    service: Service
    engine: Engine
    http: httpx2.Client

    @property
    def url(self) -> str:
        """Where it is."""
        return self.server.address

    @property
    def client(self) -> OpenAI:
        """The official client."""
        return OpenAI(base_url=f"{self.url}/v1", **NO_RETRY)  # type: ignore[arg-type]

    @property
    def async_client(self) -> AsyncOpenAI:
        """The official client for event loops."""
        return AsyncOpenAI(base_url=f"{self.url}/v1", **NO_RETRY)  # type: ignore[arg-type]

    def post(self, path: str, body: Any, **more: Any) -> httpx2.Response:
        """Send JSON as it stands."""
        return self.http.post(path, json=body, **more)

    def idle(self) -> bool:
        """Whether nothing is held for any client."""
        held = self.engine.occupancy
        return (held.running, held.waiting, self.service.loop.open) == (
            0,
            0,
            0,
        ) and held.available_blocks == held.blocks


@contextmanager
def serving(
    engine: Engine, limits: Limits | None = None, key: str | None = None, healthy: bool = True
) -> Iterator[Running]:
    """Serve an engine on a free port until the end of the block; ``healthy``: nothing may have ended it."""
    service = Service(engine, catalog(), limits or Limits())
    server = Server(service, listen("127.0.0.1", 0), key, loopback=True)
    server.start()
    assert server.running, server.failure
    try:
        with httpx2.Client(base_url=server.address, timeout=60) as client:
            yield Running(server, service, engine, client)
    finally:
        server.drain()
        server.wait(60)
        if server.running:
            faulthandler.dump_traceback(all_threads=True)
        assert not server.running
        assert (server.failure is None) == healthy


def strict(kind: type[M], data: Any) -> M:
    """Return data as one of the ``openai`` package's models: nothing missing, of another type, or more than it has."""
    found = kind.model_validate(data, strict=False)
    _nothing_more(found)
    assert _without_none(found.model_dump(mode="json", by_alias=True)) == _without_none(data)
    return found


def _nothing_more(value: Any) -> None:
    if isinstance(value, BaseModel):
        assert not value.model_extra, f"{type(value).__name__} has no {sorted(value.model_extra)}"
        for name in type(value).model_fields:
            _nothing_more(getattr(value, name))
    elif isinstance(value, list):
        for one in value:
            _nothing_more(one)


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(one) for key, one in value.items() if one is not None}
    return [_without_none(one) for one in value] if isinstance(value, list) else value
