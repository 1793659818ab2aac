from tasks.measures.pictures import picture


def test_picture_has_the_same_bytes_each_time(tmp_path):
    for name in ("one", "two"):
        with picture(tmp_path / f"{name}.svg", "x", "y") as axes:
            axes.plot([0, 1], [1, 0], label="a line")
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
