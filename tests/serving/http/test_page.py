"""The server's page in a browser: its display and its actions, compared with the server's API."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from made_server import TEXT, Served, make_run, serving, wait_until
from softprompts.config.tools import ServeConfig

import httpx
import pytest

pytestmark = pytest.mark.slow
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("no Chromium is installed", allow_module_level=True)

WORDING = "very good film: positive, awful plot: negative"
LABELS = {
    "recipe": "prompt_tuning",
    "task": {
        "prompt": "{text} {{{cast[en]}}}\nSentiment:",
        "target": " {label}",
        "choices": [" good", " bad", " very"],
    },
    "evaluation": {"stop": [], "max_new_tokens": 5},
}
WRITING = {
    "recipe": "prompt_tuning",
    "task": {"prompt": "{text}\nPlot:", "target": " {plot}"},
    "evaluation": {"stop": ["q"], "max_new_tokens": 24},
}
KEY = "a-key-of-24-characters+/="
FILLED = f"{TEXT} {{dull}}\nSentiment:"


@pytest.fixture(scope="module")
def runs(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    make_run(tiny_model, folder / "labels", 0, LABELS)
    make_run(tiny_model, folder / "writing", 1, WRITING)
    return folder


@pytest.fixture(scope="module")
def served(tiny_model: Path, runs: Path) -> Iterator[Served]:
    with serving(tiny_model, ServeConfig(folder=str(runs))) as one:
        yield one


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@dataclass
class Visit:
    """An open page, and the messages of its console."""

    page: Any
    said: list[str] = field(default_factory=list)

    def send(self) -> None:
        """Send, and wait until all is over."""
        self.page.click("#send")
        self.page.wait_for_selector("#stop:disabled")

    def fill(self, text: str = TEXT, wording: str = WORDING) -> None:
        """Fill the fields of the task `labels`."""
        self.page.fill("textarea[name='text']", text)
        self.page.fill("textarea[name='cast[en]']", "dull")
        self.page.fill("#written", wording)

    def answer(self, kind: str) -> str:
        return str(self.page.text_content(f"#card-{kind} .answer"))

    def numbers(self, kind: str) -> list[str]:
        """Return tokens of prompt, soft prompt and answer."""
        return [self.page.text_content(f"#card-{kind} .{name}") for name in ("prompt", "soft", "written")]


@pytest.fixture
def visit(browser: Any, served: Served) -> Iterator[Callable[..., Visit]]:
    """Return a function that opens the page, at a size and in a colour scheme."""
    contexts, visits = [], []

    def open_page(url: str = served.url, task: str = "labels", width: int = 1280, **settings: Any) -> Visit:
        context = browser.new_context(viewport={"width": width, "height": 844}, **settings)
        context.set_default_timeout(15_000)
        contexts.append(context)
        visits.append(one := Visit(context.new_page()))
        one.page.on("console", lambda message: one.said.append(message.text))
        one.page.on("pageerror", lambda error: one.said.append(str(error)))
        one.page.goto(url, wait_until="networkidle")
        if task:
            one.page.select_option("#task", task)
        return one

    yield open_page
    said = [text for one in visits for text in one.said]
    for context in contexts:
        context.close()
    assert said == [], "the console is empty"


def post(url: str, path: str, **body: Any) -> Any:
    reply = httpx.post(f"{url}/v1/{path}", json=body, timeout=60)
    assert reply.status_code == 200, reply.text
    return reply.json()


# What each of the three asks, as a client would write it.
ASKED: dict[str, dict[str, Any]] = {
    "base": {"model": "base", "prompt": FILLED},
    "written": {"model": "base", "prompt": f"{WORDING}\n{FILLED}"},
    "soft": {"model": "labels", "columns": {"text": TEXT, "cast": {"en": "dull"}}},
}


@pytest.mark.parametrize("apart", [False, True])
def test_the_answers_and_token_counts_are_the_apis(visit: Callable[..., Visit], served: Served, apart: bool) -> None:
    one = visit()
    assert one.page.text_content("#template") == "{text} {{cast[en]}}\nSentiment:"
    assert "5 virtual tokens, labels: good, bad, very" in one.page.text_content("#about")
    one.fill()
    one.page.fill("#longest", "12")
    one.page.set_checked("#apart", apart)
    one.send()
    for kind, asked in ASKED.items():
        reply = post(served.url, "completions", max_tokens=12, **asked)
        assert one.answer(kind) == reply["choices"][0]["text"].lstrip()
        usage = reply["usage"]
        tokens = [usage["prompt_tokens"], 5 if kind == "soft" else 0, usage["completion_tokens"]]
        assert one.numbers(kind) == [str(count) for count in tokens]
        for time_of in ("first", "whole"):
            assert re.fullmatch(r"\d+\.\d\d s", one.page.text_content(f"#card-{kind} .{time_of}"))
    assert len({one.answer(kind) for kind in ASKED}) == 3
    assert int(one.numbers("written")[0]) > int(one.numbers("soft")[0])


def test_the_bars_are_the_apis_probabilities(visit: Callable[..., Visit], served: Served) -> None:
    one = visit()
    one.fill()
    one.send()
    shares = """list => list.map(li => li.querySelector('.track span').getBoundingClientRect().width
                                     / li.querySelector('.track').getBoundingClientRect().width)"""
    for kind, asked in ASKED.items():
        given = {"input" if key == "prompt" else key: value for key, value in asked.items()}
        expected = post(served.url, "classify", choices=[" good", " bad", " very"], **given)["data"][0]
        assert one.page.locator(f"#card-{kind} .bars .name").all_text_contents() == ["good", "bad", "very"]
        values = one.page.locator(f"#card-{kind} .bars .value").all_text_contents()
        assert values == [f"{100 * share:.1f} %" for share in expected["probs"]]
        widths = one.page.eval_on_selector_all(f"#card-{kind} .bars li", shares)
        assert widths == pytest.approx(expected["probs"], abs=0.02)
        assert sum(widths) == pytest.approx(1, abs=0.03)
        assert one.page.text_content(f"#card-{kind} .likeliest .name") == expected["label"]


def test_a_task_that_writes_has_no_bars_and_ends_at_its_stop_text(visit: Callable[..., Visit], served: Served) -> None:
    one = visit(task="writing")
    one.page.fill("textarea[name='text']", TEXT)
    assert one.page.input_value("#longest") == "24"
    one.send()
    assert one.answer("written") == "Write a prompt above to compare it."
    assert one.page.locator(".bars:visible").count() == 0
    asked = {
        "base": {"model": "base", "prompt": f"{TEXT}\nPlot:"},
        "soft": {"model": "writing", "columns": {"text": TEXT}},
    }
    for kind, body in asked.items():
        reply = post(served.url, "completions", max_tokens=24, stop="q", **body)
        assert one.answer(kind) == reply["choices"][0]["text"].lstrip()


@pytest.fixture
def slow_steps(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slow down each step of the batch, so that the page shows it."""
    batch = served.service.scheduler.batch
    step = batch.step
    monkeypatch.setattr(batch, "step", lambda: (time.sleep(0.1), step())[1])


@pytest.mark.usefixtures("slow_steps")
@pytest.mark.parametrize("by_key", [False, True])
def test_an_answer_comes_as_it_is_written_and_can_be_stopped(
    visit: Callable[..., Visit], served: Served, by_key: bool
) -> None:
    one = visit()
    one.fill()
    one.page.fill("#longest", "100")
    one.page.click("#send")
    deadline = time.monotonic() + 30
    while len(one.answer("soft")) <= 2:  # the page's policy forbids Playwright's own waiting for a condition
        assert time.monotonic() < deadline
        one.page.wait_for_timeout(50)
    assert one.page.get_attribute("#card-soft .answer", "aria-busy") == "true"
    begun = one.answer("soft")
    if by_key:
        one.page.keyboard.press("Escape")
    else:
        one.page.click("#stop")
    one.page.wait_for_selector("#send:enabled")
    whole = post(served.url, "completions", max_tokens=100, **ASKED["soft"])["choices"][0]["text"].lstrip()
    shown = one.answer("soft")
    assert shown.startswith(begun)
    assert whole.startswith(shown)
    assert len(shown) < len(whole)
    assert one.page.locator(".state").all_text_contents() == ["stopped"] * 3
    wait_until(lambda: not served.service.scheduler.running)  # otherwise the server continues without a client


def test_an_adapter_is_added_and_removed(visit: Callable[..., Visit], tiny_model: Path, runs: Path) -> None:
    make_run(tiny_model, runs / "later" / "run", 2, WRITING)
    one = visit()
    page = one.page
    page.click("#adapters summary")
    page.fill("#name", "new")
    page.fill("#path", "later/nothing")
    page.click("#add button")
    page.wait_for_selector("#message:has-text('no such folder')")
    assert one.said.pop().startswith("Failed to load resource"), "the browser's own remark on a status of 400"
    page.fill("#path", "later/run")
    page.click("#add button")
    page.wait_for_selector("#message:has-text('new is served now.')")
    assert page.input_value("#task") == "new"
    page.fill("textarea[name='text']", TEXT)
    one.send()
    assert one.answer("soft")
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Remove new").click()
    page.wait_for_selector("#message:has-text('new is served no longer.')")
    assert page.locator("#task option").all_text_contents() == ["labels", "writing"]
    assert page.evaluate("document.activeElement.tagName") == "SUMMARY"


def test_a_key_is_asked_for_and_a_wrong_one_is_said(
    visit: Callable[..., Visit], tiny_model: Path, runs: Path, tmp_path: Path
) -> None:
    (tmp_path / "keys").write_text(f"{KEY}\n", encoding="utf-8")
    with serving(tiny_model, ServeConfig(folder=str(runs), keys_file=str(tmp_path / "keys"))) as guarded:
        one = visit(guarded.url, task="")
        page = one.page
        for key, message in (
            (None, "The server asks for an API key."),
            ("wrong-key-of-24-characters", "The server does not know this API key."),
            ("clé-de-seize-lettres", "The server does not know this API key."),
        ):
            if key:
                page.fill("#key", key)
                page.click("#key-form button")
            page.wait_for_selector(f"#message:text-is('{message}')")
            assert page.evaluate("sessionStorage.length") == 0
        page.fill("#key", KEY)
        page.keyboard.press("Enter")
        page.wait_for_selector("#key-form", state="hidden")
        page.reload(wait_until="networkidle")
        assert page.is_hidden("#key-form"), "the key is kept"
        page.select_option("#task", "labels")
        one.fill()
        one.send()
        assert one.answer("soft")
        assert [text for text in one.said if "401" not in text] == []
        one.said.clear()
        page.goto("about:blank")  # lets go of the connections


def test_a_fault_is_one_line_in_its_place(visit: Callable[..., Visit]) -> None:
    one = visit()
    one.fill(wording="good " * 250)
    one.send()
    assert one.answer("soft")
    assert "do not fit into 256 positions" in one.answer("written")
    assert "\n" not in one.answer("written")
    assert one.page.text_content("#card-written .state") == "failed"
    assert one.said.pop().startswith("Failed to load resource")


def test_the_keyboard_is_enough(visit: Callable[..., Visit]) -> None:
    one = visit(task="")
    keys, page = one.page.keyboard, one.page
    seen = []
    for _ in range(8):
        keys.press("Tab")
        seen.append(
            page.evaluate("document.activeElement.name || document.activeElement.id || document.activeElement.tagName")
        )
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid", f"{seen[-1]} shows its focus"
        if seen[-1] == "task":
            keys.press("l")
        elif seen[-1] in ("text", "cast[en]", "written"):
            keys.type({"text": TEXT, "cast[en]": "dull", "written": WORDING}[seen[-1]])
    assert seen == ["task", "text", "cast[en]", "written", "longest", "apart", "send", "SUMMARY"]
    page.focus("#written")
    keys.press("Control+Enter")
    page.wait_for_selector("#card-soft .state:has-text('tokens')")
    page.wait_for_selector("#send:enabled")
    assert one.answer("soft")
    page.focus("#send")
    keys.press("Enter")
    page.wait_for_selector("#stop:disabled")
    assert page.evaluate("document.activeElement.id") == "send", "the focus comes back"


def test_every_field_has_a_name(visit: Callable[..., Visit]) -> None:
    page = visit().page
    nameless = "all => all.filter(one => !one.labels?.length && !one.textContent.trim()).map(one => one.id)"
    assert page.eval_on_selector_all("input, select, textarea, button", nameless) == []
    assert page.locator("[aria-live='polite']").count() == 3
    assert page.locator("#message").get_attribute("role") == "status"


# Contrast of each visible text with its background, by WCAG 2.2; returns those below 4.5.
CONTRAST = """() => {
  const part = (value) => (value /= 255) <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const luminance = (colour) => {
    const [r, g, b] = colour.match(/[\\d.]+/g).map(Number).map(part);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (one) => {
    const colour = getComputedStyle(one).backgroundColor;
    return /, 0\\)$/.test(colour) ? ground(one.parentElement) : colour;
  };
  const hasText = (one) => one.value || [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  const seen = [...document.querySelectorAll('body *')].filter(
    (one) => one.checkVisibility() && !one.disabled && hasText(one),
  );
  const faint = seen.map((one) => {
    const [x, y] = [luminance(getComputedStyle(one).color), luminance(ground(one))];
    return [(Math.max(x, y) + 0.05) / (Math.min(x, y) + 0.05), one.outerHTML.slice(0, 80)];
  });
  return [seen.length, faint.filter(([ratio]) => ratio < 4.5)];
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_can_be_read_at_both_widths_in_both_schemes(visit: Callable[..., Visit], scheme: str, width: int) -> None:
    one = visit(width=width, color_scheme=scheme)
    page = one.page
    paper = [int(part) for part in re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))]
    assert (min(paper) > 200) if scheme == "light" else (max(paper) < 50)
    one.fill(text="word" * 50)
    one.send()
    page.click("#adapters summary")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    count, faint = page.evaluate(CONTRAST)
    assert count > 40
    assert faint == []
    tops = {page.locator(f"#card-{kind}").bounding_box()["y"] for kind in ASKED}
    assert len(tops) == (3 if width == 390 else 1), "side by side if there is room"
