"""Bytes that are joined only when asked for."""

import pytest

from medianode.egress.hls.media import Media


@pytest.fixture
def media() -> Media:
    media = Media()
    assert media.append([b"moof1", b"sample", b"sample2"]) == 18
    assert media.append([b"moof2", b"x"]) == 6
    return media


def test_nothing_is_copied_until_somebody_asks() -> None:
    sample = b"sample"
    media = Media()
    media.append([sample])
    assert media.part(0) is sample


def test_parts_then_the_whole(media: Media) -> None:
    assert media.part(1) == b"moof2x"
    assert media.part(1) is media.part(1), "joined once"
    assert media.whole() == b"moof1samplesample2moof2x"
    assert bytes(media.part(0)) == b"moof1samplesample2"
    assert bytes(media.part(1)) == b"moof2x"
    assert media.whole() is media.whole()


def test_the_whole_first(media: Media) -> None:
    assert media.whole() == b"moof1samplesample2moof2x"
    assert [bytes(media.part(i)) for i in range(len(media))] == [b"moof1samplesample2", b"moof2x"]
    assert media.nbytes == 24


def test_no_such_part(media: Media) -> None:
    with pytest.raises(IndexError):
        media.part(2)
