"""The page in a browser: type, drop, tick, reload; by keyboard, in the dark, on a phone; hostile captions are text."""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from gen.model.clip import Clip
from retrieve.run.recipe import SearchSpec
from shards.disk.safe_text import visible
from shards.views.page import STYLE
from tests.shards.views.test_gallery import contrast, pixel
from tests.support.browser import Browser, needs_chromium
from tests.support.hostile_text import BENIGN, PAYLOADS
from tests.support.served_pool import (
    FLAGGED,
    ROWS,
    Served,
    open_search,
    pictures_of_pool,
    served,
    write_served_pool,
)

pytestmark = needs_chromium
TOKEN = "0123456789abcdef-token"
CARDS = "document.querySelectorAll('#found li').length"
ROWS_SHOWN = "[...document.querySelectorAll('#found li')].map((one) => Number(one.dataset.row))"
TOLD = "document.querySelector('#told').textContent"
SEEN = "[...document.querySelectorAll('#found img')].slice(0, 4).every((one) => one.complete && one.naturalWidth)"


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture
def browser(window: Browser) -> Browser:
    """A new page of usual size, in light."""
    window.open("about:blank")
    window.size(1200, 900)
    window.scheme("light")
    return window


def ready(browser: Browser, address: str) -> None:
    browser.open("about:blank")  # another fragment alone loads no page
    browser.open(address)
    browser.until("document.activeElement?.id === 'text'")


def search_for(browser: Browser, text: str) -> list[int]:
    """Type it and press Enter; the rows that are shown."""
    browser.run("document.querySelector('#text').select()")
    browser.type(text)
    browser.press("Enter")
    browser.until(f"{TOLD}.includes({json.dumps(f'“{visible(text.strip())}”')})")
    found: list[int] = browser.run(ROWS_SHOWN)
    return found


def test_a_text_that_is_typed_finds_rows_and_a_reload_finds_them_again(browser: Browser, server: Served) -> None:
    ready(browser, server.address)
    rows = search_for(browser, "a red digit")
    body = {"text": "a red digit", "modality": "image", "num_images": 40, "num_result_ids": 160, "deduplicate": True}
    hits = server.post("/knn-service", body)
    assert rows == [hit["id"] for hit in hits]
    first = browser.run("document.querySelector('#found li').innerText")
    assert f"{hits[0]['similarity']:.3f}" in first
    assert hits[0]["caption"] in first
    browser.until(SEEN)
    browser.run("document.querySelector('#number').value = 5; document.querySelector('#alone').click()")
    browser.until(f"{CARDS} === 5")
    browser.run(
        "const among = document.querySelector('#among'); among.value = 'text'; among.dispatchEvent(new Event('change'))"
    )
    browser.until(f"{TOLD}.includes('captions')")
    rows, state = browser.run(ROWS_SHOWN), browser.run("location.hash")
    assert state == "#text=a+red+digit&among=text&results=5&duplicates=1"
    browser.reload()
    browser.until(f"{CARDS} === 5")
    assert browser.run(ROWS_SHOWN) == rows
    assert browser.run("[document.querySelector('#text').value, document.querySelector('#among').value]") == [
        "a red digit",
        "text",
    ]
    browser.run("history.back()")
    browser.until(f"{TOLD}.includes('pictures')")
    assert browser.said == []


def test_a_picture_that_is_dropped_chosen_or_pasted_finds_itself(
    browser: Browser, server: Served, tmp_path: Path
) -> None:
    file = tmp_path / "seven.jpg"
    file.write_bytes(pictures_of_pool()[7])
    ready(browser, server.address)
    browser.drop(file, 600, 500)
    browser.until(f"{CARDS} > 3")
    assert browser.run(ROWS_SHOWN)[0] == 7
    browser.until("document.querySelector('#preview').naturalWidth === 64")
    browser.click("#forget")
    browser.until(f"{CARDS} === 0")
    browser.choose("#file", file)
    browser.until(f"{CARDS} > 3")
    assert browser.run(ROWS_SHOWN)[0] == 7
    browser.click("#forget")
    browser.until(f"{CARDS} === 0")
    browser.run(
        "fetch('image?row=3').then((one) => one.blob()).then((blob) => { const data = new DataTransfer();"
        "data.items.add(new File([blob], 'x.jpg', { type: 'image/jpeg' }));"
        "document.dispatchEvent(new ClipboardEvent('paste', { clipboardData: data, bubbles: true })); })"
    )
    browser.until(f"{CARDS} > 3")
    assert browser.run(ROWS_SHOWN)[0] == 3
    text = tmp_path / "a.txt"
    text.write_text("no picture")
    browser.drop(text, 600, 500)
    browser.until("document.querySelector('#wrong').innerText.includes('found no picture in what was dropped')")
    assert browser.said == []


def test_a_large_picture_is_made_smaller_before_it_is_sent(browser: Browser, server: Served) -> None:
    ready(browser, server.address)
    sent = browser.run(
        """(async () => {
        const canvas = document.createElement('canvas'); canvas.width = 2400; canvas.height = 1600;
        const context = canvas.getContext('2d'), noise = context.createImageData(2400, 1600);
        crypto.getRandomValues.call(crypto, new Uint8Array(1));
        for (let at = 0; at < noise.data.length; at += 65536)
          crypto.getRandomValues(noise.data.subarray(at, Math.min(at + 65536, noise.data.length)));
        context.putImageData(noise, 0, 0);
        const blob = await new Promise((done) => canvas.toBlob(done, 'image/png'));
        const before = fetch; let sent = 0;
        window.fetch = (path, options) => { sent = options?.body?.length || sent; return before(path, options); };
        const data = new DataTransfer(); data.items.add(new File([blob], 'x.png', { type: 'image/png' }));
        document.dispatchEvent(new DragEvent('drop', { dataTransfer: data, bubbles: true, cancelable: true }));
        while (!document.querySelectorAll('#found li').length) await new Promise((done) => setTimeout(done, 50));
        window.fetch = before;
        return [blob.size, sent]; })()"""
    )
    assert sent[0] > 8 << 20
    assert 1000 < sent[1] < 4 << 20


def test_rows_similar_to_one_are_found_and_found_again_after_a_reload(browser: Browser, server: Served) -> None:
    ready(browser, server.address + "#like=3&among=image&results=6")
    browser.until(f"{CARDS} === 6")
    assert browser.run(ROWS_SHOWN)[0] == 3
    second = browser.run(ROWS_SHOWN)[1]
    browser.click("#found li:nth-child(2) .more")
    browser.until(f"{TOLD}.includes('row {second}')")
    assert browser.run("location.hash") == f"#like={second}&among=image&results=6"
    assert browser.run(ROWS_SHOWN)[0] == second
    ready(browser, f"{server.address}#like={FLAGGED[0]}&among=image")
    browser.until("document.querySelector('#wrong').innerText.includes('found no picture of this row')")


def test_what_is_ticked_is_blocked_at_once_and_for_good_by_keyboard_alone(
    browser: Browser, pool: Path, clip: Clip, tmp_path: Path
) -> None:
    own = tmp_path / "blocked.txt"
    with served(open_search(pool, clip, own)) as server:
        ready(browser, server.address + "#among=image&results=30&duplicates=1")
        rows = search_for(browser, "a digit")
        assert len(rows) == ROWS - len(FLAGGED)
        assert not set(rows) & set(FLAGGED)
        for number in (1, 2):
            while browser.run("document.activeElement.closest('li')?.dataset.row") != str(rows[number]):
                browser.press("Tab")
            while browser.run("document.activeElement.type") != "checkbox":
                browser.press("Tab")
            browser.press(" ")
        assert browser.run("document.querySelector('#count').textContent") == "2 ticked"
        browser.run("document.querySelector('#untick').focus({ preventScroll: true })")
        browser.run("document.querySelector('#block').focus()")
        browser.press("Enter")
        browser.until(f"{TOLD}.includes('2 blocked')")
        assert len(own.read_text().splitlines()) == 2
        assert browser.run("document.activeElement.id") == "text"
        left = [row for row in rows if row not in rows[1:3]]
        assert browser.run(ROWS_SHOWN) == left
        assert browser.run("document.querySelector('#bar').hidden")
        browser.reload()
        browser.until(f"{CARDS} === {len(left)}")
        assert browser.run(ROWS_SHOWN) == left
        assert browser.said == []


def test_j3_hostile_captions_are_text_and_every_character_of_them_can_be_seen(
    browser: Browser, clip: Clip, tmp_path: Path
) -> None:
    texts = [*PAYLOADS, *BENIGN]
    captions = [" ".join(texts[row::ROWS]) for row in range(ROWS)]
    write_served_pool(tmp_path / "p", clip, captions)
    with served(open_search(tmp_path / "p", clip)) as server:
        ready(browser, server.address + "#among=text&results=30&duplicates=1")
        rows = search_for(browser, "javascript")
        browser.until(SEEN)
        shape = (
            "[...document.querySelectorAll('#found li')].map((one) => [...one.querySelectorAll('*')]"
            ".map((part) => part.tagName + [...part.getAttributeNames()].sort()).join(' '))"
        )
        assert len({one.replace("IMGalt,class,", "IMGalt,") for one in browser.run(shape)}) == 1
        shown = browser.run("[...document.querySelectorAll('#found .prompt')].map((one) => one.textContent)")
        assert shown == [visible(captions[row])[: len(one)] for row, one in zip(rows, shown, strict=True)]
        assert browser.run("document.title") == "p · search"
        assert browser.said == []


def test_hostile_addresses_are_no_links_but_those_of_the_web(browser: Browser, server: Served) -> None:
    ready(browser, server.address)
    addresses = [
        "javascript:alert(1)",
        "data:text/html,x",
        "file:///etc/passwd",
        " https://a/",
        "https://a/\u202ex",
        "x",
    ]
    browser.run(
        "(() => { const before = fetch; window.fetch = async (path, options) => path === 'knn-service' ?"
        f"new Response(JSON.stringify({json.dumps(addresses)}.map("
        "(url, id) => ({ id, url, caption: '', similarity: 1 }))))"
        " : before(path, options); })()"
    )
    search_for(browser, "a")
    lines = browser.run("[...document.querySelectorAll('.where')].map((one) => one.textContent)")
    assert lines == [visible(one) for one in addresses]
    links = browser.run("[...document.querySelectorAll('.where a')].map((one) => [one.rel, one.target, one.protocol])")
    assert links == [["noopener noreferrer nofollow", "_blank", "https:"]]


def test_a_query_becomes_lines_of_a_recipe_whatever_it_says(browser: Browser, server: Served) -> None:
    ready(browser, server.address)
    pairs = [("a photo of a rose", "rose"), ("rose", ""), *((text, f"the {text}") for text in (*PAYLOADS, *BENIGN))]
    lines = browser.run(
        "(() => { const text = document.querySelector('#text'), name = document.querySelector('#class');"
        f"return {json.dumps(pairs)}.map(([said, called]) => {{ name.value = called; text.value = said;"
        "text.dispatchEvent(new Event('input')); return document.querySelector('#recipe').hidden ? null :"
        " [text.value.trim(), name.value.trim(), document.querySelector('#yaml').textContent]; }); })()"
    )
    told = [one for one in lines if one is not None]
    assert len(told) > len(lines) - 10
    for text, name, recipe in told:
        spec = SearchSpec.model_validate(yaml.safe_load(recipe)["search"])
        assert spec.routes == ("image",)
        assert "{name}" in spec.templates[0]
        assert dict(spec.captions.queries) == {name[:100] or "NAME OF THE CLASS": (text[:500],)}
    assert SearchSpec.model_validate(yaml.safe_load(told[0][2])["search"]).templates == ("a photo of a {name}",)
    browser.run("document.querySelector('#recipe').open = true")
    browser.click("#copy")
    browser.until("document.querySelector('#copied').textContent")


def test_with_a_token_the_page_asks_for_it_and_shows_pictures_with_it(browser: Browser, pool: Path, clip: Clip) -> None:
    with served(open_search(pool, clip), TOKEN) as server:
        browser.open(server.address)
        browser.until("document.activeElement?.id === 'token'")
        browser.type("a wrong token")
        browser.press("Enter")
        browser.until("document.querySelector('#wrong').innerText.includes('not the server')")
        browser.type(TOKEN)
        browser.press("Enter")
        browser.until("document.activeElement?.id === 'text'")
        search_for(browser, "a red digit")
        browser.until(SEEN)
        assert browser.run("document.querySelector('#found img').src").startswith("blob:")
        assert TOKEN not in browser.run("document.documentElement.outerHTML + location.href")
        browser.reload()
        browser.until(f"{CARDS} > 3")


def test_a_pool_without_pictures_shows_captions_and_addresses(browser: Browser, clip: Clip, tmp_path: Path) -> None:
    write_served_pool(tmp_path / "p", clip)
    for tar in (tmp_path / "p").glob("*.tar"):
        tar.unlink()
    with served(open_search(tmp_path / "p", clip)) as server:
        ready(browser, server.address)
        rows = search_for(browser, "a red digit")
        assert browser.run("document.querySelectorAll('#found :is(img, button, input)').length") == 0
        captions = [f"a digit in {('red', 'blue', 'green', 'black')[row % 4]} ink, number {row}" for row in rows]
        assert browser.run("[...document.querySelectorAll('.prompt')].map((one) => one.textContent)") == captions
        assert browser.said == []


def test_a_server_that_has_ended_is_told_on_the_page(browser: Browser, pool: Path, clip: Clip) -> None:
    with served(open_search(pool, clip)) as server:
        ready(browser, server.address)
    browser.type("a red digit")
    browser.press("Enter")
    browser.until("document.querySelector('#wrong').innerText.includes('is it still running?')")


def test_the_page_has_a_name_for_every_control_and_says_what_changes(browser: Browser, server: Served) -> None:
    ready(browser, server.address)
    search_for(browser, "a red digit")
    script = """[...document.querySelectorAll('input, select, button, a, pre')].filter((one) => !(
        one.ariaLabel || [...(one.labels || [])].some((label) => label.textContent.trim()) ||
        (one.matches('button, a') && one.textContent.trim()))).map((one) => one.outerHTML)"""
    bare = browser.run(script)
    assert bare == []
    assert browser.run("[...document.querySelectorAll('img')].filter((one) => !one.alt).length") == 0
    assert browser.run("[...document.querySelectorAll('[role=status], [role=alert]')].length") == 4
    assert browser.run("document.querySelectorAll('h1').length") == 1
    assert browser.run("new Set([...document.querySelectorAll('[id]')].map((one) => one.id)).size") == browser.run(
        "document.querySelectorAll('[id]').length"
    )


def test_the_page_is_light_or_dark_and_never_wider_than_a_phone(
    browser: Browser, server: Served, tmp_path: Path
) -> None:
    papers = re.findall(r"--paper: #([0-9a-f]{6})", STYLE.read_text(encoding="utf-8"))
    browser.size(390, 844)
    ready(browser, server.address)
    search_for(browser, "a red digit " + "x" * 300)
    browser.run("document.querySelector('#recipe').open = true")
    for paper, scheme in zip(papers, ("light", "dark"), strict=True):
        browser.scheme(scheme)
        time.sleep(0.1)
        browser.shot(tmp_path / "shot.png")
        assert pixel(tmp_path / "shot.png", 3, 840) == tuple(bytes.fromhex(paper))
        assert browser.run("document.documentElement.scrollWidth") == 390
        colours = {
            name: browser.run(f"getComputedStyle(document.body).getPropertyValue('--{name}').trim()")
            for name in ("paper", "card", "accent", "lost", "quiet")
        }
        for ink, ground in (("paper", "accent"), ("paper", "lost"), ("quiet", "card"), ("accent", "card")):
            assert contrast(colours[ink], colours[ground]) >= 4.5, (scheme, ink, ground)
