#!/usr/bin/env python3
"""Retake the pictures of the pages from a running server: scripts/screenshot.py http://127.0.0.1:8000/ [chat] [plan]

Needs Playwright and Chromium. The chat page's first suggestion is asked, the thinking is opened, light and dark are
kept. The planner's page, which `fathom plan web` has too, is shown as it opens.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

IMAGES = Path(__file__).parents[1] / "docs" / "images"
SIZE = {"width": 1000, "height": 640}
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url", help="where `fathom serve` listens, with a slash at the end")
    parser.add_argument("pages", nargs="*", choices=["chat", "plan", []], help="which (default: both)")
    parser.add_argument("--out", type=Path, default=IMAGES, help="folder of the pictures (default: docs/images)")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    executable = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        if "chat" in (args.pages or ["chat"]):
            for name, scheme in (("chat.png", "light"), ("chat-dark.png", "dark")):
                chat(browser, args.url, args.out / name, scheme)
        if "plan" in (args.pages or ["plan"]):
            plan(browser, args.url, args.out / "plan.png")
        browser.close()


def chat(browser: Browser, url: str, path: Path, scheme: str) -> None:
    context = browser.new_context(viewport=SIZE, device_scale_factor=2, color_scheme=scheme, reduced_motion="reduce")
    page = context.new_page()
    page.goto(url)
    page.locator(".suggestions button").first.click()
    page.locator(".turn.done").wait_for(timeout=120_000)
    page.locator("summary").click()
    page.mouse.move(0, 0)
    page.wait_for_timeout(500)  # opened, but not yet laid out
    page.screenshot(path=path)
    print(path)
    context.close()


def plan(browser: Browser, url: str, path: Path) -> None:
    context = browser.new_context(viewport={"width": 1320, "height": 1160}, reduced_motion="reduce")
    page = context.new_page()
    page.goto(f"{url}plan")
    page.locator("#connection[data-state=ready]").wait_for(timeout=120_000)
    page.evaluate("scrollTo(0, 0)")
    page.screenshot(path=path)
    print(path)
    context.close()


if __name__ == "__main__":
    main()
