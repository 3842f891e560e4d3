"""The soak program: a day in two seconds ends well, and a lost request makes it fail."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from live_server import Live

from pipelines.server.service import Service

pytest.importorskip("psutil")
pytest.importorskip("httpx")
SOAK = Path(__file__).parents[2] / "soak.py"


@pytest.fixture(scope="module")
def soak() -> Any:
    spec = importlib.util.spec_from_file_location("soak", SOAK)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_short_day_ends_well(soak: Any, live: Live, capsys: pytest.CaptureFixture[str]) -> None:
    soak.GROWTH = 1.0  # of a process that has just begun
    assert soak.run(live.service, live.url, 2.0, 8.0, 0) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "24 h" in lines[-3] and " 0 lost, 0 left" in lines[-2] and "memory" in lines[-1]


def test_lost_requests_fail_the_run(
    soak: Any, new_service: Callable[..., Service], capsys: pytest.CaptureFixture[str]
) -> None:
    assert soak.run(new_service(), "http://127.0.0.1:9", 0.2, 30.0, 0) == 1  # nobody answers there
    assert "ConnectError" in capsys.readouterr().out


def test_the_night_is_quiet(soak: Any) -> None:
    rates = [soak.rate(hour / 24, 4.0) for hour in range(24)]
    assert 0 < min(rates) == rates[3] and max(rates) <= 4.0 and rates[12] > 4 * rates[3]
