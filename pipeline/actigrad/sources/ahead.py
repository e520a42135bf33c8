"""Reading ahead: a thread gets the next items while the caller works on this one.

    with closing(read_ahead(source.read(rows, blocks))) as batches:
        for block, batch in batches: ...

At most `ahead` items wait, so a fast reader does not fill the memory. What the reader raises is raised here, in its
place among the items. The thread ends with the generator: at its end, at a failure, and when it is closed early; then
the item that is being read is waited for.
"""

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


def read_ahead(items: Iterator[T], ahead: int = 2) -> Generator[T, None, None]:
    """The same items, read by a thread of their own, up to `ahead` of them before they are asked for."""
    end: Any = object()
    with ThreadPoolExecutor(1, "actigrad-data") as reader:
        waiting = deque(reader.submit(next, items, end) for _ in range(ahead))
        try:
            while (item := waiting.popleft().result()) is not end:
                waiting.append(reader.submit(next, items, end))
                yield item
        finally:
            reader.shutdown(wait=True, cancel_futures=True)
            if close := getattr(items, "close", None):
                close()
