"""Write the pictures of the pages of the demo for README and docs: `make pictures`, after `make demo`.

reads:  demo/report.html, demo/warehouse   writes: demo/user.html; docs/pictures/report.png, report_phone.png, user.png
"""

import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
PICTURES = ROOT / "docs" / "pictures"
REPORT, USER_PAGE = ROOT / "demo" / "report.html", ROOT / "demo" / "user.html"
# The customer with the largest sales of the demo.
USER = "uk_gifts:14646"


def take(browser: Browser, page: Path, name: str, width: int, height: int) -> None:
    """Write the first screen of a page in the light scheme."""
    tab = browser.new_page(viewport={"width": width, "height": height}, color_scheme="light")
    tab.goto(page.as_uri())
    tab.wait_for_function("document.fonts.status === 'loaded'")
    tab.screenshot(path=PICTURES / name)
    tab.close()
    print(f"wrote {(PICTURES / name).relative_to(ROOT)}")


def main() -> int:
    chromium = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    if chromium is None:
        print("pictures: there is no chromium on PATH: install it (Debian: apt-get install chromium)", file=sys.stderr)
        return 2
    if not REPORT.exists():
        print(f"pictures: {REPORT} does not exist: run make demo first", file=sys.stderr)
        return 2
    job = [sys.executable, "jobs/serve_user.py", "--config", "conf/demo.toml", "--user", USER, "--html", str(USER_PAGE)]
    subprocess.run(job, cwd=ROOT, check=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        take(browser, REPORT, "report.png", 1280, 1160)
        take(browser, REPORT, "report_phone.png", 390, 1500)
        take(browser, USER_PAGE, "user.png", 1280, 1160)
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
