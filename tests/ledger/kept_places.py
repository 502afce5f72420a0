"""An installation without servers whose last month is closed, with settings for its time stamps and copies."""

import json
import shutil
import threading
import time
from datetime import UTC, datetime

from log_samples import event

from adapters.published_log import load_policy
from adapters.root_keeper import RootKeeper
from adapters.root_settings import load_roots_config, trust_authorities
from adapters.root_status import roots_status
from adapters.settings import Settings
from ledger.files import Folder
from ledger.months import month_of

NOW_MS = int(time.time() * 1000)
LAST_MONTH_MS = NOW_MS - 32 * 86_400_000
MONTH = month_of(LAST_MONTH_MS)


def recorded(first, end, at_ms):
    """Events that were recorded when their checkpoint was signed."""
    at = datetime.fromtimestamp(at_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    return [event(number, recordedtime=at) for number in range(first, end)]


class Place:
    """An installation without servers whose last month is closed, and its roots.toml."""

    def __init__(self, base, made):
        self.settings = Settings.load(base, {}, need=("log_dir", "keys_dir"))
        shutil.copytree(made / "keys" / "boston", self.settings.keys_dir / "boston")
        shutil.copytree(made / "log", self.settings.log_dir / "boston")
        self.log_dir = self.settings.log_dir / "boston"
        self.folder = Folder(self.log_dir)
        self.config = base / "roots.toml"

    def write(self, one=None, two=None, bucket=None, days=30):
        lines = []
        if one is not None:
            lines += ["[authorities.one]", f"command = {json.dumps(one.command)}", f'ca = "{one.folder}/ca.pem"']
        if two is not None:
            authority, url = two
            lines += ["[authorities.two]", f'url = "{url}"', f'ca = "{authority.folder}/ca.pem"']
        if bucket is not None:
            lines += ["[worm]", f'bucket = "{bucket.name}"', 'prefix = "here"', f'endpoint = "{bucket.endpoint}"']
            lines += [f"retention_days = {days}"]
        self.config.write_text("\n".join(lines))
        trust_authorities(self.settings.keys_dir / "boston", load_roots_config(self.settings))
        return self.keeper()

    def keeper(self):
        policy = self.settings.keys_dir / "boston" / "policy"
        return RootKeeper("boston", self.log_dir, policy, load_roots_config(self.settings))

    def status(self):
        return roots_status(self.settings, "boston")

    def policy(self):
        return load_policy(self.settings, "boston")


def wait_for(holds):
    deadline = time.monotonic() + 60
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.05)


def keep(keeper):
    return keeper.keep(threading.Event())
