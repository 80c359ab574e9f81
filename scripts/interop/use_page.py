"""The chat page in a headless Chromium, driven as a person would: what was seen, as JSON, and pictures of it.

scripts/interop/use_page.py ADDRESS KEY FOLDER      runs in the environment `clients`; Chromium is the system's

Nothing but ADDRESS may be asked for anything: every request that leaves it is counted.
"""

import json
import shutil
import sys
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

LIMIT_MS = 120_000


def main(address: str, key: str, folder: str) -> None:
    """Ask without a key, with one, think, answer now, stop, narrow and dark; print what came."""
    pictures = Path(folder)
    seen: dict[str, object] = {"errors": [], "foreign": []}
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1000, "height": 720}, color_scheme="light")
        page.set_default_timeout(LIMIT_MS)
        page.on("pageerror", lambda error: seen["errors"].append(str(error)))
        page.on("request", lambda request: request.url.startswith(address) or seen["foreign"].append(request.url))
        page.goto(address)
        expect(page.locator("#model")).to_contain_text("key", timeout=LIMIT_MS)
        page.screenshot(path=pictures / "locked.png")
        _settings(page, key)
        page.screenshot(path=pictures / "first.png")
        seen["model"] = page.inner_text("#model")
        seen["answer"] = _ask(page, "What is the capital of France?")
        page.screenshot(path=pictures / "answer.png")
        seen["meter"] = page.inner_text("#meter")
        seen["thoughts"] = _think(page)
        page.screenshot(path=pictures / "thinking.png")
        seen["hostile"] = _hostile(page)
        page.emulate_media(color_scheme="dark")
        page.screenshot(path=pictures / "dark.png")
        page.set_viewport_size({"width": 360, "height": 640})
        page.screenshot(path=pictures / "narrow.png")
        seen["too_wide"] = page.evaluate("document.documentElement.scrollWidth > innerWidth")
        page.set_viewport_size({"width": 1000, "height": 720})
        page.emulate_media(color_scheme="light")
        seen["stopped"] = _stop(page)
        seen["kept"] = _reload(page)
        seen["left_over"] = _begin_anew(page, key)
        browser.close()
    print(json.dumps(seen))


def _settings(page: Page, key: str) -> None:
    page.click("#open-settings")
    page.fill("#key", key)
    page.fill("#temperature", "0")
    page.check("input[name=thinking][value=off]")
    page.check("#keep")
    page.click("#settings button[value=close]")
    expect(page.locator("#model")).not_to_contain_text("key", timeout=LIMIT_MS)


def _ask(page: Page, question: str) -> str:
    before = page.locator("article.assistant").count()
    page.fill("#prompt", question)
    page.press("#prompt", "Enter")
    page.wait_for_selector(f"article.assistant >> nth={before}")
    page.wait_for_selector("#send:visible")
    return page.locator("article.assistant .answer").nth(before).inner_text()


def _think(page: Page) -> dict[str, object]:
    page.click("#open-settings")
    page.check("input[name=thinking][value=on]")
    page.click("#settings button[value=close]")
    answer = _ask(page, "What is 7 times 6?")
    fold = page.locator("article.assistant details").last
    folded = not fold.evaluate("fold => fold.open")
    fold.locator("summary").click()
    return {
        "answer": answer,
        "folded": folded,
        "summary": fold.locator("summary").inner_text(),
        "text": fold.locator(".thoughts").inner_text(),
    }


def _hostile(page: Page) -> dict[str, object]:
    """Show an answer that is full of markup, through the page's own renderer."""
    return page.evaluate(
        """async () => {
            const { render } = await import("./markdown.js");
            const log = document.getElementById("log");
            const box = document.createElement("article");
            box.className = "assistant";
            const text = "<img src=x onerror='window.caught=1'><script>window.caught=1</script>"
                + " [a](javascript:caught=1)\\n\\n| name | 数 |\\n|---|---|\\n| 👩‍👩‍👧 | 三 |"
                + "\\n\\n```py\\nprint('<b>')\\n```\\n\\n- one\\n  - two\\n";
            box.append(...render(text));
            log.append(box);
            log.scrollTop = log.scrollHeight;
            await new Promise((done) => setTimeout(done, 200));
            return {
                caught: window.caught ?? null,
                elements: box.querySelectorAll("img, script, a").length,
                code: box.querySelector("pre code").textContent,
                cells: box.querySelectorAll("td").length,
            };
        }"""
    )


def _stop(page: Page) -> dict[str, object]:
    page.fill("#prompt", "Tell me a long story about rivers, please.")
    page.press("#prompt", "Enter")
    page.wait_for_selector("#stop:visible")
    page.press("body", "Escape")
    page.wait_for_selector("#send:visible")
    return {"foot": page.locator("article.assistant .foot").last.inner_text()}


def _reload(page: Page) -> int:
    page.reload()
    page.wait_for_selector("article.user")
    return page.locator("article.user").count()


def _begin_anew(page: Page, key: str) -> int:
    """Begin another conversation with an answer's first words; return how many messages of the old one it has."""
    _settings(page, key)
    page.evaluate(
        """() => {
            const log = document.getElementById("log");
            new MutationObserver((_, observer) => {
                if (!log.querySelector("article.assistant:last-of-type .answer")?.textContent) return;
                observer.disconnect();
                document.getElementById("new").click();
            }).observe(log, { childList: true, subtree: true });
        }"""
    )
    page.fill("#prompt", "Tell me a long story about mountains, please.")
    page.press("#prompt", "Enter")
    expect(page.locator("#log article")).to_have_count(0, timeout=LIMIT_MS)
    page.wait_for_selector("#send:visible")
    return page.evaluate("JSON.parse(localStorage.getItem('qwenctl-conversation')).messages.length")


if __name__ == "__main__":
    main(*sys.argv[1:])
