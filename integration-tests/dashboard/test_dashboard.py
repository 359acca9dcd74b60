"""Looks at the dashboard and operates it as people do, in Chromium.

usage: test_dashboard.py URL CHROMIUM

Prints "> WORDS" to ask the test for what is to happen to the fleet, and waits for an answer; every
other line is for the reader. Fails with the first thing that is not right.
"""

import re
import sys
import time

try:
    from axe_playwright_python.sync_playwright import Axe
    from playwright.sync_api import expect, sync_playwright
except ImportError as error:
    sys.exit(f"{error}: pip install playwright axe-playwright-python, or run ./test")

AXE = Axe().axe_script
BASE, CHROMIUM = sys.argv[1:]
VIEWS = ["overview", "backends", "history", "events", "explain"]
DESKTOP = {"width": 1280, "height": 800}
PHONE = {"width": 360, "height": 740}
# What has to be seen at once is seen within so long, in seconds.
AT_ONCE = 2.0
# For what may take longer on a busy machine, in milliseconds.
PATIENCE = 20_000
MARKUP = '<img src=x onerror="document.title=1"><b>bold</b>'

expect.set_options(timeout=PATIENCE)
started = time.monotonic()


def step(words):
    print(f"{time.monotonic() - started:5.1f} s: {words}")


def operate(words):
    print(f"> {words}")
    if sys.stdin.readline().strip() != "done":
        sys.exit(f"{words}: was not done")


class Site:
    """Pages of one browser, and what they asked for or complained about."""

    def __init__(self, browser):
        self.browser = browser
        self.asked = []
        self.complaints = []
        # Of the browser, about answers that are failures, where they are meant to be.
        self.expected = ()

    def open(self, view, viewport=DESKTOP, theme="light", **more):
        context = self.browser.new_context(viewport=viewport, color_scheme=theme, **more)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda message: self.hear(message))
        page.goto(f"{BASE}/#/{view}")
        expect(page.locator("#link-text")).to_have_text("Live")
        return page

    def hear(self, message):
        expected = any(words in message.text for words in self.expected)
        if message.type in ("error", "warning") and not expected:
            self.complaints.append(message.text)


def check_accessibility(page, what):
    """No serious fault, as axe-core judges; all others are printed."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(AXE)
    # Nothing is loaded from elsewhere for it either.
    options = {"resultTypes": ["violations"], "preload": False}
    faults = page.evaluate("(options) => axe.run(options)", options)["violations"]
    for fault in faults:
        nodes = "; ".join(node["html"][:160] for node in fault["nodes"][:3])
        print(f"    {what}: {fault['impact']}: {fault['id']}: {fault['help']}: {nodes}")
    serious = [fault["id"] for fault in faults if fault["impact"] in ("serious", "critical")]
    assert not serious, f"{what}: {serious}"


def seen_at_once(cause, pages):
    """How long after the cause each page shows what it is waited for there, in seconds."""
    before = time.monotonic()
    operate(cause)
    for page, condition in pages:
        page.wait_for_function(condition, polling="raf")
    took = time.monotonic() - before
    step(f"{cause}: seen after {took:.2f} s")
    assert took < AT_ONCE, f"{cause}: was seen only after {took:.2f} s"


def has_text(selector, words):
    return f"""() => [...document.querySelectorAll({selector!r})]
        .some((node) => node.checkVisibility() && node.textContent.includes({words!r}))"""


def go(page, view):
    page.evaluate(f"location.hash = '#/{view}'")
    expect(page.locator(f"#{view}-title")).to_be_visible()


def figures_are_there(overview, backends):
    for proxy in ["p1", "p2"]:
        row = overview.locator(f'[data-proxy="{proxy}"]')
        expect(row).to_contain_text("in sync")
        expect(row).to_contain_text("version")
    expect(overview.locator('[data-proxy="p1"]')).to_contain_text("zone north")
    expect(overview.locator("#attention-text")).to_have_text("All is well")
    expect(overview.locator("#f-rps")).to_have_text(re.compile(r"^[1-9][\d,.]*$"))
    expect(overview.locator("#f-errors")).to_have_text("0%")
    expect(overview.locator("#f-p99")).to_have_text(re.compile(r"\d m?s"))
    expect(overview.locator("#f-proxies")).to_have_text("2 of 2")
    overview.wait_for_function(
        "() => document.querySelector('.chart .line').getAttribute('d')?.split('L').length > 3"
    )
    row = backends.locator('[data-backend="app/nginx-1"]')
    expect(row).to_contain_text("healthy")
    expect(row).to_contain_text("status 200")
    expect(backends.locator('[data-set="app"]')).to_contain_text("3 of 3 backends usable")
    expect(backends.locator("#sets")).to_contain_text("disabled")


def nothing_jumps(page):
    """Figures change all the time; nothing moves for it."""
    moved = page.evaluate(
        """() => new Promise((resolve) => {
            let sum = 0;
            const seen = new PerformanceObserver((list) => {
                for (const entry of list.getEntries()) sum += entry.value;
            });
            seen.observe({ type: "layout-shift" });
            setTimeout(() => resolve(sum), 2500);
        })"""
    )
    assert moved < 0.001, f"the layout shifted by {moved}"


def a_backend_dies(overview, backends):
    row = '[data-backend="app/nginx-1"]'
    seen_at_once(
        "kill backend",
        [
            (backends, has_text(row, "unhealthy")),
            (overview, has_text("#attention", "app/nginx-1 is unhealthy")),
            (overview, has_text("#latest", "app/nginx-1 is unhealthy")),
        ],
    )
    expect(backends.locator(row)).to_contain_text("refused")
    expect(backends.locator('[data-set="app"]')).to_contain_text("2 of 3 backends usable")
    backends.get_by_label("Only with problems").check()
    expect(backends.locator(".members tbody tr")).to_have_count(2)
    backends.get_by_label("Filter").fill("NGINX")
    expect(backends.locator(".members tbody tr")).to_have_count(1)
    check_accessibility(backends, "a failed backend")
    operate("start backend")
    backends.get_by_label("Only with problems").uncheck()
    expect(backends.locator(".members tbody tr")).to_have_count(3)
    backends.get_by_label("Filter").fill("")
    expect(backends.locator(row)).not_to_contain_text("unhealthy")
    expect(overview.locator("#attention-text")).to_have_text("All is well")


def a_proxy_dies(overview):
    row = '[data-proxy="p2"]'
    seen_at_once(
        "kill proxy",
        [(overview, has_text(row, "gone")), (overview, has_text("#attention", "Proxy p2 is gone"))],
    )
    expect(overview.locator("#f-proxies")).to_have_text("1 of 2")
    check_accessibility(overview, "a lost proxy")
    operate("start proxy")
    expect(overview.locator(row)).to_contain_text("in sync")
    expect(overview.locator("#attention-text")).to_have_text("All is well")


def a_certificate_breaks(overview):
    row = '[data-certificate="site"]'
    expect(overview.locator(row)).to_contain_text("site.test, www.site.test")
    expect(overview.locator(row)).to_contain_text("by its files")
    expect(overview.locator(row)).to_contain_text(re.compile(r"in \d+ days"))
    seen_at_once(
        "break certificate",
        [
            (overview, has_text(row, "is not the key of the certificate")),
            (overview, has_text("#attention", "Certificate site: ")),
        ],
    )
    check_accessibility(overview, "a broken certificate")
    operate("mend certificate")
    expect(overview.locator("#attention-text")).to_have_text("All is well")


def a_change_is_in_the_history(page, events):
    go(page, "history")
    expect(page.locator("#revisions details")).to_have_count(1)
    operate(f"apply {MARKUP}")
    newest = page.locator("#revisions details").first
    expect(newest).to_contain_text("Revision 2")
    expect(newest).to_contain_text("current")
    expect(newest.locator("summary")).to_contain_text(MARKUP)
    assert page.locator("#revisions img, #revisions b").count() == 0, "a comment became markup"
    newest.locator("summary").click()
    expect(newest.locator(".diff")).to_contain_text("backend_sets[app].backends[nginx-2].weight")
    expect(newest.locator(".diff del")).to_have_text("1")
    expect(newest.locator(".diff ins")).to_have_text("7")
    newest.get_by_role("button", name="Whole state as TOML").click()
    expect(newest.locator("pre")).to_contain_text("weight = 7")
    expect(events.locator("#log")).to_contain_text(f"Revision 2: {MARKUP} (1 change)")
    expect(events.locator("#log")).to_contain_text("Proxy p2 disconnected")
    expect(events.locator("#log")).to_contain_text("app/nginx-1 is healthy")
    expect(events.locator("#log")).to_contain_text("Proxy p1 runs version")
    events.get_by_label("Applied").uncheck()
    expect(events.locator("#log")).not_to_contain_text("runs version")
    check_accessibility(page, "a revision")


def tab(page):
    """Goes on to the next thing, which has to be seen to have the focus; returns its name."""
    page.keyboard.press("Tab")
    name, outline, visible = page.evaluate(
        """() => {
            const node = document.activeElement;
            const style = getComputedStyle(node);
            const box = node.getBoundingClientRect();
            return [
                (node.getAttribute("aria-label") ?? node.labels?.[0]?.textContent ?? node.textContent).trim(),
                style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2,
                box.width > 1 && box.height > 1 && box.bottom > 0 && box.top < innerHeight,
            ];
        }"""
    )
    assert outline and visible, f"{name!r} has the focus, and nobody sees it"
    return name


def tab_to(page, wanted):
    for _ in range(40):
        if tab(page).startswith(wanted):
            return
    raise AssertionError(f"{wanted!r} is not reached with the Tab key")


def the_keyboard_is_enough(site):
    page = site.open("overview")
    assert tab(page) == "Skip to content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    tab(page)
    assert page.evaluate("document.activeElement.closest('main') !== null"), "nothing was skipped"
    page.reload()
    expect(page.locator("#link-text")).to_have_text("Live")
    tab_to(page, "Explain")
    page.keyboard.press("Enter")
    expect(page.locator("#explain-title")).to_be_focused()
    tab_to(page, "URL")
    page.keyboard.type("http://app.test/shop?q=1")
    tab_to(page, "Listener")
    page.keyboard.type("web")
    tab_to(page, "Headers")
    page.keyboard.type("x-user: 42")
    tab_to(page, "Explain")
    page.keyboard.press("Enter")
    title = page.get_by_role("heading", name="What happens")
    expect(title).to_be_focused()
    explained = page.locator("#explained")
    expect(explained).to_contain_text("It goes to app, any of 3 backends.")
    expect(explained).to_contain_text("path_prefix: /shop does not begin with /old")
    expect(explained).to_contain_text("3 of 3 backends eligible")
    check_accessibility(page, "an explanation")
    # The question is in the address, to be passed on.
    page.reload()
    expect(explained).to_contain_text("It goes to app, any of 3 backends.")
    page.get_by_label("URL").fill("http://app.test/old/page")
    page.get_by_label("URL").press("Enter")
    expect(explained).to_contain_text("It is redirected with 308 to http://app.test/new")
    page.get_by_label("Method").fill("TCP")
    page.get_by_label("URL").fill("tls://shop.test")
    page.get_by_label("Listener").fill("edge")
    page.get_by_label("Headers").fill("")
    page.get_by_label("ALPN").fill("h2, http/1.1")
    page.get_by_label("ALPN").press("Enter")
    expect(explained).to_contain_text("shop")
    expect(explained).to_contain_text("the only one that matches")
    assert "alpn=h2&alpn=http%2F1.1" in page.url, page.url
    page.get_by_label("URL").fill("tls://other.test")
    page.get_by_label("URL").press("Enter")
    expect(explained).to_contain_text("sni: other.test is not shop.test")
    expect(explained).to_contain_text("it is closed")
    site.expected = ("status of 4",)
    page.get_by_label("Listener").fill("nowhere")
    page.get_by_label("Listener").press("Enter")
    expect(page.locator("#explain-error")).to_contain_text("nowhere")
    page.context.close()
    site.expected = ()


def light_and_dark(site):
    """Every view in both, with no serious fault."""
    grounds = {}
    for theme in ["light", "dark"]:
        page = site.open("overview", theme=theme)
        grounds[theme] = page.evaluate("getComputedStyle(document.body).backgroundColor")
        for view in VIEWS:
            go(page, view)
            expect(page.locator(f"#{view}")).to_be_visible()
            check_accessibility(page, f"{view}, {theme}")
        if theme == "dark":
            button = page.get_by_role("button", name="Theme")
            button.click()
            expect(button).to_have_text("Theme: light")
            page.reload()
            expect(button).to_have_text("Theme: light")
            chosen = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert chosen == grounds["light"], chosen
        page.context.close()
    assert grounds["light"] != grounds["dark"], grounds


def a_phone_is_wide_enough(site):
    page = site.open("overview", PHONE, is_mobile=True, has_touch=True, device_scale_factor=2)
    for view in VIEWS:
        page.get_by_role("navigation").get_by_role("link", name=view.capitalize()).tap()
        expect(page.locator(f"#{view}-title")).to_be_visible()
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= PHONE["width"], f"{view} is {width} pixels wide"
        if view in ("overview", "backends"):
            check_accessibility(page, f"{view}, on a phone")
    page.context.close()


def the_controller_goes_and_comes_back(site, page):
    site.expected = ("ERR_", "status of 5")
    operate("kill controller")
    away = page.locator("#away")
    expect(away).to_contain_text("The controller does not answer since")
    expect(page.locator("#link-text")).to_have_text("No answer")
    expect(page.locator('[data-proxy="p1"]')).to_be_visible()
    check_accessibility(page, "without a controller")
    operate("start controller")
    expect(page.locator("#link-text")).to_have_text("Live")
    expect(away).to_be_hidden()
    expect(page.locator('[data-proxy="p1"]')).to_contain_text("in sync")
    site.expected = ()


def main():
    with sync_playwright() as playwright:
        # Everything stays on this machine. Without the sandbox, because tests may run as root.
        arguments = ["--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        site = Site(browser)
        overview, backends, events = map(site.open, ["overview", "backends", "events"])
        step("the page is open")
        figures_are_there(overview, backends)
        step("the figures are there")
        nothing_jumps(overview)
        a_backend_dies(overview, backends)
        a_proxy_dies(overview)
        a_certificate_breaks(overview)
        a_change_is_in_the_history(backends, events)
        step("the history shows a change")
        the_keyboard_is_enough(site)
        step("the keyboard is enough")
        light_and_dark(site)
        step("light and dark are accessible")
        a_phone_is_wide_enough(site)
        step("a phone is wide enough")
        the_controller_goes_and_comes_back(site, overview)
        step("the controller went and came back")
        browser.close()
    elsewhere = [url for url in site.asked if not url.startswith(f"{BASE}/")]
    assert not elsewhere, f"the page asked for {elsewhere}"
    assert not site.complaints, site.complaints


try:
    main()
except AssertionError as error:
    sys.exit(f"not right: {error}")
