"""Tokens: created for this machine alone, and sent to no address that they do not belong to."""

import errno
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from core import errors
from workers.cluster import authentication

VARIABLES = ("RAY_ADDRESS", "RAY_JOB_CONFIG_JSON_ENV_VAR", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
REMOTE = ["http://10.1.2.3:8265", "https://head.example.org:8265", "https://127.0.0.1.example.org", "head:6379"]


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No cluster around this process, and a home without a token."""
    for name in VARIABLES:
        # Set first, so that what a test leaves is removed.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path


def own_token(outside: Path) -> Path:
    path = outside / "home" / ".ray" / "auth_token"
    path.parent.mkdir(parents=True)
    path.write_text("of this machine")
    return path


def token_of(address: str, mode: int = 0o600) -> Path:
    path = authentication.token_file(address)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("of the cluster")
    path.chmod(mode)
    return path


def test_the_token_is_created_once_and_readable_by_its_owner_only(outside: Path) -> None:
    authentication.prepare_token(joins=False, folder=outside)
    path = outside / "home" / ".ray" / "auth_token"
    token = path.read_text()
    assert (len(token), path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (64, 0o600, 0o700)
    path.chmod(0o644)
    authentication.prepare_token(joins=False, folder=outside)
    assert (path.read_text(), path.stat().st_mode & 0o777) == (token, 0o600)


def test_the_token_is_created_where_links_cross_filesystems_or_fail(
    outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cross_device(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    for name in ("link", "rename"):
        monkeypatch.setattr(os, name, cross_device)
    authentication.prepare_token(joins=False, folder=outside)
    path = outside / "home" / ".ray" / "auth_token"
    assert (len(path.read_text()), path.stat().st_mode & 0o777) == (64, 0o600)


def test_token_mode_is_chosen_before_ray_is_imported(outside: Path) -> None:
    script = (
        "import os, pathlib, sys; from workers.cluster import authentication, session\n"
        "from workers.train import launch; "
        "assert 'ray' not in sys.modules\n"
        "authentication.prepare_token(False, pathlib.Path(sys.argv[1])); print(os.environ['RAY_AUTH_MODE'])"
    )
    command = [sys.executable, "-c", script, str(outside)]
    assert subprocess.run(command, check=False, capture_output=True, text=True, timeout=60).stdout == "token\n"


def test_without_a_home_the_token_lives_as_long_as_the_session(outside: Path) -> None:
    (outside / "home").write_text("no folder")
    authentication.prepare_token(joins=False, folder=outside)
    path = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
    assert path.parent == outside
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_users_own_token_is_used(outside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/secrets/token")
    authentication.prepare_token(joins=False, folder=outside)
    assert os.environ["RAY_AUTH_TOKEN_PATH"] == "/secrets/token"
    assert not (outside / "home").exists()


@pytest.mark.parametrize("address", REMOTE)
def test_the_token_of_this_machine_goes_to_no_other(outside: Path, address: str) -> None:
    own_token(outside)
    for send in (authentication.check_client, authentication.prepare_client):
        with pytest.raises(errors.UsageError, match="no token is set for it; put the cluster's into"):
            send(address)
    with pytest.raises(errors.UsageError, match=r"^cluster\.address: .*no token is set for it"):
        authentication.prepare_token(joins=True, folder=outside, address=address)
    assert "RAY_AUTH_TOKEN_PATH" not in os.environ


@pytest.mark.parametrize("address", REMOTE)
def test_a_token_goes_to_the_address_that_its_file_is_named_after(outside: Path, address: str) -> None:
    own_token(outside)
    path = token_of(address)
    authentication.prepare_client(address)
    assert (os.environ["RAY_AUTH_MODE"], os.environ["RAY_AUTH_TOKEN_PATH"]) == ("token", str(path))


def test_another_port_or_host_has_another_token(outside: Path) -> None:
    token_of("http://10.1.2.3:8265")
    for address in ("http://10.1.2.3:8266", "http://10.1.2.4:8265"):
        with pytest.raises(errors.UsageError, match="no token is set for it"):
            authentication.check_client(address)


def test_a_token_that_others_may_read_is_refused(outside: Path) -> None:
    token_of("head:6379", mode=0o644)
    with pytest.raises(errors.UsageError, match=r"others may read the token in .*chmod 600"):
        authentication.prepare_token(joins=True, folder=outside, address="head:6379")


@pytest.mark.parametrize("address", ["http://127.0.0.1:8265", "http://localhost:8265", "http://[::1]:8265", "auto", ""])
def test_clusters_of_this_machine_get_its_token(outside: Path, address: str) -> None:
    own_token(outside)
    authentication.prepare_client(address)
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert "RAY_AUTH_TOKEN_PATH" not in os.environ


def test_without_a_token_a_server_of_this_machine_is_asked_without_one(outside: Path) -> None:
    authentication.prepare_client("http://127.0.0.1:8265")
    assert os.environ["RAY_AUTH_MODE"] == "disabled"


def test_a_job_uses_the_token_of_its_cluster(outside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    authentication.prepare_token(joins=True, folder=outside, address="10.1.2.3:6379")
    assert "RAY_AUTH_MODE" not in os.environ


@pytest.mark.parametrize("joins", [True, False])
def test_a_cluster_without_authentication_is_warned_of(
    outside: Path, joins: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with caplog.at_level(logging.WARNING):
        authentication.prepare_token(joins=joins, folder=outside, address="head:6379" if joins else "")
    assert "RAY_AUTH_MODE=disabled: whoever reaches" in caplog.text
    with pytest.raises(errors.UsageError, match=r"RAY_AUTH_MODE is disabled: .* runs code from anybody"):
        authentication.check_client("http://head:8265")


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("auto", ""),
        ("head:6379", "head"),
        ("ray://head:10001", "head"),
        ("http://[::1]:8265/", "::1"),
        ("https://head", "head"),
        ("[2001:db8::1]:6379", "2001:db8::1"),
    ],
)
def test_hosts_of_addresses(address: str, host: str) -> None:
    assert authentication.host_of(address) == host


def test_only_addresses_of_this_machine_are_its_own() -> None:
    assert authentication.is_this_machine("127.0.0.2")
    for host in ("192.0.2.1", "2001:db8::1", "0.0.0.0", "localhost.example.org"):
        assert not authentication.is_this_machine(host)
