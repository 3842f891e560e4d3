"""The explorer in a real Chromium: each figure's control is moved, decoders are switched, axe checks three widths."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browser_pages import open_page, serious_findings, with_browser
from live_server import Live

from codec.audio.files import write_audio
from pipelines.server.engine import Engine
from pipelines.server.service import Service, ServiceSettings
from pipelines.voice.voice import Voice, load_voice

pytestmark = pytest.mark.browser
SAMPLES = "window.soundsPlayed"
#: Keep what the page plays: the samples of every source that starts.
LISTEN = """
window.soundsPlayed = [];
const start = AudioBufferSourceNode.prototype.start;
AudioBufferSourceNode.prototype.start = function (...when) {
  if (this.context instanceof AudioContext) window.soundsPlayed.push([...this.buffer.getChannelData(0)]);
  return start.apply(this, when);
};
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    yield from with_browser()


@pytest.fixture(scope="module")
def voice() -> Voice:
    return load_voice()  # which has two decoders and 1,024 codes a level, as the figures need


@pytest.fixture(scope="module")
def explored(voice: Voice) -> Iterator[Live]:
    with Live(Service(Engine(voice))) as running:
        yield running


@pytest.fixture
def page(browser: Any, explored: Live) -> Iterator[Any]:
    for page in open_page(browser, explored.url, "explore/", 1280, 900, "light", LISTEN):
        ready(page)
        yield page


def ready(page: Any) -> None:
    page.wait_for_selector("#status:has-text('frames of')", timeout=30_000)


def numbers(page: Any, figure: int) -> str:
    text: str = page.text_content(f"#figure-{figure} .numbers")
    return text


def changed(page: Any, figure: int, before: str) -> str:
    """Wait until a figure shows other numbers, and return them."""
    page.wait_for_function(
        "([n, old]) => document.querySelector(`#figure-${n} .numbers`).textContent !== old", arg=[figure, before]
    )
    return numbers(page, figure)


def visit(page: Any, figure: int) -> None:
    page.evaluate(f"document.querySelector('#figure-{figure}').scrollIntoView()")
    if page.locator(f"#figure-{figure} .numbers").count() and figure not in (6, 8):
        changed(page, figure, "")


def pictures(page: Any, figure: int) -> list[str]:
    found: list[str] = page.evaluate(
        f"[...document.querySelectorAll('#figure-{figure} canvas')].map((canvas) => canvas.toDataURL())"
    )
    return found


def test_dragging_changes_each_figure(page: Any) -> None:
    for figure, control in ((1, "length"), (3, "size"), (4, "count")):
        visit(page, figure)
        before, drawn = numbers(page, figure), pictures(page, figure)
        slider = page.locator(f"#figure-{figure} [data-name={control}]")
        slider.hover()
        box = slider.bounding_box()
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * 0.8, box["y"] + box["height"] / 2, steps=3)
        page.mouse.up()
        after = changed(page, figure, before)
        assert pictures(page, figure) != drawn
        page.keyboard.press("Home")  # the slider has the focus: keys move it too
        assert changed(page, figure, after)


def test_the_plane_of_a_codebook_snaps_to_codes(page: Any) -> None:
    visit(page, 2)
    before = numbers(page, 2)
    plane = page.locator("#figure-2 canvas")
    plane.hover()
    box = plane.bounding_box()
    page.mouse.move(box["x"] + 20, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 20, box["y"] + box["height"] - 20, steps=4)
    page.mouse.up()
    after = changed(page, 2, before)
    page.wait_for_function(f"() => {SAMPLES}.length > 0")
    plane.focus()
    for _ in range(5):
        page.keyboard.press("ArrowLeft")
    assert "Nearest code" in changed(page, 2, after)


def test_gan_off_and_on_switches_what_sounds(page: Any, voice: Voice) -> None:
    visit(page, 5)
    page.wait_for_function("() => document.querySelectorAll('#figure-5 canvas')[2].width > 300")
    page.wait_for_timeout(500)
    off, on, original = pictures(page, 5)
    assert len({off, on, original}) == 3
    page.click("#figure-5 [data-name=off]")
    assert page.get_attribute("#figure-5 [data-name=off]", "aria-pressed") == "true"
    page.click("#figure-5 [data-name=play]")
    page.wait_for_function(f"() => {SAMPLES}.length === 3")
    page.click("#figure-5 [data-name=on]")
    assert page.get_attribute("#figure-5 [data-name=off]", "aria-pressed") == "false"
    without, with_gan, _ = page.evaluate(SAMPLES)
    assert len(without) == len(with_gan) and np.abs(np.subtract(without, with_gan)).max() > 1e-3


def test_the_bitrate_table_and_the_whole_codec(page: Any) -> None:
    visit(page, 6)
    page.wait_for_selector("#figure-6 tbody tr")
    page.click("#figure-6 tbody tr:first-child button")
    page.wait_for_function(f"() => {SAMPLES}.length === 1")
    visit(page, 7)
    before = numbers(page, 7)
    drawn = pictures(page, 7)
    page.focus("#figure-7 [data-name=grid]")
    page.keyboard.press("ArrowRight")
    moved = changed(page, 7, before)
    page.keyboard.press("+")
    assert "code" in changed(page, 7, moved)
    page.wait_for_timeout(500)
    assert pictures(page, 7)[2] != drawn[2], "the reconstruction is made again"


def test_what_is_generated_is_what_the_voice_speaks(page: Any, voice: Voice) -> None:
    visit(page, 8)
    page.fill("#gen-text", "Hello world.")
    page.fill("#gen-seed", "4")
    page.click("#figure-8 form button")
    page.wait_for_selector("#status:has-text('Generated')", timeout=30_000)
    before = numbers(page, 8)
    page.locator("#gen-step").fill("5")
    assert "Frame 6 of" in changed(page, 8, before)
    page.click("#gen-voice")
    page.wait_for_function(f"() => {SAMPLES}.length === 1")
    wanted = voice.speak("Hello world.", seed=4).waveform[0].clamp(-1, 1).numpy()
    got = np.asarray(page.evaluate(f"{SAMPLES}[0]"))
    assert got.shape == wanted.shape and np.abs(got - wanted).max() < 1e-3


def test_a_file_of_the_readers_own_goes_through_all_figures(page: Any, tmp_path: Path) -> None:
    stereo = 0.2 * torch.sin(torch.arange(44_100) / 20)[None].repeat(2, 1)
    write_audio(tmp_path / "mine.flac", stereo, 44_100)
    (tmp_path / "notes.mp3").write_text("no sound at all")
    page.set_input_files("#file", tmp_path / "notes.mp3")
    page.wait_for_selector("#status:has-text('cannot read this as sound')")
    page.set_input_files("#file", tmp_path / "mine.flac")
    page.wait_for_selector("#status:has-text('mine.flac: 1.0 s')")
    for figure in range(1, 9):
        visit(page, figure)
    page.wait_for_selector("#figure-6 tbody tr")
    page.click("#figure-6 [data-name=opus]")
    page.wait_for_function(f"() => {SAMPLES}.length === 1")
    assert "kbit/s" in numbers(page, 6)
    page.route("**/api/smaller*", lambda route: route.fulfill(status=200, body="no JSON"))
    page.locator("#figure-3 [data-name=size]").fill("4")
    page.wait_for_selector("#status:has-text('It did not work')")


@pytest.mark.parametrize(
    ("width", "height", "scheme"), [(360, 780, "light"), (820, 1100, "dark"), (1440, 900, "light")]
)
def test_three_widths(browser: Any, explored: Live, tmp_path: Path, width: int, height: int, scheme: str) -> None:
    for page in open_page(browser, explored.url, "explore/", width, height, scheme):
        ready(page)
        for figure in range(1, 9):
            visit(page, figure)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert not serious_findings(page)


def test_a_key_is_asked_for_once_and_a_wrong_one_again(browser: Any, voice: Voice) -> None:
    with Live(Service(Engine(voice), ServiceSettings(api_key="k3y"))) as server:
        page = browser.new_page()
        page.goto(f"{server.url}/explore/")
        for key in ("wrong", "k3y"):
            page.fill("#key", key)
            page.keyboard.press("Enter")
            if key == "wrong":
                page.wait_for_selector("#key-note:has-text('refused')")
        ready(page)
        assert page.evaluate("sessionStorage.getItem('soundloom-key')") == "k3y"
        page.goto(server.url)  # the studio has it too
        page.wait_for_selector("#speaker option", state="attached")
        page.close()
