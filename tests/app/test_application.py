"""The application in a real browser, as a person uses it: forms, jobs, figures, a killed application, a phone."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

import lossatlas
import steady_study
from lossatlas.workbench import Jobs


pytest.importorskip("nicegui", reason="needs the extra app")
selenium = pytest.importorskip("selenium.webdriver", reason="needs selenium")
exceptions = pytest.importorskip("selenium.common.exceptions", reason="needs selenium")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None, reason="needs a browser and its driver: chromium and chromedriver"
)

SOURCES = pathlib.Path(lossatlas.__file__).parents[1]
PAGES = ("/surveys", "/diagnose", "/studies", "/studies/steady-count", "/sweeps", "/claims", "/store", "/jobs")
_PATIENCE = 40.0


class Application:
    """`lossatlas app` in a process of its own."""

    def __init__(self, folder: pathlib.Path):
        steady_study.install(folder / "package")
        self.folder, self.root, self.address, self.printed = folder, folder / "runs", "", ""
        self.process: subprocess.Popen | None = None

    def start(self, *words: str) -> None:
        places = [self.folder / "package", pathlib.Path(steady_study.__file__).parent, SOURCES]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, places))}
        environment.pop("PYTEST_CURRENT_TEST", None)  # by this nicegui would take it for a test of its own
        port = self.address.rpartition(":")[2] or "0"
        command = [sys.executable, "-m", "lossatlas", "app", "--out", str(self.root), "--port", port, "--no-browser"]
        output = self.folder / f"output-{time.monotonic_ns()}.txt"
        with output.open("w") as file:
            self.process = subprocess.Popen([*command, *words], stdout=file, env=environment, cwd=self.folder)
        try:
            printed = _wait(lambda: re.match(r"LossAtlas: ((http://[^/]+)/.*)\n", output.read_text()), "the address")
            self.printed, self.address = printed[1], printed[2]
        except BaseException:
            self.end()
            raise

    def end(self, number: int = signal.SIGKILL) -> None:
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(20)


def _status(address, **headers):
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=10) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code


def _wait(condition, what="it"):
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.1)
    msg = f"{what} did not come in time"
    raise AssertionError(msg)


@pytest.fixture(scope="module")
def application(tmp_path_factory):
    made = Application(tmp_path_factory.mktemp("application"))
    made.start()
    jobs = Jobs(made.root)
    yield made
    made.end(signal.SIGTERM)
    for job in jobs.list():
        jobs.cancel(job.name)
    _wait(lambda: jobs.start_waiting() or all(job.has_ended for job in jobs.list()))


@pytest.fixture(scope="module")
def window():
    options = selenium.ChromeOptions()
    options.binary_location = CHROMIUM
    flags = "headless=new no-sandbox disable-gpu disable-quic no-first-run disable-background-networking "
    flags += "disable-component-update disable-sync window-size=1400,900"
    for flag in flags.split():
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    try:
        driver = selenium.Chrome(options=options, service=selenium.ChromeService(DRIVER))
    except exceptions.WebDriverException as error:
        pytest.skip(f"chromium does not start here: {error}")
    yield driver
    driver.quit()


@pytest.fixture
def browser(window):
    """The window, wide; afterwards, no page may have failed or asked anything of another machine."""
    _wide(window, 1400)
    yield window
    entries = [json.loads(entry["message"])["message"] for entry in window.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in entries if e["method"] == "Network.requestWillBeSent"]
    asked += [e["params"]["url"] for e in entries if e["method"] == "Network.webSocketCreated"]
    elsewhere = [url for url in asked if not re.match(r"(http|ws)://127\.0\.0\.1:|data:|blob:|about:|chrome:", url)]
    assert asked
    assert elsewhere == []
    failed = [entry["message"] for entry in window.get_log("browser") if entry["level"] == "SEVERE"]
    assert [text for text in failed if "ERR_CONNECTION_REFUSED" not in text and "WebSocket" not in text] == []


def _wide(browser, width):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def _find(browser, path, use=lambda element: element):
    """What `use` makes of the first visible element of an XPath, as soon as there is one; a page may be redrawn."""
    passing = exceptions.StaleElementReferenceException, exceptions.ElementClickInterceptedException

    def look():
        with contextlib.suppress(*passing):
            shown = next((e for e in browser.find_elements("xpath", path) if e.is_displayed()), None)
            return None if shown is None else (use(shown),)

    return _wait(look, path)[0]


def _click(browser, path):
    def use(element):
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()

    _find(browser, path, use)


def _type(browser, label, text):
    field = _find(browser, f"//input[@aria-label='{label}']")
    field.send_keys(selenium.Keys.CONTROL, "a")
    field.send_keys(text, selenium.Keys.TAB)


def _choose(browser, label, option):
    _click(browser, f"//*[@role='combobox' and @aria-label='{label}']/ancestor::label")
    _click(browser, f"//*[@role='option'][contains(., '{option}')]")


def _start(browser, application, seconds, steps):
    """Start the steady study from its form."""
    browser.get(f"{application.address}/studies/steady-count")
    _choose(browser, "Preset", "smoke")
    _type(browser, "Seconds", str(seconds))
    _type(browser, "Steps", str(steps))
    _click(browser, "//button[contains(., 'Start the study')]")


def _chip(status):
    return f"//article//*[contains(@class, 'chip-{status}')]"


def test_a_study_is_started_from_its_form_watched_and_its_figure_opened(browser, application):
    before = len(Jobs(application.root).list())
    _start(browser, application, "soon", 4)
    _find(browser, "//*[contains(@class, 'q-notification')][contains(., \"Seconds must be a number, got 'soon'\")]")
    assert len(Jobs(application.root).list()) == before
    help_text = _find(browser, f"//*[@id='{_described(browser, 'Seconds')}']").text
    assert help_text == "For each."

    _start(browser, application, 0.02, 4)
    _find(browser, "//article[.//a[contains(., 'steady-count, smoke, steps 4, seconds 0.02')]]")
    _find(browser, _chip("finished"))
    _click(browser, "//a[contains(., 'Figures and claims')]")
    _find(browser, "//h3[contains(., 'What was counted')]")
    _find(browser, "//div[@role='img'][@aria-label='What was counted']//*[local-name()='svg']")
    assert _find(browser, "//table//th[contains(., 'end')]/..").text.count("4") == 2  # expected and measured

    light = _background(browser)
    _click(browser, "//button[@aria-label='Colours: as the system']")
    _wait(lambda: _background(browser) != light)
    browser.refresh()  # the browser remembers it
    _find(browser, "//button[@aria-label='Colours: dark']")
    _wait(lambda: _background(browser) != light)
    _click(browser, "//button[@aria-label='Colours: dark']")
    _wait(lambda: _background(browser) == light)
    browser.delete_all_cookies()


def _described(browser, label):
    return _find(browser, f"//input[@aria-label='{label}']").get_attribute("aria-describedby")


def _background(browser):
    return browser.execute_script("return getComputedStyle(document.body).backgroundColor")


def test_a_job_outlives_its_application_and_is_cancelled_and_gone_on_with(browser, application):
    _start(browser, application, 0.1, 5000)
    _click(browser, "//article[.//*[contains(@class, 'chip-running')]]//h3/a")
    _find(browser, "//h2[contains(., 'Figures so far')]")
    _find(browser, "//div[@role='img']//*[local-name()='svg']")
    application.end(signal.SIGKILL)
    (running,) = [job for job in Jobs(application.root).list() if job.status == "running"]
    application.start()
    assert Jobs(application.root).find(running.name).status == "running"
    browser.refresh()
    _find(browser, "//*[contains(@class, 'tasks')][contains(., 'counting: at')]")
    _click(browser, "//button[starts-with(@aria-label, 'Cancel')]")
    _find(browser, _chip("cancelled"))
    browser.refresh()
    _find(browser, _chip("cancelled"))
    _click(browser, "//button[starts-with(@aria-label, 'Start again')]")
    _find(browser, _chip("running"))
    _find(browser, "//*[contains(@class, 'tasks')][contains(., 'counting: at')]")
    _click(browser, "//button[starts-with(@aria-label, 'Cancel')]")
    _find(browser, _chip("cancelled"))
    _click(browser, "//button[starts-with(@aria-label, 'Remove')]")
    _find(browser, "//h1[contains(., 'Jobs')]")
    assert running.name not in [job.name for job in Jobs(application.root).list()]


def test_a_run_is_found_in_the_store_verified_and_removed(browser, application):
    run = lossatlas.run_study("steady-count", preset="smoke", seed=7, out=application.root, progress="none")
    key = run.directory.name.rpartition("-")[2]
    browser.get(f"{application.address}/store?kind=study&text={key}")
    _click(browser, "//tr[.//*[contains(@class, 'chip-finished')]][contains(., '1 holds')]//a[contains(., 'steady-')]")
    _click(browser, "//button[contains(., 'Verify')]")
    _find(browser, "//*[contains(@class, 'q-notification')][contains(., 'Every file is as it was written')]")
    _click(browser, "//button[normalize-space()='Remove']")
    _find(browser, "//*[contains(@class, 'q-dialog')]//*[contains(., 'Remove this run?')]")
    _click(browser, "//button[contains(., 'Keep it')]")
    _wait(lambda: not browser.find_elements("xpath", "//*[contains(@class, 'q-dialog__inner')]"))
    assert _status(browser.current_url) == 200
    _click(browser, "//button[normalize-space()='Remove']")
    _click(browser, "//button[contains(., 'Remove it')]")
    _find(browser, "//h1[contains(., 'Store')]")
    assert not run.directory.exists()


@pytest.mark.slow
def test_the_map_of_a_sweep_leads_to_the_run_of_a_cell(browser, application):
    browser.get(f"{application.address}/sweeps")
    _choose(browser, "Study", "steady-count")
    _find(browser, "//input[@aria-label='Deaf']")
    _type(browser, "Steps", "2,x")
    _click(browser, "//button[contains(., 'Start the sweep')]")
    _find(browser, "//*[contains(@class, 'q-notification')][contains(., 'steps must be a whole number')]")
    _type(browser, "Steps", "2,3")
    _type(browser, "Seeds", "1")
    _type(browser, "Workers", "1")
    _click(browser, "//button[contains(., 'Start the sweep')]")
    _find(browser, "//article[.//*[contains(., 'Sweep of steady-count, smoke, steps 2,3')]]")
    _click(browser, "//a[contains(., 'Map of the grid')]")
    _find(browser, "//*[contains(@class, 'chip-finished')]")
    _find(browser, "//*[contains(., '2 cells: 2 done')]")
    canvas = _find(browser, "//div[@aria-label='How the cells came out']//*[@class='nsewdrag drag']")

    def click_the_right_half():
        width = canvas.size["width"]
        selenium.ActionChains(browser).move_to_element_with_offset(canvas, width // 4, 0).click().perform()
        return browser.find_elements("xpath", "//*[contains(., 'The cells at steps 3')]")

    _wait(click_the_right_half, "the cells")
    _click(browser, "//a[contains(., 'Run of seed 0')]")
    _find(browser, "//h3[contains(., 'What was counted')]")
    assert _find(browser, "//table//th[contains(., 'end')]/..").text.count("3") == 2


def test_a_file_that_is_given_can_be_chosen(browser, application, tmp_path):
    table = tmp_path / "my table.csv"
    table.write_text("x,y\n1,2\n")
    browser.get(f"{application.address}/surveys")
    _find(browser, "//button[contains(., 'Start the survey')]")
    browser.find_element("xpath", "//input[@type='file']").send_keys(str(table))
    _find(browser, "//*[contains(@class, 'q-field__native')][contains(., 'my-table.csv')]")
    (kept,) = (application.root / "uploads").glob("*/*")
    assert kept.read_text() == table.read_text()
    assert _status(f"{application.address}/files/uploads/{kept.parent.name}/my-table.csv") == 404
    assert _status(f"{application.address}/files/../application/package") == 404


def test_no_page_is_wider_than_a_phone_and_every_input_has_a_name(browser, application):
    _wide(browser, 390)
    for page in PAGES:
        browser.get(f"{application.address}{page}")
        _find(browser, "//h1")
        width = browser.execute_script("return document.documentElement.scrollWidth")
        assert (page, width) == (page, 390)
        unnamed = browser.execute_script(
            "return [...document.querySelectorAll('input, button, [role=img], [role=switch], [role=progressbar]')]"
            ".filter(e => e.type !== 'file' && !e.classList.contains('hidden') && !e.getAttribute('aria-label') && "
            "!e.labels?.length && !e.innerText.trim()).map(e => e.outerHTML)"
        )
        assert (page, unnamed) == (page, [])


def test_wider_than_this_machine_only_who_has_the_token_is_let_in(tmp_path):
    opened = Application(tmp_path)
    opened.start("--host", "0.0.0.0")  # asked for by way of this machine only
    try:
        address = f"http://127.0.0.1:{opened.address.rpartition(':')[2]}"
        token = opened.printed.partition("?token=")[2]
        assert len(token) == 32
        assert _status(f"{address}/store") == 401
        assert _status(f"{address}/store?token=guess") == 401
        cookie = f"lossatlas-{address.rpartition(':')[2]}={token}"
        assert _status(f"{address}/store", cookie=cookie) == 200
        assert _status(f"{address}/store", cookie=cookie, origin="http://elsewhere.example") == 403
    finally:
        opened.end(signal.SIGINT)
    assert opened.process is not None
    assert opened.process.returncode == 0
