"""Says where a benchmark ran, so that its numbers can be placed."""

import platform
import subprocess
from pathlib import Path

import torch

from recondite.screen.timing import instructions


def where() -> str:
    """Return the commit (with + for uncommitted changes), processor, instructions, threads, device and versions."""
    root = Path(__file__).parent
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=root, capture_output=True, text=True).stdout
    changed = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", "../src"], cwd=root).returncode
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return (
        f"commit {commit.strip()}{'+' if changed else ''}; {cpu} ({instructions()}), "
        f"{torch.get_num_threads()} threads, {device}; Python {platform.python_version()}, torch {torch.__version__}"
    )


def publish(page: str, mark: str, title: str, lines: list[str]) -> None:
    """Put lines between the marks of a section of results/PAGE.md; a new section goes to its end."""
    results = Path(__file__).parent / "results" / f"{page}.md"
    text = results.read_text(encoding="utf-8")
    begin, end = f"<!-- {mark}: begin -->", f"<!-- {mark}: end -->"
    section = "\n".join([begin, "", *lines, "", end])
    if begin in text:
        text = text.partition(begin)[0] + section + text.partition(end)[2]
    else:
        text = f"{text.rstrip()}\n\n## {title}\n\n{section}\n"
    results.write_text(text, encoding="utf-8")
