"""Settings come from the environment, else from a running installation, else a line says both ways out."""

import json
from pathlib import Path

import pytest

from adapters.errors import NotConfigured, TallyError
from adapters.settings import SOURCES, Settings

ENVIRON = {variable: f"value-of-{key}" for variable, key in SOURCES.values()}


def test_the_environment_alone_is_enough(tmp_path):
    settings = Settings.load(tmp_path, ENVIRON)

    assert settings.nats_url == "value-of-nats"
    assert settings.log_dir == Path("value-of-log_dir")


def test_the_environment_wins_over_the_endpoints_of_an_installation(tmp_path):
    endpoints = {key: f"installed-{key}" for _, key in SOURCES.values()} | {"tenants": ["boston"]}
    (tmp_path / "endpoints.json").write_text(json.dumps(endpoints))
    settings = Settings.load(tmp_path, {"TALLY_NATS_URL": "nats://elsewhere:4222"})

    assert settings.nats_url == "nats://elsewhere:4222"
    assert settings.redis_url == "installed-redis"
    assert settings.tenants == ("boston",)


def test_without_either_the_error_names_both_ways_out(tmp_path):
    with pytest.raises(NotConfigured) as caught:
        Settings.load(tmp_path, {})

    assert "TALLY_NATS_URL" in str(caught.value)
    assert f"tally up --data {tmp_path}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_who_reads_only_the_log_needs_no_server(tmp_path):
    settings = Settings.load(tmp_path, {}, need=("log_dir",))

    assert settings.log_dir == tmp_path / "published"
    assert settings.nats_url == ""


@pytest.mark.parametrize("content", ["{", "[]", '"text"', ""])
def test_damaged_endpoints_are_said_in_one_line(tmp_path, content):
    (tmp_path / "endpoints.json").write_text(content)

    with pytest.raises(TallyError) as caught:
        Settings.load(tmp_path, {})

    assert "tally down" in str(caught.value)
    assert "\n" not in str(caught.value)
