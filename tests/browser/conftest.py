"""A real browser, without a network, that keeps what it saw."""

import os
import pathlib
import shutil

import pytest
from playwright import sync_api

_ROOT = pathlib.Path(__file__).parents[2]
SCREENSHOTS = _ROOT / "build" / "screenshots"
# None of it may look for updates: there may be no network, and there is nothing to find.
_ARGUMENTS = (
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
_NAMES = ("chromium", "chromium-browser", "google-chrome")


# Of a module: Playwright leaves an event loop in this thread, which is nothing for other tests.
@pytest.fixture(scope="module")
def browser():
    """Debian's chromium; Playwright's own browsers do not come with its package."""
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        pytest.skip("no chromium on this machine: apt-get install chromium")
    # Chromium's sandbox does not work for root.
    sandbox = ("--no-sandbox",) if os.geteuid() == 0 else ()
    with sync_api.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=found, args=[*_ARGUMENTS, *sandbox])
        yield opened
        opened.close()


@pytest.fixture
def visit(browser):
    """Opens a file at a width; what goes wrong in it fails the test."""
    contexts, problems = [], []

    def open_page(path, *, width=1280, scheme="light", ready="html[data-ready]"):
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: problems.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: problems.append(f"error: {error}"))
        page.on("request", lambda request: _note(request, problems))
        page.goto(path.resolve().as_uri())
        page.wait_for_selector(ready)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []


def _note(request, problems):
    if not request.url.startswith(("file:", "data:")):
        problems.append(f"request: {request.url}")


@pytest.fixture
def screenshot():
    """Keeps pictures of what is seen first and of the whole page under `build/screenshots/`."""

    def keep(page, name):
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SCREENSHOTS / f"{name}_top.png")
        page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)

    return keep
