"""Options of `motet serve` and what they refuse."""

import math

import pytest
from typer.testing import CliRunner

from motet.core.config import EngineConfig
from motet.core.errors import ConfigError
from motet.server.cli import app
from motet.server.config import ServeConfig, is_loopback, parse_size_bytes


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [
        ("2GiB", 2 << 30),
        ("512 MiB", 512 << 20),
        ("1.5kib", 1536),
        ("3GB", 3 * 10**9),
        ("100", 100),
    ],
)
def test_sizes(text: str, num_bytes: int) -> None:
    assert parse_size_bytes(text) == num_bytes


@pytest.mark.parametrize("text", ["", "GiB", "2 parsec", "-1GiB", "0", "1e9", "0.5B"])
def test_texts_that_are_no_size(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_size_bytes(text)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost"])
def test_loopback_addresses_need_no_key(host: str) -> None:
    assert is_loopback(host)
    ServeConfig(host=host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", ""])
def test_other_addresses_need_a_key(host: str) -> None:
    with pytest.raises(ConfigError, match="--api-key") as caught:
        ServeConfig(host=host)
    assert caught.value.param == "host"
    ServeConfig(host=host, api_key="k")
    ServeConfig(host=host, admin_key="k")


def test_an_empty_key_is_no_key() -> None:
    with pytest.raises(ConfigError, match="empty"):
        ServeConfig(host="0.0.0.0", api_key=" ")


def test_keys_are_not_shown() -> None:
    assert "secret" not in repr(ServeConfig(api_key="secret", admin_key="secret"))


@pytest.mark.parametrize(
    ("option", "engine"),
    [
        *(("ttft_slo", {"ttft_slo_s": each}) for each in (0.0, -1.0, math.inf, math.nan)),
        ("cluster_adapters", {"num_cluster_adapters": 0}),
        ("policy", {"policy": "lifo"}),
        ("policy", {"policy": ""}),
        ("policy", {"policy": "fcfs+lifo"}),
    ],
)
def test_a_policy_that_cannot_be_is_refused(option: str, engine: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as caught:
        ServeConfig(engine=EngineConfig(**engine))  # type: ignore[arg-type]
    assert caught.value.param == option


def test_the_policy_of_the_command_line_is_checked_before_anything_is_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    configs: list[ServeConfig] = []
    monkeypatch.setattr("motet.server.run.run", configs.append)
    arguments = ["--policy", "fcfs", "--ttft-slo", "2.5", "--cluster-adapters", "3"]
    assert CliRunner().invoke(app, ["serve", *arguments]).exit_code == 0
    [engine] = [config.engine for config in configs]
    assert (engine.policy, engine.ttft_slo_s, engine.num_cluster_adapters) == ("fcfs", 2.5, 3)
    refused = CliRunner().invoke(app, ["serve", "--policy", "lifo"])
    assert refused.exit_code == 1
    assert "lifo" in refused.output
    assert len(configs) == 1
