"""Passwords in URLs: refused in every setting and option, and found in no output, whatever they are made of."""

import base64
import http.server
import os
import pathlib
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import hypothesis
import pytest
from hypothesis import strategies

from core import errors
from core.config import loading, schema, service_url
from jobs import __main__ as command_line
from tests.golden import make
from workers.telemetry import pushgateway

CONFIG = """
name: x
root: {root}
corpus: {{kind: pairs, train: {{source: [a.txt], target: [b.txt]}}}}
model: {{kind: seq2seq}}
training: {{batch_lines: 2}}
"""
REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
# Settings whose value is a URL, with one that has a password.
SETTINGS = {
    "root": "s3://user:{}@bucket/x",
    "corpus.train.source": "[{}]",
    "corpus.valid.target": "[{}]",
    "tokenizer.load": "[{}]",
    "training.init_from": "{}",
    "training.embeddings.source": "{}",
    "telemetry.pushgateway": "http://user:{}@gateway:9091",
    "cluster.address": "user:{}@head:6379",
}
SETTINGS_OF_RUNS = {
    "translate": {"decoding.fusion.run": "s3://user:{}@bucket/run", "telemetry.pushgateway": "http://user:{}@h:1"},
    "score": {"scoring.mixture.fit_on": "https://user:{}@host/x", "cluster.address": "ray://user:{}@head:10001"},
}
URL = "s3://user:{}@bucket/x"
RUN = str(make.ROOTS / "translation")
OPTIONS = [
    ["translate", "--run", URL, "--input", "a", "--output", "b.txt"],
    ["translate", "--run", RUN, "--input", URL, "--output", "b.txt"],
    ["translate", "--run", RUN, "--input", "a", "--output", "https://user:{}@host/b.txt"],
    ["translate", "--run", RUN, "--input", "a", "--output", "b.txt", "--prefixes", URL],
    ["score", "--run", RUN, "--input", "a", "--output", "b.txt", "--targets", URL],
    ["evaluate", "--hypotheses", URL, "--references", "a"],
    ["evaluate", "--hypotheses", "a", "--references", "http:user:{}@host/x"],
    ["generate", "--run", URL, "--prefix", "a"],
    ["forecast", "--run", RUN, "--input", URL, "--output", "b.jsonl"],
    ["report", URL],
    ["inspect", "gs:user:{}@bucket/run"],
    ["init", URL],
    ["submit", "inspect", "/x", "--address", "http://user:{}@head:8265"],
    ["submit", "--address", "http://head:8265", "translate", "--run", "/r", "--input", "/i", "--output", "/o",
     "--set", "telemetry.pushgateway=http://user:{}@h:1"],
    ["inspect", "simplecache::s3://user:{}@bucket/run"],
    ["train", "--conifg=s3://user:{}@bucket/x"],
]  # fmt: skip
# In letters that no message has by chance.
PASSWORDS = strategies.text(
    strategies.characters(min_codepoint=33, max_codepoint=126, exclude_characters="[]{},#'\"\\"), min_size=1, max_size=9
).map(lambda text: f"Zq{text}7W")


@pytest.fixture
def folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[pathlib.Path]:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "a.txt", "b.txt"):
        (tmp_path / name).write_text("x\n")
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", pushgateway.VARIABLE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 32)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield tmp_path
    for number, handler in handlers.items():
        signal.signal(number, handler)


def files_with(folder: pathlib.Path, text: str) -> list[pathlib.Path]:
    return [path for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


def refuse(arguments: list[str], password: str, folder: pathlib.Path, capfd: pytest.CaptureFixture[str]) -> None:
    capfd.readouterr()
    code = command_line.main(arguments)
    printed = "".join(capfd.readouterr())
    assert password not in printed, arguments
    assert code == errors.UsageError.exit_code, (arguments, printed)
    assert files_with(folder, password) == []


once_per_folder = hypothesis.settings(
    max_examples=4, deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)


@once_per_folder
@hypothesis.given(password=PASSWORDS)
@hypothesis.example("Zqp@ss/w:rd7W")
@pytest.mark.parametrize("name", list(SETTINGS))
def test_no_setting_takes_or_shows_a_password(
    folder: pathlib.Path, capfd: pytest.CaptureFixture[str], name: str, password: str
) -> None:
    (folder / "x.yaml").write_text(CONFIG.format(root="runs/x"))
    form = SETTINGS[name] if "user" in SETTINGS[name] else SETTINGS[name].format("'" + URL + "'")
    refuse(["prepare", "x.yaml", "--set", f"{name}={form.format(password)}"], password, folder, capfd)


@once_per_folder
@hypothesis.given(password=PASSWORDS)
@pytest.mark.parametrize(
    ("verb", "name"), [(verb, name) for verb, settings in SETTINGS_OF_RUNS.items() for name in settings]
)
def test_no_setting_of_inference_takes_or_shows_a_password(
    folder: pathlib.Path, capfd: pytest.CaptureFixture[str], verb: str, name: str, password: str
) -> None:
    value = SETTINGS_OF_RUNS[verb][name].format(password)
    arguments = [verb, "--run", RUN, "--input", "a", "--output", "o.txt", "--set", f"{name}={value}"]
    refuse(arguments, password, folder, capfd)


@once_per_folder
@hypothesis.given(password=PASSWORDS)
@hypothesis.example("Zqp@ss/w:rd7W")
@pytest.mark.parametrize("arguments", OPTIONS, ids=" ".join)
def test_no_option_takes_or_shows_a_password(
    folder: pathlib.Path, capfd: pytest.CaptureFixture[str], arguments: list[str], password: str
) -> None:
    refuse([argument.replace("{}", password) for argument in arguments], password, folder, capfd)


@pytest.mark.parametrize("variable", ["RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"])
def test_addresses_in_the_environment_are_refused_like_options(
    folder: pathlib.Path, capfd: pytest.CaptureFixture[str], variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "http://user:Zqp@ssw0rd@head:8265")
    refuse(["submit", "inspect", "/x"], "Zqp@ssw0rd", folder, capfd)


@hypothesis.given(user=PASSWORDS, password=PASSWORDS)
def test_a_url_of_a_service_with_credentials_is_refused_without_a_word_of_them(user: str, password: str) -> None:
    with pytest.raises(ValueError, match=r"credentials|not a valid URL") as refusal:
        service_url.parse(f"{user}:{password}@host:1", "http")
    assert user not in str(refusal.value)
    assert password not in str(refusal.value)


@pytest.mark.parametrize("url", ["ftp://h:1", "http://", "h:port", "http://h:1/?token=x", "http://h:0", "h 1", ""])
def test_what_is_no_url_of_a_service_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"; write http://host:port|; check its host and port"):
        service_url.parse(url, "http")


@pytest.mark.parametrize("url", ["gateway:9091", "http://gateway", "https://[::1]:9091/prefix"])
def test_urls_of_services_are_taken_as_written(url: str) -> None:
    assert schema.TelemetryConfig(pushgateway=url).pushgateway == url


def test_a_stored_root_with_a_password_opens_without_it(folder: pathlib.Path) -> None:
    text = CONFIG.format(root="/r") + "telemetry: {pushgateway: 'http://user:p@ss@gateway:9091'}"
    stored = loading.parse_stored(text.encode(), "config.yaml")
    assert stored.telemetry.pushgateway == "http://gateway:9091"


class Gateway(http.server.BaseHTTPRequestHandler):
    """Answers pushes, and keeps their credentials."""

    seen: list[str | None] = []  # noqa: RUF012 (of the one server of a test)

    def do_PUT(self) -> None:
        """Takes metrics."""
        self.seen.append(self.headers["Authorization"])
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()

    do_POST = do_PUT


def test_a_run_sends_the_password_of_a_file_and_stores_it_nowhere(
    folder: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    password = "Zqp:ss w0rd"
    secret = tmp_path_factory.mktemp("secret") / "gateway"
    secret.write_text(f"me:{password}\n")
    (folder / "a.txt").write_text("a b c\n" * 9)
    (folder / "b.txt").write_text("d e f\n" * 9)
    (folder / "x.yaml").write_text(CONFIG.format(root="runs/x"))
    Gateway.seen.clear()
    with http.server.HTTPServer(("127.0.0.1", 0), Gateway) as gateway:
        threading.Thread(target=gateway.serve_forever, daemon=True).start()
        names = {
            "telemetry.pushgateway": f"http://127.0.0.1:{gateway.server_port}",
            "telemetry.pushgateway_credentials": os.path.relpath(secret),
            "cluster.address": "none",
        }
        overrides = [text for name, value in names.items() for text in ("--set", f"{name}={value}")]
        # In a process of its own, of which the library of metrics asks for one folder.
        command = [sys.executable, "-m", "jobs", "prepare", "x.yaml", "--verbose", *overrides]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        gateway.shutdown()
    assert done.returncode == 0, done.stderr
    assert Gateway.seen == ["Basic " + base64.b64encode(f"me:{password}".encode()).decode()]
    assert password not in done.stdout + done.stderr
    assert files_with(folder, password) == []


@pytest.mark.parametrize("content", ["", "nobody", ":x", "a:\x1b[0m"])
def test_credentials_that_are_none_are_refused_before_the_work(
    folder: pathlib.Path, capfd: pytest.CaptureFixture[str], content: str
) -> None:
    (folder / "x.yaml").write_text(CONFIG.format(root="runs/x"))
    (folder / "secret").write_text(content)
    overrides = ["--set", "telemetry.pushgateway=h:1", "--set", "telemetry.pushgateway_credentials=secret"]
    code = command_line.main(["prepare", "x.yaml", *overrides])
    assert code == errors.UsageError.exit_code
    assert "telemetry.pushgateway_credentials: " in capfd.readouterr().err
    assert not (folder / "runs").exists()


def test_the_environment_has_credentials_too(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.delenv(pushgateway.VARIABLE, raising=False)
    assert pushgateway.credentials(None) is None
    monkeypatch.setenv(pushgateway.VARIABLE, "me:a:b")
    assert pushgateway.credentials(None) == ("me", "a:b")
    (tmp_path / "file").write_text("other:c\r\n")
    assert pushgateway.credentials(str(tmp_path / "file")) == ("other", "c")
    with pytest.raises(errors.UsageError, match=r"cannot be read \(No such file"):
        pushgateway.credentials(str(tmp_path / "none"))
