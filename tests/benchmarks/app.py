"""`unlearnable app` on an album: `python tests/benchmarks/app.py [--photographs 2000]`, with Chromium and Playwright.

Sends photographs of at most 320 px, a folder with four folders in it, through the page in a headless browser: dropped,
looked at, protected with one process, downloaded as a zip file. Then protects the same folder by the command line, and
compares the bytes. Prints processor time and the clock of each step, and the memory of the program. Processor time is
what counts where other programs run; that of the browser is not in it.

The photographs are 100 of a Parquet file with JPEG bytes in a column image, each turned by some degrees.
"""

import argparse
import io
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import pyarrow.parquet as pq
from PIL import Image
from playwright.sync_api import sync_playwright

PHOTOGRAPHS = Path(__file__).parents[3] / "shared" / "data" / "clothing" / "test-00000-of-00001.parquet"
COMMAND = [sys.executable, "-m", "unlearnable_transforms.cli.main"]
SIDE, DIFFERENT, FOLDERS, QUALITY = 320, 100, 4, 88
PATIENCE = 3_600_000  # milliseconds


def write_photographs(folder: Path, count: int) -> None:
    """JPEG files in some folders."""
    column = pq.ParquetFile(PHOTOGRAPHS).read(columns=["image"])["image"][:DIFFERENT]
    images = [Image.open(io.BytesIO(row.as_py()["bytes"])).convert("RGB") for row in column]
    angles = random.Random(0)
    for number in range(count):
        image = images[number % len(images)].copy()
        image.thumbnail((SIDE, SIDE))
        path = folder / f"folder {number % FOLDERS}" / f"{number:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.rotate(angles.uniform(-3, 3)).save(path, quality=QUALITY)


class Program:
    """A process that is watched through /proc."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.restart()

    def restart(self) -> None:
        self._cpu, self._clock = self.cpu(), time.monotonic()

    def cpu(self) -> float:
        """Seconds of processor time."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self, what: str = "VmRSS") -> float:
        """Megabytes; ``VmHWM`` is the most so far."""
        found = re.search(what + r":\s+(\d+)", Path(f"/proc/{self.pid}/status").read_text())
        assert found is not None
        return int(found[1]) / 1000

    def say(self, step: str) -> None:
        """What it took since the last time."""
        spent, clock = self.cpu() - self._cpu, time.monotonic() - self._clock
        print(f"{step:10} {spent:6.1f} s of processor, {clock:6.1f} s, memory {self.memory():.0f} MB, "
              f"most so far {self.memory('VmHWM'):.0f} MB", flush=True)  # fmt: skip
        self.restart()


def by_page(source: Path, scratch: Path) -> tuple[Path, float]:
    """The zip file, and the processor time of all steps but the start."""
    environment = {**os.environ, **places(scratch / "page"), "PYTHONUNBUFFERED": "1"}
    command = [*COMMAND, "app", "--no-browser", "--workers", "1"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        address = next(line.strip() for line in process.stdout if line.strip().startswith("http"))
        program = Program(process.pid)
        before = program.cpu()
        print(f"start      {before:6.1f} s of processor")
        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            page = browser.new_page()
            page.set_default_timeout(PATIENCE)
            page.goto(address)
            program.restart()
            page.set_input_files("#pick-folder", source)
            page.get_by_label("Name of the album").wait_for()
            program.say("arrive")
            page.locator("#thumb-2").wait_for()
            program.say("look")
            page.locator("[data-act=start]").click()
            page.get_by_role("link", name="Download the zip file").wait_for()
            program.say("protect")
            with page.expect_download() as download:
                page.get_by_role("link", name="Download the zip file").click()
            download.value.save_as(scratch / "page.zip")
            program.say("download")
            browser.close()
        return scratch / "page.zip", program.cpu() - before
    finally:
        process.terminate()
        process.wait()


def by_command(source: Path, out: Path, scratch: Path) -> float:
    """Processor time, with the start of the program."""
    key = scratch / "page" / "config" / "unlearnable-transforms" / "private.key"
    command = [*COMMAND, "protect", str(source), str(out), "--key", str(key), "--derive", source.name, "--workers", "1",
               "--labels", "folder", "--convert", "--format", "auto"]  # fmt: skip
    clock = time.monotonic()
    process = subprocess.Popen(command, env={**os.environ, **places(scratch / "command")}, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0
    spent = usage.ru_utime + usage.ru_stime
    print(f"command    {spent:6.1f} s of processor, {time.monotonic() - clock:6.1f} s, most memory "
          f"{usage.ru_maxrss / 1000:.0f} MB")  # fmt: skip
    return spent


def places(folder: Path) -> dict[str, str]:
    """Variables by which nothing of the user's is touched."""
    return {"XDG_CONFIG_HOME": str(folder / "config"), "UNLEARNABLE_TRANSFORMS_CACHE": str(folder / "cache")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=int, default=2000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        source, out = scratch / "Album", scratch / "out"
        write_photographs(source, args.photographs)
        archive, page = by_page(source, scratch)
        command = by_command(source, out, scratch)
        with zipfile.ZipFile(archive) as files:
            names = files.namelist()
            equal = all(files.read(name) == (out / name).read_bytes() for name in names)
        print(f"page without its start / command with its start: {page / command:.2f}")
        print(f"{len(names):,} files, {'equal' if equal else 'DIFFERENT'} bytes")


if __name__ == "__main__":
    main()
