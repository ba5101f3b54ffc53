"""The server's page in a browser: Chromium, if there is one."""

import re
import shutil

import pytest
from fairseq_mem_serve import load_translator
from helpers import number_translator
from helpers.served import HANGS, Server

pytestmark = pytest.mark.cli

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
GERMAN = [german for german, _ in number_translator.pairs(4, seed=5)]
PHONE = {"width": 360, "height": 640}


@pytest.fixture(scope="module")
def server(translator_files):
    with Server(translator_files.exported, "--threads", 1) as server:
        yield server


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("there is no Chromium")
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        # root may not use the browser's own sandbox; it sees nothing but our page
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=FLAGS, chromium_sandbox=False
        )
        yield browser
        browser.close()


@pytest.fixture
def page(browser, server, request):
    """The page, open; at the end there must have been no complaint and no request elsewhere."""
    context = browser.new_context(**getattr(request, "param", {}))
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = context.new_page()
    complaints, asked = [], []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    opened(page, server)
    yield page
    context.close()
    assert not [text for text in complaints if not text.startswith("Failed to load resource")]
    assert all(url.startswith(f"http://127.0.0.1:{server.port}/") for url in asked)


def says(page, what):
    """Wait until the page's status line is that (the policy forbids to wait by JavaScript)."""
    from playwright.sync_api import expect

    expect(page.locator("#status")).to_have_text(what, timeout=HANGS * 1000)


def translated(page):
    says(page, re.compile(r"^\d+\.\d\d s$"))
    return page.input_value("#target")


def opened(page, server):
    page.goto(f"http://127.0.0.1:{server.port}/")
    page.wait_for_selector("#pair option", state="attached")


def test_text_is_translated_with_the_keyboard_alone(page, translator_files):
    expected = load_translator(translator_files.exported, threads=1).translate(GERMAN[:2])
    assert page.evaluate("document.activeElement.id") == "source"
    page.keyboard.type(f"{GERMAN[0]}\n\n{GERMAN[1]}")
    page.keyboard.press("Control+Enter")
    assert translated(page) == f"{expected[0]}\n\n{expected[1]}"
    length = len(GERMAN[0]) + len(GERMAN[1]) + 2
    assert page.inner_text("#count") == f"{length} characters"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "copy"
    page.keyboard.press("Enter")
    says(page, "Copied.")
    assert page.evaluate("navigator.clipboard.readText()") == page.input_value("#target")


def test_several_translations_have_scores(page):
    page.fill("#source", f"{GERMAN[0]}\n{GERMAN[1]}")
    page.select_option("#nbest", "4")
    page.click("#go")
    translated(page)
    assert page.locator("#sentences > li").count() == 2
    rows = page.locator("#sentences > li").first.locator("tr")
    assert rows.count() == 5
    scores = [
        float(text)
        for text in page.locator("#sentences > li").first.locator("td.score").all_inner_texts()
    ]
    assert scores == sorted(scores, reverse=True) and all(score <= 0 for score in scores)
    page.select_option("#nbest", "1")
    page.click("#go")
    translated(page)
    assert not page.is_visible("#more")


def test_markup_is_text(page):
    page.fill("#source", "<img src=x onerror=alert(1)> eins")
    page.select_option("#nbest", "2")
    page.click("#go")
    translated(page)
    assert page.locator("#sentences img").count() == 0
    assert "<img" in page.inner_text("#sentences")


def test_an_error_is_told(page):
    for text in (GERMAN[0], "eins " * 60):
        page.fill("#source", text)
        page.click("#go")
    page.wait_for_selector("#status.wrong")
    assert page.inner_text("#status").startswith("sentence 1: 61 tokens or more, at most 40")
    assert page.input_value("#target") == "", "an earlier translation looks like this text's"


def test_the_languages_are_named(page):
    assert page.locator("#pair option").all_inner_texts() == ["German → English"]
    assert (
        page.inner_text("#source-name") == "German" and page.inner_text("#target-name") == "English"
    )
    assert page.get_attribute("#target", "lang") == "en"


@pytest.mark.parametrize(
    "page", [{"viewport": PHONE}, {"viewport": PHONE, "color_scheme": "dark"}], indirect=True
)
def test_it_fits_a_phone(page):
    page.fill("#source", "\n".join(GERMAN))
    page.select_option("#nbest", "4")
    page.click("#go")
    translated(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    first, second = (page.locator(name).bounding_box() for name in ("#source", "#target"))
    assert second["y"] >= first["y"] + first["height"], "they are not below each other"
    for name in ("#go", "#pair", "#nbest", "#copy"):
        assert page.locator(name).bounding_box()["height"] >= 32


CONTRAST = """
([first, second]) => {
  const light = (colour) => {
    const parts = colour.match(/[\\d.]+/g).slice(0, 3).map((part) => {
      const value = part / 255;
      return value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
  };
  const [high, low] = [light(first), light(second)].sort((a, b) => b - a);
  return (high + 0.05) / (low + 0.05);
}
"""


@pytest.mark.parametrize(
    "page", [{"color_scheme": "light"}, {"color_scheme": "dark"}], indirect=True
)
def test_light_and_dark_can_be_read(page):
    def style(name, what):
        return page.evaluate(
            "([name, what]) => getComputedStyle(document.querySelector(name))[what]", [name, what]
        )

    back = style("body", "backgroundColor")
    dark = page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    assert (sum(map(int, back[4:-1].split(","))) < 384) == dark
    for name, behind in (
        ("body", back), ("#count", back), ("#status", back), ("#source", None), ("#go", None),
        ("#copy", None),
    ):  # fmt: skip
        colours = [style(name, "color"), behind or style(name, "backgroundColor")]
        assert page.evaluate(CONTRAST, colours) >= 4.5, name


def test_a_key_is_asked_for(browser, translator_files, tmp_path):
    (tmp_path / "keys").write_text("open sesame\n")
    with Server(translator_files.exported, "--api-key-file", tmp_path / "keys") as server:
        page = browser.new_page()
        opened(page, server)
        assert not page.is_visible("#key")
        page.fill("#source", GERMAN[0])
        page.click("#go")
        page.wait_for_selector("#key", state="visible")
        page.keyboard.type("open sesame")
        page.keyboard.press("Enter")
        assert translated(page)
        page.close()
