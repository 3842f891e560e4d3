"""The studio page in a real Chromium: typed, heard, stopped, looked at in three widths, and checked by axe.

`SOUNDLOOM_PICTURES=folder` keeps the pictures.
"""

from __future__ import annotations

import os
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browser_pages import open_page, serious_findings, with_browser
from live_server import Live

from pipelines.server.encoders import pcm16
from pipelines.voice.voice import Voice

pytestmark = pytest.mark.browser
TEXT = "Hello world. How are you?"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    yield from with_browser()


@pytest.fixture
def page(browser: Any, live: Live) -> Iterator[Any]:
    yield from opened(browser, live, 1280, 900, "light")


def opened(browser: Any, live: Live, width: int, height: int, scheme: str) -> Iterator[Any]:
    for page in open_page(browser, live.url, "", width, height, scheme):
        page.wait_for_selector("#speaker option", state="attached")
        yield page


def speak(page: Any, text: str = TEXT) -> None:
    page.fill("#text", text)
    page.click("#speak")
    page.wait_for_selector("#status:has-text('All of it is here')", timeout=30_000)


def downloaded(page: Any) -> np.ndarray:
    with page.expect_download() as found:
        page.click("#download")
    with wave.open(str(found.value.path())) as file:
        assert file.getframerate() == 24_000 and file.getnchannels() == 1
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(int)


def pictures(tmp_path: Path) -> Path:
    folder = Path(os.environ.get("SOUNDLOOM_PICTURES", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def test_what_is_heard_is_what_the_voice_speaks(page: Any, voice: Voice) -> None:
    page.fill("#seed", "4")
    page.locator("#levels").fill("2")
    speak(page)
    wanted = pcm16(voice.speak(TEXT, seed=4, levels=2, retries=0).waveform)[:, 0]
    got = downloaded(page)
    assert got.shape == wanted.shape and np.abs(got - wanted).max() <= 1


def test_words_light_up_and_the_grid_grows_while_it_speaks(page: Any) -> None:
    page.fill("#text", " ".join([TEXT] * 6))
    page.click("#speak")
    page.wait_for_selector(".word.now", timeout=10_000)
    assert page.text_content("#speak") == "Stop"
    first = page.text_content("#frame")
    page.wait_for_timeout(500)
    assert page.text_content("#frame") != first and "frame" in first
    image = page.evaluate("document.getElementById('grid').toDataURL()")
    page.wait_for_timeout(300)
    assert page.evaluate("document.getElementById('grid').toDataURL()") != image


def test_stop_stops_the_server_too(page: Any, live: Live) -> None:
    before = live.service.engine.metrics.cancelled
    page.fill("#text", " ".join([TEXT] * 100))
    page.click("#speak")
    page.wait_for_selector(".word.now", timeout=10_000)
    page.click("#speak")
    page.wait_for_timeout(500)
    assert page.text_content("#status") == "Stopped." and page.text_content("#speak") == "Speak"
    assert live.service.engine.metrics.cancelled == before + 1 and live.service.engine.active == 0


def test_the_keyboard_is_enough(page: Any) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    page.focus("#text")
    page.keyboard.press("Control+A")
    page.keyboard.type("Hello world.")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#status:has-text('All of it is here')", timeout=30_000)
    page.focus("#position")
    page.keyboard.press("Home")
    assert page.text_content("#speak") == "Stop"


def test_errors_are_said_in_words(page: Any) -> None:
    page.fill("#text", " ")
    page.click("#speak")
    assert "Type some words" in page.text_content("#status")


def test_code_in_the_text_stays_text(page: Any) -> None:
    speak(page, "Hello <img src=x onerror=alert(1)> world.")
    assert page.locator("#words img").count() == 0


@pytest.mark.parametrize(
    ("width", "height", "scheme"), [(360, 780, "light"), (820, 1100, "dark"), (1440, 900, "light")]
)
def test_three_widths(browser: Any, live: Live, tmp_path: Path, width: int, height: int, scheme: str) -> None:
    for page in opened(browser, live, width, height, scheme):
        speak(page)
        page.screenshot(path=pictures(tmp_path) / f"studio-{width}.png", full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        small = page.evaluate(
            "[...document.querySelectorAll('button, select, textarea, a.button')].filter(e => e.offsetHeight)"
            ".filter(e => e.offsetHeight < 40).map(e => e.id)"
        )
        assert not small, "too small for a finger"
        assert not serious_findings(page)


def test_music_grows_in_its_box(browser: Any, voice: Voice, tmp_path: Path) -> None:
    from music_models import tiny_music

    from pipelines.server.engine import Engine
    from pipelines.server.service import Service, ServiceSettings

    tiny_music(tmp_path / "text").save_pretrained(tmp_path / "music")
    with Live(Service(Engine(voice), ServiceSettings(music=str(tmp_path / "music")))) as server:
        for page in opened(browser, server, 360, 780, "light"):
            page.fill("#music-prompt", " ")
            page.click("#music-make")
            assert "Say what the music" in page.text_content("#music-status")
            page.fill("#music-prompt", "slow solo piano in A minor")
            page.locator("#music-seconds").fill("3")
            page.click("#music-make")
            page.wait_for_selector("#music-status:has-text('All of it is here: 3.0 seconds')", timeout=30_000)
            assert "150 frames" in page.get_attribute("#music-grid", "aria-label")
            with page.expect_download() as found:
                page.click("#music-download")
            with wave.open(str(found.value.path())) as file:
                assert file.getnframes() == 72_000
            assert page.evaluate("document.documentElement.scrollWidth") <= 360
            assert not serious_findings(page)


def test_a_key_is_asked_for(browser: Any, voice: Voice) -> None:
    from pipelines.server.engine import Engine
    from pipelines.server.service import Service, ServiceSettings

    with Live(Service(Engine(voice), ServiceSettings(api_key="k3y"))) as server:
        page = browser.new_page()
        page.goto(server.url)
        page.fill("#key", "k3y")
        page.keyboard.press("Enter")
        page.wait_for_selector("#speaker option", state="attached")
        page.close()


def test_a_recording_becomes_a_speaker(browser: Any, voice: Voice, tmp_path: Path) -> None:
    from codec.audio.files import write_audio
    from pipelines.server.engine import Engine
    from pipelines.server.service import Service, ServiceSettings

    write_audio(tmp_path / "me.wav", 0.1 * torch.randn(1, 48_000), 24_000)
    with Live(Service(Engine(voice), ServiceSettings(allow_cloning=True))) as server:
        for page in opened(browser, server, 800, 900, "light"):
            page.set_input_files("#clone-file", tmp_path / "me.wav")
            page.fill("#clone-text", "Hello world.")
            page.click("#clone-add")
            page.wait_for_selector("#clone-status:has-text('now in the list')")
            assert page.input_value("#speaker").startswith("clone_")
            speak(page)
