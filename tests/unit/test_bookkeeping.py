import pathlib

import pytest
import torch as th

from sb3_dreamer.common.bookkeeping import MetricMeans, write_atomically


def test_means_since_the_last_look() -> None:
    means = MetricMeans()
    assert means.take() == {}
    for value in (1.0, 3.0):
        means.add({"loss": th.tensor(value, requires_grad=True)})
    assert means.take() == {"loss": 2.0}
    means.add({"loss": th.tensor(7.0)})
    assert means.take() == {"loss": 7.0}


def test_a_file_appears_whole_or_not_at_all(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "folder" / "file"
    write_atomically(path, lambda temporary: temporary.write_text("old"), ".txt")
    assert (tmp_path / "folder" / "file.txt").read_text() == "old"

    def fail(temporary: pathlib.Path) -> None:
        temporary.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, fail, ".txt")
    assert (tmp_path / "folder" / "file.txt").read_text() == "old"
    assert [p.name for p in (tmp_path / "folder").iterdir()] == ["file.txt"]
