"""A data set for loader processes: single bytes of files."""

from cclm import storage


class Letters:
    """Four letters of each file, one an item."""

    def __init__(self, urls: list[str]) -> None:
        self._urls = urls

    def __len__(self) -> int:
        return 4 * len(self._urls)

    def __getitem__(self, index: int) -> bytes:
        return storage.read_range(self._urls[index // 4], index % 4, index % 4 + 1)
