"""medianode.js under TypeScript: its own code checks strictly, and what it exports is what medianode.d.ts says."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from harness import run

from medianode.web.assets import STATIC

pytestmark = pytest.mark.interop

ROOT = Path(__file__).parents[2]
SAME = """
import * as Made from './made.js';
import * as Said from './said/medianode.js';
export const player: typeof Said.WhepPlayer = Made.WhepPlayer;
export const publisher: typeof Said.WhipPublisher = Made.WhipPublisher;
export const error: typeof Said.MedianodeError = Made.MedianodeError;
export const servers: typeof Said.iceServersOf = Made.iceServersOf;
"""
USE = """
import { WhepPlayer, WhipPublisher } from './said/medianode.js';
export async function page(video: HTMLVideoElement, camera: MediaStream): Promise<number | null> {
  const player = new WhepPlayer(video, { url: '/whep/live/demo', token: async () => 'secret' });
  player.addEventListener('state', (e) => console.log(e.detail.state, e.detail.error?.code));
  player.addEventListener('stats', (e) => console.log(e.detail.latency));
  player.start();
  const publisher = new WhipPublisher(camera, { url: '/whip/live/demo', token: 'key', simulcast: true });
  await publisher.replaceTrack('video', null);
  // @ts-expect-error there is no such option
  new WhepPlayer(video, { url: '', speed: 2 });
  return player.stats?.rtt ?? null;
}
"""


@pytest.fixture
async def tsc(tmp_path: Path) -> Path:
    """The pinned TypeScript: from node_modules, else brought by npm."""
    script = ROOT / "node_modules/typescript/bin/tsc"
    if not script.is_file():
        for name in ("package.json", "package-lock.json", ".npmrc"):
            shutil.copy(ROOT / name, tmp_path)
        npm = shutil.which("npm")
        assert npm, "npm is missing (tests/need.sh installs it)"
        brought = await run(npm, "ci", "--prefix", str(tmp_path), "--ignore-scripts", "--no-audit", "--no-fund")
        assert brought.code == 0, brought.output
        script = tmp_path / "node_modules/typescript/bin/tsc"
    return script


async def test_the_script_checks_strictly_and_is_what_its_types_say(tmp_path: Path, tsc: Path) -> None:
    work = tmp_path / "work"
    (work / "said").mkdir(parents=True)
    shutil.copy(STATIC / "connection.js", work)
    shutil.copy(STATIC / "medianode.js", work / "made.js")
    for place in (work, work / "said"):
        shutil.copy(STATIC / "medianode.d.ts", place)
    (work / "same.ts").write_text(SAME)
    (work / "use.ts").write_text(USE)
    options = "--noEmit --strict --noUnusedLocals --allowJs --checkJs --target es2022 --module esnext --moduleResolution bundler"
    files = [str(work / name) for name in ("same.ts", "use.ts", "made.js", "connection.js")]
    checked = await run("node", str(tsc), *options.split(), "--lib", "es2022,dom,dom.iterable", *files)
    assert checked.code == 0, checked.output
