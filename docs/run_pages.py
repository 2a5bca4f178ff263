"""Run the Python code of pages, one after the other, in one interpreter: a test does, and it makes the pictures anew.

python docs/run_pages.py docs/start/first-conversion.md docs/tutorials/switching.md --folder docs/images/tutorials
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import time
from pathlib import Path

BLOCK = re.compile(r"^```python\n(.*?)^```$", re.S | re.M)


def run(pages: list[Path], folder: Path) -> None:
    """
    :param pages: in Markdown. The first is read first; each other goes on from it, and from no other
    :param folder: where the code runs, and writes its files
    """
    first: dict[str, object] = {"__name__": "__main__"}
    texts = [(page, page.read_text(encoding="utf-8")) for page in pages]
    with contextlib.chdir(folder):
        for i, (page, text) in enumerate(texts):
            names = first if i == 0 else dict(first)
            start = time.process_time()
            print(f"--- {page.name}", flush=True)
            for block in BLOCK.finditer(text):
                # The line numbers of an error are those of the page.
                code = "\n" * (text[: block.start()].count("\n") + 1) + block[1]
                exec(compile(code, str(page), "exec"), names)
            print(f"--- {page.name}: {time.process_time() - start:.1f} s of processor time", flush=True)


def main() -> None:
    """Run the pages of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="+", type=Path)
    parser.add_argument("--folder", type=Path, default=Path("outputs/tutorials"), help="where files go")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("MPLBACKEND", "Agg")
    run(args.pages, args.folder)


if __name__ == "__main__":
    main()
