"""SavedModels in this process, by any of their signatures. Loads TensorFlow."""

from tfship.client.targets.registry import Choice, Opened, in_process
from tfship.export.runtimes.saved_model import SavedModel

__all__ = ["open_target"]

_FILE = "saved_model.pb"


def open_target(choice: Choice) -> Opened:
    """Open the SavedModel that was chosen."""
    path = choice.locate(_FILE)
    if path.is_file():
        path = path.parent
    return in_process(choice, path, SavedModel(path), choice.contract_near(path))
