"""TFLite files for browsers, run by LiteRT.js in headless Chromium. Doesn't load TensorFlow."""

from tfship.client.targets.registry import Choice, Opened, in_process
from tfship.export.runtimes import browser
from tfship.train.common.errors import ArtifactError

__all__ = ["open_target"]


def open_target(choice: Choice) -> Opened:
    """Open the file that was chosen: by its path, or by a format of the version, by default float32."""
    path = choice.locate_format(lambda row: row.web_file)
    if not path.is_file():
        raise ArtifactError(
            f"{path}: no such file for browsers; if export.json doesn't say why, export the model again"
        )
    return in_process(choice, path, browser.open_model(path), choice.contract_near(path))
