"""Files that appear whole or not at all, and folders that one process at a time may write."""

import threading
import time
from pathlib import Path

from data.files import locked_folder


def test_a_lock_is_held_and_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    order = []

    def work(name: str) -> None:
        with locked_folder(folder):
            order.append(f"{name} begins")
            time.sleep(0.05)
            order.append(f"{name} ends")

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [first[0] for first in order[::2]] == [second[0] for second in order[1::2]]
    assert len(order) == 8 and not folder.exists()
