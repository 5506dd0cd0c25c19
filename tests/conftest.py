"""Fixtures of all tests: a scratch Airflow home, emulators, stores, and the optional oracles."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
# Before anything imports Airflow: each test process has a home of its own.
_HOME = Path(tempfile.mkdtemp(prefix="raif-tests-"))
for _name in tuple(os.environ):
    if _name.startswith(("AIRFLOW", "OPENAI_", "ANTHROPIC_", "GOOGLE_", "GEMINI_")):
        del os.environ[_name]
os.environ |= {
    "AIRFLOW_HOME": str(_HOME),
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
    "AIRFLOW__CORE__DAGS_FOLDER": str(REPOSITORY / "dags" / "examples"),
    "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
    "AIRFLOW__RAIF__MIN_DWELL_SECONDS": "0",
    "AIRFLOW__RAIF__POLL_INTERVALS": "0.05",
    "NO_PROXY": "*",
}

import pytest  # noqa: E402
import tenacity  # noqa: E402

from airflow_raif.emulator.server import EmulatorServer  # noqa: E402
from airflow_raif.emulator.settings import EmulatorSettings  # noqa: E402
from airflow_raif.store import Store, migrate  # noqa: E402
from tests.postgres import PostgresServer  # noqa: E402


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest, so that no process is left with it alone at the end."""
    order = {name: place for place, name in enumerate(("e2e", "chaos", "browser", "integration"))}
    items.sort(key=lambda item: order.get(item.path.relative_to(REPOSITORY / "tests").parts[0], len(order)))


def pytest_unconfigure() -> None:
    shutil.rmtree(_HOME, ignore_errors=True)


@pytest.fixture(scope="session")
def airflow_home() -> Path:
    return _HOME


@pytest.fixture(scope="session")
def migrated(airflow_home: Path) -> Path:
    """Airflow's own tables and, by the provider's manager, ours."""
    done = subprocess.run(
        [sys.executable, "-m", "airflow", "db", "migrate"], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return airflow_home


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def stopping() -> Iterator[Callable[[EmulatorServer], object]]:
    """Stop emulators while the next tests run: it takes them a sixth of a second, as long as many a test."""
    with ThreadPoolExecutor(4) as pool:
        stopped: list[Future[None]] = []
        yield lambda server: stopped.append(pool.submit(server.stop))
        for each in stopped:
            each.result()


@pytest.fixture
def emulator_of(stopping: Callable[[EmulatorServer], object]) -> Iterator[Callable[..., EmulatorServer]]:
    """Start emulators with settings; all are stopped after the test."""
    running: list[EmulatorServer] = []

    def start(**settings: object) -> EmulatorServer:
        server = EmulatorServer(EmulatorSettings(**settings))  # type: ignore[arg-type]
        running.append(server)
        server.start()
        return server

    yield start
    for server in running:
        stopping(server)


@pytest.fixture
def emulator(emulator_of: Callable[..., EmulatorServer]) -> EmulatorServer:
    """An emulator whose batches end at the first look."""
    return emulator_of()


@pytest.fixture
def no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let repeated calls follow each other at once."""
    monkeypatch.setattr("airflow_raif.adapters.http._jitter", tenacity.wait_none())


@pytest.fixture(autouse=True, scope="module")
def untraced(request: pytest.FixtureRequest) -> Iterator[None]:
    """Measure no coverage in processes that are killed: they write none, and to be traced takes them as long again.

    Nor in those that a browser waits for.
    """
    with pytest.MonkeyPatch.context() as patch:
        if request.path.parent.name in ("browser", "chaos", "e2e"):
            patch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
        yield


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An embedded store with nothing in it, to be copied: to migrate one takes longer than most tests."""
    file = tmp_path_factory.mktemp("store") / "raif.db"
    migrate.upgrade(f"sqlite:///{file}")
    return file


@pytest.fixture
def store(empty_store: Path, tmp_path: Path) -> Iterator[Store]:
    """A fresh embedded store."""
    shutil.copy(empty_store, tmp_path / "raif.db")
    opened = Store.open(f"sqlite:///{tmp_path}/raif.db")
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def postgres_home() -> Iterator[Path]:
    """A folder that PostgreSQL's user may enter; pytest's are closed whenever another session of it begins."""
    with tempfile.TemporaryDirectory(prefix="raif-postgres-") as home:
        yield Path(home)


@pytest.fixture(scope="session")
def postgres(postgres_home: Path) -> Iterator[PostgresServer]:
    """A PostgreSQL server on loopback."""
    home = postgres_home / "shared"
    home.mkdir()
    server = PostgresServer(home)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def oracle_dir() -> Path:
    """The official schemas and recorded traffic, where a checkout has them beside it."""
    found = REPOSITORY.parent / "shared" / "oracle"
    if not found.is_dir():
        pytest.skip("the official schemas and the recorded traffic are not beside this checkout")
    return found
