"""A small service in memory, and one that listens on a port of this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from live_server import Live
from voice_helpers import tiny_voice

pytest.importorskip("starlette")
from pipelines.server.engine import Engine, EngineSettings
from pipelines.server.service import Service, ServiceSettings
from pipelines.voice.voice import Voice

#: Short sentences, since a model with random weights speaks until its cap.
GENERATION = {"guidance": 2.0, "cap_factor": 1.0, "cap_seconds": 0.5, "sampled_levels": 1}


@pytest.fixture(scope="session")
def voice(tmp_path_factory: pytest.TempPathFactory) -> Voice:
    from lm.generation.request import GenerateConfig

    return tiny_voice(tmp_path_factory.mktemp("voice"), generation=GenerateConfig(**GENERATION))


@pytest.fixture
def new_service(voice: Voice) -> Callable[..., Service]:
    """Make a service: settings of the engine by name, and ``rules``, those of the service."""

    def new(rules: ServiceSettings | None = None, **settings: Any) -> Service:
        return Service(Engine(voice, EngineSettings(**settings)), rules or ServiceSettings())

    return new


@pytest.fixture(scope="module")
def live(voice: Voice) -> Iterator[Live]:
    with Live(Service(Engine(voice, EngineSettings(slots=4))), wyoming=True) as running:
        yield running
