"""What no longer fits is told, and the slower way is taken."""

from __future__ import annotations

from typing import Any

import pytest

from medianode.errors import ConfigError, ProtocolError
from medianode.rtc import dtls, selftest, srtp


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(srtp.RAW, "usable", True)
    monkeypatch.setattr(dtls.DRIVER, "shake", dtls.shake_by_aiortc)


async def test_all_fits_with_the_versions_of_the_lock_file() -> None:
    assert await selftest.run() == ()
    assert srtp.RAW.usable
    assert dtls.DRIVER.shake is dtls.shake_by_aiortc


class Library:
    """pylibsrtp's binding, changed."""

    def __init__(self, status: int = 0, effect: bool = True) -> None:
        self._status, self._effect = status, effect

    def srtp_protect(self, handle: Any, place: Any, length: Any) -> int:
        if self._effect:
            length[0] += 16
        return self._status


@pytest.mark.parametrize(
    ("library", "why"),
    [
        (Library(), "does not do what"),
        (Library(status=7), "returned 7"),
        (object(), "AttributeError"),
        (Library(effect=False), "does not do"),
    ],
)
async def test_a_changed_libsrtp_binding(library: object, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "lib", library)
    (found,) = await selftest.run()
    assert why in found
    assert not srtp.RAW.usable
    sealer = srtp.Sealer(srtp.Keys(srtp.Profile.AEAD_AES_128_GCM, bytes(28)))
    assert sealer.handle is None
    assert len(sealer.protect(selftest._RTP)) == len(selftest._RTP) + sealer.tag


async def test_without_the_binding_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "ffi", None)
    monkeypatch.setattr(srtp.RAW, "usable", False)
    (found,) = await selftest.run()
    assert "no raw binding" in found


async def fails(*_: Any) -> Any:
    raise ProtocolError("no")


async def breaks(*_: Any) -> Any:
    raise AttributeError("_ssl")


@pytest.mark.parametrize("how", [fails, breaks])
async def test_a_changed_aiortc(how: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dtls, "shake_by_aiortc", how)
    monkeypatch.setattr(dtls.DRIVER, "shake", how)
    (found,) = await selftest.run()
    assert found.startswith("aiortc ")
    assert "pyOpenSSL" in found
    assert dtls.DRIVER.shake is dtls.shake_directly
    assert await selftest.run() == ()


async def test_a_renamed_step_of_aiortcs_handshake(monkeypatch: pytest.MonkeyPatch) -> None:
    """aiortc calls its own step instead of ours: the keys are missing."""
    monkeypatch.delattr(dtls._Handshake, "_setup_srtp")
    (found,) = await selftest.run()
    assert found.startswith("aiortc ")
    assert dtls.DRIVER.shake is dtls.shake_directly


async def test_where_nothing_works_the_start_fails_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dtls, "shake_by_aiortc", breaks)
    monkeypatch.setattr(dtls, "shake_directly", breaks)
    monkeypatch.setattr(dtls.DRIVER, "shake", breaks)
    with pytest.raises(ConfigError, match="lock file"):
        await selftest.run()
