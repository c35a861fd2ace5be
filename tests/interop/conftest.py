"""A real Chromium with a made-up camera and microphone, and a page in it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from harness.chromium import chromium
from harness.pages import PATIENCE
from playwright.async_api import Browser, Page


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as made:
        yield made


@pytest.fixture
async def page(browser: Browser) -> Page:
    page = await browser.new_page(viewport={"width": 1280, "height": 800})
    page.set_default_timeout(PATIENCE)
    return page
