"""Take the picture of the server's page in docs/serving.md: `make docs-page`, after `make demo`.

A server answers with the demo's soft prompt, and Chromium fills in the page as a person would.
"""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import softprompts as sp
from scripts.build_docs.pages import ROOT
from softprompts.errors import UserError
from softprompts.serving.http.app import make_app

import uvicorn

PICTURE = ROOT / "docs" / "figures" / "serve_page.png"
RUN = Path("runs/demo/prompt_tuning")
TEXT = "Too clever by half, and I would not have missed a minute of it."
WRITTEN = "Decide whether the sentiment of the following text is positive or negative."
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve the soft prompt of a run as the task `sentiment` within this context; yield the address."""
    config = sp.ServeConfig(adapters={"sentiment": str(folder)})
    model = sp.ModelConfig(name_or_path="bundled:smollm2-135m-instruct")
    tasks = sp.load_tasks(*sp.load_base_model(model, sp.default_device()), config)
    server = uvicorn.Server(uvicorn.Config(make_app(tasks, config), port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            if not thread.is_alive():
                raise UserError("the server did not start")
            time.sleep(0.05)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def take(address: str, browser: str, picture: Path) -> None:
    """Send one text in the page's three ways, and save a picture of the page."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = chromium.new_page(viewport={"width": 1280, "height": 900})
        page.goto(address, wait_until="networkidle")
        page.fill("textarea[name='text']", TEXT)
        page.fill("#written", WRITTEN)
        page.set_checked("#apart", True)
        page.click("#send")
        page.wait_for_selector("#stop:disabled")
        page.evaluate("document.activeElement.blur()")
        page.screenshot(path=picture, full_page=True)
        chromium.close()


def main() -> int:
    """Take the picture; return the exit code."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    try:
        if browser is None:
            raise UserError(f"none of {', '.join(BROWSERS)} is installed")
        if not (RUN / "adapter").is_dir():
            raise UserError(f"{RUN} has no soft prompt: run `make demo` first")
        with serving(RUN) as address:
            take(address, browser, PICTURE)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"written: {PICTURE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
