"""The page in a real browser: keyboard, titles as text, the tilt, exposure, what it loads, and what axe-core finds."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sprec.data import Dataset
from sprec.runs import run
from sprec.runs.recipes import resolve
from toy_server import Server, serving

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [pytest.mark.slow, pytest.mark.browser]
NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
EVIL = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
SECRET = "a-secret-of-some-length"


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    if not CHROMIUM:
        pytest.skip("no Chromium (Debian: apt-get install chromium), or its path in CHROMIUM")
    from playwright.sync_api import sync_playwright

    flags = ["--headless", "--no-sandbox", "--disable-background-networking"]
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield started
        started.close()


@pytest.fixture(scope="module")
def runs(toy_data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A run with a tilt and one by popularity; the most popular title tries to be HTML."""
    folder, data = tmp_path_factory.mktemp("page"), Dataset.load(toy_data)
    most = max(range(len(data.catalog)), key=lambda item: (data.train.items == item).sum())
    titles = [EVIL if item == most else title for item, title in enumerate(data.catalog.titles)]
    catalog = type(data.catalog)(tuple(titles), data.catalog.genres, data.catalog.source_ids)
    evil = replace(data, catalog=catalog).save(folder / "data")
    tilt = ["recommend.tilt=true", "recommend.caps=[0.2,0.1]", "recommend.candidates=40"]
    run(resolve("demo", ["method=knn", "cases=20", *tilt]), evil, folder / "neighbours")
    run(resolve("demo", ["method=popularity", "cases=20"]), evil, folder / "popular")
    return [folder / "neighbours", folder / "popular"]


@pytest.fixture(scope="module")
def server(runs: list[Path], browser: "Browser") -> Iterator[Server]:
    with serving(*runs) as started:
        yield started


@pytest.fixture
def page(browser: "Browser", server: Server) -> "Iterator[Page]":
    """The page when it has loaded; what it loads and logs is checked afterwards."""
    context = browser.new_context(viewport={"width": 1200, "height": 900}, reduced_motion="reduce")
    opened, loaded, complaints = context.new_page(), list[str](), list[str]()
    opened.on("request", lambda request: loaded.append(request.url))
    opened.on("console", lambda message: complaints.append(message.text))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.goto(f"http://127.0.0.1:{server.port}/")
    opened.wait_for_selector("body[data-ready]")
    yield opened
    assert complaints == []
    assert {url.split("/")[2] for url in loaded if not url.startswith("data:")} == {f"127.0.0.1:{server.port}"}
    context.close()


def settled(page: "Page") -> None:
    """Wait until the lists are those of the present history."""
    page.wait_for_timeout(300)
    page.wait_for_selector('#columns[aria-busy="false"]')


def titles(page: "Page", place: int) -> list[str]:
    found = page.locator(".column").nth(place).locator(".title")
    return [text.removesuffix(" (in this list only)") for text in found.all_text_contents()]


def answer(server: Server, **asked: Any) -> list[str]:
    reply = server.recommend(k=10, **asked)
    return [entry["title"] for entry in reply.json["lists"][0]["items"]]


def test_a_history_is_built_by_keyboard_and_the_lists_follow(page: "Page", server: Server) -> None:
    names = page.locator(".column select").evaluate_all("all => all.map(one => one.selectedOptions[0].textContent)")
    assert names == ["neighbours · knn", "popular · popularity", "neighbours · knn, tilted"]
    assert titles(page, 0) == titles(page, 1) == answer(server, histories=[[]])
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.focus("#search")
    page.keyboard.type("al")
    page.wait_for_selector("#hits:not([hidden])")
    wanted = server.ask("GET", "/v1/items?q=al&limit=12").json["items"]
    assert page.locator("#hits li > div:first-child").all_text_contents() == [item["title"] for item in wanted]
    for key in ("ArrowDown", "ArrowDown", "ArrowDown", "ArrowUp"):
        page.keyboard.press(key)
    assert page.get_attribute("#search", "aria-activedescendant") == "hit1"
    page.keyboard.press("Enter")
    settled(page)
    history = [wanted[1]["source_id"]]
    assert page.locator("#items li span").all_text_contents() == [wanted[1]["title"]]
    expected = [
        answer(server, histories=[history], run="neighbours", tilt=0),
        answer(server, histories=[history], run="popular"),
        answer(server, histories=[history], run="neighbours", tilt=1),
    ]
    assert [titles(page, place) for place in range(3)] == expected
    assert wanted[1]["title"] not in {title for own in expected for title in own}
    page.get_by_role("button", name=f"Remove {wanted[1]['title']}").press("Enter")
    settled(page)
    assert titles(page, 0) == answer(server, histories=[[]])


def test_items_have_rank_and_genres_and_titles_are_text(page: "Page", server: Server) -> None:
    first = page.locator(".column").first.locator("li").first
    facts = server.ask("GET", "/v1/items?q=%3Cscript").json["items"][0]
    assert facts["title"] == EVIL
    assert facts["popularity"] == 1
    assert first.locator(".title").text_content() == EVIL
    assert "#1" in (first.locator(".popularity").text_content() or "")
    assert first.locator(".genres").text_content() == ", ".join(facts["genres"])
    page.fill("#search", "<script")
    page.wait_for_selector("#hits:not([hidden])")
    assert page.locator("#hits li > div").first.text_content() == EVIL
    page.keyboard.press("Enter")
    settled(page)
    assert page.locator("#items li span").text_content() == EVIL
    tops = page.locator("#tops table").nth(1).locator("tbody th").all_text_contents()
    assert sum(text.startswith(EVIL) for text in tops) == 1
    assert page.title() == "sprec: who gets recommended"
    assert page.locator("main script, main img").count() == 0


def test_the_tilt_slider_changes_tilted_lists_only(page: "Page") -> None:
    page.click("#example")
    settled(page)
    plain = titles(page, 0)
    page.focus("#tilt")
    for key, value in (("Home", "0"), ("End", "3")):
        page.keyboard.press(key)
        settled(page)
        assert page.text_content("#tilt-value") == value
        assert titles(page, 0) == plain
        assert (titles(page, 2) == plain) == (value == "0")


def test_lists_are_added_changed_and_removed(page: "Page", server: Server) -> None:
    page.click("#add")
    settled(page)
    select = page.locator(".column select").nth(3)
    select.select_option(label="neighbours · random")
    settled(page)
    assert titles(page, 3) == answer(server, histories=[[]], run="neighbours", protocol="random")
    page.get_by_role("button", name="Remove list 4").click()
    assert page.locator(".column").count() == 3


def test_exposure_is_that_of_the_recorded_lists(page: "Page", server: Server) -> None:
    page.locator("details summary").first.click()
    shown = page.locator("#lorenz-table tbody tr").all()
    found = [
        evaluation
        for name in ("neighbours", "popular")
        for evaluation in server.ask("GET", f"/v1/exposure?run={name}").json["evaluations"]
    ]
    assert [one["name"] for one in found] == ["knn", "popularity"]
    assert [row.locator("td").all_text_contents() for row in shown[:3]] == [
        [f"{100 * one['lorenz'][share]:.1f}%" for one in found] for share in (10, 25, 50)
    ]
    assert page.locator("svg.chart polyline").count() == 2
    tops = page.locator("#tops table").nth(1).locator("tbody tr")
    assert tops.first.locator("td").text_content() == f"{100 * found[1]['top'][0]['share']:.1f}%"
    assert tops.count() == len(found[1]["top"]) == 5


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 360])
def test_axe_finds_nothing_serious(page: "Page", scheme: Any, width: int) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    page.click("#example")
    settled(page)
    for summary in page.locator("summary").all():
        summary.click()
    page.fill("#search", "a")
    page.wait_for_selector("#hits:not([hidden])")
    found = Axe().run(page).response["violations"]
    assert [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_token_is_asked_for(browser: "Browser", runs: list[Path]) -> None:
    with serving(runs[1], SPREC_TOKEN=SECRET) as server:
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{server.port}/")
        page.wait_for_selector("#unlock:not([hidden])")
        assert page.evaluate("document.activeElement.id") == "token"
        page.keyboard.type(SECRET)
        page.keyboard.press("Enter")
        page.wait_for_selector("body[data-ready]")
        assert page.locator(".column li").count() > 0
        page.close()


def test_the_documentation_of_the_requests_works(browser: "Browser", server: Server) -> None:
    page, complaints = browser.new_page(), list[str]()
    page.on("console", lambda message: complaints.append(message.text))
    page.goto(f"http://127.0.0.1:{server.port}/docs")
    page.get_by_text("/v1/recommend", exact=True).wait_for()
    assert complaints == []
    page.close()
