"""The page of runs: what is in it, that it is closed, and a real Chromium at work on it."""

import base64
import hashlib
import json
import re
import threading
import urllib.error
import urllib.request
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser

import pytest

from gradgen.cli.app import main
from gradgen.cli.options import as_options
from gradgen.errors import UsageError
from gradgen.evaluation.diagnose import diagnose
from gradgen.evaluation.serve import LOOPBACK, server_of
from gradgen.evaluation.view import read_view, view
from gradgen.images import read_recipe
from gradgen.runs import run
from gradgen.runs.record import read_record, write_record
from tests.browser import chromium, complaints, needs_chromium, set_dark, set_width
from tests.runs.test_run import stop_after

GIVEN = {
    "start_candidates": 1,
    "bundle": "tiny64",
    "classes": ("goldfish", "beacon"),
    "num_chains": 2,
    "budget": 20,
    "seed": 1,
}
EVIL = "</title><script>alert(1)</script><img src=x onerror=alert(2)>\"'&"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    run.begin({**GIVEN, "method": "mala"}, out=folder / "mala", animate=True).execute()
    run.begin({**GIVEN, "method": "map", "classes": ("beacon",)}, out=folder / "map").execute()
    return folder


@pytest.fixture(scope="module")
def page(runs, tmp_path_factory):
    """The page's file, as the command writes it."""
    path = tmp_path_factory.mktemp("page") / "view.html"
    arguments = ["view", str(runs / "mala"), str(runs / "map"), "--out", str(path)]
    assert main(arguments) == 0
    return path


class Markup(HTMLParser):
    """The tags of a page as a browser reads them, with their attributes."""

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))


def assert_closed(text):
    """It loads nothing, and its policy allows its own style and script and no more."""
    (rules,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    assert rules.startswith("default-src 'none'; img-src data:; ")
    assert "unsafe" not in rules and "*" not in rules
    for tag in ("style", "script"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, flags=re.S)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in rules
        assert not re.search(r"url\(|@import|https?:|innerHTML", content)
    for tag, attributes in Markup(text).tags:
        assert tag not in ("iframe", "object", "embed", "form", "base")
        for name, value in attributes.items():
            assert not name.startswith("on") and name not in ("style", "action", "srcset")
            assert name not in ("src", "href") or value.startswith("data:")


def test_the_page_is_closed_and_holds_pictures_numbers_traces_and_words(page, runs):
    text = page.read_text()
    assert_closed(text)
    assert text.count('<button type="button" data-title=') == 2 * 2 + 2
    assert text.count('<svg class="trace"') == 3 * 2 + 2  # MAP accepts nothing
    plain = unescape(re.sub("</?code>", "", text))
    found = diagnose(runs / "mala").classes
    assert len(found) == 2 and any(each.advice for each in found)
    for each in found:
        for line in each.advice:
            assert as_options(line) in plain
    assert "MAP climbs to a maximum" in text
    (first,) = re.findall(r'alt="goldfish, chain 0[^"]*" src="data:image/png;base64,([^"]*)"', text)
    assert base64.b64decode(first) == (runs / "mala" / "goldfish-00.png").read_bytes()


def test_what_comes_from_a_record_is_escaped_and_stays_inside_the_folder(runs, tmp_path):
    folder = tmp_path / "x<b>&"
    run.begin({**GIVEN, "method": "map", "classes": ("beacon",)}, out=folder).execute()
    outside = tmp_path / "outside.png"
    outside.write_bytes((folder / "beacon-00.png").read_bytes())
    record = read_record(folder)
    job = replace(record.classes[0], name=EVIL, query=EVIL)
    pictures = ("../outside.png", *(record.pictures or ())[1:])
    write_record(folder, replace(record, classes=(job,), pictures=pictures, notes=(EVIL,)))
    text = view([folder])
    assert_closed(text)
    assert "<script>alert" not in text and "<img src=x" not in text and "x<b>&" not in text
    assert text.count("data-title=") == 1 and len(read_view(folder).pictures) == 1


def test_what_is_no_run_is_one_line(tmp_path, capsys):
    assert main(["view", str(tmp_path)]) == 2
    assert "is not the folder of a run" in capsys.readouterr().err


# --- in Chromium ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture
def opened(browser, page):
    set_width(browser, 1400)
    set_dark(browser, False)
    browser.get(page.as_uri())
    yield browser
    assert complaints(browser) == []


@needs_chromium
@pytest.mark.parametrize("width", [360, 800, 1400, 2000])
def test_nothing_is_wider_than_the_window_and_runs_stand_side_by_side(opened, width):
    set_width(opened, width)
    assert opened.execute_script("return document.documentElement.scrollWidth") <= width
    tops = opened.execute_script(
        "return [...document.querySelectorAll('.run')].map(run => run.getBoundingClientRect().top)"
    )
    assert (tops[0] == tops[1]) == (width > 1000)
    broken = "return [...document.images].filter(i => i.src !== 'data:,' && !i.naturalWidth).length"
    assert opened.execute_script(broken) == 0


@needs_chromium
def test_pictures_are_looked_at_by_keyboard(opened, runs):
    from selenium.webdriver import ActionChains, Keys
    from selenium.webdriver.support.ui import WebDriverWait

    def press(*keys):
        for key in keys:
            ActionChains(opened).send_keys(key).perform()

    def told():
        return opened.find_element("css selector", "dialog h2").text

    def focused():
        return opened.execute_script("return document.activeElement.dataset.title")

    press(Keys.TAB)
    assert focused() == "goldfish, chain 0"
    press(Keys.ARROW_RIGHT, Keys.ENTER)
    assert told() == "goldfish, chain 1"
    press(Keys.ARROW_RIGHT)
    assert told() == "beacon, chain 0"
    recipe = read_recipe(runs / "mala" / "beacon-00.png")
    opened.execute_script("document.querySelector('dialog details').open = true")
    assert json.loads(opened.find_element("css selector", "dialog pre").text) == recipe
    numbers = opened.find_element("css selector", "dialog .numbers").text
    assert f"{recipe['result']['log_likelihood']:.4g}" in numbers and "acceptance" in numbers
    press(Keys.ESCAPE)
    assert not opened.execute_script("return document.querySelector('dialog').open")
    # the browser tells the page of the closed dialog a little later
    WebDriverWait(opened, 10).until(lambda _: focused() == "beacon, chain 0")


@needs_chromium
def test_a_slider_goes_along_the_chains_way(opened):
    from selenium.webdriver import Keys

    (slider,) = opened.find_elements("css selector", ".way input")
    frames = opened.find_elements("css selector", ".way img")
    assert len(frames) > 10
    seen = set()
    for _ in range(3):
        (visible,) = [frame for frame in frames if frame.is_displayed()]
        seen.add(visible.get_attribute("alt"))
        slider.send_keys(Keys.ARROW_LEFT)
    assert len(seen) == 3
    told = opened.find_element("css selector", ".way output").text
    assert told == f"{len(frames) - 3} of {len(frames)}"


@needs_chromium
def test_it_is_dark_where_a_person_wants_it_dark(opened):
    from selenium.webdriver.support.color import Color

    def contrast():
        style = "return getComputedStyle(document.body)"
        colours = [
            opened.execute_script(f"{style}.{name}") for name in ("color", "backgroundColor")
        ]
        return [sum(int(v) for v in re.findall(r"\d+", Color.from_string(c).rgb)) for c in colours]

    text, back = contrast()
    assert back - text > 500
    set_dark(opened, True)
    text, back = contrast()
    assert text - back > 500


@needs_chromium
def test_a_run_that_goes_on_is_shown_live(browser, tmp_path):
    from selenium.webdriver.support.ui import WebDriverWait

    folder = tmp_path / "live"
    given = {**GIVEN, "method": "map", "classes": ("beacon",), "block_size": 5}
    run.begin(given, out=folder).execute(stop=stop_after(2))
    for name in read_record(folder).pictures:  # a run that goes on has written none
        (folder / name).unlink()
    (folder / "chains.npz").unlink()
    write_record(folder, replace(read_record(folder), status="running", pictures=None))
    server = server_of([folder])
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        set_width(browser, 1000)
        complaints(browser)
        browser.get(f"http://{LOOPBACK}:{server.server_port}/")

        def text():
            return browser.find_element("css selector", "main").text

        assert "running: 10 of 20 steps" in text()
        pictures = browser.find_elements("css selector", ".pictures img")
        assert len(pictures) == 2
        before = pictures[0].get_attribute("src")
        run.resume(folder, {}).execute()
        WebDriverWait(browser, 60).until(lambda _: "finished: 20 of 20 steps" in text())
        after = browser.find_element("css selector", ".pictures img").get_attribute("src")
        assert after != before
        assert complaints(browser) == []
    finally:
        server.shutdown()
        server.server_close()


def test_the_server_answers_this_machine_and_its_own_names_only(runs):
    server = server_of([runs / "map"])
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://{LOOPBACK}:{server.server_port}"

    def status(path, host=None):
        request = urllib.request.Request(url + path, headers={"Host": host} if host else {})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                assert answer.headers["X-Content-Type-Options"] == "nosniff"
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code

    try:
        assert server.server_address[0] == "127.0.0.1"
        assert status("/") == status("/state") == 200
        assert status("/", "evil.example") == status("/", "evil.example:80") == 403
        assert status("/run.json") == status("/../../etc/passwd") == 404
        with pytest.raises(UsageError, match="choose another"):
            server_of([runs / "map"], server.server_port)
    finally:
        server.shutdown()
        server.server_close()
