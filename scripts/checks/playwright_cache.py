"""Playwright for the checks that look at pages: fetched once into the cache, outside the checkout."""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

PLAYWRIGHT = "playwright==1.65.2"


def cache():
    """Returns the folder of fetched packages."""
    return pathlib.Path(os.environ.get("TANDEM_CACHE") or pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "tandem")


def ready():
    """Puts Playwright on the path, and fetches it if it is missing. The browser is the machine's own."""
    folder = cache() / "python" / PLAYWRIGHT
    if not (folder / "playwright").is_dir():
        print(f"fetching {PLAYWRIGHT}")
        folder.parent.mkdir(parents=True, exist_ok=True)
        fresh = pathlib.Path(tempfile.mkdtemp(prefix="playwright-", dir=folder.parent))
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--root-user-action", "ignore"]
        subprocess.run([*pip, "--target", fresh, PLAYWRIGHT], check=True, timeout=300)
        shutil.rmtree(folder, ignore_errors=True)
        fresh.rename(folder)
    sys.path.insert(0, str(folder))
