"""What setup.cfg cannot say: the README as a package index shows it, where links into this repository lead nowhere."""

import re
from pathlib import Path

from setuptools import setup


def for_an_index(page: str) -> str:
    """
    :param page: a page in Markdown
    :return: the page without pictures and links that are relative
    """
    page = re.sub(r"^!\[[^\]]*\]\((?!https?:)[^)]*\)\n+", "", page, flags=re.M)
    return re.sub(r"\[([^\]]+)\]\((?!https?:|#)[^)]*\)", r"\1", page)


if __name__ == "__main__":
    text = Path(__file__).with_name("README.md").read_text(encoding="utf-8")
    setup(long_description=for_an_index(text), long_description_content_type="text/markdown")
