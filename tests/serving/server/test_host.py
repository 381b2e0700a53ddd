"""A serving process that is told to end at any time."""

import threading
import time

from tfship.serving.models.loader import Loader
from tfship.serving.server.host import Host
from tfship.serving.server.settings import ANY_PORT, Settings


def test_it_can_end_while_it_opens_its_ports() -> None:
    for number in range(40):
        host = Host(Settings(loader=Loader(prefer_tflite=True)), lambda config: None)
        opening = threading.Thread(target=host.open, args=(ANY_PORT, ANY_PORT))
        opening.start()
        time.sleep(number * 1e-4)
        # An error in one of the host's threads fails this test.
        host.close()
        opening.join()
        assert host.open(ANY_PORT, ANY_PORT) == (0, 0)
