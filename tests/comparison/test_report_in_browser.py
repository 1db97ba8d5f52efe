"""The page in a real browser: it sorts, fits telephones, light and dark, and has nothing to complain about."""

import shutil
import subprocess

import pytest
from made_up import FITTED, LARGE, fit_some, made_up_comparison

from pyro_vae.report.page import write_report

BINARY, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not (BINARY and DRIVER),
        reason="needs Chromium and its driver, as Debian's packages chromium and chromium-driver",
    ),
]

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip

WIDTHS, SCHEMES = (1280, 400), ("light", "dark")

GROUNDS = {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 26)"}


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs the package selenium: pip install selenium")
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = BINARY
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER, log_output=subprocess.DEVNULL))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Two configurations of two seeds, one cell of which failed; the others have networks."""
    comparison = made_up_comparison(tmp_path_factory.mktemp("small"), FITTED, failed=[1])
    fit_some(comparison, [0, 2])
    return write_report(comparison)


@pytest.fixture(scope="module")
def large_report(tmp_path_factory):
    comparison = made_up_comparison(tmp_path_factory.mktemp("large"), LARGE, failed=[3, 10, 11])
    return write_report(comparison)


def show(driver, path, width=1280, scheme="light"):
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    preferred = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", preferred)
    driver.get(path.as_uri())
    driver.execute_script("for (const one of document.querySelectorAll('details')) one.open = true")


def boxes(driver, selector):
    """Left, right, width and height of each element."""
    return driver.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map(e => e.getBoundingClientRect())"
        ".map(b => [b.left, b.right, b.width, b.height])",
        selector,
    )


def column(driver, number):
    """What the cells of a column of the main table are sorted by, from the top."""
    return driver.execute_script(
        "return [...document.querySelector('#main').tBodies[0].rows].map(r => r.cells[arguments[0]].dataset.value)",
        number,
    )


def head(driver, title):
    """The number of a column of the main table, and its button."""
    heads = driver.find_elements("css selector", "#main thead th")
    (number,) = [n for n, th in enumerate(heads) if th.find_element("css selector", "button").text == title]
    return number, heads[number], heads[number].find_element("css selector", "button")


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("which", ["report", "large_report"])
def test_the_page_fits_and_everything_on_it_is_seen(driver, request, which, width, scheme):
    show(driver, request.getfixturevalue(which), width, scheme)
    assert driver.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    assert driver.execute_script("return getComputedStyle(document.body).backgroundColor") == GROUNDS[scheme]
    figures = boxes(driver, "figure > svg, figure > img")
    assert len(figures) == (14 if which == "report" else 32)
    for left, right, across, high in figures:
        assert left >= 0
        assert right <= width
        assert across > 100
        assert high > 40
    assert driver.execute_script("return [...document.images].every(i => i.complete && i.naturalWidth > 0)")
    # Letters of figures: 7 pixels at least, on a telephone as well.
    smallest = driver.execute_script(
        "return Math.min(...[...document.querySelectorAll('figure text')].map("
        "t => parseFloat(getComputedStyle(t).fontSize) * t.getScreenCTM().a || Infinity))"
    )
    assert smallest > 7


@pytest.mark.parametrize("scheme", SCHEMES)
def test_letters_of_figures_have_the_pages_colour(driver, report, scheme):
    show(driver, report, scheme=scheme)
    fills = driver.execute_script(
        "return [...new Set([...document.querySelectorAll('#figure-budget text')].map(t => getComputedStyle(t).fill))]"
    )
    assert fills == [driver.execute_script("return getComputedStyle(document.body).color")]


def test_nothing_is_complained_about_and_nothing_is_fetched(driver, report):
    for kind in ("browser", "performance"):
        driver.get_log(kind)
    show(driver, report)
    assert driver.get_log("browser") == []
    asked = [entry["message"] for entry in driver.get_log("performance") if "requestWillBeSent" in entry["message"]]
    assert asked
    assert not any('"url":"http' in message for message in asked)


def test_a_click_on_a_head_sorts_numbers_as_numbers_both_ways(driver, large_report):
    show(driver, large_report)
    number, th, button = head(driver, "ELBO")
    button.click()
    assert th.get_attribute("aria-sort") == "ascending"
    upwards = column(driver, number)
    finite = [float(value) for value in upwards if value]
    assert len(finite) == 26
    assert finite == sorted(finite)
    assert sorted(map(str, finite)) != list(map(str, finite)), "as text the order would be another"
    button.click()
    assert th.get_attribute("aria-sort") == "descending"
    downwards = column(driver, number)
    assert [value for value in downwards if value] == [value for value in reversed(upwards) if value]
    assert upwards[-1] == downwards[-1] == "", "what has no value stays last"


def test_only_the_column_that_is_sorted_by_says_so(driver, report):
    show(driver, report)
    _, th, _ = head(driver, "log p(x) ≥")
    assert th.get_attribute("aria-sort") == "descending"
    _, other, button = head(driver, "rate")
    button.click()
    assert th.get_attribute("aria-sort") == "none"
    assert other.get_attribute("aria-sort") == "ascending"


def test_rows_stay_together_and_names_are_sorted_as_text(driver, large_report):
    show(driver, large_report)
    rows = "return [...document.querySelector('#main').tBodies[0].rows].map(r => r.innerText).sort()"
    before = driver.execute_script(rows)
    _, _, button = head(driver, "configuration")
    button.click()
    names = column(driver, 0)
    assert [name.partition("latent_dim ")[2] for name in names[:3]] == ["10", "20", "50"]
    assert names[0].startswith("full_rank, flow")
    assert driver.execute_script(rows) == before


def test_heads_are_reached_and_sort_by_keyboard(driver, report):
    from selenium.webdriver.common.keys import Keys

    show(driver, report)
    _, th, button = head(driver, "seeds")
    driver.execute_script("arguments[0].focus()", head(driver, "configuration")[2])
    driver.switch_to.active_element.send_keys(Keys.TAB)
    assert driver.switch_to.active_element == button
    for key, order in ((Keys.ENTER, "ascending"), (Keys.SPACE, "descending")):
        button.send_keys(key)
        assert th.get_attribute("aria-sort") == order


def test_a_wide_table_scrolls_inside_its_box(driver, report):
    show(driver, report, width=400)
    box = driver.find_element("css selector", ".scroll:has(#main)")
    inner, outer = (
        driver.execute_script(f"return arguments[0].{name}", box) for name in ("scrollWidth", "clientWidth")
    )
    assert inner > outer
    driver.execute_script("arguments[0].scrollLeft = 300", box)
    (left, *_), *_ = boxes(driver, "#main tbody th")
    assert 0 <= left < 60, "names stay in sight"


def test_paper_shows_what_is_folded(driver, report):
    show(driver, report)
    driver.execute_script("for (const one of document.querySelectorAll('details')) one.open = false")
    driver.execute_cdp_cmd("Page.printToPDF", {})
    assert driver.execute_script("return [...document.querySelectorAll('details')].every(d => d.open)")
