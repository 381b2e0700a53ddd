"""A result file (`results.schema.json`) as what a person reads: a page, Markdown, tables in a terminal."""

from tfship.benchmarks.report.files import read
from tfship.benchmarks.report.page import html
from tfship.benchmarks.report.prose import headline, markdown, readme_block, text

__all__ = ["headline", "html", "markdown", "read", "readme_block", "text"]
