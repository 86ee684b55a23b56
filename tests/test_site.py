"""The built site: links lead somewhere, pages fit desktop and phone in light and dark, and the search finds what it should.

The site is built once; `VAEKIT_SITE` names one that is built already.
"""

import functools
import http.server
import os
import shutil
import subprocess
import sys
import threading
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import pytest

from tests.markdown import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
WIDTHS = {"desktop": (1440, 900), "phone": (390, 844)}
SCHEMES = {"light": "default", "dark": "slate"}


class Links(HTMLParser):
    """What a page points at, and what of it can be pointed at."""

    def __init__(self, text):
        super().__init__()
        self.targets, self.anchors, self.embedded = [], set(), []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.anchors |= {given[key] for key in ("id", "name") if given.get(key)}
        if tag == "a" and given.get("href"):
            self.targets.append(given["href"])
        elif tag in ("img", "script", "iframe", "source") and given.get("src"):
            self.embedded.append(given["src"])
        elif tag == "link" and given.get("href") and given.get("rel") not in ("canonical", "prev", "next"):
            self.embedded.append(given["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site."""
    if os.environ.get("VAEKIT_SITE"):
        return Path(os.environ["VAEKIT_SITE"]).resolve()
    pytest.importorskip("mkdocs", reason="needs mkdocs: pip install 'vaekit[docs]'")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site):
    """Each page's address inside the site, and its links."""
    found = {str(path.relative_to(site)): Links(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    assert len(found) > 40
    return found


def test_every_link_inside_the_site_leads_to_a_page_and_a_place_on_it(site, pages):
    dead = []
    for page, links in pages.items():
        if page == "404.html":  # its links are absolute, for a site at the root of its host
            continue
        for target in links.targets + links.embedded:
            if urlsplit(target).scheme or target.startswith("//"):
                continue
            address, anchor = urldefrag(target)
            there = site / Path(page).parent / unquote(address) if address else site / page
            there = there / "index.html" if there.is_dir() else there
            name = os.path.relpath(there.resolve(), site)
            if not there.is_file():
                dead.append(f"{page}: {target}: no such page")
            elif anchor and name in pages and unquote(anchor) not in pages[name].anchors:
                dead.append(f"{page}: {target}: no such place on the page")
    assert not dead, "\n".join(dead[:40])


def test_nothing_is_loaded_from_another_host(pages):
    """The site works without a network: formulas are text, fonts are the system's."""
    from_outside = [(page, each) for page, links in pages.items() for each in links.embedded if "//" in each]
    assert not from_outside


def test_no_formula_is_left_as_tex(site):
    for path in site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert not any(mark in text for mark in (r"\frac{", r"\mathbb", r"\mathcal", r"\sum_", "$$")), path


# -- in a browser ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def address(site):
    """Where the site is served."""
    handler = functools.partial(Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("needs a browser: apt-get install chromium")
    with sync_api.sync_playwright() as play:
        opened = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


def opened(browser, width, scheme):
    """A tab and what it complains of."""
    size = dict(zip(("width", "height"), WIDTHS[width], strict=True))
    tab = browser.new_page(viewport=size, color_scheme=scheme)
    tab.set_default_timeout(120_000)  # a machine that does other work
    complaints = []
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("requestfailed", lambda request: failed(request, complaints))
    tab.on("response", lambda answer: complaints.append(answer.url) if answer.status >= 400 else None)
    return tab, complaints


def failed(request, complaints):
    if request.failure != "net::ERR_ABORTED":  # what the next page leaves unfinished of the last
        complaints.append(f"{request.url} {request.failure}")


TOO_WIDE = """() => {
  const room = document.documentElement.clientWidth
  const outside = each => {  // not inside of something that scrolls by itself, as wide code does
    for (let up = each.parentElement; up; up = up.parentElement) {
      const style = getComputedStyle(up)
      if (['auto', 'scroll', 'hidden', 'clip'].includes(style.overflowX) && up !== document.body) return false
    }
    return true
  }
  const wide = [...document.querySelectorAll('.md-content *')]
    .filter(each => each.getBoundingClientRect().right > room + 1 && outside(each))
  const page = document.scrollingElement.scrollWidth > room
  return [page, wide.slice(0, 3).map(each => each.outerHTML.slice(0, 120))]
}"""

FAINT = """() => {  // contrast of the text of paragraphs, code and table cells with what is behind it (WCAG 2)
  const paint = document.createElement('canvas').getContext('2d', {willReadFrequently: true})
  const rgb = colour => {
    paint.clearRect(0, 0, 1, 1); paint.fillStyle = colour; paint.fillRect(0, 0, 1, 1)
    return [...paint.getImageData(0, 0, 1, 1).data]
  }
  const over = (top, below) => top.slice(0, 3).map((v, i) => v * top[3] / 255 + below[i] * (1 - top[3] / 255))
  const behind = each => {
    const layers = []
    for (let up = each; up; up = up.parentElement) layers.push(rgb(getComputedStyle(up).backgroundColor))
    return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255])
  }
  const light = colour => colour.slice(0, 3).map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0)
  return [...document.querySelectorAll('.md-content p, .md-content td, .md-content code')].slice(0, 60).map(each => {
    const ground = behind(each)
    const [a, b] = [light(over(rgb(getComputedStyle(each).color), ground)), light(ground)].sort((x, y) => y - x)
    return [(a + 0.05) / (b + 0.05), each.outerHTML.slice(0, 80)]
  }).filter(([contrast]) => contrast < 4.5)
}"""


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_no_page_is_wider_than_the_screen_and_all_text_can_be_read(browser, address, pages, width, scheme):
    tab, complaints = opened(browser, width, scheme)
    bad = []
    for page in sorted(pages):
        tab.goto(f"{address}/{page}", wait_until="load")
        assert tab.evaluate("document.body.dataset.mdColorScheme") == SCHEMES[scheme]
        too_wide, what = tab.evaluate(TOO_WIDE)
        if too_wide or what:
            bad.append(f"{page} is wider than the screen: {what}")
        bad += [f"{page}: contrast {contrast:.1f}: {what}" for contrast, what in tab.evaluate(FAINT)[:2]]
        pictures = "[...document.images].filter(i => i.loading != 'lazy' && !i.naturalWidth).map(i => i.src)"
        bad += [f"{page}: no picture: {src}" for src in tab.evaluate(pictures)]
    tab.close()
    assert not bad and not complaints, "\n".join([*bad, *complaints])


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(("words", "page"), [("vamp", "kinds/priors"), ("compose", "tutorials/compose-your-own")])
def test_the_search_finds(browser, address, width, words, page):
    tab, complaints = opened(browser, width, "light")
    tab.goto(address, wait_until="load")
    if width == "phone":
        tab.locator("label[for=__search].md-header__button").click()
    tab.locator("input.md-search__input").click()
    tab.locator("input.md-search__input").press_sequentially(words)
    tab.wait_for_selector(".md-search-result__item a")
    found = tab.eval_on_selector_all(".md-search-result__item a", "all => all.map(each => each.href)")
    assert any(page in each for each in found), found
    tab.close()
    assert not complaints


def test_the_menu_opens_on_a_phone_and_the_colours_can_be_switched(browser, address):
    tab, complaints = opened(browser, "phone", "light")
    tab.goto(address, wait_until="load")
    assert (
        not tab.locator(".md-nav--primary").first.is_visible()
        or tab.locator(".md-sidebar--primary").bounding_box()["x"] < 0
    )
    tab.locator("label[for=__drawer].md-header__button").click()
    tab.get_by_role("link", name="Tour", exact=True).first.wait_for(state="visible")
    tab.close()
    tab, more = opened(browser, "desktop", "light")
    tab.goto(address, wait_until="load")
    tab.locator("label.md-header__button[title=Dark]").click()
    tab.wait_for_function("document.body.dataset.mdColorScheme == 'slate'")
    tab.close()
    assert not complaints and not more
