"""A real Chromium for the tests of the server's pages: pages that fail for any complaint, and what axe finds."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
#: What axe may not find, by impact: what keeps someone out.
SERIOUS = ("serious", "critical")


def with_browser() -> Iterator[Any]:
    """Yield a browser, or skip the test with the reason."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is missing: pip install -e '.[browser]'")
    if CHROMIUM is None:
        pytest.skip("no chromium on the path")
    arguments = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
    with sync_api.sync_playwright() as running:
        opened = running.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield opened
        opened.close()


def open_page(
    browser: Any, url: str, path: str, width: int, height: int, scheme: str, script: str | None = None
) -> Iterator[Any]:
    """Yield a page that fails the test for any message of its console, and for any request elsewhere.

    ``script`` runs in the page before its own.
    """
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    context.set_default_timeout(60_000)  # for machines with other work
    page = context.new_page()
    if script:
        page.add_init_script(script)
    trouble: list[str] = []
    page.on("console", lambda message: trouble.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: trouble.append(str(error)))
    own = (url, "data:", "blob:")
    page.on("request", lambda request: None if request.url.startswith(own) else trouble.append(request.url))
    page.goto(f"{url}/{path}")
    yield page
    context.close()
    assert not trouble, trouble


def serious_findings(page: Any) -> list[Any]:
    """Return what axe finds and nobody should meet."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    found = [one for one in axe.run(page).response["violations"] if one["impact"] in SERIOUS]
    return [(one["id"], [node["html"] for node in one["nodes"]][:3]) for one in found]
