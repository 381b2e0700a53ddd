"""Report of a result file (`results.schema.json`): HTML page, Markdown, tables for a terminal."""

from tfship.benchmarks.report.files import read
from tfship.benchmarks.report.page import html
from tfship.benchmarks.report.prose import headline, markdown, readme_block, text

__all__ = ["headline", "html", "markdown", "read", "readme_block", "text"]
