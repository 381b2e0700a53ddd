"""Scoring in this process, by threads: decoding, array operations and LiteRT let other threads run meanwhile."""

from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from queue import SimpleQueue

from tfship.client.score.chunks import Chunk
from tfship.client.score.scorer import Scored, Scorer
from tfship.train.common import interruption

__all__ = ["score"]

# Chunks that are submitted ahead, for each thread.
_AHEAD = 2


def score(work: Iterable[tuple[int, Chunk]], scorers: Sequence[Scorer]) -> Generator[Scored, None, None]:
    """Score numbered chunks, in a thread for each scorer, and yield the results in the order in which they end.

    `work` is consumed as results are taken. Raises what `Scorer.score` does.
    """
    idle: SimpleQueue[Scorer] = SimpleQueue()
    for each in scorers:
        idle.put(each)

    def scored(number: int, chunk: Chunk) -> Scored:
        scorer = idle.get()
        try:
            return scorer.score(number, chunk)
        finally:
            idle.put(scorer)

    threads = ThreadPoolExecutor(len(scorers))
    running: set[Future[Scored]] = set()
    try:
        for number, chunk in work:
            running.add(threads.submit(scored, number, chunk))
            while len(running) >= _AHEAD * len(scorers):
                yield from _done(running)
        while running:
            yield from _done(running)
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


def _done(running: set[Future[Scored]]) -> Generator[Scored, None, None]:
    """Wait for a result, and yield and remove all that there are."""
    with interruption.waiting():
        done, _ = wait(running, return_when=FIRST_COMPLETED)
    running -= done
    for each in done:
        yield each.result()
